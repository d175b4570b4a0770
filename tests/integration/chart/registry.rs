//! The registry that the chart deploys: its configuration and its logins in a real registry, and `helm test` against
//! it.

use std::path::{Path, PathBuf};
use std::process::Command;

use base64::Engine as _;
use serde_json::{Value, json};
use tempfile::TempDir;

use super::{find, render};
use crate::support::process::{Server, output};
use crate::support::program;
use crate::support::wait::{SOON, eventually};

fn data(secret: &Value, key: &str) -> Vec<u8> {
    base64::engine::general_purpose::STANDARD
        .decode(secret["data"][key].as_str().unwrap_or_else(|| panic!("no {key}")))
        .unwrap()
}

/// Both processes of the registry that the chart deploys, over one folder.
pub(crate) struct Deployed {
    /// The rendered objects.
    objects: Vec<Value>,
    /// The addresses of the process for the operator and the one for pods.
    pub(crate) writes: String,
    pub(crate) reads: String,
    folder: TempDir,
    _processes: Vec<Server>,
}

impl Deployed {
    /// Starts them with additional values of `registry.deploy`.
    pub(crate) async fn start(deploy: &Value) -> Self {
        let mut values = json!({ "registry": { "deploy": deploy } });
        values["registry"]["deploy"]["enabled"] = json!(true);
        let objects = render(&values);
        let folder = tempfile::tempdir().unwrap();
        let files = folder.path().to_str().unwrap().to_owned();
        let secret = find(&objects, "Secret", "shop-registry");
        for key in ["htpasswd", "pull-htpasswd"] {
            std::fs::write(folder.path().join(key), data(secret, key)).unwrap();
        }
        let tls = objects
            .iter()
            .find(|object| object["kind"] == "Secret" && object["metadata"]["name"] == "shop-registry-tls");
        for key in ["tls.crt", "tls.key"] {
            if let Some(tls) = tls {
                std::fs::write(folder.path().join(key), data(tls, key)).unwrap();
            }
        }
        let config = find(&objects, "ConfigMap", "shop-registry");
        let (mut processes, mut hosts) = (Vec::new(), Vec::new());
        for (name, port) in [("config.yml", ":5000"), ("pull.yml", ":5001")] {
            let mut text = config["data"][name].as_str().unwrap().to_owned();
            for (there, here) in [
                (format!("addr: {port}"), "addr: 127.0.0.1:0".to_owned()),
                ("/var/lib/registry".to_owned(), format!("{files}/data")),
                ("/etc/jackal-registry-auth".to_owned(), files.clone()),
            ] {
                assert!(text.contains(&there), "{text}");
                text = text.replace(&there, &here);
            }
            text = text.replace("/etc/jackal-registry-tls", &files);
            let file = folder.path().join(name);
            std::fs::write(&file, text).unwrap();
            let variables = [("REGISTRY_HTTP_SECRET", "s"), ("OTEL_TRACES_EXPORTER", "none")];
            let log = folder.path().join(format!("{name}.log"));
            let arguments = ["serve", file.to_str().unwrap()];
            processes.push(Server::start_with(
                &program("JACKAL_BIN_REGISTRY31"),
                &arguments,
                &variables,
                &log,
            ));
            let host = eventually(SOON, "the registry listens", async || {
                let log = std::fs::read_to_string(&log).unwrap();
                let (_, rest) = log.split_once("listening on ").ok_or_else(|| log.clone())?;
                Ok(rest.split(['"', ',', ' ', '\n']).next().unwrap().to_owned())
            })
            .await;
            hosts.push(host);
        }
        let deployed = Self {
            writes: hosts[0].clone(),
            reads: hosts[1].clone(),
            objects,
            folder,
            _processes: processes,
        };
        if let Some(authority) = deployed.secret("shop-registry-ca", "ca.crt") {
            std::fs::write(deployed.authority(), authority).unwrap();
        }
        deployed
    }

    /// The file with the trusted authority.
    fn authority(&self) -> PathBuf {
        self.folder.path().join("ca.crt")
    }

    fn secret(&self, name: &str, key: &str) -> Option<String> {
        let secret = self
            .objects
            .iter()
            .find(|object| object["kind"] == "Secret" && object["metadata"]["name"] == name)?;
        Some(String::from_utf8(data(secret, key)).unwrap())
    }

    /// The only entry of a login: its host and credentials.
    pub(crate) fn login(&self, name: &str) -> (String, String) {
        let config = self.secret(name, ".dockerconfigjson").unwrap();
        let config: Value = serde_json::from_str(&config).unwrap();
        let auths = config["auths"].as_object().unwrap();
        assert_eq!(auths.len(), 1, "{name}");
        let (host, entry) = auths.iter().next().unwrap();
        let word = |key: &str| entry[key].as_str().unwrap();
        (host.clone(), format!("{}:{}", word("username"), word("password")))
    }

    /// The response status of a request by curl over TLS, which trusts only this authority.
    pub(crate) fn asks(&self, method: &str, url: &str, login: Option<&str>) -> String {
        let authority = self.authority();
        let mut arguments = vec!["--silent", "--show-error", "--output", "/dev/null", "--write-out"];
        arguments.extend(["%{http_code}", "--request", method, "--max-time", "20"]);
        if authority.exists() {
            arguments.extend(["--cacert", authority.to_str().unwrap()]);
        }
        if let Some(login) = login {
            arguments.extend(["--user", login]);
        }
        arguments.push(url);
        let text = output("curl".as_ref(), &arguments);
        String::from_utf8_lossy(&[text.stdout, text.stderr].concat()).into_owned()
    }
}

/// Runs the command of a `helm test` pod, with its mounts as local folders.
fn test(pod: &Value, mounts: &[(&str, &Path)]) -> (bool, String) {
    let container = &pod["spec"]["containers"][0];
    let here = |text: &str| {
        let below = mounts
            .iter()
            .find(|(mount, _)| text.contains(&format!("{mount}/")) || text == *mount);
        match below {
            Some((mount, folder)) => text.replacen(mount, folder.to_str().unwrap(), 1),
            None => text.to_owned(),
        }
    };
    let mut command = Command::new("timeout");
    command.args(["-k", "1", "60", env!("CARGO_BIN_EXE_jackal-operator")]);
    command.args(
        container["args"]
            .as_array()
            .unwrap()
            .iter()
            .map(|text| here(text.as_str().unwrap())),
    );
    for variable in container["env"].as_array().into_iter().flatten() {
        command.env(
            variable["name"].as_str().unwrap(),
            here(variable["value"].as_str().unwrap()),
        );
    }
    let output = command.output().unwrap();
    let text = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
    (output.status.success(), text)
}

/// The address by which the operator reaches it in the cluster.
const SERVICE: &str = "shop-registry.home.svc:5000";

#[tokio::test]
async fn the_deployed_registry_accepts_the_operators_login() {
    for (tls, scheme) in [(json!({}), "https"), (json!({ "enabled": false }), "http")] {
        let auth = json!({ "push": { "password": "p" } });
        let deployed = Deployed::start(&json!({ "auth": auth, "tls": tls })).await;
        let (objects, host) = (&deployed.objects, &deployed.writes);
        let file = |name: &str| deployed.folder.path().join(name);
        // The kubelet's probe, without a login.
        for host in [&deployed.writes, &deployed.reads] {
            assert_eq!(deployed.asks("GET", &format!("{scheme}://{host}/"), None), "200");
        }
        let pod = find(objects, "Pod", "shop-test-registry").to_string();
        assert!(pod.contains(SERVICE));
        let pod: Value = serde_json::from_str(&pod.replace(SERVICE, host)).unwrap();
        let package = &find(objects, "ConfigMap", "shop-test-registry")["data"]["package.yaml"];
        std::fs::write(file("package.yaml"), package.as_str().unwrap()).unwrap();
        let folder = deployed.folder.path();
        let mounts = [("/package", folder), ("/login", folder), ("/ca", folder)];
        let config = deployed.secret("shop-registry-login", ".dockerconfigjson").unwrap();
        assert!(config.contains(SERVICE));
        let config = config.replace(SERVICE, host);
        let (_, reader) = deployed.login("shop-registry-pull");
        let entry = |login: &str| {
            let text = base64::engine::general_purpose::STANDARD.encode(login);
            json!({ "auths": { host: { "auth": text } } }).to_string()
        };
        let (reader, wrong) = (entry(&reader), entry("jackal-push:q"));
        for (login, succeeds) in [
            ("{}", false),
            (&wrong, false),
            (&reader, false),
            (&config, true),
            (&config, true),
        ] {
            std::fs::write(file("config.json"), login).unwrap();
            let (success, text) = test(&pod, &mounts);
            assert_eq!(success, succeeds, "{text}");
        }
        // The request of `helm test` to the controller, sent to this process.
        let mut probe = find(objects, "Pod", "shop-test-controller").clone();
        let url = probe["spec"]["containers"][0]["args"][2].as_str().unwrap().to_owned();
        assert_eq!(url, "http://shop-controller.home.svc:8080/readyz");
        if scheme == "https" {
            continue;
        }
        for (url, within, words) in [
            (format!("http://{host}/"), "60s", "responded with success"),
            (format!("http://{host}/v2/"), "1s", "401 Unauthorized"),
            ("http://127.0.0.1:1/".to_owned(), "1s", "Connection refused"),
            (format!("https://{host}/"), "1s", "use an http:// URL"),
        ] {
            let arguments = json!(["probe", format!("--within={within}"), url]);
            probe["spec"]["containers"][0]["args"] = arguments;
            let (success, text) = test(&probe, &[]);
            assert!(text.contains(words), "{text}");
            assert_eq!(success, within == "60s", "{text}");
        }
    }
}

/// The node port serves plain HTTP for container runtimes that need it, and the operator's port does not.
#[test]
fn the_node_port_can_serve_plain_http() {
    let objects = render(&json!({ "registry": { "deploy": { "enabled": true, "tls": { "pull": false } } } }));
    let config = find(&objects, "ConfigMap", "shop-registry");
    let has = |name: &str| config["data"][name].as_str().unwrap().contains("tls:");
    assert!(has("config.yml") && !has("pull.yml"));
    let containers = &find(&objects, "StatefulSet", "shop-registry")["spec"]["template"]["spec"]["containers"];
    let scheme = |number: usize| containers[number]["readinessProbe"]["httpGet"]["scheme"].clone();
    assert_eq!((scheme(0), scheme(1)), (json!("HTTPS"), json!("HTTP")));
}

//! The registry that the chart deploys: its configuration and its logins in a real registry, and `helm test` against
//! it.

use std::path::Path;
use std::process::Command;

use base64::Engine as _;
use serde_json::{Value, json};

use super::{find, render};
use crate::support::process::Server;
use crate::support::wait::{SOON, eventually};
use crate::support::{install_tls, program};

fn data(secret: &Value, key: &str) -> Vec<u8> {
    base64::engine::general_purpose::STANDARD
        .decode(secret["data"][key].as_str().unwrap())
        .unwrap()
}

/// The command that a pod of `helm test` runs, its mounts being folders of this machine.
fn test(pod: &Value, mounts: &[(&str, &Path)]) -> (bool, String) {
    let container = &pod["spec"]["containers"][0];
    let here = |text: &str| {
        let below = mounts.iter().find(|(mount, _)| text.starts_with(mount));
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
    let said = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
    (output.status.success(), said)
}

#[tokio::test]
async fn it_takes_the_login_that_the_operator_has() {
    install_tls();
    let folder = tempfile::tempdir().unwrap();
    let file = |name: &str| folder.path().join(name);
    let values = |endpoint: &str| json!({ "registry": { "endpoint": endpoint, "deploy": { "enabled": true, "auth": { "password": "p" } } } });
    // The address is the kernel's choice, so the configuration comes first and the rest when it is known.
    let objects = render(&values("registry:5000"));
    let config = find(&objects, "ConfigMap", "shop-registry")["data"]["config.yml"]
        .as_str()
        .unwrap()
        .to_owned();
    let (addr, paths) = (
        "addr: :5000",
        ["/var/lib/registry", "/etc/jackal-registry-auth/htpasswd"],
    );
    assert!(
        config.contains(addr) && paths.iter().all(|path| config.contains(path)),
        "{config}"
    );
    let config = config
        .replace(addr, "addr: 127.0.0.1:0")
        .replace(paths[0], file("data").to_str().unwrap())
        .replace(paths[1], file("htpasswd").to_str().unwrap());
    std::fs::write(file("config.yml"), config).unwrap();
    std::fs::write(
        file("htpasswd"),
        data(find(&objects, "Secret", "shop-registry"), "htpasswd"),
    )
    .unwrap();
    let serve = ["serve", file("config.yml").to_str().unwrap()].map(str::to_owned);
    let variables = [("REGISTRY_HTTP_SECRET", "s"), ("OTEL_TRACES_EXPORTER", "none")];
    let _registry = Server::start_with(
        &program("JACKAL_BIN_REGISTRY31"),
        &[&serve[0], &serve[1]],
        &variables,
        &file("log"),
    );
    let host = eventually(SOON, "the registry listens", async || {
        let log = std::fs::read_to_string(file("log")).unwrap();
        let (_, rest) = log.split_once("listening on ").ok_or_else(|| log.clone())?;
        Ok(rest.split(['"', ',', ' ', '\n']).next().unwrap().to_owned())
    })
    .await;

    // The same probe as the kubelet's, without a login.
    let alive = reqwest::get(format!("http://{host}/")).await.unwrap();
    assert_eq!(alive.status(), 200);

    let objects = render(&values(&host));
    let pod = find(&objects, "Pod", "shop-test-registry");
    let package = &find(&objects, "ConfigMap", "shop-test-registry")["data"]["package.yaml"];
    std::fs::write(file("package.yaml"), package.as_str().unwrap()).unwrap();
    let mounts = [("/package", folder.path()), ("/login", folder.path())];
    let config = data(find(&objects, "Secret", "shop-registry-login"), ".dockerconfigjson");
    let config = String::from_utf8(config).unwrap();
    // The same in two forms: as words, and as `jackal:p` in base64.
    let wrong = config.replace(r#""p""#, r#""q""#).replace("OnA=", "OnE=");
    assert_ne!(wrong, config);
    for (login, succeeds) in [("{}", false), (&wrong, false), (&config, true), (&config, true)] {
        std::fs::write(file("config.json"), login).unwrap();
        let (success, said) = test(pod, &mounts);
        assert_eq!(success, succeeds, "{said}");
    }
    // What `helm test` asks the controller, asked of this.
    let mut probe = find(&objects, "Pod", "shop-test-controller").clone();
    let url = probe["spec"]["containers"][0]["args"][2].as_str().unwrap().to_owned();
    assert_eq!(url, "http://shop-controller.home.svc:8080/readyz");
    for (url, within, words) in [
        (format!("http://{host}/"), "60s", "answers with success"),
        (format!("http://{host}/v2/"), "1s", "401 Unauthorized"),
        ("http://127.0.0.1:1/".to_owned(), "1s", "Connection refused"),
        (format!("https://{host}/"), "1s", "name an http:// address"),
    ] {
        let arguments = json!(["probe", format!("--within={within}"), url]);
        probe["spec"]["containers"][0]["args"] = arguments;
        let (success, said) = test(&probe, &[]);
        assert!(said.contains(words), "{said}");
        assert_eq!(success, within == "60s", "{said}");
    }
}

//! A release in a real API server: installed, upgraded, gone.

use base64::Engine as _;
use serde_json::{Value, json};

use super::{CHART, Values, helm};
use crate::support::cluster::{Cluster, required};
use crate::support::objects::node_port;

fn object(cluster: &Cluster, name: &[&str]) -> Value {
    let said = cluster.kubectl(&[&["get", "-o", "json"], name].concat());
    serde_json::from_str(&said).unwrap()
}

#[tokio::test]
async fn an_upgrade_keeps_the_login_and_an_end_leaves_the_definitions() {
    let cluster = Cluster::new().await;
    let release = format!("r-{}", cluster.namespace);
    let (kubeconfig, namespace) = (required("KUBECONFIG"), cluster.namespace.clone());
    let on = ["--kubeconfig", &kubeconfig, "--namespace", &namespace];
    let run = |arguments: &[&str]| helm(&[arguments, &on].concat()).unwrap_or_else(|error| panic!("{error}"));
    let port = node_port();
    let values = |more: Value| {
        let auth = json!({ "enabled": true, "nodePort": port, "auth": more });
        Values::of(
            &json!({ "registry": { "deploy": auth }, "agent": { "enabled": true }, "dashboard": { "enabled": true } }),
        )
    };
    // The definitions were applied by kubectl, as by somebody who was told to.
    let first = values(json!({}));
    let install = [
        "install",
        &release,
        CHART,
        "--take-ownership",
        "--values",
        &first.file(),
    ];
    let notes = run(&install);
    let goes = format!("Images are copied to 127.0.0.1:{port}; the operator reaches it at");
    assert!(notes.contains(&goes), "{notes}");
    let named = |name: &str| object(&cluster, &[&format!("secret/{release}-registry{name}")])["data"].clone();
    let names = ["", "-login", "-pull", "-ca", "-tls"];
    let made = names.map(named);
    let upgrade = |values: &Values| run(&["upgrade", &release, CHART, "--values", &values.file()]);
    upgrade(&first);
    assert_eq!(names.map(named), made);
    upgrade(&values(json!({ "push": { "password": "other" } })));
    let other = named("");
    assert_ne!(other["htpasswd"], made[0]["htpasswd"]);
    assert_ne!(named("-login"), made[1]);
    // Who reads has the same, and uploads that are under way go on.
    assert_eq!(other["pull-htpasswd"], made[0]["pull-htpasswd"]);
    assert_eq!(named("-pull"), made[2]);
    assert_eq!(other["http-secret"], made[0]["http-secret"]);
    // And the one that was set stays when nothing is said of it any more.
    upgrade(&first);
    assert_eq!(named(""), other);

    // A certificate that ends soon is made anew, and what was trusted stays so for a while.
    let checksum = || {
        let pods = object(&cluster, &[&format!("statefulset/{release}-registry")]);
        pods["spec"]["template"]["metadata"]["annotations"]["checksum/tls"].clone()
    };
    let (tls, before) = (format!("secret/{release}-registry-tls"), checksum());
    let soon = jiff::Timestamp::now().as_second() + 119 * 86_400;
    cluster.kubectl(&["annotate", "--overwrite", &tls, &format!("jackal.dev/not-after={soon}")]);
    upgrade(&first);
    let renewed = named("-tls");
    assert_ne!(renewed["tls.crt"], made[4]["tls.crt"]);
    assert_ne!(checksum(), before, "the pods start anew");
    let pem = |value: &Value| {
        let bytes = base64::engine::general_purpose::STANDARD.decode(value.as_str().unwrap());
        String::from_utf8(bytes.unwrap()).unwrap()
    };
    let bundle = pem(&named("-ca")["ca.crt"]);
    assert_eq!(bundle, pem(&renewed["ca.crt"]) + &pem(&made[4]["ca.crt"]));
    upgrade(&first);
    assert_eq!((named("-tls"), pem(&named("-ca")["ca.crt"])), (renewed.clone(), bundle));
    // Another name needs another.
    let more = Values::of(&json!({ "registry": { "deploy": {
        "enabled": true, "nodePort": port, "tls": { "names": ["registry.example.com"] },
    } } }));
    upgrade(&more);
    assert_ne!(named("-tls")["tls.crt"], renewed["tls.crt"]);

    // A release of before had one user, whose login pods have: with it they go on to read, and nobody writes by it.
    let old = json!({ "data": {
        "username": other["pull-username"], "password": made[0]["password"], "htpasswd": made[0]["htpasswd"],
        "pull-username": null, "pull-password": null, "pull-htpasswd": null,
    } });
    cluster.kubectl(&[
        "patch",
        &format!("secret/{release}-registry"),
        "--type=merge",
        "-p",
        &old.to_string(),
    ]);
    upgrade(&first);
    let split = named("");
    assert_eq!(split["pull-password"], made[0]["password"]);
    assert_ne!(split["password"], made[0]["password"]);
    assert_eq!(pem(&split["username"]), "jackal-push");

    run(&["uninstall", &release]);
    let left = cluster.kubectl(&[
        "get",
        "all,secret,configmap,serviceaccount,role,rolebinding,networkpolicy,pdb",
        "-o",
        "name",
    ]);
    // The API server's own, if it has one.
    let left: Vec<&str> = left.lines().filter(|line| line.contains(&release)).collect();
    assert!(left.is_empty(), "{left:?}");
    for name in ["jackalpackages.jackal.dev", "jackalimages.jackal.dev"] {
        let definition = object(&cluster, &["crd", name]);
        assert_eq!(
            definition["metadata"]["annotations"]["meta.helm.sh/release-name"],
            release
        );
    }
}

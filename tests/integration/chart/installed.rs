//! A release in a real API server: installed, upgraded, gone.

use serde_json::{Value, json};

use super::{CHART, Values, helm};
use crate::support::cluster::{Cluster, required};

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
    // The port is the whole cluster's, and other tests ask whether the usual one would be served.
    let port = fastrand::u16(30_000..31_999);
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
    let goes = format!("Images go to 127.0.0.1:{port}, which the operator reaches at");
    assert!(notes.contains(&goes), "{notes}");
    let (secret, login) = (
        format!("secret/{release}-registry"),
        format!("secret/{release}-registry-login"),
    );
    let made = (
        object(&cluster, &[&secret])["data"].clone(),
        object(&cluster, &[&login])["data"].clone(),
    );

    let upgrade = |values: &Values| run(&["upgrade", &release, CHART, "--values", &values.file()]);
    upgrade(&first);
    assert_eq!(object(&cluster, &[&secret])["data"], made.0);
    assert_eq!(object(&cluster, &[&login])["data"], made.1);
    upgrade(&values(json!({ "password": "other" })));
    let other = object(&cluster, &[&secret])["data"].clone();
    assert_ne!(other["htpasswd"], made.0["htpasswd"]);
    assert_ne!(object(&cluster, &[&login])["data"], made.1);
    // Uploads that are under way go on.
    assert_eq!(other["http-secret"], made.0["http-secret"]);
    // And the one that was set stays when nothing is said of it any more.
    upgrade(&first);
    assert_eq!(object(&cluster, &[&secret])["data"], other);

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

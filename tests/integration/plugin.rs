//! `kubectl jackal`, run by the real kubectl, with an operator in a real API server.

use jackal_operator::api::v1alpha1::JackalPackage;
use serde_json::Value;

use crate::support::cluster::{Cluster, condition};
use crate::support::image::{image, noise, put};
use crate::support::objects::{ADDRESS, package};
use crate::support::registry::{TestRegistry, Version};
use crate::support::workspace::{CommandResult as _, stderr, stdout};

#[tokio::test]
async fn packages_are_shown_explained_and_changed() {
    let cluster = Cluster::new().await;
    let [source, inside] = [Version::V31; 2].map(TestRegistry::start);
    let web = source.repository("shop/web");
    put(&web, &image(&web, "linux/amd64", noise(7, 3_000)).await, Some("1")).await;
    let _controller = cluster.controller(&[
        "--insecure-registry",
        &source.host,
        "--registry-address",
        ADDRESS,
        "--registry-endpoint",
        &inside.host,
        "--registry-insecure",
    ]);
    let run = |arguments: &[&str]| {
        let output = cluster.kubectl_jackal(arguments);
        output.succeeded();
        stdout(&output)
    };
    let none = cluster.kubectl_jackal(&["status"]);
    none.succeeded();
    assert!(stderr(&none).contains("has no JackalPackage"), "{}", stderr(&none));

    let host = &source.host;
    let [present, absent] = ["web", "absent"].map(|name| format!("{{image: '{host}/shop/{name}:1'}}"));
    cluster.apply(&package("shop", "1.0.0", &[&present], ""));
    cluster.apply(&package("broken", "1.0.0", &[&present, &absent], ""));
    cluster.ready("shop").await;
    let is_failed = |package: &JackalPackage| {
        let ready = condition(&package.status.as_ref()?.conditions, "Ready")?;
        (ready.reason == "SourceNotFound").then_some(())
    };
    cluster.package_where("broken", "failed", is_failed).await;

    let status = run(&["status"]);
    let row = |name: &str| {
        let mut rows = status.lines().filter(|line| line.trim_start().starts_with(name));
        rows.next().unwrap_or_else(|| panic!("{name}: {status}")).to_owned()
    };
    assert!(
        row("shop ").contains("True") && row("shop ").ends_with("Succeeded"),
        "{status}"
    );
    assert!(
        row(&format!("{host}/shop/absent:1")).ends_with("SourceNotFound"),
        "{status}"
    );
    assert_eq!(
        run(&["status", "shop", "-o", "name"]),
        "jackalpackage.jackal.dev/shop\n"
    );
    let json: Value = serde_json::from_str(&run(&["status", "shop", "-o", "json"])).unwrap();
    assert_eq!(json[0]["package"]["metadata"]["name"], "shop");
    assert_eq!(json[0]["images"].as_array().unwrap().len(), 1);

    let tree = run(&["tree", "shop"]);
    let name = format!("{ADDRESS}/{}/shop/web:1  sha256:", cluster.namespace);
    assert!(
        tree.contains(&name) && tree.contains("from Registry by Registry"),
        "{tree}"
    );
    let why = run(&["explain", "broken"]);
    for part in [
        "broken is not ready: SourceNotFound",
        "What to do: push, build",
        "1 of 2 images failed",
        "never built",
    ] {
        assert!(why.contains(part), "{part}: {why}");
    }
    assert!(
        run(&["events", "shop"]).contains("Succeeded"),
        "{}",
        run(&["events", "shop"])
    );

    run(&["reconcile", "shop", "--wait"]);
    let failed = cluster.kubectl_jackal(&["reconcile", "broken", "--wait", "--timeout", "2s"]);
    failed.failed(1, &["broken is not ready after --timeout: SourceNotFound"]);
    run(&["suspend", "shop"]);
    assert!(cluster.package("shop").await.spec.suspend);
    cluster
        .kubectl_jackal(&["reconcile", "shop"])
        .failed(1, &["resume it first"]);
    assert!(run(&["explain", "shop"]).contains("is suspended"));
    run(&["resume", "shop"]);
    assert!(!cluster.package("shop").await.spec.suspend);
    for command in ["suspend", "events", "tree"] {
        let unknown = cluster.kubectl_jackal(&[command, "shopp"]);
        unknown.failed(2, &["has no JackalPackage shopp; did you mean shop?"]);
    }
}

//! `bootstrap` and a real API server. The pods are those of scripts/e2e-bootstrap.

mod archive;
mod export;
mod import;
mod preflight;
mod server;
mod steps;

use serde_json::{Value, json};

use self::archive::{Layout, labels};
use self::server::ApiServer;
use crate::support::workspace::{CommandResult as _, Workspace, stderr};

/// What the command prints, which succeeds.
fn printed(workspace: &Workspace, arguments: &[&str]) -> String {
    let output = workspace.run(arguments);
    output.succeeded();
    String::from_utf8(output.stdout).unwrap()
}

/// A workspace with the archive `site`.
fn workspace(version: &str) -> Workspace {
    let workspace = Workspace::new();
    archive::write(&workspace.path("site"), version);
    workspace
}

#[tokio::test]
async fn an_archive_without_its_images_is_refused() {
    let workspace = Workspace::new();
    let operator = "ghcr.io/jackal-dev/jackal-operator:1";
    let program = [("jackal-operator", b"p".to_vec())];
    Layout::new(&workspace.path("none"))
        .image("example.com/app:1", &json!({}), &program)
        .finish();
    Layout::new(&workspace.path("plain"))
        .image(operator, &json!({}), &program)
        .finish();
    Layout::new(&workspace.path("alone"))
        .image(operator, &labels("1"), &program)
        .finish();
    let newer = json!({"dev.jackal.install": "2"});
    Layout::new(&workspace.path("newer"))
        .image(operator, &newer, &program)
        .finish();
    Layout::new(&workspace.path("two"))
        .image(operator, &labels("1"), &program)
        .image("example.com/registry:1", &json!({}), &program)
        .image("example.com/distribution:1", &json!({}), &[("registry", b"r".to_vec())])
        .finish();
    for (name, part) in [
        (
            "none",
            "no image whose repository ends in jackal-operator; add ghcr.io/jackal-dev/jackal-operator:VERSION",
        ),
        (
            "plain",
            "ghcr.io/jackal-dev/jackal-operator:1 has no files for bootstrap (label dev.jackal.install)",
        ),
        ("alone", "no image of a registry: add docker.io/library/registry:3.1.2"),
        ("newer", "is newer than this program"),
        (
            "two",
            "several images of registries: example.com/registry:1, example.com/distribution:1; choose one with --registry-image",
        ),
    ] {
        workspace.run(&["bootstrap", name]).failed(2, &[part]);
    }
    let arguments = ["bootstrap", "two", "--operator-image", "example.com/other:1"];
    workspace
        .run(&arguments)
        .failed(2, &["no image example.com/other:1, which --operator-image names"]);
}

#[tokio::test]
async fn a_dry_run_prints_all_objects_and_changes_nothing() {
    let server = ApiServer::exclusive().await;
    let workspace = workspace("0.1.0");
    let flags = [
        "bootstrap",
        "site",
        "--dry-run",
        "--kubeconfig",
        server.kubeconfig(),
        "--seed-image",
        "pause:1",
    ];
    let printed = printed(&workspace, &[&flags[..], &["--ephemeral-storage"]].concat());
    let objects: Vec<Value> = serde_saphyr::from_multiple(&printed).unwrap();
    let names: Vec<String> = objects
        .iter()
        .map(|object| {
            format!(
                "{} {}",
                object["kind"].as_str().unwrap(),
                object["metadata"]["name"].as_str().unwrap()
            )
        })
        .collect();
    assert_eq!(
        names[..2],
        [
            "Namespace jackal-system",
            "CustomResourceDefinition jackalimages.jackal.dev"
        ]
    );
    for name in [
        "Secret jackal-operator-registry-pull",
        "StatefulSet jackal-operator-registry",
        "ConfigMap jackal-bootstrap",
        "Namespace jackal-seed",
        "ConfigMap jackal-seed",
        "DaemonSet jackal-seed-amd64",
    ] {
        assert!(names.contains(&name.to_owned()), "{name}: {names:?}");
    }
    for secret in objects.iter().filter(|object| object["kind"] == "Secret") {
        let mut values = secret["data"].as_object().unwrap().values();
        assert!(values.all(|value| value == "<redacted>"), "{secret}");
    }
    assert!(!printed.contains("jackal.invalid"));
    assert_eq!(server.installed().await, Vec::<String>::new());
    // Without a class, a volume cannot be made.
    workspace
        .run(&flags)
        .failed(2, &["the cluster has no storage class for the registry"]);
    // Nor seeds without an image.
    let flags = [
        "bootstrap",
        "site",
        "--dry-run",
        "--kubeconfig",
        server.kubeconfig(),
        "--ephemeral-storage",
    ];
    workspace.run(&flags).failed(
        2,
        &["no image is known that all nodes with amd64 have; name one with --seed-image"],
    );
}

#[tokio::test]
async fn an_account_without_permissions_is_refused_before_anything_changes() {
    let server = ApiServer::exclusive().await;
    let workspace = workspace("0.1.0");
    let reader = server.reader(&workspace.path("reader.kubeconfig")).await;
    let flags = [
        "bootstrap",
        "site",
        "--kubeconfig",
        &reader,
        "--ephemeral-storage",
        "--ignore-preflight",
    ];
    let output = workspace.run(&flags);
    output.failed(
        2,
        &[
            "this account may not: ",
            "create clusterroles.rbac.authorization.k8s.io",
            "create pods/portforward in jackal-system",
            "patch statefulsets.apps in jackal-system",
            "use an account of a cluster administrator",
        ],
    );
    assert!(!stderr(&output).contains("list nodes"));
    assert_eq!(server.installed().await, Vec::<String>::new());
}

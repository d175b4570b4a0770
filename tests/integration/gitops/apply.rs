//! GitOps tools apply again and again without conflicts with the operator.

use jackal_operator::api::v1alpha1::{JackalImage, JackalPackage};
use kube::ResourceExt as _;
use serde_json::{Value, json};

use super::{package, standalone_image};
use crate::support::cluster::Cluster;
use crate::support::image::multi_platform;
use crate::support::registry::{TestRegistry, Version};

/// How a tool applies, and the field manager that it uses.
const TOOLS: [(&[&str], &str); 3] = [
    (
        &["--server-side", "--field-manager=argocd-controller"],
        "argocd-controller",
    ),
    (
        &["--server-side", "--field-manager=kustomize-controller"],
        "kustomize-controller",
    ),
    // The default of Argo CD, and of users.
    (
        &["--field-manager=kubectl-client-side-apply"],
        "kubectl-client-side-apply",
    ),
];

/// The object with its managed fields.
fn read(cluster: &Cluster, object: &str) -> Value {
    let output = cluster.kubectl(&["get", object, "--show-managed-fields", "--output", "json"]);
    serde_json::from_str(&output).unwrap()
}

/// The fields that `manager` owns, or those of all others: the first two elements of their paths.
fn owned(object: &Value, manager: &str, its: bool) -> Vec<String> {
    let mut found = Vec::new();
    for entry in object["metadata"]["managedFields"].as_array().unwrap() {
        if (entry["manager"] == *manager) != its {
            continue;
        }
        for (top, below) in entry["fieldsV1"].as_object().unwrap() {
            let below = below.as_object().unwrap().keys().filter(|key| *key != ".");
            found.extend(below.map(|key| format!("{top}/{key}")));
        }
    }
    found.sort();
    found.dedup();
    found
}

#[tokio::test]
async fn applying_again_changes_nothing_and_causes_no_conflict() {
    let (source, registry) = (TestRegistry::start(Version::V31), TestRegistry::start(Version::V31));
    for tag in ["1", "2"] {
        multi_platform(&source.repository("team/app"), tag).await;
    }
    for (flags, manager) in TOOLS {
        let cluster = Cluster::new().await;
        let _controller = cluster.controller(&["--insecure-registry", &source.host]);
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("objects.yaml");
        let file = file.to_str().unwrap();
        let image = |tag: &str| format!("{}/team/app:{tag}", source.host);
        // Defaults are omitted, and a map is empty, as generators write it.
        let write = |tag: &str| {
            let line = format!("{{image: '{}'}}", image(tag));
            let package = package("shop", "1.0.0", &registry.host, &[&line], "deletionPolicy: Delete");
            let standalone_image = standalone_image(
                "app",
                &image(tag),
                &registry.host,
                "imagePullSecrets: []\n  deletionPolicy: Delete",
            );
            std::fs::write(file, format!("{package}---\n{standalone_image}")).unwrap();
        };
        let apply = || cluster.kubectl(&[&["apply", "--filename", file][..], flags].concat());
        // It fails without output if something differs.
        let differs = || cluster.kubectl(&[&["diff", "--filename", file][..], flags].concat());

        write("1");
        apply();
        cluster.ready("shop").await;
        cluster.image_ready("app").await;
        let objects = ["jkpkg/shop", "jkimg/app"];
        let first = objects.map(|object| read(&cluster, object));
        assert_eq!(differs(), "", "{manager}");
        apply();
        for (object, first) in objects.iter().zip(&first) {
            let again = read(&cluster, object);
            assert_eq!(
                again["metadata"]["resourceVersion"], first["metadata"]["resourceVersion"],
                "{manager}: {object} was written by an apply that changes nothing"
            );
            // Fields of other managers are in no manifest in Git.
            let others: Vec<String> = owned(&again, manager, false);
            let foreign = |field: &&String| !field.starts_with("f:status/") && *field != "f:metadata/f:finalizers";
            assert_eq!(others.iter().find(foreign), None, "{manager}: {object}");
            assert!(
                others.contains(&"f:status/f:conditions".to_owned()),
                "{manager}: {others:?}"
            );
            assert!(
                others.contains(&"f:metadata/f:finalizers".to_owned()),
                "{manager}: {others:?}"
            );
            let its = owned(&again, manager, true);
            assert!(its.contains(&"f:spec/f:registry".to_owned()), "{manager}: {its:?}");
            assert!(
                !its.iter().any(|field| field.starts_with("f:status")),
                "{manager}: {its:?}"
            );
        }

        // A manual request is not drift, and the next apply keeps it.
        let request = "reconcile.fluxcd.io/requestedAt=2026-01-01T00:00:00Z";
        cluster.kubectl(&["annotate", "jkpkg/shop", "jkimg/app", request]);
        let handled = |status: Option<&str>| (status == Some("2026-01-01T00:00:00Z")).then_some(());
        let package = |package: &JackalPackage| handled(package.status.as_ref()?.last_handled_reconcile_at.as_deref());
        cluster.package_where("shop", "looked at again", package).await;
        let standalone_image =
            |image: &JackalImage| handled(image.status.as_ref()?.last_handled_reconcile_at.as_deref());
        cluster.image_where("app", "looked at again", standalone_image).await;
        let shop = cluster.ready("shop").await;
        assert_eq!(differs(), "", "{manager}");
        apply();
        let again = cluster.package("shop").await;
        assert_eq!(
            again
                .annotations()
                .get("reconcile.fluxcd.io/requestedAt")
                .map(String::len),
            Some(20)
        );
        assert_eq!(again.metadata.generation, shop.metadata.generation);

        // A changed manifest is accepted without force.
        write("2");
        apply();
        let changed = cluster.ready("shop").await;
        assert_eq!(
            changed.metadata.generation,
            shop.metadata.generation.map(|known| known + 1)
        );
        assert!(changed.status.unwrap().images[0].image.ends_with(":2"));
        cluster.image_ready("app").await;
        assert_eq!(differs(), "", "{manager}");
        for object in objects {
            cluster.kubectl(&["wait", "--for=condition=Ready", "--timeout=30s", object]);
        }
    }
}

#[tokio::test]
async fn an_edit_by_another_manager_is_a_conflict_with_the_applier() {
    let (cluster, registry) = (Cluster::new().await, TestRegistry::start(Version::V31));
    let _controller = cluster.controller(&[]);
    let yaml = standalone_image("app", "127.0.0.1:1/team/app:1", &registry.host, "interval: 1h");
    let argocd = ["--field-manager=argocd-controller"];
    cluster.try_apply_with(&yaml, &argocd).unwrap();
    cluster
        .patch::<JackalImage>("app", json!({ "spec": { "interval": "2h" } }))
        .await;
    let refused = cluster.try_apply_with(&yaml, &argocd).unwrap_err();
    assert!(
        refused.contains(".spec.interval") && !refused.contains("jackal-operator"),
        "{refused}"
    );
}

//! What an installation makes in the cluster, without the pods.

use std::collections::BTreeMap;
use std::sync::Arc;

use async_trait::async_trait;
use jackal_operator::archive;
use jackal_operator::bootstrap::install::{Expose, Object};
use jackal_operator::bootstrap::packed;
use jackal_operator::bootstrap::steps::{
    Bootstrap, DoneStep, Observer, SeedRequest, Seeds, Settings, Step, StorageFlags, prepare,
};
use jackal_operator::bootstrap::undo::{Removal, undo};
use jackal_operator::fault::Fault;
use jackal_operator::transfer::Progress;
use serde_json::{Value, json};
use tokio::sync::Notify;

use super::server::ApiServer;
use super::workspace;
use crate::support::workspace::{CommandResult as _, Workspace};

/// Seeds of a cluster without nodes.
struct NoNodes;

#[async_trait(?Send)]
impl Seeds for NoNodes {
    async fn start(&self, requests: &BTreeMap<String, SeedRequest>, _: bool, _: &Progress) -> Result<(), Fault> {
        let names: Vec<&str> = requests["amd64"].files.iter().map(|file| file.name.as_str()).collect();
        assert!(
            names.contains(&"jackal-operator") && names.contains(&"layout/index.json"),
            "{names:?}"
        );
        assert_eq!(&requests["amd64"].program[..], b"seed");
        Ok(())
    }

    async fn objects(&self, _: &BTreeMap<String, SeedRequest>, _: bool) -> Result<Vec<Object>, Fault> {
        Ok(Vec::new())
    }

    async fn remove(&self) -> Result<bool, Fault> {
        Ok(false)
    }
}

/// Says when the registry is waited for.
#[derive(Default)]
struct UntilRegistry(Notify);

impl Observer for UntilRegistry {
    fn begins(&self, step: Step) {
        if step == Step::Registry {
            self.0.notify_one();
        }
    }
    fn done(&self, _: &DoneStep) {}
    fn note(&self, _: &str) {}
}

fn settings() -> Settings {
    Settings {
        expose: None,
        recommended: Expose::NodePort,
        storage: StorageFlags {
            ephemeral: true,
            ..StorageFlags::default()
        },
        replace: false,
        downgrade: false,
        import: false,
        always_seed: false,
    }
}

/// Installs until the registry would start, and ends there as a killed process does.
async fn install_objects(server: &ApiServer, workspace: &Workspace) {
    let cluster = server.cluster();
    let archive = Arc::new(archive::open(&workspace.path("site")).await.unwrap());
    let images = packed::find(&archive, None, None).await.unwrap();
    let prepared = prepare(&cluster, &archive, &images, &settings()).await.unwrap();
    prepared.check(&cluster).await.unwrap();
    let observer = UntilRegistry::default();
    let run = Bootstrap {
        cluster: &cluster,
        archive,
        images,
        settings: settings(),
        seeds: &NoNodes,
        observer: &observer,
        progress: Arc::default(),
    };
    tokio::select! {
        ended = run.run(&prepared) => panic!("{ended:?}"),
        () = observer.0.notified() => {}
    }
}

/// The versions of all installed objects.
async fn versions(server: &ApiServer) -> BTreeMap<String, u64> {
    let cluster = server.cluster();
    let mut found = BTreeMap::new();
    for kind in &jackal_operator::bootstrap::install::KINDS {
        for object in cluster.installed(kind).await.unwrap() {
            let version = object.metadata.resource_version.unwrap().parse().unwrap();
            found.insert(format!("{} {}", kind.kind, object.metadata.name.unwrap()), version);
        }
    }
    found
}

#[tokio::test]
async fn an_installation_continues_and_is_removed_completely() {
    let server = ApiServer::exclusive().await;
    let first = workspace("0.1.0");
    install_objects(&server, &first).await;
    let before = versions(&server).await;
    for name in [
        "Namespace jackal-system",
        "ClusterRole jackal-operator",
        "StatefulSet jackal-operator-registry",
        "Deployment jackal-operator",
        "ConfigMap jackal-bootstrap",
    ] {
        assert!(before.contains_key(name), "{name}: {before:?}");
    }
    // The Service takes the nodes' port only when the registry holds the images.
    assert!(!before.contains_key("Service jackal-operator-registry-nodes"));
    for (earlier, later) in [
        ("ClusterRoleBinding jackal-operator", "Secret jackal-operator-registry"),
        (
            "Secret jackal-operator-registry-pull",
            "StatefulSet jackal-operator-registry",
        ),
        ("StatefulSet jackal-operator-registry", "Deployment jackal-operator"),
    ] {
        assert!(before[earlier] < before[later], "{earlier} before {later}: {before:?}");
    }
    // A repetition writes only its own state.
    install_objects(&server, &first).await;
    let mut after = versions(&server).await;
    after.insert(
        "ConfigMap jackal-bootstrap".to_owned(),
        before["ConfigMap jackal-bootstrap"],
    );
    assert_eq!(after, before);
    other_archives(&server).await;
    other_cluster(&server, &first).await;
    removal(&server, &first).await;
}

/// Another archive waits for the one that is not finished.
async fn other_archives(server: &ApiServer) {
    let other = workspace("0.2.0");
    let flags = [
        "bootstrap",
        "site",
        "--kubeconfig",
        server.kubeconfig(),
        "--dry-run",
        "--seed-image",
        "pause:1",
    ];
    let parts = [
        "the bootstrap of another archive (version 0.1.0, sha256:",
        "last step was `registry`",
        "--undo",
        "--replace",
    ];
    other.run(&flags).failed(2, &parts);
    other.run(&[&flags[..], &["--replace"]].concat()).succeeded();
    // What the registry stores cannot be changed.
    let other_class = [&flags[..], &["--replace", "--storage-class", "fast"]].concat();
    let refusal = "the storage of the registry that the cluster has cannot be changed";
    other.run(&other_class).failed(2, &[refusal]);
    let earlier = workspace("0.0.9");
    let replace = [&flags[..], &["--replace"]].concat();
    earlier
        .run(&replace)
        .failed(2, &["to install the earlier version, add --downgrade"]);
    earlier
        .run(&[&flags[..], &["--replace", "--downgrade"]].concat())
        .succeeded();
}

/// The archive is half installed in another cluster.
async fn other_cluster(server: &ApiServer, workspace: &Workspace) {
    let archive = archive::open(&workspace.path("site")).await.unwrap();
    let identity = packed::identity(&archive).to_string();
    let name = jackal_operator::oci::Digest::of(identity.as_bytes());
    let record = format!(".local/state/jackal-operator/bootstrap/{}.json", name.hex());
    workspace.write(
        &record,
        json!({"cluster": "other", "server": "https://other:6443"}).to_string(),
    );
    let flags = [
        "bootstrap",
        "site",
        "--kubeconfig",
        server.kubeconfig(),
        "--dry-run",
        "--seed-image",
        "pause:1",
    ];
    workspace
        .run(&flags)
        .failed(2, &["not finished in another cluster, https://other:6443"]);
    workspace.run(&[&flags[..], &["--other-cluster"]].concat()).succeeded();
}

async fn removal(server: &ApiServer, workspace: &Workspace) {
    let cluster = server.cluster();
    // A package, a foreign object and a claim of the registry.
    let package = json!({
        "apiVersion": "jackal.dev/v1alpha1", "kind": "JackalPackage",
        "metadata": {"name": "shop", "namespace": "default", "finalizers": ["jackal.dev/test"]},
        "spec": {"version": "1.0.0", "components": [{"name": "web", "images": ["example.com/app:1"]}]},
    });
    server.create("jackal.dev/v1alpha1", "jackalpackages", &package).await;
    let claim = |name: &str, labels: Value| {
        json!({
            "apiVersion": "v1", "kind": "PersistentVolumeClaim",
            "metadata": {"name": name, "namespace": "jackal-system", "labels": labels},
            "spec": {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}}},
        })
    };
    let labels = json!({"app.kubernetes.io/instance": "jackal-operator", "app.kubernetes.io/component": "registry"});
    server
        .create(
            "v1",
            "persistentvolumeclaims",
            &claim("data-jackal-operator-registry-0", labels),
        )
        .await;
    let undo_flags = ["bootstrap", "--undo", "--kubeconfig", server.kubeconfig()];
    let question = "--undo deletes 1 packages: JackalPackage default/shop; add --yes";
    workspace.run(&undo_flags).failed(2, &[question]);
    let printed = super::printed(workspace, &[&undo_flags[..], &["--yes"]].concat());
    assert!(
        printed.contains("removed CustomResourceDefinition jackalpackages.jackal.dev"),
        "{printed}"
    );
    assert!(
        printed.contains("stays: PersistentVolumeClaim jackal-system/data-jackal-operator-registry-0"),
        "{printed}"
    );
    assert_eq!(server.installed().await, ["Namespace /jackal-system"]);
    let removal = Removal { data: true };
    let removed = tokio::select! {
        removed = undo(&cluster, &NoNodes, removal) => removed.unwrap(),
        () = server.act_as_controllers() => unreachable!(),
    };
    assert_eq!(removed.stays, Vec::<String>::new());
    assert_eq!(removed.objects.last().unwrap(), "Namespace jackal-system");
    assert_eq!(server.installed().await, Vec::<String>::new());
    let printed = super::printed(workspace, &undo_flags);
    assert_eq!(printed.trim(), "there is nothing to remove");
}

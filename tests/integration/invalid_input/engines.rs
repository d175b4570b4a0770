//! Nodes whose docker engine does not have the image, has another, or dies; and nodes without an agent.

use jackal_operator::api::v1alpha1::JackalPackage;
use jackal_operator::source::docker::StorageKind;
use serde_json::{Value, json};

use super::harness::{Case, Harness, registered};
use super::specs::{of, package};
use crate::docker::engines::{DedicatedEngine, DockerEngine, Image, noise, tar};
use crate::support::cluster::{Cluster, condition};
use crate::support::registry::{TestRegistry, Version};
use crate::support::throttle::Throttle;
use crate::support::wait::{SOON, eventually};

/// A unique name for an image in the shared engines.
fn unique(name: &str) -> String {
    format!("jackal-bad-{:012x}/{name}:dev", fastrand::u64(..1 << 48))
}

fn small(name: &str, content: &str) -> Image {
    Image::new(name, vec![tar(&[("name", name), ("content", content)])])
}

/// Loads an image; returns its ID.
fn load(engine: &DockerEngine, name: &str, content: &str) -> String {
    engine.load(&small(name, content).archive());
    let id = engine.output(&["image", "inspect", "--format", "{{.Id}}", name]);
    id.trim().to_owned()
}

async fn edit(cluster: &Cluster, package: &str, image: Value) {
    cluster
        .patch::<JackalPackage>(package, json!({ "spec": { "components": of(image) } }))
        .await;
}

#[tokio::test]
async fn an_image_missing_or_ambiguous_on_the_nodes_is_reported_until_resolved() {
    let [twenty, classic, containerd] = DockerEngine::all();
    let registry = TestRegistry::start(Version::V31);
    let [absent, elsewhere, named, same, pinned] = ["absent", "elsewhere", "named", "same", "pinned"].map(unique);
    load(&containerd, &elsewhere, "only there");
    for name in [&named, &same] {
        load(&twenty, name, "first");
        load(&classic, name, "second");
    }
    let id = load(&twenty, &pinned, "one");
    let zeros = format!("sha256:{:064}", 0);

    let mut harness = Harness::new(&[]).await;
    harness.agents(&[("n1", &twenty.host), ("n2", &classic.host)]).await;
    let (cluster, running) = (&harness.cluster, harness.operators.len());
    assert_eq!(running, 3);
    let bring = |name: &str, image: &str, node: Option<&str>| {
        let mut written = json!({ "image": image, "source": "Docker" });
        if let Some(node) = node {
            written["nodeName"] = json!(node);
        }
        cluster.apply(&package(name, &registry.host, json!({ "components": of(written) })));
    };
    bring("absent", &absent, None);
    bring("elsewhere", &elsewhere, Some("n3"));
    bring("named", &named, None);
    bring("same", &same, None);
    bring("pinned", &format!("{pinned}@{zeros}"), Some("n1"));
    let ambiguous = [
        "nodes hold different images",
        "n1 holds sha256:",
        "n2 holds sha256:",
        "Set nodeName",
    ];
    let late = std::sync::OnceLock::new();
    let cases = vec![
        Case::new(
            "absent",
            "SourceNotFound",
            &["no node holds", "asked: n1, n2", "build or load it there"],
            Box::pin(async {
                load(&classic, &absent, "now");
            }),
        ),
        Case::new(
            "named",
            "AmbiguousSource",
            &ambiguous,
            Box::pin(edit(
                cluster,
                "named",
                json!({ "image": named, "source": "Docker", "nodeName": "n2" }),
            )),
        ),
        Case::new(
            "same",
            "AmbiguousSource",
            &ambiguous,
            Box::pin(async {
                let folder = tempfile::tempdir().unwrap();
                let file = folder.path().join("image.tar");
                let file = file.to_str().unwrap();
                twenty.run(&["save", "--output", file, &same]);
                classic.run(&["load", "--quiet", "--input", file]);
            }),
        ),
        Case::new(
            "pinned",
            "DigestMismatch",
            &["n1: ", &id, &zeros, "tag the right image there, or change the digest"],
            Box::pin(edit(
                cluster,
                "pinned",
                json!({ "image": format!("{pinned}@{id}"), "source": "Docker" }),
            )),
        ),
        // The last one, because it adds a third node.
        Case::new(
            "elsewhere",
            "NodeUnavailable",
            &[
                "no agent runs on the node n3",
                "agents run on: n1, n2",
                "start `jackal-operator agent` there",
            ],
            Box::pin(async {
                let agent = cluster.agent("n3", &containerd.host, &[]);
                registered(cluster, "n3").await;
                let _ = late.set(agent);
            }),
        ),
    ];
    harness.run(cases).await;
}

#[tokio::test]
async fn an_engine_that_dies_during_an_export_is_reported_and_read_after_its_restart() {
    let dedicated = DedicatedEngine::start("docker-classic", StorageKind::Classic);
    let registry = TestRegistry::start(Version::V31);
    let slow = Throttle::to(&registry.host, 1 << 20);
    let name = unique("large");
    let archive = Image::new(&name, vec![tar(&[("large", noise(24 << 20))])]).archive();
    dedicated.engine.load(&archive);

    let mut harness = Harness::new(&[]).await;
    // A dead engine's folder could still be read.
    let exported = ["--docker-root", "/nowhere"];
    harness.agents_with(&[("n1", &dedicated.engine.host)], &exported).await;
    let spec = json!({ "components": of(json!({ "image": name, "source": "Docker" })) });
    harness.cluster.apply(&package("large", &slow.host, spec));
    eventually(SOON, "bytes of the image move", async || match slow.carrying() {
        0 => Err("none".to_owned()),
        _ => Ok(()),
    })
    .await;
    dedicated.killer()();
    let case = Case {
        reporters: 2,
        // While it dies its socket resets connections, afterwards it refuses them.
        writes: 2,
        ..Case::new(
            "large",
            "SourceFailed",
            &[&name, "n1: ", "docker"],
            Box::pin(async {
                slow.set_rate(0);
                dedicated.start_again();
                // It restarts empty without an event; the agent finds that out by polling.
                let emptied = |package: &JackalPackage| {
                    let ready = condition(&package.status.as_ref()?.conditions, "Ready")?;
                    (ready.reason == "SourceNotFound").then_some(())
                };
                harness.cluster.package_where("large", "SourceNotFound", emptied).await;
                dedicated.engine.load(&archive);
            }),
        )
    };
    harness.run(vec![case]).await;
}

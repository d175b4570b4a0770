//! Images of a node's containerd.

use jackal_operator::api::v1alpha1::JackalImage;

use super::{layered, unique};
use crate::containerd::node::Node;
use crate::docker::engines::DockerEngine;
use crate::support::cluster::Cluster;
use crate::support::registry::{TestRegistry, Version};

const NO_DOCKER: &str = "unix:///nowhere/docker.sock";

/// An image of one engine. Two engines have different content, so each engine uses another path.
fn image(name: &str, source: &str, registry: &TestRegistry) -> String {
    let engine = source.to_lowercase();
    format!(
        "apiVersion: jackal.dev/v1alpha1
kind: JackalImage
metadata: {{name: app-{engine}}}
spec:
  image: '{name}'
  source: {source}
  registry: {{address: '{}', repositoryPrefix: {engine}, insecure: true}}
  naming: Plain
",
        registry.host
    )
}

fn digest(image: &JackalImage) -> Option<String> {
    image.status.as_ref()?.digest.clone()
}

#[tokio::test]
async fn an_image_of_a_nodes_containerd_is_copied_and_followed() {
    for node in Node::all() {
        let (cluster, registry) = (Cluster::new().await, TestRegistry::start(Version::V31));
        let short = unique("app:dev");
        let name = format!("docker.io/{short}");
        node.import(&layered(&name, "first").archive());
        let _controller = cluster.controller(&[]);
        // The node has no docker engine, as is usual.
        let _agent = cluster.agent("n1", NO_DOCKER, &["--containerd-address", &node.address]);
        cluster.apply(&image(&short, "Containerd", &registry));
        let first = cluster.image_ready("app-containerd").await;
        let status = first.status.clone().unwrap();
        let held = node.digest(&name).to_string();
        assert_eq!(status.digest.as_deref(), Some(held.as_str()));
        assert_eq!(status.source_digest, status.digest);
        assert_eq!(status.assignment.as_ref().unwrap().node_name, "n1");
        assert_eq!(status.method.as_deref(), Some("ContainerdContent"));
        assert_eq!(status.method_reason, None);
        let (path, tag) = short.split_once(':').unwrap();
        let existing = registry.repository(&format!("containerd/{path}"));
        let existing = existing.head_manifest(tag).await.unwrap().unwrap();
        assert_eq!(existing.digest.as_str(), held);

        node.import(&layered(&name, "second").archive());
        let second = node.digest(&name).to_string();
        assert_ne!(second, held);
        cluster
            .image_where("app-containerd", "the second", |image| {
                (digest(image)? == second).then_some(())
            })
            .await;

        // A missing engine affects only images to be read from it.
        cluster.apply(&image(&short, "Docker", &registry));
        let message = |image: &JackalImage| {
            let conditions = &image.status.as_ref()?.conditions;
            let ready = conditions.iter().find(|condition| condition.type_ == "Ready")?;
            (ready.status == "False" && ready.reason == "SourceFailed").then(|| ready.message.clone())
        };
        let failed = cluster
            .image_where("app-docker", "without an engine", |image| message(image))
            .await;
        let text = message(&failed).unwrap();
        assert!(text.contains("cannot be reached"), "{text}");
    }
}

#[tokio::test]
async fn an_agent_without_containerd_reports_it_and_serves_docker() {
    let (cluster, registry) = (Cluster::new().await, TestRegistry::start(Version::V31));
    let engine = DockerEngine::containerd();
    let name = unique("app:dev");
    engine.load(&layered(&name, "docker").archive());
    let _controller = cluster.controller(&[]);
    let agent = cluster.agent(
        "n1",
        &engine.host,
        &["--containerd-address", "/nowhere/containerd.sock"],
    );
    cluster.apply(&image(&name, "Containerd", &registry));
    cluster.apply(&image(&name, "Docker", &registry));
    let ready = cluster.image_ready("app-docker").await.status.unwrap();
    assert_eq!(ready.method.as_deref(), Some("ContainerdContent"));
    let refused = cluster
        .image_where("app-containerd", "refused", |image| {
            let conditions = &image.status.as_ref()?.conditions;
            let ready = conditions.iter().find(|condition| condition.type_ == "Ready")?;
            (ready.reason == "SourceFailed").then_some(())
        })
        .await;
    let candidates = refused.status.unwrap().candidates;
    let text = candidates[0].message.as_deref().unwrap();
    assert!(text.starts_with("there is no containerd at unix:///nowhere/"), "{text}");
    let messages = agent.log().matches("there is no containerd").count();
    assert!(messages <= 3, "{messages} times: {}", agent.log());
}

//! Selection of the node that an image is read from.

use super::{layered, unique};
use crate::docker::engines::DockerEngine;
use crate::support::cluster::Cluster;
use crate::support::registry::{TestRegistry, Version};

#[tokio::test]
async fn labels_select_the_node_whose_image_is_read() {
    let (cluster, registry) = (Cluster::new().await, TestRegistry::start(Version::V31));
    let [old, classic, containerd] = DockerEngine::all();
    let name = unique("app:dev");
    let mut agents = Vec::new();
    for (number, engine) in [&old, &classic, &containerd].into_iter().enumerate() {
        engine.load(&layered(&name, &format!("of node {number}")).archive());
        let node = format!("{}-{number}", cluster.namespace);
        cluster
            .create_node(&node, &[("disk", ["slow", "fast", "slow"][number])])
            .await;
        agents.push(cluster.agent(&node, &engine.host, &[]));
    }
    let _controller = cluster.controller(&[]);
    cluster.apply(&format!(
        "apiVersion: jackal.dev/v1alpha1
kind: JackalImage
metadata: {{name: chosen}}
spec:
  image: {name}
  source: Docker
  nodeSelector: {{disk: fast}}
  registry: {{address: '{}', insecure: true}}
",
        registry.host
    ));
    let status = cluster.image_ready("chosen").await.status.unwrap();
    let chosen = format!("{}-1", cluster.namespace);
    assert_eq!(status.assignment.unwrap().node_name, chosen);
    let answered: Vec<&str> = status
        .candidates
        .iter()
        .map(|candidate| candidate.node_name.as_str())
        .collect();
    assert_eq!(answered, [chosen.as_str()], "only nodes that are asked answer");
    let id = classic.output(&["image", "inspect", "--format", "{{.Id}}", &name]);
    assert_eq!(status.source_digest.as_deref(), Some(id.trim()));
}

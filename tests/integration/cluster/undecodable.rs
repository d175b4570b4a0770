//! Objects that the API server accepts and that the operator cannot decode.

use jackal_operator::api::v1alpha1::{JackalImage, JackalPackage};
use kube::Api;
use kube::api::DynamicObject;
use kube::core::ApiResource;
use serde_json::Value;

use super::package;
use crate::support::cluster::Cluster;
use crate::support::image::multi_platform;
use crate::support::registry::{TestRegistry, Version};
use crate::support::wait::{SOON, eventually};

#[tokio::test]
async fn an_undecodable_object_is_reported_and_blocks_no_other() {
    let cluster = Cluster::new().await;
    let (source, registry) = (TestRegistry::start(Version::V31), TestRegistry::start(Version::V28));
    multi_platform(&source.repository("team/tool"), "2").await;
    let line = format!("{{image: '{}/team/tool:2'}}", source.host);
    let interval = "interval: 99999999999999999999h";
    let bad = package("bad", &registry.host, &[&line], interval);
    // Both exist before the controller starts, so that its first list contains them.
    cluster.apply(&bad);
    let address = format!("{{address: '{}', insecure: true}}", registry.host);
    cluster.apply(&format!(
        "{{apiVersion: jackal.dev/v1alpha1, kind: JackalImage, metadata: {{name: bad-image}}, spec: {{image: '{}/team/tool:2', registry: {address}, {interval}}}}}",
        source.host
    ));
    let _controller = cluster.controller(&["--insecure-registry", &source.host]);
    cluster.apply(&package("good", &registry.host, &[&line], ""));
    cluster.ready("good").await;

    for (resource, name) in [
        (ApiResource::erase::<JackalPackage>(&()), "bad"),
        (ApiResource::erase::<JackalImage>(&()), "bad-image"),
    ] {
        let api: Api<DynamicObject> = Api::namespaced_with(cluster.client.clone(), &cluster.namespace, &resource);
        let conditions = eventually(SOON, &format!("{name} says that it is invalid"), async || {
            let object = api.get(name).await.unwrap();
            let conditions = object
                .data
                .pointer("/status/conditions")
                .and_then(Value::as_array)
                .cloned();
            conditions.ok_or_else(|| "no condition".to_owned())
        })
        .await;
        for (kind, status) in [("Ready", "False"), ("Stalled", "True")] {
            let condition = conditions.iter().find(|condition| condition["type"] == kind).unwrap();
            assert_eq!(
                (&condition["status"], &condition["reason"]),
                (&status.into(), &"InvalidSpec".into())
            );
            let message = condition["message"].as_str().unwrap();
            assert!(
                message.contains("interval") || message.contains("duration"),
                "{message}"
            );
        }
        let text = eventually(SOON, &format!("an event tells of {name}"), async || {
            let text = cluster.events(name).await;
            if text.is_empty() {
                Err("none".to_owned())
            } else {
                Ok(text)
            }
        })
        .await;
        assert!(text.len() == 1 && text[0].starts_with("InvalidSpec: "), "{text:?}");
    }

    cluster.apply(&bad.replace(interval, "interval: 1h"));
    cluster.ready("bad").await;
}

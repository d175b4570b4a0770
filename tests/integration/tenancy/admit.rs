//! `--admit`: which images leave a node, and to whom.

use serde_json::json;

use super::{image_stalled, lone, package, package_stalled};
use crate::cluster::{layered, unique};
use crate::docker::engines::Real;
use crate::support::cluster::Cluster;
use crate::support::registry::{TestRegistry, Version};
use jackal_operator::api::v1alpha1::JackalImage;
use kube::api::{Patch, PatchParams};

#[tokio::test]
async fn a_node_hands_out_only_what_its_policy_admits() {
    let (cluster, registry) = (Cluster::new().await, TestRegistry::start(Version::V31));
    let [real, ..] = Real::all();
    let (good, bad) = (unique("app:dev"), unique("app:dev"));
    for name in [&good, &bad] {
        real.load(&layered(name, "x").archive());
    }
    let id = real.output(&["image", "inspect", "--format", "{{.Id}}", &bad]);
    let folder = good.split('/').next().unwrap();
    let to = format!(
        "source: Docker\n  registry: {{address: '{}', insecure: true}}",
        registry.host
    );
    let rules = format!(
        "{}=docker.io/{folder}/*,{}=docker.io/library/*,elsewhere=*",
        cluster.namespace, cluster.namespace
    );
    let _agent = cluster.agent_with("n1", &real.host, &[], &[("JACKAL_ADMIT", &rules)]);

    // Without a leader somebody might assign anything; the agent alone decides what it reads.
    cluster.apply(&lone("forced", &bad, &to));
    let assigned = json!({ "status": { "assignment": { "nodeName": "n1", "imageId": id.trim() } } });
    let api = cluster.api::<JackalImage>();
    let patched = api
        .patch_status("forced", &PatchParams::default(), &Patch::Merge(assigned))
        .await;
    patched.unwrap();
    let said = image_stalled(&cluster, "forced", "PolicyDenied").await;
    assert!(
        said.contains("the agent on n1 does not provide") && said.contains("--admit"),
        "{said}"
    );

    let _controller = cluster.controller(&[]);
    cluster.apply(&lone("good", &good, &to));
    cluster.apply(&lone("bad", &bad, &to));
    // An ID and a digest are found under every name.
    cluster.apply(&lone("by-id", id.trim(), &to));
    cluster.apply(&lone("by-digest", &format!("{folder}/other@{}", id.trim()), &to));
    let name = cluster.image_ready("good").await.status.unwrap().name.unwrap();
    assert!(name.ends_with("/app:dev"), "{name}");
    for name in ["bad", "by-id", "by-digest"] {
        let said = image_stalled(&cluster, name, "PolicyDenied").await;
        let whom = format!("to the namespace {} (--admit)", cluster.namespace);
        assert!(
            said.contains("n1: the agent on n1 does not provide") && said.contains(&whom),
            "{said}"
        );
        let status = api.get(name).await.unwrap().status.unwrap();
        assert_eq!(status.candidates[0].reason.as_deref(), Some("PolicyDenied"), "{name}");
        assert_eq!(
            (&status.candidates[0].image_id, &status.assignment),
            (&None, &None),
            "{name}"
        );
    }
    let line = format!("{{image: '{bad}', source: Docker}}");
    let to = format!("registry: {{address: '{}', insecure: true}}", registry.host);
    cluster.apply(&package("shop", "1", &[&line], &to));
    package_stalled(&cluster, "shop", "PolicyDenied").await;
    let repository = bad.split(':').next().unwrap();
    assert_eq!(
        registry.repository(repository).tags(10).await.unwrap(),
        Some(Vec::new())
    );
}

//! Attacks on Leases: by the token of a compromised node's agent, and with unreadable times.

use k8s_openapi::api::coordination::v1::Lease;
use kube::api::{Patch, PatchParams, PostParams};
use serde_json::{Value, json};

use super::{COMPROMISED, CompromisedNode, OTHER, OWN_LEASE, assert_refused, lease};
use crate::support::cluster::{Cluster, condition};
use crate::support::objects::standalone_image;
use crate::support::wait::{SOON, eventually};

pub async fn leases() {
    let compromised = CompromisedNode::new().await;
    let (own, api) = (
        compromised.operator.api::<Lease>(),
        compromised.api::<Lease>(&compromised.operator),
    );
    let words = OWN_LEASE;
    for (name, holder) in [
        ("jackal-operator-leader", "controller-0"),
        ("jackal-agent-other", OTHER),
    ] {
        let existing = own.create(&PostParams::default(), &lease(name, holder)).await.unwrap();
        let steal =
            Patch::Merge(json!({ "spec": { "holderIdentity": COMPROMISED, "leaseDurationSeconds": i32::MAX } }));
        assert_refused(api.patch(name, &PatchParams::default(), &steal).await, words);
        let apply = json!({
            "apiVersion": "coordination.k8s.io/v1", "kind": "Lease", "metadata": { "name": name },
            "spec": { "holderIdentity": COMPROMISED },
        });
        let parameters = PatchParams::apply("jackal-agent-evil").force();
        assert_refused(api.patch(name, &parameters, &Patch::Apply(&apply)).await, words);
        assert_refused(api.delete(name, &Default::default()).await, words);
        assert_eq!(own.get(name).await.unwrap(), existing);
    }
    assert_refused(
        api.create(&PostParams::default(), &lease("jackal-agent-third", COMPROMISED))
            .await,
        words,
    );
    assert_refused(
        api.create(&PostParams::default(), &lease("jackal-agent-evil", OTHER))
            .await,
        words,
    );
    api.create(&PostParams::default(), &lease("jackal-agent-evil", COMPROMISED))
        .await
        .unwrap();
    api.delete("jackal-agent-evil", &Default::default()).await.unwrap();
    compromised.end().await;
}

/// A Lease with a time that cannot be represented, as a person or a node may write it.
fn lease_with_unreadable_time(cluster: &Cluster, name: &str, labels: Value, holder: &str) {
    let lease = json!({
        "apiVersion": "coordination.k8s.io/v1", "kind": "Lease", "metadata": { "name": name, "labels": labels },
        "spec": {
            "holderIdentity": holder, "leaseDurationSeconds": i32::MAX, "acquireTime": "9999-12-31T23:59:59.000000Z",
            "renewTime": "9999-12-31T23:59:59.000000Z",
        },
    });
    cluster.apply(&lease.to_string());
}

pub async fn endless_leader_lease() {
    let cluster = Cluster::new().await;
    lease_with_unreadable_time(&cluster, "jackal-operator-leader", json!({}), "agent/evil");
    // Its own lease lasts for 3 s.
    let controller = cluster.controller(&["--identity", "controller-0"]);
    eventually(SOON, "the controller leads", async || {
        let log = controller.log();
        if log.contains("leading") { Ok(()) } else { Err(log) }
    })
    .await;
}

pub async fn unreadable_agent_lease() {
    let cluster = Cluster::new().await;
    let labels = json!({ "jackal.dev/agent": "true" });
    lease_with_unreadable_time(&cluster, "jackal-agent-evil", labels, "victim");
    let _agent = cluster.agent("n1", "unix:///nowhere", &[]);
    let _controller = cluster.controller(&[]);
    cluster.apply(&standalone_image("app", "app:dev", "source: Docker\n  nodeName: n9"));
    let image = cluster
        .image_where("app", "told of its agents", |image| {
            let ready = condition(&image.status.as_ref()?.conditions, "Ready")?;
            ready.message.contains("agents run on: evil, n1").then_some(())
        })
        .await;
    assert!(!serde_json::to_string(&image.status).unwrap().contains("victim"));
}

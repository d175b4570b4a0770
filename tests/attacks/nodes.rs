//! A compromised node: what the token of its agent permits, and what its Leases and statuses do to the leader.

mod leases;

use futures::FutureExt as _;
use futures::future::BoxFuture;
use jackal_operator::api::v1alpha1::JackalImage;
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::Secret;
use k8s_openapi::api::events::v1::Event;
use kube::api::{ListParams, Patch, PatchParams, PostParams};
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::core::NamespaceResourceScope;
use kube::{Api, Client, Config, Resource};
use serde_json::{Value, json};

use super::{Attack, check};
use crate::cluster::{layered, unique};
use crate::docker::engines::DockerEngine;
use crate::support::cluster::{Cluster, condition};
use crate::support::objects::{node_port, standalone_image};
use crate::support::table::on_one_thread;
use crate::support::wait::{SOON, eventually};
use crate::tenancy::chart;
use crate::tenancy::rbac::{kubeconfig, remove_release};

/// A cluster with the chart's Roles and policies, in which the node `evil` is compromised.
struct CompromisedNode {
    operator: Cluster,
    victim: Cluster,
    release: String,
    /// A client with the token of the agent on that node.
    agent_client: Client,
}

/// The compromised node, and another node.
const COMPROMISED: &str = "evil";
const OTHER: &str = "other";

/// The message for writes to any other Lease.
const OWN_LEASE: &str = "the agent of the node evil may write only its own Lease, jackal-agent-evil";

impl CompromisedNode {
    async fn new() -> Self {
        let operator = Cluster::new().await;
        let victim = operator.another_namespace().await;
        let release = format!("r-{}", operator.namespace);
        // The object that advertises the registry is cluster-wide, so only one test can have it.
        let port = node_port();
        let deploy = json!({ "enabled": true, "advertise": false, "nodePort": port });
        let values = ["agent.enabled=true", &format!("registry.deploy={deploy}")];
        let rendered = chart(&operator, &release, &values);
        operator.apply_anywhere(&rendered);
        let agent_client = as_agent(&operator, &release, Some(COMPROMISED)).await;
        let compromised = Self {
            operator,
            victim,
            release,
            agent_client,
        };
        compromised.wait_for_policy().await;
        compromised
    }

    /// Waits until the API server applies the agent's rights and the policy, which takes a while. From then on
    /// forbidden writes are refused reliably, so that no row attempts a write that may still be allowed.
    async fn wait_for_policy(&self) {
        let login = format!("{}-registry-login", self.release);
        let another = lease("jackal-agent-another", COMPROMISED);
        let attempt = PostParams {
            dry_run: true,
            ..PostParams::default()
        };
        eventually(SOON, "the agent has its rights, and the policy holds", async || {
            let result = |error: kube::Error| error.to_string();
            self.api::<Secret>(&self.operator).get(&login).await.map_err(result)?;
            let images = self.api::<JackalImage>(&self.victim);
            images.list(&ListParams::default()).await.map_err(result)?;
            let leases = self.api::<Lease>(&self.operator);
            match leases.create(&attempt, &another).await {
                Err(kube::Error::Api(status)) if status.message.contains(OWN_LEASE) => Ok(()),
                Err(error) => Err(error.to_string()),
                Ok(_) => Err("another node's Lease may be made".to_owned()),
            }
        })
        .await;
    }

    /// The API of one kind in a namespace, with the agent's token.
    fn api<K>(&self, cluster: &Cluster) -> Api<K>
    where
        K: Resource<DynamicType = (), Scope = NamespaceResourceScope>,
    {
        Api::namespaced(self.agent_client.clone(), &cluster.namespace)
    }

    /// The image `name` of the victim, with a status that was written by another client.
    async fn image(&self, name: &str, more: &str, status: Value) -> JackalImage {
        self.victim
            .apply(&standalone_image(name, "registry.example.com/team/app:1", more));
        let api = self.victim.api::<JackalImage>();
        let patch = Patch::Merge(json!({ "status": status }));
        api.patch_status(name, &PatchParams::default(), &patch).await.unwrap()
    }

    /// Expects that the agent's write of the image's status is refused with `words`, as a merge patch and as
    /// server-side apply, and that the status is unchanged.
    async fn assert_forgery_refused(&self, image: &JackalImage, status: Value, words: &str) {
        let name = image.metadata.name.clone().unwrap();
        let api = self.api::<JackalImage>(&self.victim);
        let merge = Patch::Merge(json!({ "status": status }));
        let result = api.patch_status(&name, &PatchParams::default(), &merge).await;
        assert_refused(result, words);
        let applied = json!({
            "apiVersion": "jackal.dev/v1alpha1", "kind": "JackalImage", "metadata": { "name": name }, "status": status,
        });
        // As the field manager that wrote the status.
        for manager in ["jackal-agent-other", "jackal-operator"] {
            let parameters = PatchParams::apply(manager).force();
            let result = api.patch_status(&name, &parameters, &Patch::Apply(&applied)).await;
            assert_refused(result, words);
        }
        let existing = self.victim.api::<JackalImage>().get(&name).await.unwrap();
        assert_eq!(existing.status, image.status);
    }

    async fn end(self) {
        remove_release(&self.operator, &self.release);
    }
}

/// A client with a token of the agents' ServiceAccount, bound to a pod on `node` if there is one.
async fn as_agent(operator: &Cluster, release: &str, node: Option<&str>) -> Client {
    let folder = tempfile::tempdir().unwrap();
    let file = kubeconfig(operator, "KUBECONFIG", folder.path(), &format!("{release}-agent"), node);
    let config = Kubeconfig::read_from(file).unwrap();
    let config = Config::from_custom_kubeconfig(config, &KubeConfigOptions::default()).await;
    Client::try_from(config.unwrap()).unwrap()
}

fn assert_refused<T>(result: Result<T, kube::Error>, words: &str) {
    match result {
        Err(kube::Error::Api(status)) if status.code == 403 => {
            assert!(status.message.contains(words), "{}", status.message)
        }
        Err(error) => panic!("{error}"),
        Ok(_) => panic!("it was allowed"),
    }
}

fn lease(name: &str, holder: &str) -> Lease {
    serde_json::from_value(json!({ "metadata": { "name": name }, "spec": { "holderIdentity": holder } })).unwrap()
}

fn row(
    attempt: &'static str,
    expected: &'static str,
    final_state: &'static str,
    run: fn() -> BoxFuture<'static, ()>,
) -> Attack {
    Attack {
        attacker: "an attacker who controls a node",
        capabilities: "the token of the agent of that node",
        attempt,
        expected,
        final_state,
        run,
    }
}

#[tokio::test]
async fn a_compromised_node_affects_no_other_node() {
    let attacks = [
        row(
            "reads Secrets of tenants, and of the operator's namespace",
            "403, except for the login of the registry that it pushes to",
            "they are not read",
            || on_one_thread(|| secrets().boxed_local()),
        ),
        row(
            "copies an image that names a Secret for its registry, in a namespace that agent.secretNamespaces does not list",
            "SecretUnavailable, which names the value",
            "the Secret is not read, and no login is sent",
            || on_one_thread(|| secret_of_the_registry().boxed_local()),
        ),
        row(
            "writes Ready and a digest to the status of an image that is not assigned to it",
            "403, which names the node and the fields",
            "the status is unchanged",
            || on_one_thread(|| forged_ready_status().boxed_local()),
        ),
        row(
            "writes and removes the candidate of another node",
            "403",
            "the other's candidate is unchanged, and it may write its own",
            || on_one_thread(|| forged_candidates().boxed_local()),
        ),
        row(
            "assigns an image to itself, and selects a tag",
            "403",
            "only the leader assigns images",
            || on_one_thread(|| forged_assignment().boxed_local()),
        ),
        row(
            "takes over, changes and deletes the Leases of the leader and of other agents",
            "403",
            "the leader is unchanged, and it may write its own Lease",
            || on_one_thread(|| leases::leases().boxed_local()),
        ),
        row(
            "creates events in the name of the controller",
            "403",
            "events name their real reporter",
            || on_one_thread(|| events().boxed_local()),
        ),
        row(
            "uses a token of the ServiceAccount that names no node",
            "403, which says what the token lacks",
            "nothing is written",
            || on_one_thread(|| token_without_node().boxed_local()),
        ),
        row(
            "writes a leader's Lease that lasts for 68 years and until the year 9999, in a cluster without the policy",
            "the Lease is respected for at most four terms",
            "a controller becomes leader",
            || on_one_thread(|| leases::endless_leader_lease().boxed_local()),
        ),
        row(
            "writes an unrepresentable time and another node's name to its own Lease",
            "only the name of the Lease is used",
            "the leader knows every agent",
            || on_one_thread(|| leases::unreadable_agent_lease().boxed_local()),
        ),
    ];
    check(&attacks).await;
}

async fn secrets() {
    let compromised = CompromisedNode::new().await;
    let secret =
        json!({ "apiVersion": "v1", "kind": "Secret", "metadata": { "name": "theirs" }, "stringData": { "a": "b" } });
    compromised.victim.apply(&secret.to_string());
    for (cluster, name) in [
        (&compromised.victim, "theirs".to_owned()),
        (&compromised.operator, format!("{}-registry", compromised.release)),
        (&compromised.operator, format!("{}-registry-pull", compromised.release)),
        (&compromised.operator, format!("{}-registry-tls", compromised.release)),
    ] {
        let result = compromised.api::<Secret>(cluster).get(&name).await;
        assert_refused(result, "cannot get resource \"secrets\"");
    }
    for cluster in [&compromised.victim, &compromised.operator] {
        let result = compromised.api::<Secret>(cluster).list(&ListParams::default()).await;
        assert_refused(result, "cannot list resource \"secrets\"");
    }
    compromised.end().await;
}

async fn secret_of_the_registry() {
    let compromised = CompromisedNode::new().await;
    let (operator, account) = (&compromised.operator, format!("{}-agent", compromised.release));
    let [_, engine, _] = DockerEngine::all();
    let name = unique("app:dev");
    engine.load(&layered(&name, "of a node").archive());
    let folder = tempfile::tempdir().unwrap();
    let own = kubeconfig(operator, "KUBECONFIG", folder.path(), &account, Some(COMPROMISED));
    let agent = operator.agent_with(COMPROMISED, &engine.host, &[], &[("KUBECONFIG", &own)]);
    let _controller = operator.controller(&[]);
    let to = "naming: Plain\n  registry: {address: 'registry.example.com', secretRef: {name: theirs}}";
    operator.apply(&standalone_image("app", &name, &format!("source: Docker\n  {to}")));
    let image = operator.image_where("app", "without its Secret", |image| {
        let ready = condition(&image.status.as_ref()?.conditions, "Ready")?;
        (ready.reason == "SecretUnavailable").then_some(())
    });
    let status = image.await.status.unwrap();
    let result = &condition(&status.conditions, "Ready").unwrap().message;
    let listed = format!(
        "agent.secretNamespaces of the chart lists: ask the administrator to add {} there",
        operator.namespace
    );
    assert!(
        result.contains("is forbidden to the operator") && result.contains(&listed),
        "{result}"
    );
    drop(agent);
    compromised.end().await;
}

async fn forged_ready_status() {
    let compromised = CompromisedNode::new().await;
    let forged = json!({
        "digest": format!("sha256:{}", "a".repeat(64)), "name": "127.0.0.1:31999/team/app:1", "observedGeneration": 1,
        "registry": { "address": "127.0.0.1:31999", "repository": "team/app" },
        "conditions": [{
            "type": "Ready", "status": "True", "reason": "Succeeded", "message": "", "observedGeneration": 1,
            "lastTransitionTime": "2026-01-01T00:00:00Z",
        }],
    });
    let existing =
        json!({ "size": 1, "claim": { "holder": "agent/other", "renewTime": "2026-01-01T00:00:00.000000Z" } });
    let of_registry = compromised.image("of-registry", "", existing.clone()).await;
    compromised
        .assert_forgery_refused(&of_registry, forged.clone(), "the agent of the node evil may not write")
        .await;
    // The process that copies an image holds its claim.
    let free = compromised.image("free", "", json!({ "size": 1 })).await;
    let claim = json!({ "claim": { "holder": "agent/evil", "renewTime": "2026-01-01T00:00:00.000000Z" } });
    compromised
        .assert_forgery_refused(&free, claim, "claim of an image that is not assigned to it")
        .await;
    let mut of_other = existing;
    of_other["assignment"] = json!({ "nodeName": OTHER, "imageId": "sha256:b" });
    let of_other = compromised.image("of-other", "source: Docker", of_other).await;
    compromised
        .assert_forgery_refused(&of_other, forged.clone(), "that is not assigned to it")
        .await;
    // It may write the status of an image that is assigned to it.
    let own = json!({ "assignment": { "nodeName": COMPROMISED, "imageId": "sha256:b" } });
    compromised.image("own", "source: Docker", own).await;
    let api = compromised.api::<JackalImage>(&compromised.victim);
    let merge = Patch::Merge(json!({ "status": forged }));
    let written = api.patch_status("own", &PatchParams::default(), &merge).await.unwrap();
    assert!(written.status.unwrap().registry.is_some());
    compromised.end().await;
}

async fn forged_candidates() {
    let compromised = CompromisedNode::new().await;
    let answer = |node: &str, id: &str| json!({ "nodeName": node, "imageId": id, "observedGeneration": 1 });
    let existing = json!({ "candidates": [answer(OTHER, "sha256:good")] });
    let image = compromised.image("app", "source: Docker", existing).await;
    let words = "the agent of the node evil may not write the candidates of other nodes";
    let forged = json!({ "candidates": [answer(OTHER, "sha256:forged")] });
    compromised.assert_forgery_refused(&image, forged, words).await;
    let third = json!({ "candidates": [answer(OTHER, "sha256:good"), answer("third", "sha256:forged")] });
    compromised.assert_forgery_refused(&image, third, words).await;
    // Its own answer, as an agent writes it.
    let own = json!({
        "apiVersion": "jackal.dev/v1alpha1", "kind": "JackalImage", "metadata": { "name": "app" },
        "status": { "candidates": [answer(COMPROMISED, "sha256:mine")] },
    });
    let api = compromised.api::<JackalImage>(&compromised.victim);
    let parameters = PatchParams::apply("jackal-agent-evil").force();
    let result = api.patch_status("app", &parameters, &Patch::Apply(own)).await.unwrap();
    assert_eq!(result.status.unwrap().candidates.len(), 2);
    let none = Patch::Merge(json!({ "status": { "candidates": [] } }));
    assert_refused(api.patch_status("app", &PatchParams::default(), &none).await, words);
    compromised.end().await;
}

async fn forged_assignment() {
    let compromised = CompromisedNode::new().await;
    let mine = json!({ "assignment": { "nodeName": COMPROMISED, "imageId": "sha256:mine" } });
    let image = compromised.image("app", "source: Docker", json!({ "size": 1 })).await;
    compromised
        .assert_forgery_refused(
            &image,
            mine.clone(),
            "may not write assignment of an image that is not assigned to it",
        )
        .await;
    let other = json!({ "assignment": { "nodeName": OTHER, "imageId": "sha256:b" } });
    let image = compromised.image("app", "source: Docker", other).await;
    compromised
        .assert_forgery_refused(&image, mine.clone(), "may not write assignment")
        .await;
    let image = compromised.image("mine", "source: Docker", mine).await;
    let another = json!({ "assignment": { "nodeName": COMPROMISED, "imageId": "sha256:another" } });
    compromised
        .assert_forgery_refused(
            &image,
            another,
            "may not write assignment of an image: only the leader may",
        )
        .await;
    let selected = json!({ "selected": { "tag": "2", "reason": "a", "message": "b" } });
    compromised
        .assert_forgery_refused(&image, selected, "may not write selected")
        .await;
    compromised.end().await;
}

async fn events() {
    let compromised = CompromisedNode::new().await;
    let event = |controller: &str, instance: &str, kind: &str| -> Event {
        serde_json::from_value(json!({
            "metadata": { "generateName": "x-" }, "eventTime": "2026-01-01T00:00:00.000000Z", "type": "Normal",
            "reason": "Succeeded", "action": "Reconcile", "note": "all is well",
            "reportingController": controller, "reportingInstance": instance,
            "regarding": {
                "apiVersion": "jackal.dev/v1alpha1", "kind": kind, "name": "app", "namespace": compromised.victim.namespace,
            },
        }))
        .unwrap()
    };
    let api = compromised.api::<Event>(&compromised.victim);
    let words = "the agent of the node evil may create only its own events";
    let forged = [
        event("jackal-operator", "controller-0", "JackalImage"),
        event("jackal-operator", "agent/other", "JackalImage"),
        event("deployment-controller", "agent/evil", "JackalImage"),
        event("jackal-operator", "agent/evil", "JackalPackage"),
    ];
    for event in &forged {
        assert_refused(api.create(&PostParams::default(), event).await, words);
    }
    let own = event("jackal-operator", "agent/evil", "JackalImage");
    api.create(&PostParams::default(), &own).await.unwrap();
    compromised.end().await;
}

async fn token_without_node() {
    let compromised = CompromisedNode::new().await;
    let nameless = as_agent(&compromised.operator, &compromised.release, None).await;
    let api: Api<JackalImage> = Api::namespaced(nameless.clone(), &compromised.victim.namespace);
    let image = compromised.image("app", "source: Docker", json!({ "size": 1 })).await;
    let candidates = Patch::Merge(json!({ "status": { "candidates": [] } }));
    let forged = Patch::Merge(json!({ "status": { "candidates": [{ "nodeName": "", "observedGeneration": 1 }] } }));
    let words = "the token of this agent names no node";
    assert_refused(
        api.patch_status("app", &PatchParams::default(), &candidates).await,
        words,
    );
    assert_refused(api.patch_status("app", &PatchParams::default(), &forged).await, words);
    let leases: Api<Lease> = Api::namespaced(nameless, &compromised.operator.namespace);
    let result = leases
        .create(&PostParams::default(), &lease("jackal-agent-x", "x"))
        .await;
    assert_refused(result, words);
    let existing = compromised.victim.api::<JackalImage>().get("app").await.unwrap();
    assert_eq!(existing.status, image.status);
    compromised.end().await;
}

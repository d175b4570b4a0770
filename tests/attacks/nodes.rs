//! A node that was taken over: what the token of its agent is good for, and what its words do to the leader.

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
use crate::docker::engines::Real;
use crate::support::cluster::{Cluster, condition};
use crate::support::objects::{lone, node_port};
use crate::support::table::on_one_thread;
use crate::support::wait::{SOON, eventually};
use crate::tenancy::chart;
use crate::tenancy::rbac::{kubeconfig, remove_release};

/// A cluster with the chart's rights and policies, where the node `evil` was taken over.
struct Taken {
    home: Cluster,
    victim: Cluster,
    release: String,
    /// With the token of the agent on that node.
    evil: Client,
}

/// The node that was taken over, and one that was not.
const EVIL: &str = "evil";
const OTHER: &str = "other";

/// What the agent of `evil` is told of every other Lease.
const OWN_LEASE: &str = "the agent of the node evil may write its own Lease alone, jackal-agent-evil";

impl Taken {
    async fn new() -> Self {
        let home = Cluster::new().await;
        let victim = home.beside().await;
        let release = format!("r-{}", home.namespace);
        // What announces the registry is the whole cluster's.
        let port = node_port();
        let deploy = json!({ "enabled": true, "advertise": false, "nodePort": port });
        let values = ["agent.enabled=true", &format!("registry.deploy={deploy}")];
        let rendered = chart(&home, &release, &values);
        home.apply_anywhere(&rendered);
        let evil = as_agent(&home, &release, Some(EVIL)).await;
        let taken = Self {
            home,
            victim,
            release,
            evil,
        };
        taken.is_in_force().await;
        taken
    }

    /// Waits until the API server knows the agent's rights and the policy, for which it takes its time. From then on, what the
    /// agent may not do is refused for good, so that no row has to attempt a write that may still be allowed.
    async fn is_in_force(&self) {
        let login = format!("{}-registry-login", self.release);
        let another = lease("jackal-agent-another", EVIL);
        let attempt = PostParams {
            dry_run: true,
            ..PostParams::default()
        };
        eventually(SOON, "the agent has its rights, and the policy holds", async || {
            let said = |error: kube::Error| error.to_string();
            self.ask::<Secret>(&self.home).get(&login).await.map_err(said)?;
            let images = self.ask::<JackalImage>(&self.victim);
            images.list(&ListParams::default()).await.map_err(said)?;
            let leases = self.ask::<Lease>(&self.home);
            match leases.create(&attempt, &another).await {
                Err(kube::Error::Api(status)) if status.message.contains(OWN_LEASE) => Ok(()),
                Err(error) => Err(error.to_string()),
                Ok(_) => Err("another node's Lease may be made".to_owned()),
            }
        })
        .await;
    }

    /// Objects of one kind in a namespace, asked for by the agent.
    fn ask<K>(&self, cluster: &Cluster) -> Api<K>
    where
        K: Resource<DynamicType = (), Scope = NamespaceResourceScope>,
    {
        Api::namespaced(self.evil.clone(), &cluster.namespace)
    }

    /// The image `name` of the victim, with a status that others wrote.
    async fn image(&self, name: &str, more: &str, status: Value) -> JackalImage {
        self.victim.apply(&lone(name, "registry.example.com/team/app:1", more));
        let api = self.victim.api::<JackalImage>();
        let patch = Patch::Merge(json!({ "status": status }));
        api.patch_status(name, &PatchParams::default(), &patch).await.unwrap()
    }

    /// That the agent's patch of the status of that image is refused with `words`, by whatever way it is written, and that
    /// the status stays.
    async fn forges(&self, image: &JackalImage, status: Value, words: &str) {
        let name = image.metadata.name.clone().unwrap();
        let api = self.ask::<JackalImage>(&self.victim);
        let merge = Patch::Merge(json!({ "status": status }));
        let said = api.patch_status(&name, &PatchParams::default(), &merge).await;
        assert_refused(said, words);
        let applied = json!({
            "apiVersion": "jackal.dev/v1alpha1", "kind": "JackalImage", "metadata": { "name": name }, "status": status,
        });
        // In the name of whoever wrote it.
        for manager in ["jackal-agent-other", "jackal-operator"] {
            let parameters = PatchParams::apply(manager).force();
            let said = api.patch_status(&name, &parameters, &Patch::Apply(&applied)).await;
            assert_refused(said, words);
        }
        let standing = self.victim.api::<JackalImage>().get(&name).await.unwrap();
        assert_eq!(standing.status, image.status);
    }

    async fn end(self) {
        remove_release(&self.home, &self.release);
    }
}

/// A client with a token of the agents' ServiceAccount, of a pod on `node` where one is named.
async fn as_agent(home: &Cluster, release: &str, node: Option<&str>) -> Client {
    let folder = tempfile::tempdir().unwrap();
    let file = kubeconfig(home, "KUBECONFIG", folder.path(), &format!("{release}-agent"), node);
    let config = Kubeconfig::read_from(file).unwrap();
    let config = Config::from_custom_kubeconfig(config, &KubeConfigOptions::default()).await;
    Client::try_from(config.unwrap()).unwrap()
}

fn assert_refused<T>(said: Result<T, kube::Error>, words: &str) {
    match said {
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
        attacker: "whoever took over a node",
        capabilities: "the token of the agent of that node",
        attempt,
        expected,
        final_state,
        run,
    }
}

#[tokio::test]
async fn a_node_that_was_taken_over_stays_one_node() {
    let attacks = [
        row(
            "reads Secrets of tenants, and of the operator's namespace",
            "403, but for the login of the registry that it pushes to",
            "they are unread",
            || on_one_thread(|| secrets().boxed_local()),
        ),
        row(
            "brings an image that names a Secret for its registry, in a namespace that agent.secretNamespaces does not list",
            "SecretUnavailable, which names the value",
            "the Secret is unread, and no login goes anywhere",
            || on_one_thread(|| named_secret().boxed_local()),
        ),
        row(
            "writes Ready and a digest into the status of an image that it was not assigned",
            "403, which names the node and the fields",
            "the status stands",
            || on_one_thread(|| ready().boxed_local()),
        ),
        row(
            "says what another node holds, and takes back what it said",
            "403",
            "the other's answer stands, and its own may be given",
            || on_one_thread(|| candidates().boxed_local()),
        ),
        row(
            "assigns an image to itself, and chooses a tag",
            "403",
            "the leader alone assigns",
            || on_one_thread(|| assignment().boxed_local()),
        ),
        row(
            "takes the leader's Lease and those of other agents, changes and deletes them",
            "403",
            "the leader leads, and its own Lease it may write",
            || on_one_thread(|| leases().boxed_local()),
        ),
        row(
            "makes events in the name of the controller",
            "403",
            "events say who made them",
            || on_one_thread(|| events().boxed_local()),
        ),
        row(
            "uses a token of the ServiceAccount that names no node",
            "403, which says what such a token lacks",
            "nothing is written",
            || on_one_thread(|| nameless().boxed_local()),
        ),
        row(
            "has the leader's Lease last for 68 years and until the year 9999, in a cluster without the policy",
            "it is waited for four terms at most",
            "a controller leads",
            || on_one_thread(|| endless().boxed_local()),
        ),
        row(
            "writes a time into its own Lease that no clock knows, and that another node runs an agent",
            "the Lease counts by its name alone",
            "the leader knows every agent",
            || on_one_thread(|| unreadable().boxed_local()),
        ),
    ];
    check(&attacks).await;
}

async fn secrets() {
    let taken = Taken::new().await;
    let secret =
        json!({ "apiVersion": "v1", "kind": "Secret", "metadata": { "name": "theirs" }, "stringData": { "a": "b" } });
    taken.victim.apply(&secret.to_string());
    for (cluster, name) in [
        (&taken.victim, "theirs".to_owned()),
        (&taken.home, format!("{}-registry", taken.release)),
        (&taken.home, format!("{}-registry-pull", taken.release)),
        (&taken.home, format!("{}-registry-tls", taken.release)),
    ] {
        let said = taken.ask::<Secret>(cluster).get(&name).await;
        assert_refused(said, "cannot get resource \"secrets\"");
    }
    for cluster in [&taken.victim, &taken.home] {
        let said = taken.ask::<Secret>(cluster).list(&ListParams::default()).await;
        assert_refused(said, "cannot list resource \"secrets\"");
    }
    taken.end().await;
}

async fn named_secret() {
    let taken = Taken::new().await;
    let (home, account) = (&taken.home, format!("{}-agent", taken.release));
    let [_, real, _] = Real::all();
    let name = unique("app:dev");
    real.load(&layered(&name, "of a node").archive());
    let folder = tempfile::tempdir().unwrap();
    let own = kubeconfig(home, "KUBECONFIG", folder.path(), &account, Some(EVIL));
    let agent = home.agent_with(EVIL, &real.host, &[], &[("KUBECONFIG", &own)]);
    let _controller = home.controller(&[]);
    let to = "naming: Plain\n  registry: {address: 'registry.example.com', secretRef: {name: theirs}}";
    home.apply(&lone("app", &name, &format!("source: Docker\n  {to}")));
    let image = home.image_where("app", "without its Secret", |image| {
        let ready = condition(&image.status.as_ref()?.conditions, "Ready")?;
        (ready.reason == "SecretUnavailable").then_some(())
    });
    let status = image.await.status.unwrap();
    let said = &condition(&status.conditions, "Ready").unwrap().message;
    let listed = format!(
        "agent.secretNamespaces of the chart lists: ask the administrator to add {} there",
        home.namespace
    );
    assert!(
        said.contains("is forbidden to the operator") && said.contains(&listed),
        "{said}"
    );
    drop(agent);
    taken.end().await;
}

async fn ready() {
    let taken = Taken::new().await;
    let forged = json!({
        "digest": format!("sha256:{}", "a".repeat(64)), "name": "127.0.0.1:31999/team/app:1", "observedGeneration": 1,
        "registry": { "address": "127.0.0.1:31999", "repository": "team/app" },
        "conditions": [{
            "type": "Ready", "status": "True", "reason": "Succeeded", "message": "", "observedGeneration": 1,
            "lastTransitionTime": "2026-01-01T00:00:00Z",
        }],
    });
    let standing =
        json!({ "size": 1, "claim": { "holder": "agent/other", "renewTime": "2026-01-01T00:00:00.000000Z" } });
    let of_registry = taken.image("of-registry", "", standing.clone()).await;
    taken
        .forges(&of_registry, forged.clone(), "the agent of the node evil may not write")
        .await;
    // Whoever brings an image holds its claim.
    let free = taken.image("free", "", json!({ "size": 1 })).await;
    let claim = json!({ "claim": { "holder": "agent/evil", "renewTime": "2026-01-01T00:00:00.000000Z" } });
    taken
        .forges(&free, claim, "claim of an image that is not assigned to it")
        .await;
    let mut of_other = standing;
    of_other["assignment"] = json!({ "nodeName": OTHER, "imageId": "sha256:b" });
    let of_other = taken.image("of-other", "source: Docker", of_other).await;
    taken
        .forges(&of_other, forged.clone(), "that is not assigned to it")
        .await;
    // What it was assigned, it tells of.
    let own = json!({ "assignment": { "nodeName": EVIL, "imageId": "sha256:b" } });
    taken.image("own", "source: Docker", own).await;
    let api = taken.ask::<JackalImage>(&taken.victim);
    let merge = Patch::Merge(json!({ "status": forged }));
    let told = api.patch_status("own", &PatchParams::default(), &merge).await.unwrap();
    assert!(told.status.unwrap().registry.is_some());
    taken.end().await;
}

async fn candidates() {
    let taken = Taken::new().await;
    let answer = |node: &str, id: &str| json!({ "nodeName": node, "imageId": id, "observedGeneration": 1 });
    let standing = json!({ "candidates": [answer(OTHER, "sha256:good")] });
    let image = taken.image("app", "source: Docker", standing).await;
    let words = "the agent of the node evil may not say what other nodes hold";
    let forged = json!({ "candidates": [answer(OTHER, "sha256:forged")] });
    taken.forges(&image, forged, words).await;
    let third = json!({ "candidates": [answer(OTHER, "sha256:good"), answer("third", "sha256:forged")] });
    taken.forges(&image, third, words).await;
    // Its own answer, as an agent gives it.
    let own = json!({
        "apiVersion": "jackal.dev/v1alpha1", "kind": "JackalImage", "metadata": { "name": "app" },
        "status": { "candidates": [answer(EVIL, "sha256:mine")] },
    });
    let api = taken.ask::<JackalImage>(&taken.victim);
    let parameters = PatchParams::apply("jackal-agent-evil").force();
    let said = api.patch_status("app", &parameters, &Patch::Apply(own)).await.unwrap();
    assert_eq!(said.status.unwrap().candidates.len(), 2);
    let none = Patch::Merge(json!({ "status": { "candidates": [] } }));
    assert_refused(api.patch_status("app", &PatchParams::default(), &none).await, words);
    taken.end().await;
}

async fn assignment() {
    let taken = Taken::new().await;
    let mine = json!({ "assignment": { "nodeName": EVIL, "imageId": "sha256:mine" } });
    let image = taken.image("app", "source: Docker", json!({ "size": 1 })).await;
    taken
        .forges(
            &image,
            mine.clone(),
            "may not write assignment of an image that is not assigned to it",
        )
        .await;
    let other = json!({ "assignment": { "nodeName": OTHER, "imageId": "sha256:b" } });
    let image = taken.image("app", "source: Docker", other).await;
    taken.forges(&image, mine.clone(), "may not write assignment").await;
    let image = taken.image("mine", "source: Docker", mine).await;
    let another = json!({ "assignment": { "nodeName": EVIL, "imageId": "sha256:another" } });
    taken
        .forges(
            &image,
            another,
            "may not write assignment of an image: that is the leader's",
        )
        .await;
    let selected = json!({ "selected": { "tag": "2", "reason": "a", "message": "b" } });
    taken.forges(&image, selected, "may not write selected").await;
    taken.end().await;
}

async fn leases() {
    let taken = Taken::new().await;
    let (own, api) = (taken.home.api::<Lease>(), taken.ask::<Lease>(&taken.home));
    let words = OWN_LEASE;
    for (name, holder) in [
        ("jackal-operator-leader", "controller-0"),
        ("jackal-agent-other", OTHER),
    ] {
        let standing = own.create(&PostParams::default(), &lease(name, holder)).await.unwrap();
        let steal = Patch::Merge(json!({ "spec": { "holderIdentity": EVIL, "leaseDurationSeconds": i32::MAX } }));
        assert_refused(api.patch(name, &PatchParams::default(), &steal).await, words);
        let apply = json!({
            "apiVersion": "coordination.k8s.io/v1", "kind": "Lease", "metadata": { "name": name },
            "spec": { "holderIdentity": EVIL },
        });
        let parameters = PatchParams::apply("jackal-agent-evil").force();
        assert_refused(api.patch(name, &parameters, &Patch::Apply(&apply)).await, words);
        assert_refused(api.delete(name, &Default::default()).await, words);
        assert_eq!(own.get(name).await.unwrap(), standing);
    }
    assert_refused(
        api.create(&PostParams::default(), &lease("jackal-agent-third", EVIL))
            .await,
        words,
    );
    assert_refused(
        api.create(&PostParams::default(), &lease("jackal-agent-evil", OTHER))
            .await,
        words,
    );
    api.create(&PostParams::default(), &lease("jackal-agent-evil", EVIL))
        .await
        .unwrap();
    api.delete("jackal-agent-evil", &Default::default()).await.unwrap();
    taken.end().await;
}

async fn events() {
    let taken = Taken::new().await;
    let event = |controller: &str, instance: &str, kind: &str| -> Event {
        serde_json::from_value(json!({
            "metadata": { "generateName": "x-" }, "eventTime": "2026-01-01T00:00:00.000000Z", "type": "Normal",
            "reason": "Succeeded", "action": "Reconcile", "note": "all is well",
            "reportingController": controller, "reportingInstance": instance,
            "regarding": {
                "apiVersion": "jackal.dev/v1alpha1", "kind": kind, "name": "app", "namespace": taken.victim.namespace,
            },
        }))
        .unwrap()
    };
    let api = taken.ask::<Event>(&taken.victim);
    let words = "the agent of the node evil may make events of its own alone";
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
    taken.end().await;
}

async fn nameless() {
    let taken = Taken::new().await;
    let nameless = as_agent(&taken.home, &taken.release, None).await;
    let api: Api<JackalImage> = Api::namespaced(nameless.clone(), &taken.victim.namespace);
    let image = taken.image("app", "source: Docker", json!({ "size": 1 })).await;
    let candidates = Patch::Merge(json!({ "status": { "candidates": [] } }));
    let forged = Patch::Merge(json!({ "status": { "candidates": [{ "nodeName": "", "observedGeneration": 1 }] } }));
    let words = "the token of this agent names no node";
    assert_refused(
        api.patch_status("app", &PatchParams::default(), &candidates).await,
        words,
    );
    assert_refused(api.patch_status("app", &PatchParams::default(), &forged).await, words);
    let leases: Api<Lease> = Api::namespaced(nameless, &taken.home.namespace);
    let said = leases
        .create(&PostParams::default(), &lease("jackal-agent-x", "x"))
        .await;
    assert_refused(said, words);
    let standing = taken.victim.api::<JackalImage>().get("app").await.unwrap();
    assert_eq!(standing.status, image.status);
    taken.end().await;
}

/// A Lease with a time that fits no clock of ours, as a person or a node may write it.
fn timeless(cluster: &Cluster, name: &str, labels: Value, holder: &str) {
    let lease = json!({
        "apiVersion": "coordination.k8s.io/v1", "kind": "Lease", "metadata": { "name": name, "labels": labels },
        "spec": {
            "holderIdentity": holder, "leaseDurationSeconds": i32::MAX, "acquireTime": "9999-12-31T23:59:59.000000Z",
            "renewTime": "9999-12-31T23:59:59.000000Z",
        },
    });
    cluster.apply(&lease.to_string());
}

async fn endless() {
    let cluster = Cluster::new().await;
    timeless(&cluster, "jackal-operator-leader", json!({}), "agent/evil");
    // Its own lease lasts for 3 s.
    let controller = cluster.controller(&["--identity", "controller-0"]);
    eventually(SOON, "the controller leads", async || {
        let log = controller.log();
        if log.contains("leading") { Ok(()) } else { Err(log) }
    })
    .await;
}

async fn unreadable() {
    let cluster = Cluster::new().await;
    let labels = json!({ "jackal.dev/agent": "true" });
    timeless(&cluster, "jackal-agent-evil", labels, "victim");
    let _agent = cluster.agent("n1", "unix:///nowhere", &[]);
    let _controller = cluster.controller(&[]);
    cluster.apply(&lone("app", "app:dev", "source: Docker\n  nodeName: n9"));
    let image = cluster
        .image_where("app", "told of its agents", |image| {
            let ready = condition(&image.status.as_ref()?.conditions, "Ready")?;
            ready.message.contains("agents run on: evil, n1").then_some(())
        })
        .await;
    assert!(!serde_json::to_string(&image.status).unwrap().contains("victim"));
}

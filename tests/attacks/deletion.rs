//! A user who writes objects makes the operator delete content of others in the registry.

mod forgeries;

use jackal_operator::api::v1alpha1::{JackalImage, JackalPackage};
use jackal_operator::oci::{Digest, Reference};
use serde_json::{Value, json};

use super::{Attack, check};
use crate::support::cluster::{Cluster, condition};
use crate::support::image::{image, multi_platform, noise, put, referrer};
use crate::support::objects::{ADDRESS, package, standalone_image};
use crate::support::operator::Operator;
use crate::support::registry::{TestRegistry, Version};
use crate::support::table::on_one_thread;
use crate::support::wait::{SOON, eventually};

const TENANT: &str = "a tenant";
const WRITES_OBJECTS: &str = "writes JackalImages and JackalPackages in a namespace";
const WRITES_STATUSES: &str = "writes their statuses too";

/// The operator's registry, a registry of the tenant, and a source. Each namespace has its own operator, which does not
/// know the objects of the other namespace: safety must not depend on which object is first.
struct Setup {
    tenant: Cluster,
    operator_registry: TestRegistry,
    attacker_registry: TestRegistry,
    source: TestRegistry,
    policy: &'static str,
    _operator: Operator,
}

impl Setup {
    async fn open(policy: &'static str) -> Self {
        let tenant = Cluster::new().await;
        let [operator_registry, attacker_registry, source] =
            [Version::V31, Version::V28, Version::V31].map(TestRegistry::start);
        multi_platform(&source.repository("team/app"), "1").await;
        let operator = operator(&tenant, &operator_registry, &source, policy);
        Self {
            tenant,
            operator_registry,
            attacker_registry,
            source,
            policy,
            _operator: operator,
        }
    }

    fn image(&self) -> String {
        format!("{}/team/app:1", self.source.host)
    }

    fn line(&self) -> String {
        format!("{{image: '{}'}}", self.image())
    }

    /// Another namespace with its operator.
    async fn victim(&self) -> (Cluster, Operator) {
        let victim = self.tenant.another_namespace().await;
        let operator = operator(&victim, &self.operator_registry, &self.source, self.policy);
        (victim, operator)
    }

    async fn delete(&self, kind: &str, name: &str) {
        self.tenant.kubectl(&["delete", kind, name, "--timeout=60s"]);
    }

    /// The digest of a tag or manifest in the operator's registry.
    async fn digest_in_registry(&self, path: &str) -> Option<Digest> {
        let name: Reference = format!("{}/{path}", self.operator_registry.host).parse().unwrap();
        let repository = self.operator_registry.repository(name.repository());
        let found = repository.head_manifest(name.identifier()).await.unwrap();
        found.map(|found| found.digest)
    }

    /// Waits for an event that says that something is kept, and why.
    async fn wait_for_event(&self, name: &str, why: &str) {
        eventually(SOON, why, async || {
            let events = self.tenant.events(name).await;
            let reported = events.iter().any(|event| event.contains(why));
            reported.then_some(()).ok_or_else(|| format!("{events:?}"))
        })
        .await;
    }
}

fn operator(cluster: &Cluster, operator_registry: &TestRegistry, source: &TestRegistry, policy: &str) -> Operator {
    cluster.controller(&[
        "--insecure-registry",
        &source.host,
        "--registry-address",
        ADDRESS,
        "--registry-endpoint",
        &operator_registry.host,
        "--registry-insecure",
        "--repository-policy",
        policy,
        "--garbage-delay",
        "0s",
    ])
}

/// Moves an object to the registry that the flags name; `more` are other fields of the spec.
fn moved_to_operator_registry(more: Value) -> Value {
    let registry = json!({ "address": null, "endpoint": null, "insecure": null, "repositoryPrefix": null });
    let mut spec = json!({ "registry": registry });
    spec.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    json!({ "spec": spec })
}

/// The tenant's registry with `address` as its name, reached at its real host. `prefix` may be empty.
fn attackers_registry(setup: &Setup, address: &str, prefix: &str) -> String {
    let prefix = match prefix {
        "" => String::new(),
        prefix => format!(", repositoryPrefix: '{prefix}'"),
    };
    let endpoint = &setup.attacker_registry.host;
    format!(
        "registry: {{address: '{address}', endpoint: '{endpoint}', insecure: true{prefix}}}\n  deletionPolicy: Delete"
    )
}

async fn an_image_moved_to_another_registry(policy: &'static str) {
    let setup = Setup::open(policy).await;
    let (victim, _operator) = setup.victim().await;
    victim.apply(&standalone_image(
        "app",
        &setup.image(),
        "registry: {repositoryPrefix: theirs}",
    ));
    let brought = victim.image_ready("app").await.status.unwrap();
    let path = brought
        .name
        .unwrap()
        .strip_prefix(&format!("{ADDRESS}/"))
        .unwrap()
        .to_owned();
    let prefix = path.strip_suffix("/team/app:1").unwrap();
    let attacker_registry = setup.attacker_registry.host.clone();
    setup.tenant.apply(&standalone_image(
        "app",
        &setup.image(),
        &attackers_registry(&setup, &attacker_registry, prefix),
    ));
    setup.tenant.image_ready("app").await;
    setup
        .tenant
        .patch::<JackalImage>("app", moved_to_operator_registry(json!({ "suspend": true })))
        .await;
    setup.delete("jkimg", "app").await;
    assert_eq!(
        setup.digest_in_registry(&path).await.map(|digest| digest.to_string()),
        brought.digest
    );
    setup.wait_for_event("app", "is kept: ").await;
    victim.image_ready("app").await;
}

/// `suspend`: the object is deleted before it is reconciled again.
async fn an_endpoint_of_the_tenant(suspend: bool) {
    let setup = Setup::open("any").await;
    // Pushed by a person, or by `build`: no object names it.
    let (index, _) = multi_platform(&setup.operator_registry.repository("team/app"), "1").await;
    let more = attackers_registry(&setup, ADDRESS, "");
    setup.tenant.apply(&standalone_image("app", &setup.image(), &more));
    let first = setup.tenant.image_ready("app").await.status.unwrap();
    assert_eq!(first.digest.as_deref(), Some(index.digest().as_str()));
    let operator_registry = moved_to_operator_registry(json!({ "suspend": suspend }));
    setup.tenant.patch::<JackalImage>("app", operator_registry).await;
    if !suspend {
        let status = setup.tenant.image_ready("app").await.status.unwrap();
        assert!(status.adopted, "it wrote nothing here");
        setup.wait_for_event("app", "RegistryChanged: ").await;
    }
    setup.delete("jkimg", "app").await;
    assert_eq!(
        setup.digest_in_registry("team/app:1").await.as_ref(),
        Some(index.digest())
    );
    setup.wait_for_event("app", "is kept: ").await;
}

async fn existing_content_without_a_referrer() {
    let setup = Setup::open("any").await;
    let source = setup.source.repository("team/app");
    let root = image(&source, "linux/amd64", noise(9, 1000)).await;
    put(&source, &root, Some("9")).await;
    let theirs = setup.operator_registry.repository("team/app");
    image(&theirs, "linux/amd64", noise(9, 1000)).await;
    put(&theirs, &root, Some("9")).await;
    let about = referrer(&source, &root, "application/vnd.example.note", "a note").await;
    source.attach(&about).await.unwrap();
    let name = format!("{}/team/app:9", setup.source.host);
    setup
        .tenant
        .apply(&standalone_image("app", &name, "deletionPolicy: Delete"));
    setup.tenant.image_ready("app").await;
    setup.delete("jkimg", "app").await;
    assert_eq!(
        setup.digest_in_registry("team/app:9").await.as_ref(),
        Some(root.digest())
    );
}

async fn a_package_moved_to_another_registry() {
    let setup = Setup::open("any").await;
    let (victim, _operator) = setup.victim().await;
    victim.apply(&package("shop", "1", &[&setup.line()], ""));
    let theirs = victim.ready("shop").await.status.unwrap().artifact.unwrap().digest;
    let more = attackers_registry(&setup, ADDRESS, "");
    setup.tenant.apply(&package("shop", "1", &[&setup.line()], &more));
    let own = setup
        .tenant
        .ready("shop")
        .await
        .status
        .unwrap()
        .artifact
        .unwrap()
        .digest;
    assert_eq!(own, theirs, "the same package has the same digest");
    setup
        .tenant
        .patch::<JackalPackage>("shop", moved_to_operator_registry(json!({ "suspend": true })))
        .await;
    setup.delete("jkpkg", "shop").await;
    assert!(setup.digest_in_registry("shop:1").await.is_some());
    assert!(setup.digest_in_registry(&format!("shop@{theirs}")).await.is_some());
    assert!(setup.digest_in_registry("team/app:1").await.is_some(), "its image");
    setup
        .wait_for_event("shop", "what the package wrote is kept: it was written to ")
        .await;
}

async fn an_old_revision_in_another_registry() {
    let setup = Setup::open("any").await;
    let (victim, _operator) = setup.victim().await;
    victim.apply(&package("shop", "1", &[&setup.line()], ""));
    victim.ready("shop").await;
    let more = attackers_registry(&setup, ADDRESS, "");
    setup.tenant.apply(&package("shop", "1", &[&setup.line()], &more));
    setup.tenant.ready("shop").await;
    let next = json!({ "version": "2", "retention": { "revisions": 1 }, "deletionPolicy": "Retain" });
    setup
        .tenant
        .patch::<JackalPackage>("shop", moved_to_operator_registry(next))
        .await;
    let settled = |package: &JackalPackage| {
        let status = package.status.as_ref()?;
        let ready = condition(&status.conditions, "Ready")?;
        let current = ready.status == "True" && ready.observed_generation == package.metadata.generation;
        (current && status.garbage.is_empty() && status.version.as_deref() == Some("2")).then_some(())
    };
    let package = setup.tenant.package_where("shop", "at home", settled).await;
    assert!(setup.digest_in_registry("shop:1").await.is_some() && setup.digest_in_registry("shop:2").await.is_some());
    let revisions = package.status.unwrap().history.into_iter().map(|entry| entry.revision);
    assert!(
        revisions.collect::<Vec<_>>().concat().starts_with("2@"),
        "not its own any more"
    );
    let left = format!(
        "RegistryChanged: what the package wrote to {}/shop stays",
        setup.attacker_registry.host
    );
    setup.wait_for_event("shop", &left).await;
}

async fn a_legitimate_move() {
    let setup = Setup::open("any").await;
    let delete = "deletionPolicy: Delete";
    setup.tenant.apply(&package("shop", "1", &[&setup.line()], delete));
    let first = setup.tenant.ready("shop").await.status.unwrap();
    assert!(!first.history[0].adopted);
    // The other registry already has the image, pushed by another client.
    let other = setup.attacker_registry.repository("team/app");
    multi_platform(&other, "1").await;
    let to = json!({ "spec": { "registry": { "address": setup.attacker_registry.host, "insecure": true } } });
    setup.tenant.patch::<JackalPackage>("shop", to).await;
    let status = setup.tenant.ready("shop").await.status.unwrap();
    assert_eq!(status.history[0].reason, "RegistryChanged");
    assert!(
        setup.digest_in_registry("shop:1").await.is_some() && setup.digest_in_registry("team/app:1").await.is_some()
    );
    setup
        .wait_for_event("shop", &format!("what the package wrote to {ADDRESS}/shop stays there"))
        .await;
    setup.delete("jkpkg", "shop").await;
    let there = async |name: &str, tag: &str| {
        let found = setup.attacker_registry.repository(name).head_manifest(tag).await;
        found.unwrap().is_some()
    };
    assert!(!there("shop", "1").await, "what it wrote goes");
    assert!(there("team/app", "1").await, "what stood there stays");
    assert!(
        setup.digest_in_registry("shop:1").await.is_some() && setup.digest_in_registry("team/app:1").await.is_some()
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn deletion_keeps_content_of_other_tenants() {
    let attack = |attempt, final_state, run| Attack {
        attacker: TENANT,
        capabilities: WRITES_OBJECTS,
        attempt,
        expected: "what the object did not write there is kept, and an event says so",
        final_state,
        run,
    };
    check(&[
        attack(
            "copies a victim's image to its own registry below the victim's prefix, then points the object to the operator's registry, suspends and deletes it",
            "the victim's tag exists and its image is Ready",
            || on_one_thread(|| an_image_moved_to_another_registry("any")),
        ),
        attack(
            "the same with --repository-policy namespace and the victim's namespace as the prefix",
            "the victim's tag exists and its image is Ready",
            || on_one_thread(|| an_image_moved_to_another_registry("namespace")),
        ),
        attack(
            "copies an image to its own endpoint under the address of the operator's registry, removes the endpoint, and deletes the suspended object",
            "a tag that no object names still exists",
            || on_one_thread(|| an_endpoint_of_the_tenant(true)),
        ),
        attack(
            "the same, after the operator has found the image there",
            "a tag that no object names still exists",
            || on_one_thread(|| an_endpoint_of_the_tenant(false)),
        ),
        attack(
            "copies an image that already exists, with a new referrer, and deletes the object",
            "a tag that no object names still exists",
            || on_one_thread(existing_content_without_a_referrer),
        ),
        attack(
            "builds a victim's package at its own endpoint, removes the endpoint, and deletes the suspended package",
            "the victim's artifact and image still exist",
            || on_one_thread(a_package_moved_to_another_registry),
        ),
        attack(
            "the same with another version and retention",
            "the victim's artifact still exists",
            || on_one_thread(an_old_revision_in_another_registry),
        ),
        Attack {
            capabilities: WRITES_STATUSES,
            ..attack(
                "claims in the status of an image that it wrote the victim's tag",
                "a tag that no object names still exists",
                || on_one_thread(forgeries::a_forged_image_status),
            )
        },
        Attack {
            capabilities: WRITES_STATUSES,
            ..attack(
                "claims in the status of a package that it owns the victim's artifact",
                "the victim's artifact still exists",
                || on_one_thread(forgeries::a_forged_package_history),
            )
        },
        Attack {
            capabilities: WRITES_STATUSES,
            ..attack(
                "the same with all namespaces pushing everywhere, and another name of the registry in the victim's object",
                "the victim's artifact still exists",
                || on_one_thread(forgeries::a_forged_history_with_a_registry_alias),
            )
        },
        Attack {
            expected: "RepositoryConflict",
            ..attack(
                "creates an image with the owner and the labels of a victim's package",
                "the victim's tag is unchanged",
                || on_one_thread(forgeries::a_forged_owner_reference),
            )
        },
        Attack {
            attacker: "none: a tenant moves a package",
            expected: "an event says what is kept and where",
            ..attack(
                "moves a package to another registry, and deletes it there",
                "what it wrote there is deleted; content that existed there, and the former registry, are unchanged",
                || on_one_thread(a_legitimate_move),
            )
        },
    ])
    .await;
}

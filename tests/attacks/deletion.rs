//! Whoever writes objects has the operator delete what others have in the registry.

use jackal_operator::api::v1alpha1::{JackalImage, JackalPackage};
use jackal_operator::oci::{Digest, Reference};
use kube::api::{Patch, PatchParams};
use serde_json::{Value, json};

use super::{Attack, check};
use crate::support::cluster::{Cluster, condition, image_stalled};
use crate::support::image::{image, multi_platform, noise, put, referrer};
use crate::support::objects::{ADDRESS, lone, package};
use crate::support::operator::Operator;
use crate::support::registry::{TestRegistry, Version};
use crate::support::table::on_one_thread;
use crate::support::wait::{SOON, a_second_passes, eventually};
use crate::tenancy::APART;

const TENANT: &str = "a tenant";
const WRITES_OBJECTS: &str = "writes JackalImages and JackalPackages in a namespace";
const WRITES_STATUSES: &str = "writes their statuses too";

/// The operator's own registry, a registry of the tenant, and a source. Each namespace has an operator of its own, which
/// knows nothing of the objects of the other: what is safe then does not hang on who asks first.
struct Ground {
    tenant: Cluster,
    home: TestRegistry,
    evil: TestRegistry,
    source: TestRegistry,
    policy: &'static str,
    _operator: Operator,
}

impl Ground {
    async fn open(policy: &'static str) -> Self {
        let tenant = Cluster::new().await;
        let [home, evil, source] = [Version::V31, Version::V28, Version::V31].map(TestRegistry::start);
        multi_platform(&source.repository("team/app"), "1").await;
        let operator = operator(&tenant, &home, &source, policy);
        Self {
            tenant,
            home,
            evil,
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
        let victim = self.tenant.beside().await;
        let operator = operator(&victim, &self.home, &self.source, self.policy);
        (victim, operator)
    }

    async fn delete(&self, kind: &str, name: &str) {
        self.tenant.kubectl(&["delete", kind, name, "--timeout=60s"]);
    }

    /// What stands in the operator's registry.
    async fn stands(&self, path: &str) -> Option<Digest> {
        let name: Reference = format!("{}/{path}", self.home.host).parse().unwrap();
        let repository = self.home.repository(name.repository());
        let found = repository.head_manifest(name.identifier()).await.unwrap();
        found.map(|found| found.digest)
    }

    /// Waits until the object says that something stays, and why.
    async fn told(&self, name: &str, why: &str) {
        eventually(SOON, why, async || {
            let events = self.tenant.events(name).await;
            let told = events.iter().any(|event| event.contains(why));
            told.then_some(()).ok_or_else(|| format!("{events:?}"))
        })
        .await;
    }
}

fn operator(cluster: &Cluster, home: &TestRegistry, source: &TestRegistry, policy: &str) -> Operator {
    cluster.controller(&[
        "--insecure-registry",
        &source.host,
        "--registry-address",
        ADDRESS,
        "--registry-endpoint",
        &home.host,
        "--registry-insecure",
        "--repository-policy",
        policy,
        "--garbage-delay",
        "0s",
    ])
}

/// The registry that the flags name; `more` are other fields of the spec.
fn goes_home(more: Value) -> Value {
    let registry = json!({ "address": null, "endpoint": null, "insecure": null, "repositoryPrefix": null });
    let mut spec = json!({ "registry": registry });
    spec.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    json!({ "spec": spec })
}

/// The tenant's registry is called by `address`, and reached at its own host. `prefix` may be empty.
fn evil_registry(ground: &Ground, address: &str, prefix: &str) -> String {
    let prefix = match prefix {
        "" => String::new(),
        prefix => format!(", repositoryPrefix: '{prefix}'"),
    };
    let endpoint = &ground.evil.host;
    format!(
        "registry: {{address: '{address}', endpoint: '{endpoint}', insecure: true{prefix}}}\n  deletionPolicy: Delete"
    )
}

async fn an_image_that_went_to_another_registry(policy: &'static str) {
    let ground = Ground::open(policy).await;
    let (victim, _operator) = ground.victim().await;
    victim.apply(&lone("app", &ground.image(), "registry: {repositoryPrefix: theirs}"));
    let brought = victim.image_ready("app").await.status.unwrap();
    let path = brought
        .name
        .unwrap()
        .strip_prefix(&format!("{ADDRESS}/"))
        .unwrap()
        .to_owned();
    let prefix = path.strip_suffix("/team/app:1").unwrap();
    let evil = ground.evil.host.clone();
    ground
        .tenant
        .apply(&lone("app", &ground.image(), &evil_registry(&ground, &evil, prefix)));
    ground.tenant.image_ready("app").await;
    ground
        .tenant
        .patch::<JackalImage>("app", goes_home(json!({ "suspend": true })))
        .await;
    ground.delete("jkimg", "app").await;
    assert_eq!(
        ground.stands(&path).await.map(|digest| digest.to_string()),
        brought.digest
    );
    ground.told("app", "is kept: ").await;
    victim.image_ready("app").await;
}

/// `suspend`: the object is deleted before anybody looks at it again.
async fn an_endpoint_of_its_own(suspend: bool) {
    let ground = Ground::open("any").await;
    // By a person, or by `build`: no object names it.
    let (index, _) = multi_platform(&ground.home.repository("team/app"), "1").await;
    let more = evil_registry(&ground, ADDRESS, "");
    ground.tenant.apply(&lone("app", &ground.image(), &more));
    let first = ground.tenant.image_ready("app").await.status.unwrap();
    assert_eq!(first.digest.as_deref(), Some(index.digest().as_str()));
    let home = goes_home(json!({ "suspend": suspend }));
    ground.tenant.patch::<JackalImage>("app", home).await;
    if !suspend {
        let status = ground.tenant.image_ready("app").await.status.unwrap();
        assert!(status.adopted, "it wrote nothing here");
        ground.told("app", "RegistryChanged: ").await;
    }
    ground.delete("jkimg", "app").await;
    assert_eq!(ground.stands("team/app:1").await.as_ref(), Some(index.digest()));
    ground.told("app", "is kept: ").await;
}

async fn content_that_lacked_a_referrer() {
    let ground = Ground::open("any").await;
    let source = ground.source.repository("team/app");
    let root = image(&source, "linux/amd64", noise(9, 1000)).await;
    put(&source, &root, Some("9")).await;
    let theirs = ground.home.repository("team/app");
    image(&theirs, "linux/amd64", noise(9, 1000)).await;
    put(&theirs, &root, Some("9")).await;
    let about = referrer(&source, &root, "application/vnd.example.note", "a note").await;
    source.attach(&about).await.unwrap();
    let name = format!("{}/team/app:9", ground.source.host);
    ground.tenant.apply(&lone("app", &name, "deletionPolicy: Delete"));
    ground.tenant.image_ready("app").await;
    ground.delete("jkimg", "app").await;
    assert_eq!(ground.stands("team/app:9").await.as_ref(), Some(root.digest()));
}

async fn a_package_that_went_to_another_registry() {
    let ground = Ground::open("any").await;
    let (victim, _operator) = ground.victim().await;
    victim.apply(&package("shop", "1", &[&ground.line()], ""));
    let theirs = victim.ready("shop").await.status.unwrap().artifact.unwrap().digest;
    let more = evil_registry(&ground, ADDRESS, "");
    ground.tenant.apply(&package("shop", "1", &[&ground.line()], &more));
    let own = ground
        .tenant
        .ready("shop")
        .await
        .status
        .unwrap()
        .artifact
        .unwrap()
        .digest;
    assert_eq!(own, theirs, "the same package has the same digest");
    ground
        .tenant
        .patch::<JackalPackage>("shop", goes_home(json!({ "suspend": true })))
        .await;
    ground.delete("jkpkg", "shop").await;
    assert!(ground.stands("shop:1").await.is_some());
    assert!(ground.stands(&format!("shop@{theirs}")).await.is_some());
    assert!(ground.stands("team/app:1").await.is_some(), "its image");
    ground
        .told("shop", "what the package wrote is kept: it was written to ")
        .await;
}

async fn an_old_revision_of_another_registry() {
    let ground = Ground::open("any").await;
    let (victim, _operator) = ground.victim().await;
    victim.apply(&package("shop", "1", &[&ground.line()], ""));
    victim.ready("shop").await;
    let more = evil_registry(&ground, ADDRESS, "");
    ground.tenant.apply(&package("shop", "1", &[&ground.line()], &more));
    ground.tenant.ready("shop").await;
    let next = json!({ "version": "2", "retention": { "revisions": 1 }, "deletionPolicy": "Retain" });
    ground.tenant.patch::<JackalPackage>("shop", goes_home(next)).await;
    let settled = |package: &JackalPackage| {
        let status = package.status.as_ref()?;
        let ready = condition(&status.conditions, "Ready")?;
        let current = ready.status == "True" && ready.observed_generation == package.metadata.generation;
        (current && status.garbage.is_empty() && status.version.as_deref() == Some("2")).then_some(())
    };
    let package = ground.tenant.package_where("shop", "at home", settled).await;
    assert!(ground.stands("shop:1").await.is_some() && ground.stands("shop:2").await.is_some());
    let revisions = package.status.unwrap().history.into_iter().map(|entry| entry.revision);
    assert!(
        revisions.collect::<Vec<_>>().concat().starts_with("2@"),
        "not its own any more"
    );
    let left = format!(
        "RegistryChanged: what the package wrote to {}/shop stays",
        ground.evil.host
    );
    ground.told("shop", &left).await;
}

async fn a_status_that_says_whatever_it_likes() {
    let ground = Ground::open("any").await;
    let (index, _) = multi_platform(&ground.home.repository("theirs/app"), "1").await;
    let more = "deletionPolicy: Delete\n  suspend: true";
    ground.tenant.apply(&lone("app", &ground.image(), more));
    let status = json!({ "status": {
        "name": format!("{ADDRESS}/theirs/app:1"), "digest": index.digest(), "naming": "Plain", "observedGeneration": 1,
        "registry": { "address": ADDRESS, "repository": "theirs/app" },
    } });
    let api = ground.tenant.api::<JackalImage>();
    let patch = Patch::Merge(status);
    api.patch_status("app", &PatchParams::default(), &patch).await.unwrap();
    // The finalizer, which a status that was there from the beginning would find too.
    let finalized = |image: &JackalImage| image.metadata.finalizers.as_ref().map(|_| ());
    ground
        .tenant
        .image_where("app", "kept until it is cleared", finalized)
        .await;
    ground.delete("jkimg", "app").await;
    assert_eq!(ground.stands("theirs/app:1").await.as_ref(), Some(index.digest()));
    ground.told("app", "the object's spec leads to another name now").await;
}

async fn a_history_that_says_whatever_it_likes() {
    let ground = Ground::open("namespace").await;
    let (victim, _operator) = ground.victim().await;
    victim.apply(&package("shop", "1", &[&ground.line()], ""));
    let theirs = victim.ready("shop").await.status.unwrap().artifact.unwrap();
    let path = format!("{}/shop", victim.namespace);
    let more = "deletionPolicy: Delete\n  suspend: true";
    ground.tenant.apply(&package("shop", "1", &[&ground.line()], more));
    let status = json!({ "status": {
        "history": [{ "revision": theirs.revision, "digest": theirs.digest, "reason": "", "completedAt": "2026-01-01T00:00:00Z" }],
        "registry": { "address": ADDRESS, "repository": path },
    } });
    let finalized = |package: &JackalPackage| package.metadata.finalizers.as_ref().map(|_| ());
    ground
        .tenant
        .package_where("shop", "kept until it is cleared", finalized)
        .await;
    let api = ground.tenant.api::<JackalPackage>();
    let patch = Patch::Merge(status);
    api.patch_status("shop", &PatchParams::default(), &patch).await.unwrap();
    ground.delete("jkpkg", "shop").await;
    assert!(ground.stands(&format!("{path}:1")).await.is_some());
    victim.ready("shop").await;
}

/// Both are seen by one operator, and the victim calls its registry otherwise.
async fn a_history_beside_its_owner() {
    let _alone = APART.lock().await;
    let victim = Cluster::apart().await;
    let tenant = victim.beside().await;
    let [home, source] = [Version::V31, Version::V28].map(TestRegistry::start);
    multi_platform(&source.repository("team/app"), "1").await;
    let _operator = operator(&victim, &home, &source, "any");
    let line = format!("{{image: '{}/team/app:1'}}", source.host);
    let otherwise = format!("registry: {{address: '{}', insecure: true}}", home.host);
    victim.apply(&package("shop", "1", &[&line], &otherwise));
    let theirs = victim.ready("shop").await.status.unwrap().artifact.unwrap();
    let more = "deletionPolicy: Delete\n  suspend: true";
    tenant.apply(&package("shop", "2", &[&line], more));
    let finalized = |package: &JackalPackage| package.metadata.finalizers.as_ref().map(|_| ());
    tenant
        .package_where("shop", "kept until it is cleared", finalized)
        .await;
    let status = json!({ "status": {
        "history": [{ "revision": theirs.revision, "digest": theirs.digest, "reason": "", "completedAt": "2026-01-01T00:00:00Z" }],
        "registry": { "address": ADDRESS, "repository": "shop" },
    } });
    let api = tenant.api::<JackalPackage>();
    let patch = Patch::Merge(status);
    api.patch_status("shop", &PatchParams::default(), &patch).await.unwrap();
    tenant.kubectl(&["delete", "jkpkg", "shop", "--timeout=60s"]);
    let standing = home.repository("shop").head_manifest("1").await.unwrap();
    assert!(standing.is_some(), "the victim's artifact");
    victim.kubectl(&["delete", "jkpkg,jkimg", "--all", "--timeout=60s"]);
}

async fn an_owner_in_another_namespace() {
    let _alone = APART.lock().await;
    let victim = Cluster::apart().await;
    let tenant = victim.beside().await;
    let [home, source] = [Version::V31, Version::V28].map(TestRegistry::start);
    multi_platform(&source.repository("team/app"), "1").await;
    let _operator = operator(&victim, &home, &source, "any");
    let line = format!("{{image: '{}/team/app:1'}}", source.host);
    victim.apply(&package("shop", "1", &[&line], ""));
    let theirs = victim.ready("shop").await;
    let uid = theirs.metadata.uid.clone().unwrap();
    let before = home.crane("digest", "team/app:1");
    a_second_passes().await;
    // Another content for the same tag.
    let owned = json!({
        "apiVersion": "jackal.dev/v1alpha1", "kind": "JackalImage",
        "metadata": {
            "name": "app",
            "labels": { "jackal.dev/package-uid": uid, "jackal.dev/package-name": "shop", "app.kubernetes.io/managed-by": "jackal-operator" },
            "ownerReferences": [{ "apiVersion": "jackal.dev/v1alpha1", "kind": "JackalPackage", "name": "shop", "uid": uid, "controller": true }],
        },
        "spec": { "image": format!("{}/team/app:1", source.host), "platforms": ["linux/arm64"], "deletionPolicy": "Delete" },
    });
    tenant.apply(&owned.to_string());
    let said = image_stalled(&tenant, "app", "RepositoryConflict").await;
    assert!(said.contains("belongs to the older image"), "{said}");
    assert_eq!(home.crane("digest", "team/app:1"), before);
    for cluster in [&tenant, &victim] {
        cluster.kubectl(&["delete", "jkpkg,jkimg", "--all", "--timeout=60s"]);
    }
}

async fn a_move_that_is_meant() {
    let ground = Ground::open("any").await;
    let delete = "deletionPolicy: Delete";
    ground.tenant.apply(&package("shop", "1", &[&ground.line()], delete));
    let first = ground.tenant.ready("shop").await.status.unwrap();
    assert!(!first.history[0].adopted);
    // The other registry has the image already, from somebody else.
    let other = ground.evil.repository("team/app");
    multi_platform(&other, "1").await;
    let to = json!({ "spec": { "registry": { "address": ground.evil.host, "insecure": true } } });
    ground.tenant.patch::<JackalPackage>("shop", to).await;
    let status = ground.tenant.ready("shop").await.status.unwrap();
    assert_eq!(status.history[0].reason, "RegistryChanged");
    assert!(ground.stands("shop:1").await.is_some() && ground.stands("team/app:1").await.is_some());
    ground
        .told("shop", &format!("what the package wrote to {ADDRESS}/shop stays there"))
        .await;
    ground.delete("jkpkg", "shop").await;
    let there = async |name: &str, tag: &str| {
        let found = ground.evil.repository(name).head_manifest(tag).await;
        found.unwrap().is_some()
    };
    assert!(!there("shop", "1").await, "what it wrote goes");
    assert!(there("team/app", "1").await, "what stood there stays");
    assert!(ground.stands("shop:1").await.is_some() && ground.stands("team/app:1").await.is_some());
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_deletes_what_others_have() {
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
            "mirrors a victim's image into a registry of its own, below the victim's prefix, has the object mean the operator's registry, suspends and deletes it",
            "the victim's tag stands and its image is Ready",
            || on_one_thread(|| an_image_that_went_to_another_registry("any")),
        ),
        attack(
            "the same with --repository-policy namespace and the victim's namespace for a prefix",
            "the victim's tag stands and its image is Ready",
            || on_one_thread(|| an_image_that_went_to_another_registry("namespace")),
        ),
        attack(
            "has an image sent to an endpoint of its own under the address of the operator's registry, drops the endpoint, and deletes the suspended object",
            "a tag that no object names stands",
            || on_one_thread(|| an_endpoint_of_its_own(true)),
        ),
        attack(
            "the same, and lets the operator find the image there first",
            "a tag that no object names stands",
            || on_one_thread(|| an_endpoint_of_its_own(false)),
        ),
        attack(
            "mirrors an image that stands already, with a referrer that does not, and deletes the object",
            "a tag that no object names stands",
            || on_one_thread(content_that_lacked_a_referrer),
        ),
        attack(
            "builds a victim's package at an endpoint of its own, drops the endpoint, and deletes the suspended package",
            "the victim's artifact and image stand",
            || on_one_thread(a_package_that_went_to_another_registry),
        ),
        attack(
            "the same with another version and retention",
            "the victim's artifact stands",
            || on_one_thread(an_old_revision_of_another_registry),
        ),
        Attack {
            capabilities: WRITES_STATUSES,
            ..attack(
                "writes into the status of an image that it wrote the victim's tag",
                "a tag that no object names stands",
                || on_one_thread(a_status_that_says_whatever_it_likes),
            )
        },
        Attack {
            capabilities: WRITES_STATUSES,
            ..attack(
                "writes into the status of a package that the victim's artifact is its own",
                "the victim's artifact stands",
                || on_one_thread(a_history_that_says_whatever_it_likes),
            )
        },
        Attack {
            capabilities: WRITES_STATUSES,
            ..attack(
                "the same where all namespaces may push everywhere, and the victim calls the registry by another name",
                "the victim's artifact stands",
                || on_one_thread(a_history_beside_its_owner),
            )
        },
        Attack {
            expected: "RepositoryConflict",
            ..attack(
                "writes an image whose owner and labels are those of a victim's package",
                "the victim's tag is what it was",
                || on_one_thread(an_owner_in_another_namespace),
            )
        },
        Attack {
            attacker: "nobody: a tenant moves a package",
            expected: "an event says what stays and where",
            ..attack(
                "has a package go to another registry, and deletes it there",
                "what it wrote there is gone; what stood there, and the former registry, are as they were",
                || on_one_thread(a_move_that_is_meant),
            )
        },
    ])
    .await;
}

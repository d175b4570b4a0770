//! What is deleted of old artifacts, when, and what never is.

use jackal_operator::api::v1alpha1::{JackalPackage, JackalPackageStatus, RetainedReason};
use jackal_operator::oci::{Content, Digest, Document, Index, Platform};
use jackal_operator::registry::Repository;
use serde_json::json;

use super::{ADDRESS, lone, package, registry_at};
use crate::support::cluster::Cluster;
use crate::support::image::{image, multi_platform, noise, put};
use crate::support::operator::Operator;
use crate::support::registry::{TestRegistry, VERSIONS, Version};
use crate::support::wait::{SOON, eventually};

/// A namespace with an operator, a registry, and a source with one image.
struct Shop {
    cluster: Cluster,
    controller: Option<Operator>,
    source: TestRegistry,
    registry: TestRegistry,
}

impl Shop {
    async fn open(registry: TestRegistry, delay: &str) -> Self {
        let (cluster, source) = (Cluster::new().await, TestRegistry::start(Version::V31));
        multi_platform(&source.repository("team/app"), "1").await;
        let mut shop = Self {
            cluster,
            controller: None,
            source,
            registry,
        };
        shop.start(delay);
        shop
    }

    fn start(&mut self, delay: &str) {
        self.controller = None;
        let flags = ["--insecure-registry", &self.source.host, "--garbage-delay", delay];
        self.controller = Some(self.cluster.controller(&flags));
    }

    fn to(&self) -> String {
        registry_at(&self.registry.host)
    }

    /// Has the package be of that version; gives its status once it is.
    async fn version(&self, version: &str, more: &str) -> JackalPackageStatus {
        let image = format!("{{image: '{}/team/app:1'}}", self.source.host);
        let more = format!("{}\n  {more}", self.to());
        self.cluster.apply(&package("shop", version, &[&image], &more));
        self.cluster.ready("shop").await.status.unwrap()
    }

    fn artifacts(&self) -> Repository {
        self.registry.repository("shop")
    }

    async fn tag(&self, tag: &str) -> Option<Document> {
        self.artifacts().manifest(tag).await.unwrap()
    }

    async fn stands(&self, identifier: &str) -> bool {
        self.artifacts().head_manifest(identifier).await.unwrap().is_some()
    }

    /// Waits for an event, which follows the status that it tells of.
    async fn told(&self, event: &str) {
        eventually(SOON, event, async || {
            let events = self.cluster.events("shop").await;
            let told = events.iter().any(|said| said.contains(event));
            told.then_some(()).ok_or_else(|| format!("{events:?}"))
        })
        .await;
    }

    async fn settled(&self, what: &str, holds: impl Fn(&JackalPackageStatus) -> bool) -> JackalPackageStatus {
        let holds = |package: &JackalPackage| holds(package.status.as_ref()?).then_some(());
        self.cluster.package_where("shop", what, holds).await.status.unwrap()
    }
}

fn versions(status: &JackalPackageStatus) -> Vec<&str> {
    let entries = status.history.iter();
    entries.map(|entry| entry.revision.split('@').next().unwrap()).collect()
}

#[tokio::test]
async fn old_artifacts_go_after_their_plan_stood_in_the_status() {
    for version in VERSIONS {
        let mut shop = Shop::open(TestRegistry::start(version), "1h").await;
        let two = "retention: {revisions: 2}";
        let first = shop.version("1", two).await.artifact.unwrap();
        let second = shop.version("2", two).await;
        assert_eq!(second.garbage, []);
        let status = shop.version("3", two).await;
        let [planned] = &status.garbage[..] else {
            panic!("{:?}", status.garbage)
        };
        assert_eq!(planned.reference, format!("{ADDRESS}/shop:1@{}", first.digest));
        assert_eq!(planned.digest, first.digest);
        let left = planned
            .delete_after
            .clone()
            .unwrap()
            .0
            .duration_since(jiff::Timestamp::now());
        assert!((3500..=3600).contains(&left.as_secs()), "{left:?}");
        let note = format!(
            "GarbagePlanned: to be deleted, see status.garbage: {}",
            planned.reference
        );
        shop.told(&note).await;
        assert!(
            shop.stands("1").await && shop.stands(&first.digest).await,
            "nothing goes before its time"
        );

        // Its time has come.
        let past = json!({ "status": { "garbage": [{
            "reference": planned.reference, "digest": planned.digest, "reason": planned.reason,
            "message": planned.message,
            "deleteAfter": "2026-01-01T00:00:00Z",
        }] } });
        let api = shop.cluster.api::<JackalPackage>();
        let patch = kube::api::Patch::Merge(past);
        api.patch_status("shop", &Default::default(), &patch).await.unwrap();
        let status = shop
            .settled("rid of the first", |status| status.garbage.is_empty())
            .await;
        assert_eq!(versions(&status), ["3", "2"]);
        assert!(
            !shop.stands("1").await && !shop.stands(&first.digest).await,
            "{version:?}"
        );
        assert!(shop.stands("2").await && shop.stands("3").await);
        shop.told(&format!("GarbageCollectionSucceeded: deleted {}", planned.reference))
            .await;

        // Another operator with no patience: the plan is still written before anything goes.
        shop.start("0s");
        shop.version("4", two).await;
        let status = shop
            .settled("rid of the second", |status| versions(status) == ["4", "3"])
            .await;
        assert_eq!(status.garbage, []);
        assert!(!shop.stands("2").await && shop.stands("3").await && shop.stands("4").await);
        let second = format!("{ADDRESS}/shop:2@{}", second.artifact.unwrap().digest);
        shop.told(&format!("GarbagePlanned: to be deleted, see status.garbage: {second}"))
            .await;
        shop.told(&format!("GarbageCollectionSucceeded: deleted {second}"))
            .await;
        let planned = shop.cluster.events("shop").await;
        assert_eq!(
            planned.iter().filter(|said| said.starts_with("GarbagePlanned")).count(),
            2
        );
        // The repeat has nothing to delete, and says nothing.
        shop.cluster.request("shop", "again").await;
        shop.settled("looked at", |status| {
            status.last_handled_reconcile_at.as_deref() == Some("again")
        })
        .await;
        assert!(shop.stands("3").await && shop.stands("4").await);
        assert_eq!(shop.cluster.events("shop").await.len(), planned.len());
    }
}

#[tokio::test]
async fn what_others_have_stays() {
    for version in VERSIONS {
        let shop = Shop::open(TestRegistry::start(version), "0s").await;
        let mut digests = Vec::new();
        for version in ["1", "2", "3"] {
            digests.push(
                shop.version(version, "retention: {revisions: 3}")
                    .await
                    .artifact
                    .unwrap()
                    .digest,
            );
        }
        let repository = shop.artifacts();
        // A person names the first by a tag too, and pushes to the tag of the second.
        let first = shop.tag("1").await.unwrap();
        put(&repository, &first, Some("stable")).await;
        let theirs = image(&repository, "linux/amd64", noise(7, 1000)).await;
        put(&repository, &theirs, Some("2")).await;
        // Another architecture's package stands beside the third.
        let third = shop.tag("3").await.unwrap();
        let Content::Index(index) = &third.content else {
            panic!()
        };
        let mut other = theirs.descriptor.clone();
        other.platform = Some(Platform {
            architecture: "arm64".to_owned(),
            ..index.manifests[0].platform.clone().unwrap()
        });
        let both = Index {
            manifests: vec![index.manifests[0].clone(), other.clone()],
            ..index.clone()
        };
        put(&repository, &Document::of_index(both).unwrap(), Some("3")).await;

        shop.version("4", "retention: {revisions: 1}").await;
        let kept = |status: &JackalPackageStatus| {
            status.garbage.len() == 1 && status.garbage[0].kept.is_some() && versions(status) == ["4", "1"]
        };
        let status = shop.settled("rid of all but one", kept).await;
        assert_eq!(
            status.garbage[0].kept,
            Some(RetainedReason::new("SharedManifest", "the tag stable names it too")),
            "{version:?}"
        );
        assert!(shop.stands("1").await && shop.stands(&digests[0]).await);
        assert_eq!(shop.tag("2").await.unwrap().digest(), theirs.digest(), "a newer push");
        assert!(!shop.stands(&digests[1]).await && !shop.stands(&digests[2]).await);
        let Content::Index(index) = shop.tag("3").await.unwrap().content else {
            panic!()
        };
        assert_eq!(index.manifests, [other], "its entry only");
        shop.told("the tag stable names it too").await;
        let events = shop.cluster.events("shop").await;
        let failed: Vec<_> = events.iter().filter(|said| said.contains("CollectionFailed")).collect();
        assert!(failed.len() == 1 && failed[0].contains("stable"), "{events:?}");
        shop.cluster.ready("shop").await;
    }
}

#[tokio::test]
async fn a_registry_that_does_not_delete_is_told_of_once() {
    for version in VERSIONS {
        let shop = Shop::open(TestRegistry::start_keeping(version), "0s").await;
        let one = "retention: {revisions: 1}";
        shop.version("1", one).await;
        shop.version("2", one).await;
        let told = |status: &JackalPackageStatus| {
            let kept =
                |entry: &jackal_operator::api::v1alpha1::Garbage| entry.kept.is_some() && entry.delete_after.is_none();
            status.garbage.iter().any(kept)
        };
        let status = shop.settled("told of", told).await;
        let kept = status.garbage[0].kept.as_ref().unwrap();
        assert_eq!(kept.reason, "DeletionUnsupported");
        assert!(
            kept.message.contains("the registry does not delete"),
            "{}",
            kept.message
        );
        shop.told("the registry does not delete").await;
        shop.cluster.ready("shop").await;
        assert!(shop.stands("1").await && shop.stands("2").await);
        shop.cluster.request("shop", "again").await;
        let again = shop
            .settled("looked at", |status| {
                status.last_handled_reconcile_at.as_deref() == Some("again") && told(status)
            })
            .await;
        assert_eq!(
            (versions(&again), &again.garbage[0].kept),
            (vec!["2", "1"], &status.garbage[0].kept)
        );
        let events = shop.cluster.events("shop").await;
        assert_eq!(
            events.iter().filter(|said| said.contains("CollectionFailed")).count(),
            1,
            "{events:?}"
        );
    }
}

#[tokio::test]
async fn what_stood_there_before_is_nobodys_to_delete() {
    let shop = Shop::open(TestRegistry::start(Version::V31), "0s").await;
    // Somebody pushed the same before: an operator of earlier times, a person with `build`.
    let status = shop.version("1", "deletionPolicy: Retain").await;
    assert!(!status.history[0].adopted);
    shop.cluster.kubectl(&["delete", "jkpkg", "shop", "--timeout=30s"]);
    let policies = "deletionPolicy: Delete\n  retention: {revisions: 1}";
    let status = shop.version("1", policies).await;
    assert!(status.history[0].adopted);
    assert_eq!(status.garbage, [], "neither the artifact nor its image");
    let first = status.artifact.unwrap().digest;
    let name = status.images[0].name.clone();
    // What is its own is shown before it goes.
    let status = shop.version("2", policies).await;
    let second = status.artifact.as_ref().unwrap().digest.clone();
    let shown: Vec<_> = status
        .garbage
        .iter()
        .map(|entry| (&entry.digest, &entry.delete_after))
        .collect();
    assert_eq!(shown, [(&second, &None)]);
    assert_eq!(versions(&status), ["2"], "it is not the package's to keep");
    assert!(shop.stands("1").await && shop.stands(&first).await);
    shop.cluster.kubectl(&["delete", "jkpkg", "shop", "--timeout=30s"]);
    assert!(shop.stands("1").await && shop.stands(&first).await);
    assert!(!shop.stands("2").await && !shop.stands(&second).await);
    let (_, path) = name.split_once('/').unwrap();
    shop.registry.crane("digest", path);
}

#[tokio::test]
async fn an_image_with_somebody_elses_tag_stays() {
    for version in VERSIONS {
        let shop = Shop::open(TestRegistry::start(version), "0s").await;
        let to = format!("{}\n  deletionPolicy: Delete", shop.to());
        let reference = format!("{}/team/app:1", shop.source.host);
        let repository = shop.registry.repository("team/app");
        let stands = async |tag: &str| repository.head_manifest(tag).await.unwrap().is_some();
        for (name, tag) in [("tagged", Some("mine")), ("free", None)] {
            shop.cluster.apply(&lone(name, &reference, &to));
            let status = shop.cluster.image_ready(name).await.status.unwrap();
            assert!(!status.adopted, "{name}");
            let digest: Digest = status.digest.unwrap().parse().unwrap();
            if let Some(tag) = tag {
                let document = repository.manifest(digest.as_str()).await.unwrap().unwrap();
                put(&repository, &document, Some(tag)).await;
            }
            shop.cluster.kubectl(&["delete", "jkimg", name, "--timeout=30s"]);
            assert_eq!(stands("1").await, tag.is_some(), "{version:?} {name}");
            if let Some(tag) = tag {
                assert!(stands(tag).await);
                let note = format!("the tag {tag} names it too");
                let said = eventually(SOON, "it is said", async || {
                    let events = shop.cluster.events(name).await;
                    events
                        .into_iter()
                        .find(|said| said.contains(&note))
                        .ok_or_else(|| note.clone())
                })
                .await;
                assert!(said.starts_with("GarbageCollectionSucceeded: "), "{said}");
                repository.delete_manifest(&digest).await.unwrap();
            }
        }
    }
}

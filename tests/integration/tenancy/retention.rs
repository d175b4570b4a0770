//! Retention of old artifacts: what is deleted, when, and what is kept.

use jackal_operator::api::v1alpha1::{JackalPackage, JackalPackageStatus, RetainedReason};
use jackal_operator::oci::{Content, Digest, Document, Index, Platform};
use jackal_operator::registry::Repository;
use serde_json::json;

use super::{ADDRESS, package, registry_at, standalone_image};
use crate::support::cluster::Cluster;
use crate::support::image::{image, multi_platform, noise, put};
use crate::support::operator::Operator;
use crate::support::registry::{TestRegistry, VERSIONS, Version};
use crate::support::wait::{SOON, eventually};

/// A namespace with an operator, a registry, and a source with one image.
struct Setup {
    cluster: Cluster,
    controller: Option<Operator>,
    source: TestRegistry,
    registry: TestRegistry,
}

impl Setup {
    async fn open(registry: TestRegistry, delay: &str) -> Self {
        let (cluster, source) = (Cluster::new().await, TestRegistry::start(Version::V31));
        multi_platform(&source.repository("team/app"), "1").await;
        let mut setup = Self {
            cluster,
            controller: None,
            source,
            registry,
        };
        setup.start(delay);
        setup
    }

    fn start(&mut self, delay: &str) {
        self.controller = None;
        let flags = ["--insecure-registry", &self.source.host, "--garbage-delay", delay];
        self.controller = Some(self.cluster.controller(&flags));
    }

    fn to(&self) -> String {
        registry_at(&self.registry.host)
    }

    /// Sets the package's version; returns its status once it is Ready.
    async fn set_version(&self, version: &str, more: &str) -> JackalPackageStatus {
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

    async fn exists(&self, identifier: &str) -> bool {
        self.artifacts().head_manifest(identifier).await.unwrap().is_some()
    }

    /// Waits for an event, which is written after its status.
    async fn wait_for_event(&self, event: &str) {
        eventually(SOON, event, async || {
            let events = self.cluster.events("shop").await;
            let reported = events.iter().any(|message| message.contains(event));
            reported.then_some(()).ok_or_else(|| format!("{events:?}"))
        })
        .await;
    }

    async fn wait_for_status(&self, what: &str, holds: impl Fn(&JackalPackageStatus) -> bool) -> JackalPackageStatus {
        let holds = |package: &JackalPackage| holds(package.status.as_ref()?).then_some(());
        self.cluster.package_where("shop", what, holds).await.status.unwrap()
    }
}

fn versions(status: &JackalPackageStatus) -> Vec<&str> {
    let entries = status.history.iter();
    entries.map(|entry| entry.revision.split('@').next().unwrap()).collect()
}

#[tokio::test]
async fn old_artifacts_are_deleted_after_the_plan_is_in_the_status() {
    for version in VERSIONS {
        let mut setup = Setup::open(TestRegistry::start(version), "1h").await;
        let two = "retention: {revisions: 2}";
        let first = setup.set_version("1", two).await.artifact.unwrap();
        let second = setup.set_version("2", two).await;
        assert_eq!(second.garbage, []);
        let status = setup.set_version("3", two).await;
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
        setup.wait_for_event(&note).await;
        assert!(
            setup.exists("1").await && setup.exists(&first.digest).await,
            "nothing goes before its time"
        );

        // Its deletion time is reached.
        let past = json!({ "status": { "garbage": [{
            "reference": planned.reference, "digest": planned.digest, "reason": planned.reason,
            "message": planned.message,
            "deleteAfter": "2026-01-01T00:00:00Z",
        }] } });
        let api = setup.cluster.api::<JackalPackage>();
        let patch = kube::api::Patch::Merge(past);
        api.patch_status("shop", &Default::default(), &patch).await.unwrap();
        let status = setup
            .wait_for_status("rid of the first", |status| status.garbage.is_empty())
            .await;
        assert_eq!(versions(&status), ["3", "2"]);
        assert!(
            !setup.exists("1").await && !setup.exists(&first.digest).await,
            "{version:?}"
        );
        assert!(setup.exists("2").await && setup.exists("3").await);
        setup
            .wait_for_event(&format!("GarbageCollectionSucceeded: deleted {}", planned.reference))
            .await;

        // Another operator without a delay: the plan is still written before anything is deleted.
        setup.start("0s");
        setup.set_version("4", two).await;
        let status = setup
            .wait_for_status("rid of the second", |status| versions(status) == ["4", "3"])
            .await;
        assert_eq!(status.garbage, []);
        assert!(!setup.exists("2").await && setup.exists("3").await && setup.exists("4").await);
        let second = format!("{ADDRESS}/shop:2@{}", second.artifact.unwrap().digest);
        setup
            .wait_for_event(&format!("GarbagePlanned: to be deleted, see status.garbage: {second}"))
            .await;
        setup
            .wait_for_event(&format!("GarbageCollectionSucceeded: deleted {second}"))
            .await;
        let planned = setup.cluster.events("shop").await;
        assert_eq!(
            planned
                .iter()
                .filter(|message| message.starts_with("GarbagePlanned"))
                .count(),
            2
        );
        // The repeat has nothing to delete, and reports nothing.
        setup.cluster.request("shop", "again").await;
        setup
            .wait_for_status("looked at", |status| {
                status.last_handled_reconcile_at.as_deref() == Some("again")
            })
            .await;
        assert!(setup.exists("3").await && setup.exists("4").await);
        assert_eq!(setup.cluster.events("shop").await.len(), planned.len());
    }
}

#[tokio::test]
async fn content_of_others_is_kept() {
    for version in VERSIONS {
        let setup = Setup::open(TestRegistry::start(version), "0s").await;
        let mut digests = Vec::new();
        for version in ["1", "2", "3"] {
            digests.push(
                setup
                    .set_version(version, "retention: {revisions: 3}")
                    .await
                    .artifact
                    .unwrap()
                    .digest,
            );
        }
        let repository = setup.artifacts();
        // Another client tags the first one too, and pushes to the tag of the second.
        let first = setup.tag("1").await.unwrap();
        put(&repository, &first, Some("stable")).await;
        let theirs = image(&repository, "linux/amd64", noise(7, 1000)).await;
        put(&repository, &theirs, Some("2")).await;
        // A package of another architecture is in the index of the third.
        let third = setup.tag("3").await.unwrap();
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

        setup.set_version("4", "retention: {revisions: 1}").await;
        let kept = |status: &JackalPackageStatus| {
            status.garbage.len() == 1 && status.garbage[0].kept.is_some() && versions(status) == ["4", "1"]
        };
        let status = setup.wait_for_status("rid of all but one", kept).await;
        assert_eq!(
            status.garbage[0].kept,
            Some(RetainedReason::new("SharedManifest", "the tag stable names it too")),
            "{version:?}"
        );
        assert!(setup.exists("1").await && setup.exists(&digests[0]).await);
        assert_eq!(setup.tag("2").await.unwrap().digest(), theirs.digest(), "a newer push");
        assert!(!setup.exists(&digests[1]).await && !setup.exists(&digests[2]).await);
        let Content::Index(index) = setup.tag("3").await.unwrap().content else {
            panic!()
        };
        assert_eq!(index.manifests, [other], "its entry only");
        setup.wait_for_event("the tag stable names it too").await;
        let events = setup.cluster.events("shop").await;
        let failed: Vec<_> = events
            .iter()
            .filter(|message| message.contains("CollectionFailed"))
            .collect();
        assert!(failed.len() == 1 && failed[0].contains("stable"), "{events:?}");
        setup.cluster.ready("shop").await;
    }
}

#[tokio::test]
async fn a_registry_without_deletion_is_reported_once() {
    for version in VERSIONS {
        let setup = Setup::open(TestRegistry::start_keeping(version), "0s").await;
        let one = "retention: {revisions: 1}";
        setup.set_version("1", one).await;
        setup.set_version("2", one).await;
        let reported = |status: &JackalPackageStatus| {
            let kept =
                |entry: &jackal_operator::api::v1alpha1::Garbage| entry.kept.is_some() && entry.delete_after.is_none();
            status.garbage.iter().any(kept)
        };
        let status = setup.wait_for_status("told of", reported).await;
        let kept = status.garbage[0].kept.as_ref().unwrap();
        assert_eq!(kept.reason, "DeletionUnsupported");
        assert!(
            kept.message.contains("the registry does not delete"),
            "{}",
            kept.message
        );
        setup.wait_for_event("the registry does not delete").await;
        setup.cluster.ready("shop").await;
        assert!(setup.exists("1").await && setup.exists("2").await);
        setup.cluster.request("shop", "again").await;
        let again = setup
            .wait_for_status("looked at", |status| {
                status.last_handled_reconcile_at.as_deref() == Some("again") && reported(status)
            })
            .await;
        assert_eq!(
            (versions(&again), &again.garbage[0].kept),
            (vec!["2", "1"], &status.garbage[0].kept)
        );
        let events = setup.cluster.events("shop").await;
        assert_eq!(
            events
                .iter()
                .filter(|message| message.contains("CollectionFailed"))
                .count(),
            1,
            "{events:?}"
        );
    }
}

#[tokio::test]
async fn existing_content_is_not_deleted() {
    let setup = Setup::open(TestRegistry::start(Version::V31), "0s").await;
    // The same content was pushed earlier: by an operator of an earlier version, or with `build`.
    let status = setup.set_version("1", "deletionPolicy: Retain").await;
    assert!(!status.history[0].adopted);
    setup.cluster.kubectl(&["delete", "jkpkg", "shop", "--timeout=30s"]);
    let policies = "deletionPolicy: Delete\n  retention: {revisions: 1}";
    let status = setup.set_version("1", policies).await;
    assert!(status.history[0].adopted);
    assert_eq!(status.garbage, [], "neither the artifact nor its image");
    let first = status.artifact.unwrap().digest;
    let name = status.images[0].name.clone();
    // What it owns is shown in the status before it is deleted.
    let status = setup.set_version("2", policies).await;
    let second = status.artifact.as_ref().unwrap().digest.clone();
    let shown: Vec<_> = status
        .garbage
        .iter()
        .map(|entry| (&entry.digest, &entry.delete_after))
        .collect();
    assert_eq!(shown, [(&second, &None)]);
    assert_eq!(versions(&status), ["2"], "it is not the package's to keep");
    assert!(setup.exists("1").await && setup.exists(&first).await);
    setup.cluster.kubectl(&["delete", "jkpkg", "shop", "--timeout=30s"]);
    assert!(setup.exists("1").await && setup.exists(&first).await);
    assert!(!setup.exists("2").await && !setup.exists(&second).await);
    let (_, path) = name.split_once('/').unwrap();
    setup.registry.crane("digest", path);
}

#[tokio::test]
async fn an_image_with_a_foreign_tag_is_kept() {
    for version in VERSIONS {
        let setup = Setup::open(TestRegistry::start(version), "0s").await;
        let to = format!("{}\n  deletionPolicy: Delete", setup.to());
        let reference = format!("{}/team/app:1", setup.source.host);
        let repository = setup.registry.repository("team/app");
        let exists = async |tag: &str| repository.head_manifest(tag).await.unwrap().is_some();
        for (name, tag) in [("tagged", Some("mine")), ("free", None)] {
            setup.cluster.apply(&standalone_image(name, &reference, &to));
            let status = setup.cluster.image_ready(name).await.status.unwrap();
            assert!(!status.adopted, "{name}");
            let digest: Digest = status.digest.unwrap().parse().unwrap();
            if let Some(tag) = tag {
                let document = repository.manifest(digest.as_str()).await.unwrap().unwrap();
                put(&repository, &document, Some(tag)).await;
            }
            setup.cluster.kubectl(&["delete", "jkimg", name, "--timeout=30s"]);
            assert_eq!(exists("1").await, tag.is_some(), "{version:?} {name}");
            if let Some(tag) = tag {
                assert!(exists(tag).await);
                let note = format!("the tag {tag} names it too");
                let message = eventually(SOON, "it is said", async || {
                    let events = setup.cluster.events(name).await;
                    events
                        .into_iter()
                        .find(|message| message.contains(&note))
                        .ok_or_else(|| note.clone())
                })
                .await;
                assert!(message.starts_with("GarbageCollectionSucceeded: "), "{message}");
                repository.delete_manifest(&digest).await.unwrap();
            }
        }
    }
}

//! Packages whose images follow tags.

use jackal_operator::api::v1alpha1::{JackalImage, JackalPackage, PackagedImage};
use jackal_operator::registry::Repository;
use kube::api::ListParams;
use serde_json::json;

use crate::support::cluster::{Cluster, condition};
use crate::support::image::{image, noise, put};
use crate::support::objects::{ADDRESS, registry_at};
use crate::support::operator::Operator;
use crate::support::registry::{TestRegistry, Version};
use crate::support::wait::{SOON, eventually};

/// A source with an image, a destination, and an operator.
struct Setup {
    source: TestRegistry,
    registry: TestRegistry,
    cluster: Cluster,
    controller: Option<Operator>,
}

impl Setup {
    async fn new(tags: &[&str]) -> Self {
        let cluster = Cluster::recording_requests().await;
        let (source, registry) = (TestRegistry::start(Version::V31), TestRegistry::start(Version::V31));
        let setup = Self {
            controller: Some(cluster.controller(&["--insecure-registry", &source.host])),
            source,
            registry,
            cluster,
        };
        for tag in tags {
            setup.push(tag).await;
        }
        setup
    }

    fn repository(&self) -> Repository {
        self.source.repository("team/app")
    }

    /// Pushes an image with unique content.
    async fn push(&self, tag: &str) {
        let seed = tag.bytes().fold(7, |seed: u64, byte| seed * 31 + u64::from(byte));
        let document = image(&self.repository(), "linux/amd64", noise(seed, 2000)).await;
        put(&self.repository(), &document, Some(tag)).await;
    }

    fn image(&self) -> String {
        format!("{}/team/app", self.source.host)
    }

    /// Applies the package `app` of the image with this policy.
    fn apply(&self, policy: &str, version: &str, more: &str) {
        let registry = registry_at(&self.registry.host);
        self.cluster.apply(&format!(
            "apiVersion: jackal.dev/v1alpha1
kind: JackalPackage
metadata: {{name: app}}
spec:
  {version}
  components:
  - name: main
    images: [{{image: '{}', policy: {policy}}}]
  {registry}
  naming: Plain
  {more}
",
            self.image()
        ));
    }

    async fn request(&self, at: &str) {
        let annotations = json!({ "metadata": { "annotations": { "jackal.dev/requestedAt": at } } });
        self.cluster.patch::<JackalPackage>("app", annotations).await;
    }

    /// The package once a request was answered and it is Ready with `tag`.
    async fn wait_for_tag(&self, tag: &str) -> JackalPackage {
        let what = format!("Ready with {tag}");
        let holds = |package: &JackalPackage| {
            let status = package.status.as_ref()?;
            let ready = condition(&status.conditions, "Ready")?;
            let current = ready.status == "True" && ready.observed_generation == package.metadata.generation;
            let row = row(package)?;
            (current && row.digest.is_some() && row.selected.as_ref()?.tag == tag).then_some(())
        };
        self.cluster.package_where("app", &what, holds).await
    }
}

fn row(package: &JackalPackage) -> Option<&PackagedImage> {
    package.status.as_ref()?.images.first()
}

#[tokio::test]
async fn a_new_tag_produces_a_new_artifact_at_the_next_request() {
    let setup = Setup::new(&["latest", "5.9.0", "6.0.1", "7.0.0", "6.1.0-rc.1"]).await;
    setup.apply("{semver: {range: '>=6.0 <7'}}", "version: '1'", "");
    let first = setup.wait_for_tag("6.0.1").await;
    let selected = row(&first).unwrap().selected.clone().unwrap();
    assert_eq!(selected.reason, "NewestInRange");
    assert_eq!(selected.message, "the newest in >=6.0 <7");
    assert_eq!(row(&first).unwrap().image, setup.image());
    assert_eq!(row(&first).unwrap().name, format!("{ADDRESS}/team/app:6.0.1"));
    let before = first.status.unwrap();

    setup.push("6.1.0").await;
    setup.request("2026-01-01T00:00:00Z").await;
    let second = setup.wait_for_tag("6.1.0").await;
    let status = second.status.as_ref().unwrap();
    assert_eq!(
        status.last_handled_reconcile_at.as_deref(),
        Some("2026-01-01T00:00:00Z")
    );
    assert_ne!(status.artifact, before.artifact);
    assert_eq!(
        status.history[0].message,
        format!("{} 6.0.1 became 6.1.0", setup.image())
    );
    // The object of the previous tag is deleted.
    let objects = async || {
        let list = setup.cluster.api::<JackalImage>().list(&ListParams::default()).await;
        let images = list.map_err(|error| error.to_string())?.items;
        let images: Vec<String> = images.into_iter().map(|image| image.spec.image).collect();
        match images.as_slice() {
            [one] if one.ends_with(":6.1.0") => Ok(()),
            _ => Err(format!("{images:?}")),
        }
    };
    eventually(SOON, "one image is left", objects).await;

    // A request that finds nothing new changes only the handled request in the status.
    let known = status.clone();
    setup.request("2026-01-02T00:00:00Z").await;
    let third = setup.cluster.package_where("app", "answered", |package| {
        let status = package.status.as_ref()?;
        (status.last_handled_reconcile_at.as_deref() == Some("2026-01-02T00:00:00Z")).then_some(())
    });
    let mut third = third.await.status.unwrap();
    third.last_handled_reconcile_at = known.last_handled_reconcile_at.clone();
    assert_eq!(third, known);
}

#[tokio::test]
async fn the_interval_finds_new_tags_and_writes_nothing_otherwise() {
    let setup = Setup::new(&["main-9", "main-10", "dev-11"]).await;
    setup.apply(
        r"{pattern: '^main-(\d+)$', order: Numerical}",
        "version: '1'",
        "interval: 10s",
    );
    setup.wait_for_tag("main-10").await;
    eventually(SOON, "each success has its event", async || {
        let events = setup.cluster.writes();
        let events = events.iter().filter(|request| request.contains("/events")).count();
        if events == 2 { Ok(()) } else { Err(format!("{events}")) }
    })
    .await;
    let writes = setup.cluster.writes();
    setup.push("main-12").await;
    setup.wait_for_tag("main-12").await;
    // Everything was written for the new tag: no reconciliation before it wrote.
    let after = setup.cluster.writes();
    let first: &String = &after[writes.len()];
    assert!(first.contains("jackalimages"), "the new image is made first: {first}");
}

#[tokio::test]
async fn a_suspended_package_keeps_its_tag_across_a_restart() {
    let mut setup = Setup::new(&["6.0.1"]).await;
    setup.apply("{semver: {range: 6.x}}", "version: '1'", "");
    setup.wait_for_tag("6.0.1").await;
    // The next process must read the chosen tag from the status.
    setup.controller = None;
    setup.apply("{semver: {range: 6.x}}", "version: '1'", "suspend: true");
    setup.push("6.1.0").await;
    setup.controller = Some(setup.cluster.controller(&["--insecure-registry", &setup.source.host]));
    setup.request("2026-01-01T00:00:00Z").await;
    let package = setup.cluster.package_where("app", "suspended", |package| {
        let ready = condition(&package.status.as_ref()?.conditions, "Ready")?;
        (ready.reason == "Suspended" && ready.observed_generation == package.metadata.generation).then_some(())
    });
    let package = package.await;
    let row = row(&package).unwrap();
    assert_eq!(row.selected.as_ref().unwrap().tag, "6.0.1");
    let image = setup.cluster.api::<JackalImage>().get(&row.resource).await.unwrap();
    assert!(image.spec.suspend && image.spec.image.ends_with(":6.0.1"));
    setup.apply("{semver: {range: 6.x}}", "version: '1'", "suspend: false");
    setup.wait_for_tag("6.1.0").await;
}

#[tokio::test]
async fn without_a_matching_tag_the_existing_tags_are_reported() {
    let setup = Setup::new(&["5.1.0", "5.2.0", "latest"]).await;
    setup.apply("{semver: {range: '>=6.0 <7'}}", "version: '1'", "");
    let package = setup.cluster.package_where("app", "failing", |package| {
        let ready = condition(&package.status.as_ref()?.conditions, "Ready")?;
        (ready.reason == "SourceNotFound").then_some(())
    });
    let status = package.await.status.unwrap();
    let ready = condition(&status.conditions, "Ready").unwrap();
    let expected = format!(
        "no tag of {} is in >=6.0 <7: the newest are 5.2.0, 5.1.0; correct the policy, or push such a tag",
        setup.image()
    );
    assert_eq!(ready.message, expected);
    assert!(condition(&status.conditions, "Stalled").is_none());
    setup.push("6.0.0").await;
    setup.wait_for_tag("6.0.0").await;
    // Input that can never be read is not retried.
    setup.apply("{semver: {range: newest}}", "version: '1'", "");
    let package = setup.cluster.package_where("app", "stalled", |package| {
        let stalled = condition(&package.status.as_ref()?.conditions, "Stalled")?;
        (stalled.status == "True").then_some(())
    });
    let status = package.await.status.unwrap();
    let ready = condition(&status.conditions, "Ready").unwrap();
    assert!(
        ready.message.contains("`newest` is not a version range"),
        "{}",
        ready.message
    );
}

#[tokio::test]
async fn the_version_may_follow_an_image() {
    let setup = Setup::new(&["v6.0.1"]).await;
    let version = format!("versionFrom: {{image: '{}'}}", setup.image());
    setup.apply("{semver: {range: 6.x}}", &version, "");
    let first = setup.wait_for_tag("v6.0.1").await.status.unwrap().artifact.unwrap();
    assert!(first.revision.starts_with("v6.0.1@sha256:"), "{}", first.revision);
    assert_eq!(first.url, format!("oci://{ADDRESS}/app:v6.0.1"));
    setup.push("v6.1.0").await;
    setup.request("1").await;
    let second = setup.wait_for_tag("v6.1.0").await.status.unwrap();
    assert_eq!(second.artifact.unwrap().url, format!("oci://{ADDRESS}/app:v6.1.0"));
    let tags = setup.registry.repository("app").tags(100).await.unwrap().unwrap();
    assert_eq!(tags, ["v6.0.1", "v6.1.0"]);
    let newest = &second.history[0];
    assert_eq!(newest.reason, "VersionChanged");
    assert!(
        newest.message.contains("version v6.0.1 became v6.1.0"),
        "{}",
        newest.message
    );
    assert_eq!(second.version.as_deref(), Some("v6.1.0"));
}

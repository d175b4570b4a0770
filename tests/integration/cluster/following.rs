//! Packages whose images follow their tags.

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
struct Ground {
    source: TestRegistry,
    registry: TestRegistry,
    cluster: Cluster,
    controller: Option<Operator>,
}

impl Ground {
    async fn new(tags: &[&str]) -> Self {
        let cluster = Cluster::noting_requests().await;
        let (source, registry) = (TestRegistry::start(Version::V31), TestRegistry::start(Version::V31));
        let ground = Self {
            controller: Some(cluster.controller(&["--insecure-registry", &source.host])),
            source,
            registry,
            cluster,
        };
        for tag in tags {
            ground.push(tag).await;
        }
        ground
    }

    fn repository(&self) -> Repository {
        self.source.repository("team/app")
    }

    /// Pushes an image that no other tag has.
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
    async fn has(&self, tag: &str) -> JackalPackage {
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
async fn a_new_tag_makes_a_new_artifact_at_the_next_request() {
    let ground = Ground::new(&["latest", "5.9.0", "6.0.1", "7.0.0", "6.1.0-rc.1"]).await;
    ground.apply("{semver: {range: '>=6.0 <7'}}", "version: '1'", "");
    let first = ground.has("6.0.1").await;
    let selected = row(&first).unwrap().selected.clone().unwrap();
    assert_eq!(selected.reason, "NewestInRange");
    assert_eq!(selected.message, "the newest in >=6.0 <7");
    assert_eq!(row(&first).unwrap().image, ground.image());
    assert_eq!(row(&first).unwrap().name, format!("{ADDRESS}/team/app:6.0.1"));
    let before = first.status.unwrap();

    ground.push("6.1.0").await;
    ground.request("2026-01-01T00:00:00Z").await;
    let second = ground.has("6.1.0").await;
    let status = second.status.as_ref().unwrap();
    assert_eq!(
        status.last_handled_reconcile_at.as_deref(),
        Some("2026-01-01T00:00:00Z")
    );
    assert_ne!(status.artifact, before.artifact);
    assert_eq!(
        status.history[0].message,
        format!("{} 6.0.1 became 6.1.0", ground.image())
    );
    // The object of the tag before is gone.
    let objects = async || {
        let list = ground.cluster.api::<JackalImage>().list(&ListParams::default()).await;
        let images = list.map_err(|error| error.to_string())?.items;
        let images: Vec<String> = images.into_iter().map(|image| image.spec.image).collect();
        match images.as_slice() {
            [one] if one.ends_with(":6.1.0") => Ok(()),
            _ => Err(format!("{images:?}")),
        }
    };
    eventually(SOON, "one image is left", objects).await;

    // A request that finds nothing new changes nothing but that it was answered.
    let known = status.clone();
    ground.request("2026-01-02T00:00:00Z").await;
    let third = ground.cluster.package_where("app", "answered", |package| {
        let status = package.status.as_ref()?;
        (status.last_handled_reconcile_at.as_deref() == Some("2026-01-02T00:00:00Z")).then_some(())
    });
    let mut third = third.await.status.unwrap();
    third.last_handled_reconcile_at = known.last_handled_reconcile_at.clone();
    assert_eq!(third, known);
}

#[tokio::test]
async fn the_interval_finds_new_tags_and_writes_nothing_for_none() {
    let ground = Ground::new(&["main-9", "main-10", "dev-11"]).await;
    ground.apply(
        r"{pattern: '^main-(\d+)$', order: Numerical}",
        "version: '1'",
        "interval: 10s",
    );
    ground.has("main-10").await;
    eventually(SOON, "each success has its event", async || {
        let events = ground.cluster.writes();
        let events = events.iter().filter(|request| request.contains("/events")).count();
        if events == 2 { Ok(()) } else { Err(format!("{events}")) }
    })
    .await;
    let writes = ground.cluster.writes();
    ground.push("main-12").await;
    ground.has("main-12").await;
    // What was written is for the new tag alone: no look before it wrote.
    let after = ground.cluster.writes();
    let first: &String = &after[writes.len()];
    assert!(first.contains("jackalimages"), "the new image is made first: {first}");
}

#[tokio::test]
async fn a_suspended_package_keeps_its_tag_also_after_a_restart() {
    let mut ground = Ground::new(&["6.0.1"]).await;
    ground.apply("{semver: {range: 6.x}}", "version: '1'", "");
    ground.has("6.0.1").await;
    // What this process chose, the next one has to find in the status.
    ground.controller = None;
    ground.apply("{semver: {range: 6.x}}", "version: '1'", "suspend: true");
    ground.push("6.1.0").await;
    ground.controller = Some(ground.cluster.controller(&["--insecure-registry", &ground.source.host]));
    ground.request("2026-01-01T00:00:00Z").await;
    let package = ground.cluster.package_where("app", "suspended", |package| {
        let ready = condition(&package.status.as_ref()?.conditions, "Ready")?;
        (ready.reason == "Suspended" && ready.observed_generation == package.metadata.generation).then_some(())
    });
    let package = package.await;
    let row = row(&package).unwrap();
    assert_eq!(row.selected.as_ref().unwrap().tag, "6.0.1");
    let image = ground.cluster.api::<JackalImage>().get(&row.resource).await.unwrap();
    assert!(image.spec.suspend && image.spec.image.ends_with(":6.0.1"));
    ground.apply("{semver: {range: 6.x}}", "version: '1'", "suspend: false");
    ground.has("6.1.0").await;
}

#[tokio::test]
async fn nothing_that_fits_says_what_there_is_until_there_is_something() {
    let ground = Ground::new(&["5.1.0", "5.2.0", "latest"]).await;
    ground.apply("{semver: {range: '>=6.0 <7'}}", "version: '1'", "");
    let package = ground.cluster.package_where("app", "failing", |package| {
        let ready = condition(&package.status.as_ref()?.conditions, "Ready")?;
        (ready.reason == "SourceNotFound").then_some(())
    });
    let status = package.await.status.unwrap();
    let ready = condition(&status.conditions, "Ready").unwrap();
    let said = format!(
        "no tag of {} is in >=6.0 <7: the newest are 5.2.0, 5.1.0; correct the policy, or push such a tag",
        ground.image()
    );
    assert_eq!(ready.message, said);
    assert!(condition(&status.conditions, "Stalled").is_none());
    ground.push("6.0.0").await;
    ground.has("6.0.0").await;
    // What can never be read is not tried again.
    ground.apply("{semver: {range: newest}}", "version: '1'", "");
    let package = ground.cluster.package_where("app", "stalled", |package| {
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
    let ground = Ground::new(&["v6.0.1"]).await;
    let version = format!("versionFrom: {{image: '{}'}}", ground.image());
    ground.apply("{semver: {range: 6.x}}", &version, "");
    let first = ground.has("v6.0.1").await.status.unwrap().artifact.unwrap();
    assert!(first.revision.starts_with("v6.0.1@sha256:"), "{}", first.revision);
    assert_eq!(first.url, format!("oci://{ADDRESS}/app:v6.0.1"));
    ground.push("v6.1.0").await;
    ground.request("1").await;
    let second = ground.has("v6.1.0").await.status.unwrap();
    assert_eq!(second.artifact.unwrap().url, format!("oci://{ADDRESS}/app:v6.1.0"));
    let tags = ground.registry.repository("app").tags(100).await.unwrap().unwrap();
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

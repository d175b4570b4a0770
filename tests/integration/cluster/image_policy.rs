//! Standalone images whose tag is selected by a policy.

use jackal_operator::api::v1alpha1::JackalImage;
use jackal_operator::registry::Repository;
use serde_json::json;

use crate::support::cluster::{Cluster, condition};
use crate::support::image::{image, noise, put};
use crate::support::objects::{registry_at, standalone_image};
use crate::support::registry::{TestRegistry, Version};
use crate::support::wait::{SOON, eventually};

async fn push(repository: &Repository, tag: &str) -> String {
    let seed = tag.bytes().fold(7, |seed: u64, byte| seed * 31 + u64::from(byte));
    let document = image(repository, "linux/amd64", noise(seed, 2000)).await;
    put(repository, &document, Some(tag)).await;
    document.digest().to_string()
}

/// The image once it is Ready with `tag` and has handled `request`.
async fn wait_for_tag(cluster: &Cluster, tag: &str, request: Option<&str>) -> JackalImage {
    let what = format!("Ready with {tag}");
    let holds = |image: &JackalImage| {
        let status = image.status.as_ref()?;
        let ready = condition(&status.conditions, "Ready")?;
        let current = ready.status == "True" && ready.observed_generation == image.metadata.generation;
        let answered = status.last_handled_reconcile_at.as_deref() == request;
        (current && answered && status.selected.as_ref()?.tag == tag).then_some(())
    };
    cluster.image_where("app", &what, holds).await
}

#[tokio::test]
async fn a_policy_selects_the_tag_of_a_standalone_image() {
    let cluster = Cluster::new().await;
    let (source, registry) = (TestRegistry::start(Version::V31), TestRegistry::start(Version::V31));
    let repository = source.repository("team/app");
    let mut digests = Vec::new();
    for tag in ["latest", "5.9.0", "6.0.1", "7.0.0"] {
        digests.push(push(&repository, tag).await);
    }
    let name = format!("{}/team/app", source.host);
    let more = |range: &str, more: &str| {
        format!(
            "naming: Plain\n  policy: {{semver: {{range: '{range}'}}}}\n  {}\n  {more}",
            registry_at(&registry.host)
        )
    };
    let controller = cluster.controller(&["--insecure-registry", &source.host]);
    cluster.apply(&standalone_image(
        "app",
        &name,
        &more(">=6.0 <7", "deletionPolicy: Delete"),
    ));
    let status = wait_for_tag(&cluster, "6.0.1", None).await.status.unwrap();
    let selected = status.selected.as_ref().unwrap();
    assert_eq!(
        (selected.reason.as_str(), selected.message.as_str()),
        ("NewestInRange", "the newest in >=6.0 <7")
    );
    assert_eq!(status.digest.as_deref(), Some(digests[2].as_str()));
    assert!(
        status.name.as_ref().unwrap().ends_with("/team/app:6.0.1"),
        "{:?}",
        status.name
    );

    // A request finds a new tag; the handled request is recorded with it.
    let newer = push(&repository, "6.1.0").await;
    let request = |at: &str| json!({ "metadata": { "annotations": { "jackal.dev/requestedAt": at } } });
    cluster.patch::<JackalImage>("app", request("1")).await;
    let status = wait_for_tag(&cluster, "6.1.0", Some("1")).await.status.unwrap();
    assert_eq!(status.digest.as_deref(), Some(newer.as_str()));
    eventually(SOON, "the choice is told", async || {
        let events = cluster.events("app").await;
        let reported = events
            .iter()
            .filter(|event| event.starts_with("TagSelected: the tag 6."));
        match reported.count() {
            2 => Ok(()),
            _ => Err(format!("{events:?}")),
        }
    })
    .await;

    // A request that finds nothing new only records that it was handled.
    cluster.patch::<JackalImage>("app", request("2")).await;
    let again = wait_for_tag(&cluster, "6.1.0", Some("2")).await.status.unwrap();
    assert_eq!(again.digest, status.digest);

    // No tag matches: the copied image is still shown, and it is not Ready.
    cluster.apply(&standalone_image("app", &name, &more(">=8", "deletionPolicy: Delete")));
    let failing = cluster.image_where("app", "failing", |image| {
        let status = image.status.as_ref()?;
        let ready = condition(&status.conditions, "Ready")?;
        let current = ready.observed_generation == image.metadata.generation;
        (current && ready.reason == "SourceNotFound").then_some(())
    });
    let status = failing.await.status.unwrap();
    assert_eq!(status.selected.unwrap().observed_generation, None);
    push(&repository, "8.0.0").await;
    wait_for_tag(&cluster, "8.0.0", Some("2")).await;

    // While suspended, it keeps its tag, also for another process.
    drop(controller);
    cluster.apply(&standalone_image(
        "app",
        &name,
        &more(">=8", "deletionPolicy: Delete\n  suspend: true"),
    ));
    push(&repository, "8.1.0").await;
    let _controller = cluster.controller(&["--insecure-registry", &source.host]);
    let suspended = cluster.image_where("app", "suspended", |image| {
        let ready = condition(&image.status.as_ref()?.conditions, "Ready")?;
        let current = ready.observed_generation == image.metadata.generation;
        (current && ready.reason == "Suspended").then_some(())
    });
    assert_eq!(suspended.await.status.unwrap().selected.unwrap().tag, "8.0.0");
    cluster.apply(&standalone_image(
        "app",
        &name,
        &more(">=8", "deletionPolicy: Delete\n  suspend: false"),
    ));
    wait_for_tag(&cluster, "8.1.0", Some("2")).await;

    // The last selected tag is deleted with the object; earlier ones are kept.
    cluster.kubectl(&["delete", "jkimg/app", "--timeout=30s"]);
    let destination = registry.repository("team/app");
    let tags = destination.tags(100).await.unwrap().unwrap();
    assert_eq!(tags, ["6.0.1", "6.1.0", "8.0.0"]);
}

#[tokio::test]
async fn an_empty_policy_is_rejected_by_the_api_server() {
    let cluster = Cluster::new().await;
    let refused = |image: &str, more: &str| cluster.try_apply(&standalone_image("app", image, more)).unwrap_err();
    let policy = "policy: {pattern: '^v'}";
    for image in [
        "ghcr.io/acme/app:1",
        "localhost:5000/app:1",
        &format!("app@sha256:{}", "a".repeat(64)),
    ] {
        let rejection = refused(image, policy);
        assert!(
            rejection.contains("remove tag and digest from image"),
            "{image}: {rejection}"
        );
    }
    let rejection = refused("app", &format!("{policy}\n  source: Docker"));
    assert!(
        rejection.contains("set source: Registry, or remove policy"),
        "{rejection}"
    );
    cluster.apply(&standalone_image("app", "localhost:5000/app", policy));
}

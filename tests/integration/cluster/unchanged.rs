//! A package that does not change, and the same package built elsewhere.

use std::time::Duration;

use super::{layered, package, unique};
use crate::docker::engines::DockerEngine;
use crate::support::cluster::{Cluster, required};
use crate::support::image::multi_platform;
use crate::support::registry::{TestRegistry, Version};
use crate::support::throttle::Throttle;
use crate::support::wait::{SOON, eventually};
use crate::support::workspace::Workspace;

/// Requests without blobs have less than this number of bytes.
const NO_BLOB: u64 = 100_000;

#[tokio::test]
async fn an_unchanged_package_causes_no_write_and_no_blob_transfer() {
    let cluster = Cluster::recording_requests().await;
    let engine = DockerEngine::all().into_iter().next().unwrap();
    let image = layered(&unique("app:dev"), "unchanged");
    engine.load(&image.archive());
    let (source, registry) = (TestRegistry::start(Version::V31), TestRegistry::start(Version::V28));
    multi_platform(&source.repository("team/tool"), "2").await;
    let (from, to) = (Throttle::to(&source.host, 0), Throttle::to(&registry.host, 0));
    let _controller = cluster.controller(&["--insecure-registry", &from.host]);
    let _agent = cluster.agent("n1", &engine.host, &[]);
    let lines = [
        format!("{{image: '{}/team/tool:2'}}", from.host),
        format!("{{image: '{}', source: Docker}}", image.name),
    ];
    let yaml = package("app", &to.host, &[&lines[0], &lines[1]], "interval: 10s");
    cluster.apply(&yaml);
    let first = cluster.ready("app").await.status.unwrap();
    assert!(to.sent() > NO_BLOB);
    // An event is written after its status.
    eventually(SOON, "each success has its event", async || {
        let written = cluster
            .writes()
            .iter()
            .filter(|request| request.contains("/events"))
            .count();
        if written == 3 {
            Ok(())
        } else {
            Err(format!("{written} events"))
        }
    })
    .await;
    let (written, moved) = (cluster.writes(), to.sent());

    // Twice, so that everything is reconciled in between, including the artifact.
    cluster.apply(&yaml);
    for _ in 0..2 {
        let (asked, answered) = (from.sent(), to.sent());
        eventually(SOON, "the sources are looked at again", async || {
            let looked = from.sent() > asked && to.sent() > answered;
            if looked {
                Ok(())
            } else {
                Err(format!("{} and {} bytes", from.sent(), to.sent()))
            }
        })
        .await;
        // The remaining requests of the same reconciliation, which begins for all images at about the same time.
        tokio::time::sleep(Duration::from_secs(2)).await;
    }
    assert_eq!(
        cluster.writes()[written.len()..],
        [] as [String; 0],
        "an idle package writes nothing"
    );
    let looked = to.sent() - moved;
    assert!(looked < NO_BLOB, "{looked} bytes went to the registry");

    let moved = to.sent();
    cluster.request("app", "again").await;
    let answered = cluster
        .package_where("app", "asked again and Ready", |package| {
            let status = package.status.as_ref()?;
            let ready = status
                .conditions
                .iter()
                .any(|c| c.type_ == "Ready" && c.status == "True");
            (ready && status.last_handled_reconcile_at.as_deref() == Some("again")).then_some(())
        })
        .await;
    let status = answered.status.unwrap();
    assert_eq!(status.artifact, first.artifact);
    assert_eq!(status.history, first.history);
    for image in cluster.images().await {
        assert_eq!(
            image.status.unwrap().last_handled_reconcile_at.as_deref(),
            Some("again")
        );
    }
    assert!(to.sent() - moved < NO_BLOB);
    // On each image the request and its handling, on the package its handling: no event, no transient state.
    let news: Vec<String> = cluster.writes()[written.len()..].to_vec();
    assert_eq!(news.len(), 5, "{news:?}");
    assert!(!news.iter().any(|request| request.contains("/events")), "{news:?}");
}

#[tokio::test]
async fn two_builds_produce_the_same_digests() {
    let [old, classic, _] = DockerEngine::all();
    let image = layered(&unique("app:dev"), "twice");
    let source = TestRegistry::start(Version::V28);
    multi_platform(&source.repository("team/tool"), "2").await;
    multi_platform(&source.repository("team/other"), "1").await;
    let lines = [
        format!("{{image: '{}/team/tool:2'}}", source.host),
        format!("{{image: '{}', source: Docker}}", image.name),
        format!("{{image: '{}/team/other:1', platforms: [linux/arm64]}}", source.host),
    ];
    let lines: Vec<&str> = lines.iter().map(String::as_str).collect();
    let mut built = Vec::new();
    let machines = [
        (&old, Version::V28, "1", "Pacific/Kiritimati"),
        (&classic, Version::V31, "8", "America/Los_Angeles"),
    ];
    for (engine, version, concurrency, zone) in machines {
        engine.load(&image.archive());
        let (cluster, registry) = (Cluster::new().await, TestRegistry::start(version));
        let flags = ["--insecure-registry", &source.host, "--concurrency", concurrency];
        let _controller = cluster.controller_with(&flags, &[("TZ", zone)]);
        let _agent = cluster.agent("n1", &engine.host, &["--concurrency", concurrency]);
        cluster.apply(&package("app", &registry.host, &lines, "naming: Zarf"));
        let status = cluster.ready("app").await.status.unwrap();
        let rows: Vec<_> = status
            .images
            .iter()
            .map(|row| (row.name.clone(), row.digest.clone()))
            .collect();
        built.push((status.artifact.unwrap().digest, rows));
    }
    assert_eq!(built[0], built[1]);

    let (registry, folder) = (TestRegistry::start(Version::V31), Workspace::new());
    let text = package("app", "unused.invalid", &lines, "naming: Zarf");
    for (to, docker) in [
        (registry.host.as_str(), "JACKAL_DOCKER_CLASSIC"),
        ("oci:layout", "JACKAL_DOCKER20"),
    ] {
        let docker = required(docker);
        let report = folder.text_report(&text, to, &[&source.host], &["--docker-host", &docker]);
        assert_eq!(report["digest"], built[0].0, "built to {to}");
    }
}

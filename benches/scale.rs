//! One controller and many packages: how long until all are Ready, what the API server is asked meanwhile, and how much
//! memory the controller takes. `make bench-scale` runs it; the numbers of packages are its arguments.

#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used)]

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use futures::{StreamExt as _, stream};
use jackal_operator::api::v1alpha1::JackalPackage;
use k8s_openapi::api::events::v1::Event;
use kube::Api;
use kube::api::{ListParams, PostParams};
use serde_json::json;

use support::cluster::{Cluster, condition};
use support::image::{image, noise, put};
use support::registry::{TestRegistry, Version};

// What the tests have besides is of no use here.
#[allow(dead_code)]
#[path = "../tests/integration/support/mod.rs"]
mod support;

/// Images of a package.
const IMAGES: usize = 5;
/// The controller's memory is to stay below, in megabytes.
const MEMORY: u64 = 256;
/// What brings so many packages to Ready takes no longer.
const LIMIT: Duration = Duration::from_secs(1800);
/// Watched for writes once everything is Ready.
const IDLE: Duration = Duration::from_secs(30);

#[tokio::main]
async fn main() {
    let counts: Vec<usize> = std::env::args().skip(1).filter_map(|text| text.parse().ok()).collect();
    let counts = if counts.is_empty() { vec![10, 100, 1000] } else { counts };
    let source = TestRegistry::start(Version::V31);
    let most = counts.iter().copied().max().unwrap_or_default();
    eprintln!("making {} images", most * IMAGES);
    fill(&source, most).await;
    println!(
        "| packages | images | s | packages/s | controller peak MB | API requests | for each object | writes for each object | idle writes |"
    );
    println!("|---|---|---|---|---|---|---|---|---|");
    for count in counts {
        measure(&source, count).await;
    }
}

/// Small images that have no blob in common.
async fn fill(source: &TestRegistry, packages: usize) {
    let client = source.client();
    let numbers = (0..packages).flat_map(|package| (0..IMAGES).map(move |image| (package, image)));
    stream::iter(numbers)
        .for_each_concurrent(16, |(package, number)| {
            let repository = client.repository(format!("scale/{package}/{number}"));
            async move {
                let content = noise((package * IMAGES + number) as u64, 2000);
                let image = image(&repository, "linux/amd64", content).await;
                put(&repository, &image, Some("1")).await;
            }
        })
        .await;
}

async fn measure(source: &TestRegistry, count: usize) {
    let cluster = Cluster::recording_requests().await;
    let destination = TestRegistry::start(Version::V31);
    let api: Api<JackalPackage> = cluster.api();
    let controller = cluster.controller_with(
        &["--insecure-registry", &source.host],
        &[("JACKAL_LOG", "warn"), ("JACKAL_LEASE_DURATION", "15s")],
    );
    let began = Instant::now();
    stream::iter(0..count)
        .for_each_concurrent(8, |number| {
            let package = package(number, source, &destination);
            let api = api.clone();
            async move { drop(api.create(&PostParams::default(), &package).await.unwrap()) }
        })
        .await;
    loop {
        let ready = ready(&api).await;
        if ready == count {
            break;
        }
        let taken = began.elapsed();
        assert!(
            taken < LIMIT,
            "{ready} of {count} are Ready after {taken:?}: {}",
            controller.log()
        );
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
    let seconds = began.elapsed().as_secs_f64();
    // What follows the last status, its event.
    settled(&cluster, count).await;
    let requests = cluster.requests();
    let written = writes(&requests);
    tokio::time::sleep(IDLE).await;
    let idle = writes(&cluster.requests()) - written;
    let peak = controller.peak_memory() / 1_000_000;
    let objects = (count * (1 + IMAGES)) as f64;
    let mut verbs: BTreeMap<&str, usize> = BTreeMap::new();
    for request in &requests {
        *verbs.entry(request.split(' ').next().unwrap_or_default()).or_default() += 1;
    }
    let verbs: Vec<String> = verbs.iter().map(|(verb, number)| format!("{number} {verb}")).collect();
    println!(
        "| {count} | {} | {seconds:.1} | {:.1} | {peak} | {} | {:.1} | {:.1} | {idle} |",
        count * IMAGES,
        count as f64 / seconds,
        verbs.join(", "),
        requests.len() as f64 / objects,
        written as f64 / objects,
    );
    println!(
        "goal: {count} packages, {peak} MB, aimed at below {MEMORY} MB: {}",
        if peak < MEMORY { "reached" } else { "MISSED" }
    );
    println!(
        "goal: {count} packages, {idle} writes in {IDLE:?} of rest, aimed at none: {}",
        if idle == 0 { "reached" } else { "MISSED" }
    );
}

fn package(number: usize, source: &TestRegistry, destination: &TestRegistry) -> JackalPackage {
    let images: Vec<_> = (0..IMAGES)
        .map(|image| json!({ "image": format!("{}/scale/{number}/{image}:1", source.host) }))
        .collect();
    serde_json::from_value(json!({
        "apiVersion": "jackal.dev/v1alpha1",
        "kind": "JackalPackage",
        "metadata": { "name": format!("scale-{number}") },
        "spec": {
            "version": "1.0.0",
            "registry": { "address": destination.host, "insecure": true },
            "components": [{ "name": "all", "images": images }],
        },
    }))
    .unwrap()
}

async fn ready(api: &Api<JackalPackage>) -> usize {
    let list = api.list(&ListParams::default()).await.unwrap();
    let is_ready = |package: &&JackalPackage| {
        let status = package.status.as_ref();
        status
            .and_then(|status| condition(&status.conditions, "Ready"))
            .is_some_and(|ready| ready.status == "True")
    };
    list.items.iter().filter(is_ready).count()
}

/// Waits until each package has the event of its success.
async fn settled(cluster: &Cluster, count: usize) {
    let events: Api<Event> = cluster.api();
    support::wait::eventually(support::wait::SOON, "each package has its event", async || {
        let list = events
            .list(&ListParams::default())
            .await
            .map_err(|error| error.to_string())?;
        let of_package = |event: &&Event| {
            event
                .regarding
                .as_ref()
                .is_some_and(|about| about.kind.as_deref() == Some("JackalPackage"))
                && event.reason.as_deref() == Some("Succeeded")
        };
        match list.items.iter().filter(of_package).count() {
            found if found >= count => Ok(()),
            found => Err(format!("{found} of {count}")),
        }
    })
    .await;
}

fn writes(requests: &[String]) -> usize {
    requests.iter().filter(|request| !request.starts_with("GET ")).count()
}

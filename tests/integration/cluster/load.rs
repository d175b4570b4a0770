//! Many packages, and registries that are slow, unresponsive or overloaded.

use std::time::Duration;

use jackal_operator::api::v1alpha1::JackalImage;
use tokio::net::TcpListener;

use super::package;
use crate::support::cluster::{Cluster, condition};
use crate::support::image::{image, noise, put};
use crate::support::registry::{TestRegistry, Version};
use crate::support::scripted::{ScriptedServer, reply};
use crate::support::wait::{SOON, eventually};

/// Images of one package.
const IMAGES: usize = 5;

/// Pushes the images of one package and returns their lines in it.
async fn images(source: &TestRegistry, package: usize) -> Vec<String> {
    let mut lines = Vec::new();
    for number in 0..IMAGES {
        let name = format!("load/{package}/{number}");
        let repository = source.repository(&name);
        let image = image(
            &repository,
            "linux/amd64",
            noise((package * IMAGES + number) as u64, 1000),
        )
        .await;
        put(&repository, &image, Some("1")).await;
        lines.push(format!("{{image: '{}/{name}:1'}}", source.host));
    }
    lines
}

#[tokio::test]
async fn an_object_needs_few_api_requests() {
    const PACKAGES: usize = 12;
    let cluster = Cluster::recording_requests().await;
    let (source, registry) = (TestRegistry::start(Version::V31), TestRegistry::start(Version::V31));
    let _controller = cluster.controller(&["--insecure-registry", &source.host]);
    for number in 0..PACKAGES {
        let lines = images(&source, number).await;
        let lines: Vec<&str> = lines.iter().map(String::as_str).collect();
        cluster.apply(&package(&format!("load-{number}"), &registry.host, &lines, ""));
    }
    for number in 0..PACKAGES {
        cluster.ready(&format!("load-{number}")).await;
    }
    let requests = cluster.requests();
    let objects = PACKAGES * (1 + IMAGES);
    let counted = |holds: &dyn Fn(&str) -> bool| requests.iter().filter(|request| holds(request)).count();
    let writes = counted(&|request| !request.starts_with("GET "));
    assert!(
        writes <= objects * 6,
        "{writes} writes for {objects} objects: {requests:#?}"
    );
    // Listing all images of the namespace is one request, for any number of images.
    let lists = counted(&|request| request.starts_with("GET ") && request.ends_with("/jackalimages"));
    assert!(lists <= PACKAGES * 3 + 10, "{lists} lists for {PACKAGES} packages");
}

#[tokio::test]
async fn an_unresponsive_registry_does_not_block_other_packages() {
    let cluster = Cluster::new().await;
    let (source, registry) = (TestRegistry::start(Version::V31), TestRegistry::start(Version::V31));
    // The kernel accepts the connections, and nothing responds.
    let dead = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let dead = dead.local_addr().map(|address| (dead, address.to_string())).unwrap();
    let hosts = format!("{},{}", dead.1, source.host);
    let _controller = cluster.controller(&["--insecure-registry", &hosts]);
    let lines: Vec<String> = (0..20)
        .map(|number| format!("{{image: '{}/x/{number}:1'}}", dead.1))
        .collect();
    let lines: Vec<&str> = lines.iter().map(String::as_str).collect();
    cluster.apply(&package("dead", &registry.host, &lines, ""));
    cluster
        .package_where("dead", "waiting for its images", |package| package.status.clone())
        .await;
    let lines = images(&source, 0).await;
    let lines: Vec<&str> = lines.iter().map(String::as_str).collect();
    cluster.apply(&package("good", &registry.host, &lines, ""));
    // The others stall for two minutes, four times.
    cluster.ready("good").await;
}

#[tokio::test]
async fn a_registry_that_answers_429_is_not_flooded() {
    let cluster = Cluster::new().await;
    let registry = TestRegistry::start(Version::V31);
    let throttling = ScriptedServer::start(|_| reply(429, &[("retry-after", "600")], "")).await;
    let _controller = cluster.controller(&["--insecure-registry", &throttling.host]);
    const COUNT: usize = 20;
    let lines: Vec<String> = (0..COUNT)
        .map(|number| format!("{{image: '{}/x/{number}:1'}}", throttling.host))
        .collect();
    let lines: Vec<&str> = lines.iter().map(String::as_str).collect();
    cluster.apply(&package("throttled", &registry.host, &lines, ""));
    let waiting = |image: &JackalImage| {
        let status = image.status.as_ref()?;
        let ready = condition(&status.conditions, "Ready")?;
        (ready.reason == "RateLimited").then_some(())
    };
    eventually(SOON, "all images wait", async || {
        let images = cluster.images().await;
        match images.iter().filter_map(waiting).count() {
            COUNT => Ok(()),
            count => Err(format!("{count} wait")),
        }
    })
    .await;
    // The first requests may all have been sent before the first response.
    let asked = throttling.requests().len();
    tokio::time::sleep(Duration::from_secs(3)).await;
    assert_eq!(throttling.requests().len(), asked, "it asked for ten minutes");
    assert!(asked <= COUNT, "{asked} requests");
}

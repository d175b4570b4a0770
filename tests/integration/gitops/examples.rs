//! examples/ and docs/howto-deployment.md: a real API server accepts them, and they show what the operator does.

use jackal_operator::oci::{Location, Naming};
use serde_json::Value;

use crate::support::cluster::Cluster;
use crate::support::image::{image, noise, put};
use crate::support::objects::ADDRESS;
use crate::support::registry::{TestRegistry, Version};

const FOLDER: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/examples");
const PAGE: &str = include_str!("../../../docs/howto-deployment.md");
/// The registry in the examples.
const PLACEHOLDER: &str = "registry.example.com";
const EXAMPLE: &str = include_str!("../../../examples/deployment.yaml");

#[tokio::test]
async fn every_example_is_accepted_by_an_api_server() {
    let cluster = Cluster::new().await;
    let mut count = 0;
    for entry in std::fs::read_dir(FOLDER).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_none_or(|extension| extension != "yaml") {
            continue;
        }
        let text = std::fs::read_to_string(&path).unwrap();
        for way in [&["--validate=strict"][..], &["--server-side", "--validate=strict"]] {
            let arguments = [way, &["--dry-run=server"]].concat();
            let taken = cluster.try_apply_with(&text, &arguments);
            taken.unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        }
        count += 1;
    }
    assert!(count >= 4, "{count}");
}

#[test]
fn the_page_shows_the_example_and_its_image_names() {
    let objects = &EXAMPLE[EXAMPLE.find("apiVersion").unwrap()..];
    assert!(
        PAGE.contains(objects),
        "copy examples/deployment.yaml to docs/howto-deployment.md"
    );
    let image = format!("{PLACEHOLDER}/shop/web:1.4.0").parse().unwrap();
    for (naming, part) in [(Naming::Plain, "default"), (Naming::Zarf, "")] {
        let name = Location::new(&image, ADDRESS, part, naming, true).unwrap();
        assert!(PAGE.contains(&name.to_string()), "{name}");
    }
}

#[tokio::test]
async fn the_deployment_references_the_copied_images() {
    let (cluster, source, registry) = (
        Cluster::new().await,
        TestRegistry::start(Version::V31),
        TestRegistry::start(Version::V31),
    );
    let repository = source.repository("shop/web");
    let content = image(&repository, "linux/amd64", noise(51, 5_000)).await;
    put(&repository, &content, Some("1.4.0")).await;
    let _controller = cluster.controller(&[
        "--insecure-registry",
        &source.host,
        "--registry-address",
        ADDRESS,
        "--registry-endpoint",
        &registry.host,
        "--registry-insecure",
    ]);
    let here = format!("{ADDRESS}/{}/", cluster.namespace);
    let example = EXAMPLE.replace(&format!("{ADDRESS}/default/"), &here);
    cluster.apply(&example.replace(PLACEHOLDER, &source.host));
    let status = cluster.ready("web").await.status.unwrap();
    let output = cluster.kubectl(&["get", "deployment", "web", "--output", "json"]);
    let deployment: Value = serde_json::from_str(&output).unwrap();
    let named = &deployment["spec"]["template"]["spec"]["containers"][0]["image"];
    assert_eq!(*named, status.images[0].name);
    let path = status.images[0].name.strip_prefix(&format!("{ADDRESS}/")).unwrap();
    let digest = status.images[0].digest.clone().unwrap();
    assert_eq!(registry.crane("digest", path).trim(), digest);
}

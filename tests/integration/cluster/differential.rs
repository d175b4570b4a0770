//! Differential packages.

use jackal_operator::api::v1alpha1::JackalPackage;
use jackal_operator::oci::Content;

use crate::support::cluster::{Cluster, condition};
use crate::support::image::{image, noise, put};
use crate::support::objects::package;
use crate::support::registry::{TestRegistry, Version};

/// The paths of the files of the current package.
async fn files(registry: &TestRegistry, of: &JackalPackage) -> Vec<String> {
    let digest = &of.status.as_ref().unwrap().artifact.as_ref().unwrap().digest;
    let document = registry.repository("shop").manifest(digest).await.unwrap().unwrap();
    let Content::Manifest(manifest) = document.content else {
        panic!("{digest} is no manifest")
    };
    let title = |layer: &jackal_operator::oci::Descriptor| layer.annotations["org.opencontainers.image.title"].clone();
    manifest.layers.iter().map(title).collect()
}

#[tokio::test]
async fn a_differential_package_omits_images_of_an_earlier_version() {
    let cluster = Cluster::new().await;
    let (source, registry) = (TestRegistry::start(Version::V31), TestRegistry::start(Version::V31));
    let _controller = cluster.controller(&["--insecure-registry", &source.host]);
    let mut blobs = Vec::new();
    for (name, seed) in [("base", 1), ("app", 2)] {
        let repository = source.repository(&format!("team/{name}"));
        let document = image(&repository, "linux/amd64", noise(seed, 300_000)).await;
        put(&repository, &document, Some("1")).await;
        let layer = document.manifest().unwrap().layers[0].clone();
        blobs.push((format!("images/blobs/sha256/{}", layer.digest.hex()), layer.size));
    }
    let images = ["base", "app"].map(|name| format!("{}/team/{name}:1", source.host));
    let images = images.map(|image| format!("{{image: '{image}'}}"));
    let images = [images[0].as_str(), images[1].as_str()];
    let registry_of = crate::support::objects::registry_at(&registry.host);

    // Nothing can be omitted because of a version that does not exist.
    cluster.apply(&package(
        "shop",
        "2",
        &images,
        &format!("{registry_of}\n  differentialFrom: {{version: '1'}}"),
    ));
    let failed = |package: &JackalPackage| {
        let ready = condition(&package.status.as_ref()?.conditions, "Ready")?;
        (ready.status == "False" && ready.message.contains("differentialFrom: the package")).then_some(())
    };
    let package_failed = cluster.package_where("shop", "failing for its base", failed).await;
    assert!(package_failed.status.unwrap().artifact.is_none());

    cluster.apply(&package("shop", "1", &images[..1], &registry_of));
    let first = cluster.ready("shop").await;
    assert!(first.status.as_ref().unwrap().differential.is_none());
    assert!(files(&registry, &first).await.contains(&blobs[0].0));

    cluster.apply(&package(
        "shop",
        "2",
        &images,
        &format!("{registry_of}\n  differentialFrom: {{version: '1'}}"),
    ));
    let second = cluster.ready("shop").await;
    let files = files(&registry, &second).await;
    assert!(!files.contains(&blobs[0].0) && files.contains(&blobs[1].0), "{files:?}");
    let status = second.status.unwrap();
    let differential = status.differential.unwrap();
    assert_eq!((differential.version.as_str(), differential.omitted_images), ("1", 1));
    assert_eq!(differential.digest, first.status.unwrap().artifact.unwrap().digest);
    let (saved, layer) = (differential.saved_bytes, i64::try_from(blobs[0].1).unwrap());
    assert!((layer..layer + 4000).contains(&saved), "{saved} of a layer of {layer}");
    // The image is in the cluster nevertheless.
    assert_eq!(status.images.len(), 2);
    assert!(status.images.iter().all(|row| row.digest.is_some()));
}

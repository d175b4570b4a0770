//! Packages published to real registries, from images of several platforms.

use std::sync::Arc;

use jackal_operator::api::v1alpha1::JackalPackageSpec;
use jackal_operator::fault::Fault;
use jackal_operator::oci::{Digest, Document, Index};
use jackal_operator::package::{Definition, Plan, TransferredImage, publish};
use jackal_operator::transfer::{Destination, LayoutDestination, RegistryDestination};

use crate::support::image;
use crate::support::independent::pull_and_verify;
use crate::support::registry::{TestRegistry, VERSIONS};

const TITLE: &str = "org.opencontainers.image.title";

fn definition(naming: &str, architecture: &str) -> Definition {
    let spec: JackalPackageSpec = serde_json::from_value(serde_json::json!({
        "version": "1.0.0", "naming": naming, "architecture": architecture,
        "components": [{"name": "web", "images": [{"image": "nginx:1"}, {"image": "ghcr.io/x/app:1"}]}],
    }))
    .unwrap();
    let plan = Plan::of(&spec, "127.0.0.1:31999", "").unwrap();
    Definition::of("podinfo", &spec, &plan).unwrap()
}

fn at(registry: &TestRegistry, repository: &str) -> Arc<dyn Destination> {
    Arc::new(RegistryDestination::new(registry.repository(repository)))
}

/// An image, and an index with attestations.
async fn images(registry: &TestRegistry) -> Vec<TransferredImage> {
    let (nginx, app) = (registry.repository("library/nginx"), registry.repository("x/app"));
    let single = image::image(&nginx, "linux/amd64", image::noise(7, 3_000_000)).await;
    image::put(&nginx, &single, Some("1")).await;
    let (index, _) = image::multi_platform(&app, "1").await;
    let brought = |reference: &str, root: &Document, repository: &str| TransferredImage {
        reference: reference.parse().unwrap(),
        digest: root.digest().clone(),
        destination: at(registry, repository),
        documents: Vec::new(),
        origin: None,
    };
    vec![
        brought("nginx:1", &single, "library/nginx"),
        brought("ghcr.io/x/app:1", &index, "x/app"),
    ]
}

async fn ignore_progress(_: &Digest) -> Result<(), Fault> {
    Ok(())
}

#[tokio::test]
async fn a_package_is_complete_and_mounts_its_layers() {
    for version in VERSIONS {
        let registry = TestRegistry::start(version);
        let images = images(&registry).await;
        let package = at(&registry, "team/podinfo");
        for naming in ["Jackal", "Zarf"] {
            let definition = definition(naming, "amd64");
            let published = publish(&definition, images[..].into(), &*package, naming, ignore_progress)
                .await
                .unwrap();
            assert!(published.changed);
            assert!(
                published.size > 3_600_000 && published.moved_bytes < 60_000,
                "{published:?}"
            );

            // Every layer exists with the content of its digest, and the checksums agree.
            let manifest = package.document(published.manifest.as_str()).await.unwrap().unwrap();
            let manifest = manifest.manifest().unwrap().clone();
            let mut listed = Vec::new();
            for layer in &manifest.layers {
                let content = package.blob(&layer.digest, 4_000_000).await.unwrap().unwrap();
                assert_eq!(content.len() as u64, layer.size);
                let path = &layer.annotations[TITLE];
                if !path.ends_with(".yaml") && path != "checksums.txt" {
                    listed.push(format!("{} {path}\n", Digest::of(&content).hex()));
                }
            }
            listed.sort();
            let checksums = manifest
                .layers
                .iter()
                .find(|layer| layer.annotations[TITLE] == "checksums.txt");
            let checksums = package
                .blob(&checksums.unwrap().digest, 100_000)
                .await
                .unwrap()
                .unwrap();
            assert_eq!(listed.concat().as_bytes(), checksums);

            // Another client reads the same.
            let index: Index =
                serde_json::from_str(&registry.crane("manifest", &format!("team/podinfo:{naming}"))).unwrap();
            assert_eq!(index.manifests[0].digest, published.manifest);
            let pulled = pull_and_verify(&registry.host, "team/podinfo", naming).await;
            assert_eq!(pulled.digest, published.index.as_str());
            assert!(pulled.manifests.contains(published.manifest.as_str()), "{pulled:?}");

            let again = publish(&definition, images[..].into(), &*package, naming, ignore_progress)
                .await
                .unwrap();
            assert_eq!(
                (again.changed, again.moved_bytes, again.index),
                (false, 0, published.index)
            );
        }
    }
}

#[tokio::test]
async fn concurrently_published_architectures_are_all_in_the_index() {
    let registry = TestRegistry::start(VERSIONS[0]);
    let images = images(&registry).await;
    let package = at(&registry, "podinfo");
    let definitions = ["amd64", "arm64", "s390x"].map(|architecture| definition("Zarf", architecture));
    let runs = definitions
        .iter()
        .map(|definition| publish(definition, images[..].into(), &*package, "1.0.0", ignore_progress));
    let published = futures::future::try_join_all(runs).await.unwrap();
    let index = package.document("1.0.0").await.unwrap().unwrap();
    let entries: Vec<Digest> = index
        .index()
        .unwrap()
        .manifests
        .iter()
        .map(|entry| entry.digest.clone())
        .collect();
    let manifests: Vec<Digest> = published.into_iter().map(|published| published.manifest).collect();
    assert_eq!(entries, manifests);
}

#[tokio::test]
async fn layers_that_cannot_be_mounted_are_uploaded() {
    // A layout is not a repository of the registry: nothing can be mounted into it.
    let registry = TestRegistry::start(VERSIONS[0]);
    let images = images(&registry).await;
    let folder = tempfile::tempdir().unwrap();
    let layout = LayoutDestination::new(folder.path(), "podinfo");
    let definition = definition("Zarf", "amd64");
    let sent = publish(&definition, images[..].into(), &layout, "1.0.0", ignore_progress)
        .await
        .unwrap();
    assert!(sent.moved_bytes > sent.size, "{sent:?}");
    // The result does not depend on the destination.
    let package = at(&registry, "podinfo");
    let mounted = publish(&definition, images[..].into(), &*package, "1.0.0", ignore_progress)
        .await
        .unwrap();
    assert_eq!((mounted.manifest, mounted.index), (sent.manifest, sent.index));
}

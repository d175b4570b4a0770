//! Images out of real docker engines of all three shapes.

pub mod collected;
mod compressed;
mod content;
mod double;
pub mod engines;
mod graph;
pub mod indexes;
pub mod push;
mod tars;

use std::sync::Arc;
use std::time::Duration;

use jackal_operator::fault::Reason;
use jackal_operator::oci::{
    Compression, Content, Digest, Document, Location, Manifest, Naming, Reference, ReferrersPolicy,
};
use jackal_operator::source::docker::{Docker, Engine, ImageChange, ImageEvents, StorageKind};
use jackal_operator::source::{Delivery, Identity, ImageSource, Method};
use jackal_operator::transfer::{RegistryDestination, Transfer};

use self::collected::Collected;
use self::engines::{Image, Real, Victim, noise, tar};
use crate::support::registry::TestRegistry;

fn reference(text: &str) -> Reference {
    text.parse().unwrap()
}

async fn deliver(docker: &Docker, name: &str, sink: &Collected) -> Delivery {
    let image = docker.resolve(&reference(name), &[]).await.unwrap();
    docker.deliver(&image, sink).await.unwrap()
}

fn manifest(delivered: &Delivery) -> &Manifest {
    match delivered.documents.as_slice() {
        [only] => only.manifest().unwrap(),
        several => panic!("{} documents", several.len()),
    }
}

fn unpacked(kind: &str, content: &[u8]) -> Digest {
    if !kind.ends_with("gzip") {
        return Digest::of(content);
    }
    let mut plain = Vec::new();
    std::io::Read::read_to_end(&mut flate2::read::GzDecoder::new(content), &mut plain).unwrap();
    Digest::of(&plain)
}

/// The way of an image to `registry`, where nothing is known from before, as after a restart.
pub fn transfer(
    docker: &Docker,
    image: &str,
    registry: &TestRegistry,
    prefix: &str,
    compression: Compression,
) -> Transfer {
    let reference = reference(image);
    let location = Location::new(&reference, &registry.host, prefix, Naming::Plain, true).unwrap();
    Transfer {
        source: Arc::new(docker.clone()),
        reference,
        platforms: Vec::new(),
        destination: Arc::new(RegistryDestination::new(registry.repository(&location.repository))),
        location,
        compression,
        referrers: ReferrersPolicy::Copy,
        progress: Arc::default(),
        known: Arc::default(),
    }
}

/// The manifest of `image` where `transfer` went, once the configuration and all layers are found to be its own.
async fn stands(transfer: &Transfer, image: &Image) -> Document {
    let document = transfer.destination.document("1").await.unwrap().unwrap();
    let manifest = document.manifest().unwrap();
    assert_eq!(manifest.config.digest, Digest::of(&image.config));
    assert_eq!(manifest.layers.len(), image.layers.len());
    for (layer, diff_id) in manifest.layers.iter().zip(image.diff_ids()) {
        // Its digest is verified.
        let stored = transfer.destination.blob(&layer.digest, 8 << 20).await;
        assert_eq!(unpacked(&layer.media_type, &stored.unwrap().unwrap()), diff_id);
    }
    document
}

#[tokio::test]
async fn every_layer_arrives_and_a_repeat_brings_nothing() {
    for real in Real::all() {
        let image = Image::varied("jackal-test/varied:1");
        real.load(&image.archive());
        assert_eq!(real.docker.engine().shape().await.unwrap(), real.shape, "{}", real.host);

        let sink = Collected::default();
        let first = deliver(&real.docker, &image.name, &sink).await;
        assert_eq!(first.method, Method::DockerSave);
        let manifest = manifest(&first);
        assert_eq!(
            sink.blobs.lock().unwrap()[&manifest.config.digest],
            image.config,
            "{}",
            real.host
        );
        let layers: Vec<Digest> = manifest
            .layers
            .iter()
            .map(|layer| {
                let blobs = sink.blobs.lock().unwrap();
                assert_eq!(blobs[&layer.digest].len() as u64, layer.size);
                unpacked(&layer.media_type, &blobs[&layer.digest])
            })
            .collect();
        assert_eq!(layers, image.diff_ids(), "{}", real.host);
        // The layer that is there twice came once.
        assert_eq!(sink.taken().len(), image.layers.len(), "{}", real.host);

        let elsewhere = deliver(&real.docker, &image.name, &Collected::default()).await;
        assert_eq!(elsewhere.documents, first.documents, "{}", real.host);
        let again = deliver(&real.docker, &image.name, &sink).await;
        assert_eq!(again.documents, first.documents);
        assert_eq!(sink.taken(), vec![], "{}", real.host);
        if real.shape == StorageKind::Classic {
            assert_eq!(again.method, Method::Unchanged);
        }
    }
}

#[tokio::test]
async fn layers_that_are_held_are_passed_over() {
    for real in Real::all()
        .into_iter()
        .filter(|real| real.shape == StorageKind::Classic)
    {
        let image = Image::varied("jackal-test/held:1");
        real.load(&image.archive());
        let sink = Collected::default();
        sink.hold_diff(&image.layers[0]);
        sink.hold_diff(&image.layers[2]);
        let delivered = deliver(&real.docker, &image.name, &sink).await;
        let mut taken = sink.taken();
        taken.sort();
        let mut expected = vec![
            Digest::of(&image.config),
            Digest::of(&image.layers[1]),
            Digest::of(&image.layers[4]),
        ];
        expected.sort();
        assert_eq!(taken, expected, "{}", real.host);
        let layers: Vec<Digest> = manifest(&delivered).layers.iter().map(|l| l.digest.clone()).collect();
        assert_eq!(layers, image.diff_ids());
    }
}

#[tokio::test]
async fn an_image_is_found_by_name_digest_and_id() {
    for real in Real::all() {
        let image = Image::varied("jackal-test/pinned:1");
        real.load(&image.archive());
        let resolve = async |text: String| real.docker.resolve(&reference(&text), &[]).await;
        let found = resolve(image.name.clone()).await.unwrap();
        let id = found.identity.digest().clone();
        match (&found.identity, real.shape) {
            (Identity::Config { image_id, diff_ids }, StorageKind::Classic) => {
                assert_eq!(*image_id, Digest::of(&image.config));
                assert_eq!(*diff_ids, image.diff_ids());
            }
            (Identity::Manifest(_), StorageKind::Containerd) => {}
            (other, _) => panic!("{}: {other:?}", real.host),
        }
        for name in [format!("{}@{id}", image.name), format!("jackal-test/pinned@{id}")] {
            assert_eq!(resolve(name).await.unwrap().identity, found.identity, "{}", real.host);
        }
        let other = Digest::of(b"other");
        let fault = resolve(format!("{}@{other}", image.name)).await.unwrap_err();
        assert_eq!(fault.reason, Reason::DigestMismatch);
        assert!(fault.message.contains(id.as_str()), "{fault}");
        for name in ["jackal-test/none:1".to_owned(), format!("jackal-test/pinned@{other}")] {
            let fault = resolve(name.clone()).await.unwrap_err();
            assert_eq!(fault.reason, Reason::SourceNotFound, "{}: {fault}", real.host);
            assert!(fault.message.contains(&format!("no image `{name}`")), "{fault}");
        }
        let windows = ["windows/amd64".parse().unwrap()];
        let fault = real
            .docker
            .resolve(&reference(&image.name), &windows)
            .await
            .unwrap_err();
        assert_eq!(fault.reason, Reason::SourceNotFound);
    }
}

#[tokio::test]
async fn an_engine_that_is_not_there_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let host = format!("unix://{}/none.sock", folder.path().display());
    let docker = Docker::new(Engine::new(Some(&host), Duration::from_secs(1)).unwrap(), None);
    let fault = docker.resolve(&reference("app:dev"), &[]).await.unwrap_err();
    assert_eq!(fault.reason, Reason::SourceFailed);
    let expected = format!("the docker engine at {host} cannot be reached");
    assert!(fault.message.starts_with(&expected), "{fault}");
}

async fn until(events: &mut ImageEvents, real: &Real, wanted: impl Fn(&ImageChange) -> bool) {
    let found = async { while !wanted(&events.next().await) {} };
    let ended = tokio::time::timeout(Duration::from_secs(30), found).await;
    assert!(ended.is_ok(), "{}: no such notice", real.host);
}

#[tokio::test]
async fn every_change_of_an_image_is_noticed() {
    let context = tempfile::tempdir().unwrap();
    std::fs::write(context.path().join("Dockerfile"), "FROM scratch\nCOPY Dockerfile /\n").unwrap();
    let folder = context.path().to_str().unwrap();
    let file = context.path().join("rootfs.tar");
    std::fs::write(&file, tar(&[("a", "a")])).unwrap();
    for real in Real::all() {
        let mut events = ImageEvents::new(real.docker.engine().clone());
        assert_eq!(events.next().await, ImageChange::Resync);
        let named = |wanted: &'static str| move |notice: &ImageChange| matches!(notice, ImageChange::Changed { name: Some(name) } if name == wanted);
        let any = |notice: &ImageChange| matches!(notice, ImageChange::Changed { .. });

        real.run(&["build", "--quiet", "--tag", "jackal-test/built:1", folder]);
        until(&mut events, &real, named("jackal-test/built:1")).await;
        real.run(&["tag", "jackal-test/built:1", "jackal-test/tagged:1"]);
        until(&mut events, &real, named("jackal-test/tagged:1")).await;
        real.run(&["import", file.to_str().unwrap(), "jackal-test/imported:1"]);
        until(&mut events, &real, named("jackal-test/imported:1")).await;
        // What follows has no name on every engine.
        let mut events = ImageEvents::new(real.docker.engine().clone());
        assert_eq!(events.next().await, ImageChange::Resync);
        real.run(&["rmi", "jackal-test/tagged:1"]);
        until(&mut events, &real, any).await;
        let mut events = ImageEvents::new(real.docker.engine().clone());
        assert_eq!(events.next().await, ImageChange::Resync);
        real.load(&Image::new("jackal-test/loaded:1", vec![tar(&[("b", "b")])]).archive());
        until(&mut events, &real, any).await;
    }
}

#[tokio::test]
async fn an_engine_that_dies_in_an_export_leaves_nothing_half() {
    for (part, shape) in [
        ("docker20", StorageKind::Classic),
        ("docker-containerd", StorageKind::Containerd),
    ] {
        let victim = Victim::start(part, shape);
        let docker = &victim.real.docker;
        let layer = tar(&[("large", noise(64 << 20))]);
        victim
            .real
            .load(&Image::new("jackal-test/large:1", vec![layer]).archive());
        let mut events = ImageEvents::new(docker.engine().clone());
        assert_eq!(events.next().await, ImageChange::Resync);

        let sink = Collected::default();
        sink.interrupt(victim.killer());
        let image = docker.resolve(&reference("jackal-test/large:1"), &[]).await.unwrap();
        let delivery = tokio::time::timeout(Duration::from_secs(10), docker.deliver(&image, &sink));
        let fault = delivery.await.expect("noticed at once").unwrap_err();
        assert_eq!(fault.reason, Reason::SourceFailed, "{fault}");
        let large = sink.blobs.lock().unwrap().values().any(|blob| blob.len() > 1 << 20);
        assert!(!large, "{part}");

        until(&mut events, &victim.real, |notice| {
            matches!(notice, ImageChange::Lost(_))
        })
        .await;
        // A process takes a while to die; its socket answers with a reset until then.
        let unreachable = async {
            while !matches!(docker.engine().ping().await, Err(fault) if fault.message.contains("cannot be reached")) {}
        };
        tokio::time::timeout(Duration::from_secs(10), unreachable)
            .await
            .unwrap();
        victim.start_again();
        until(&mut events, &victim.real, |notice| *notice == ImageChange::Resync).await;
        docker.engine().ping().await.unwrap();
    }
}

#[tokio::test]
async fn a_legacy_build_keeps_its_layers() {
    let context = tempfile::tempdir().unwrap();
    let recipe = "FROM scratch\nCOPY a /\nCOPY b /\nCOPY a /\nLABEL x=y\n";
    for (name, content) in [("Dockerfile", recipe), ("a", "a"), ("b", "b")] {
        std::fs::write(context.path().join(name), content).unwrap();
    }
    for real in Real::all() {
        let name = "jackal-test/legacy:1";
        real.run(&["build", "--quiet", "--tag", name, context.path().to_str().unwrap()]);
        let inspected = real.docker.engine().inspect(name).await.unwrap().unwrap();
        let sink = Collected::default();
        let delivered = deliver(&real.docker, name, &sink).await;
        let manifest = delivered.documents.iter().find_map(|document| match &document.content {
            Content::Manifest(manifest) => Some(manifest),
            Content::Index(_) => None,
        });
        let blobs = sink.blobs.lock().unwrap();
        let layers: Vec<Digest> = manifest
            .unwrap()
            .layers
            .iter()
            .map(|layer| unpacked(&layer.media_type, &blobs[&layer.digest]))
            .collect();
        assert_eq!(layers, inspected.diff_ids, "{}", real.host);
    }
}

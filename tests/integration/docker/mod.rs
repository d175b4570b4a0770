//! Images from real docker engines of all three configurations.

mod compressed;
mod content;
pub mod engines;
mod fake_engine;
mod graph;
pub mod indexes;
pub mod memory_sink;
pub mod push;
mod tars;

use std::sync::Arc;
use std::time::Duration;

use jackal_operator::fault::Reason;
use jackal_operator::oci::{
    Compression, Content, Digest, Document, Location, Manifest, Naming, Reference, ReferrersPolicy,
};
use jackal_operator::source::docker::{Docker, Engine, ImageEvents, StorageKind};
use jackal_operator::source::{Delivery, Identity, ImageChange, ImageSource, Method};
use jackal_operator::transfer::{RegistryDestination, Transfer};

use self::engines::{DedicatedEngine, DockerEngine, Image, noise, tar};
use self::memory_sink::MemorySink;
use crate::support::independent::pull_and_verify;
use crate::support::registry::{TestRegistry, Version};

fn reference(text: &str) -> Reference {
    text.parse().unwrap()
}

async fn deliver(docker: &Docker, name: &str, sink: &MemorySink) -> Delivery {
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

/// The transfer of an image to `registry`, without state from earlier transfers, as after a restart.
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

/// The manifest of `image` at the destination of `transfer`, after verifying its configuration and layers.
async fn stored_image(transfer: &Transfer, image: &Image) -> Document {
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
async fn every_layer_is_delivered_and_a_repeat_delivers_nothing() {
    for engine in DockerEngine::all() {
        let image = Image::varied("jackal-test/varied:1");
        engine.load(&image.archive());
        assert_eq!(
            engine.docker.engine().storage_kind().await.unwrap(),
            engine.shape,
            "{}",
            engine.host
        );

        let sink = MemorySink::default();
        let first = deliver(&engine.docker, &image.name, &sink).await;
        assert_eq!(first.method, Method::DockerSave);
        let manifest = manifest(&first);
        assert_eq!(
            sink.blobs.lock().unwrap()[&manifest.config.digest],
            image.config,
            "{}",
            engine.host
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
        assert_eq!(layers, image.diff_ids(), "{}", engine.host);
        // The duplicate layer was delivered once.
        assert_eq!(sink.taken().len(), image.layers.len(), "{}", engine.host);

        let elsewhere = deliver(&engine.docker, &image.name, &MemorySink::default()).await;
        assert_eq!(elsewhere.documents, first.documents, "{}", engine.host);
        let again = deliver(&engine.docker, &image.name, &sink).await;
        assert_eq!(again.documents, first.documents);
        assert_eq!(sink.taken(), vec![], "{}", engine.host);
        if engine.shape == StorageKind::Classic {
            assert_eq!(again.method, Method::Unchanged);
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn another_client_can_pull_the_images_of_each_engine() {
    let registry = TestRegistry::start(Version::V31);
    for (at, engine) in DockerEngine::all().into_iter().enumerate() {
        let image = Image::varied("jackal-test/pulled:1");
        engine.load(&image.archive());
        for (compression, form) in [
            (Compression::None, "plain"),
            (Compression::Zstd, "zstd"),
            (Compression::Gzip, "gzip"),
        ] {
            let prefix = format!("{form}{at}");
            let transfer = transfer(&engine.docker, &image.name, &registry, &prefix, compression);
            let outcome = transfer.run().await.unwrap();
            let pulled = pull_and_verify(&registry.host, &transfer.location.repository, "1").await;
            assert_eq!(pulled.digest, outcome.digest.as_str(), "{} {form}", engine.host);
            // The configuration, and each layer once.
            assert_eq!(pulled.blobs.len(), image.layers.len(), "{} {form}", engine.host);
        }
    }
}

#[tokio::test]
async fn existing_layers_are_skipped() {
    for engine in DockerEngine::all()
        .into_iter()
        .filter(|engine| engine.shape == StorageKind::Classic)
    {
        let image = Image::varied("jackal-test/held:1");
        engine.load(&image.archive());
        let sink = MemorySink::default();
        sink.hold_diff(&image.layers[0]);
        sink.hold_diff(&image.layers[2]);
        let delivered = deliver(&engine.docker, &image.name, &sink).await;
        let mut taken = sink.taken();
        taken.sort();
        let mut expected = vec![
            Digest::of(&image.config),
            Digest::of(&image.layers[1]),
            Digest::of(&image.layers[4]),
        ];
        expected.sort();
        assert_eq!(taken, expected, "{}", engine.host);
        let layers: Vec<Digest> = manifest(&delivered).layers.iter().map(|l| l.digest.clone()).collect();
        assert_eq!(layers, image.diff_ids());
    }
}

#[tokio::test]
async fn an_image_is_found_by_name_digest_and_id() {
    for engine in DockerEngine::all() {
        let image = Image::varied("jackal-test/pinned:1");
        engine.load(&image.archive());
        let resolve = async |text: String| engine.docker.resolve(&reference(&text), &[]).await;
        let found = resolve(image.name.clone()).await.unwrap();
        let id = found.identity.digest().clone();
        match (&found.identity, engine.shape) {
            (Identity::Config { image_id, diff_ids }, StorageKind::Classic) => {
                assert_eq!(*image_id, Digest::of(&image.config));
                assert_eq!(*diff_ids, image.diff_ids());
            }
            (Identity::Manifest(_), StorageKind::Containerd) => {}
            (other, _) => panic!("{}: {other:?}", engine.host),
        }
        for name in [format!("{}@{id}", image.name), format!("jackal-test/pinned@{id}")] {
            assert_eq!(resolve(name).await.unwrap().identity, found.identity, "{}", engine.host);
        }
        let other = Digest::of(b"other");
        let fault = resolve(format!("{}@{other}", image.name)).await.unwrap_err();
        assert_eq!(fault.reason, Reason::DigestMismatch);
        assert!(fault.message.contains(id.as_str()), "{fault}");
        for name in ["jackal-test/none:1".to_owned(), format!("jackal-test/pinned@{other}")] {
            let fault = resolve(name.clone()).await.unwrap_err();
            assert_eq!(fault.reason, Reason::SourceNotFound, "{}: {fault}", engine.host);
            assert!(fault.message.contains(&format!("no image `{name}`")), "{fault}");
        }
        let windows = ["windows/amd64".parse().unwrap()];
        let fault = engine
            .docker
            .resolve(&reference(&image.name), &windows)
            .await
            .unwrap_err();
        assert_eq!(fault.reason, Reason::SourceNotFound);
    }
}

#[tokio::test]
async fn an_unreachable_engine_is_reported() {
    let folder = tempfile::tempdir().unwrap();
    let host = format!("unix://{}/none.sock", folder.path().display());
    let docker = Docker::new(Engine::new(Some(&host), Duration::from_secs(1)).unwrap(), None);
    let fault = docker.resolve(&reference("app:dev"), &[]).await.unwrap_err();
    assert_eq!(fault.reason, Reason::SourceFailed);
    let expected = format!("the docker engine at {host} cannot be reached");
    assert!(fault.message.starts_with(&expected), "{fault}");
}

async fn until(events: &mut ImageEvents, engine: &DockerEngine, wanted: impl Fn(&ImageChange) -> bool) {
    let found = async { while !wanted(&events.next().await) {} };
    let ended = tokio::time::timeout(Duration::from_secs(30), found).await;
    assert!(ended.is_ok(), "{}: no such notice", engine.host);
}

#[tokio::test]
async fn every_change_of_an_image_is_detected() {
    let context = tempfile::tempdir().unwrap();
    std::fs::write(context.path().join("Dockerfile"), "FROM scratch\nCOPY Dockerfile /\n").unwrap();
    let folder = context.path().to_str().unwrap();
    let file = context.path().join("rootfs.tar");
    std::fs::write(&file, tar(&[("a", "a")])).unwrap();
    for engine in DockerEngine::all() {
        let mut events = ImageEvents::new(engine.docker.engine().clone());
        assert_eq!(events.next().await, ImageChange::Resync);
        let named = |wanted: &'static str| move |notice: &ImageChange| matches!(notice, ImageChange::Changed { name: Some(name) } if name == wanted);
        let any = |notice: &ImageChange| matches!(notice, ImageChange::Changed { .. });

        engine.run(&["build", "--quiet", "--tag", "jackal-test/built:1", folder]);
        until(&mut events, &engine, named("jackal-test/built:1")).await;
        engine.run(&["tag", "jackal-test/built:1", "jackal-test/tagged:1"]);
        until(&mut events, &engine, named("jackal-test/tagged:1")).await;
        engine.run(&["import", file.to_str().unwrap(), "jackal-test/imported:1"]);
        until(&mut events, &engine, named("jackal-test/imported:1")).await;
        // The following events have no name on some engines.
        let mut events = ImageEvents::new(engine.docker.engine().clone());
        assert_eq!(events.next().await, ImageChange::Resync);
        engine.run(&["rmi", "jackal-test/tagged:1"]);
        until(&mut events, &engine, any).await;
        let mut events = ImageEvents::new(engine.docker.engine().clone());
        assert_eq!(events.next().await, ImageChange::Resync);
        engine.load(&Image::new("jackal-test/loaded:1", vec![tar(&[("b", "b")])]).archive());
        until(&mut events, &engine, any).await;
    }
}

#[tokio::test]
async fn an_engine_that_dies_during_an_export_leaves_no_partial_layer() {
    for (part, shape) in [
        ("docker20", StorageKind::Classic),
        ("docker-containerd", StorageKind::Containerd),
    ] {
        let dedicated = DedicatedEngine::start(part, shape);
        let docker = &dedicated.engine.docker;
        let layer = tar(&[("large", noise(64 << 20))]);
        dedicated
            .engine
            .load(&Image::new("jackal-test/large:1", vec![layer]).archive());
        let mut events = ImageEvents::new(docker.engine().clone());
        assert_eq!(events.next().await, ImageChange::Resync);

        let sink = MemorySink::default();
        sink.interrupt(dedicated.killer());
        let image = docker.resolve(&reference("jackal-test/large:1"), &[]).await.unwrap();
        let delivery = tokio::time::timeout(Duration::from_secs(10), docker.deliver(&image, &sink));
        let fault = delivery.await.expect("noticed at once").unwrap_err();
        assert_eq!(fault.reason, Reason::SourceFailed, "{fault}");
        let large = sink.blobs.lock().unwrap().values().any(|blob| blob.len() > 1 << 20);
        assert!(!large, "{part}");

        until(&mut events, &dedicated.engine, |notice| {
            matches!(notice, ImageChange::Lost(_))
        })
        .await;
        // A process takes a while to die; until then its socket resets connections.
        let unreachable = async {
            while !matches!(docker.engine().ping().await, Err(fault) if fault.message.contains("cannot be reached")) {}
        };
        tokio::time::timeout(Duration::from_secs(10), unreachable)
            .await
            .unwrap();
        dedicated.start_again();
        until(&mut events, &dedicated.engine, |notice| *notice == ImageChange::Resync).await;
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
    for engine in DockerEngine::all() {
        let name = "jackal-test/legacy:1";
        engine.run(&["build", "--quiet", "--tag", name, context.path().to_str().unwrap()]);
        let inspected = engine.docker.engine().inspect(name).await.unwrap().unwrap();
        let sink = MemorySink::default();
        let delivered = deliver(&engine.docker, name, &sink).await;
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
        assert_eq!(layers, inspected.diff_ids, "{}", engine.host);
    }
}

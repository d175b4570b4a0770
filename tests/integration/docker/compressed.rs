//! Layers that are compressed during the transfer, from engines to registries and back into engines.

use std::sync::Arc;

use jackal_operator::oci::{Compression, Digest, Document, Manifest};
use jackal_operator::source::Method;
use jackal_operator::source::docker::Docker;
use jackal_operator::transfer::{Outcome, Transfer};

use super::engines::{DockerEngine, Image, noise, required, tar};
use super::transfer;
use crate::support::independent::pull_and_verify;
use crate::support::process::run;
use crate::support::registry::{TestRegistry, Version};

/// Some megabytes of unique text.
fn text(name: &str) -> Vec<u8> {
    let mut text = String::new();
    for line in 0..60_000 {
        text.push_str(&format!("{name} line {line} of {}\n", line * 7919 % 10_007));
    }
    text.into_bytes()
}

/// A unique image name.
fn unique(name: &str) -> String {
    format!("jackal-test-{:012x}/{name}:1", fastrand::u64(..1 << 48))
}

fn classic_engine() -> DockerEngine {
    let host = required("JACKAL_DOCKER_CLASSIC");
    DockerEngine::all()
        .into_iter()
        .find(|engine| engine.host == host)
        .unwrap()
}

async fn copy_image(docker: &Docker, image: &str, registry: &TestRegistry, compression: Compression) -> Outcome {
    // Without state from earlier transfers, as after a restart.
    let transfer = transfer(docker, image, registry, "", compression);
    transfer.run().await.unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn engines_can_pull_compressed_layers() {
    let source = classic_engine();
    let name = unique("app");
    let content = [text(&name), noise(700_000)].concat();
    let image = Image::new(
        &name,
        vec![
            tar(&[("d/", &b""[..]), ("d/content", &content), ("name", name.as_bytes())]),
            vec![0; 1024],
            tar(&[("small", name.as_bytes())]),
        ],
    );
    source.load(&image.archive());
    let registry = TestRegistry::start(Version::V31);
    for (variable, compression) in [
        // 20.10 does not support zstd.
        ("JACKAL_DOCKER20", Compression::Gzip),
        ("JACKAL_DOCKER_CONTAINERD", Compression::Zstd),
        ("JACKAL_DOCKER_CONTAINERD", Compression::Gzip),
    ] {
        let outcome = copy_image(&source.graph(), &name, &registry, compression).await;
        assert_eq!(outcome.method, Method::DockerGraph);
        assert!(outcome.size < content.len() as u64 / 2, "{}", outcome.size);
        let engine = DockerEngine::all()
            .into_iter()
            .find(|engine| engine.host == required(variable))
            .unwrap();
        let (repository, tag) = name.rsplit_once(':').unwrap();
        let verified = pull_and_verify(&registry.host, repository, tag).await;
        assert_eq!(verified.digest, outcome.digest.as_str());
        let pulled = format!("{}/{name}", registry.host);
        engine.run(&["pull", "--quiet", &pulled]);
        let container = engine.output(&["create", &pulled, "/none"]).trim().to_owned();
        let file = tempfile::NamedTempFile::new().unwrap();
        let path = file.path().to_str().unwrap();
        engine.run(&["export", "--output", path, &container]);
        engine.run(&["rm", &container]);
        engine.run(&["rmi", &pulled]);
        let mut extract = std::process::Command::new("tar");
        let extracted = extract.args(["-xOf", path, "d/content"]).output().unwrap();
        assert!(extracted.stdout == content, "{variable} {compression:?}: {extracted:?}");
        assert_eq!(run("tar", &["-xOf", path, "small"]), name);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn only_the_changed_layer_is_transferred() {
    for engine in [classic_engine(), DockerEngine::all().into_iter().next().unwrap()] {
        for (compression, graph) in [
            (Compression::Gzip, true),
            (Compression::Zstd, true),
            (Compression::Gzip, false),
        ] {
            let docker = match graph {
                true => engine.graph(),
                false => engine.docker.clone(),
            };
            let name = unique("repeat");
            let layer = |what: &str| tar(&[(what, text(&format!("{name} {what}")))]);
            let small = |what: &str| tar(&[("small", what)]);
            let first = Image::new(&name, vec![layer("a"), layer("b"), layer("c"), small(&name)]);
            let mut changed = Image::new(
                &name,
                vec![layer("a"), layer("b"), layer("c"), small(&format!("{name} changed"))],
            );
            let registry = TestRegistry::start(Version::V31);
            engine.load(&first.archive());
            let all = copy_image(&docker, &name, &registry, compression).await;
            assert_eq!(all.moved_blobs, 5);
            let again = copy_image(&docker, &name, &registry, compression).await;
            assert_eq!(
                (again.moved_blobs, again.moved_bytes, again.method),
                (0, 0, Method::Unchanged)
            );
            assert_eq!(again.digest, all.digest);

            engine.load(&changed.archive());
            let one = copy_image(&docker, &name, &registry, compression).await;
            assert_eq!(
                one.moved_blobs, 2,
                "the configuration and the layer; {compression:?} {graph}"
            );
            assert!(one.moved_bytes < 10_000, "{}", one.moved_bytes);
            let elsewhere = copy_image(&docker, &name, &TestRegistry::start(Version::V28), compression).await;
            assert_eq!(elsewhere.digest, one.digest, "what stood does not show");

            // With one layer less, and then uncompressed.
            changed.layers.remove(1);
            let fewer = Image::new(&name, changed.layers.clone());
            engine.load(&fewer.archive());
            let less = copy_image(&docker, &name, &registry, compression).await;
            // The configuration; an export of 20.10 does not identify the topmost layer.
            assert!(less.moved_blobs <= 1 + u64::from(!graph), "{}", less.moved_blobs);
            assert!(less.moved_bytes < 10_000, "{}", less.moved_bytes);
            let plain = copy_image(&docker, &name, &registry, Compression::None).await;
            assert_eq!(plain.moved_blobs, 3);
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn incompressible_layers_are_stored_uncompressed() {
    let engine = classic_engine();
    for (compression, graph) in [
        (Compression::Zstd, true),
        (Compression::Gzip, true),
        (Compression::Zstd, false),
    ] {
        let docker = match graph {
            true => engine.graph(),
            false => engine.docker.clone(),
        };
        let name = unique("noise");
        let random = tar(&[("weights", noise(3_000_000))]);
        let words = tar(&[("words", text(&name))]);
        let image = |tag: &str| {
            let small = tar(&[("small", "a word ".repeat(50) + tag)]);
            let name = name.replace(":1", tag);
            engine.load(&Image::new(&name, vec![random.clone(), words.clone(), small]).archive());
            name
        };
        let registry = TestRegistry::start(Version::V31);
        let first = copy_image(&docker, &image(":1"), &registry, compression).await;
        assert_eq!(first.moved_blobs, 4);
        let layers = first.documents[0].manifest().unwrap().layers.clone();
        let forms = [Compression::None, compression, compression].map(Compression::layer_type);
        assert_eq!(layers.iter().map(|layer| &layer.media_type).collect::<Vec<_>>(), forms);
        assert_eq!(layers[0].digest, Digest::of(&random));
        let again = copy_image(&docker, &name, &registry, compression).await;
        assert_eq!((again.moved_blobs, again.method), (0, Method::Unchanged));
        // Under another tag without an image: layers are found by their digests.
        let second = copy_image(&docker, &image(":2"), &registry, compression).await;
        assert_eq!(second.moved_blobs, 3, "{compression:?} {graph}");
        assert!(
            second.moved_bytes < words.len() as u64 + 10_000,
            "{}",
            second.moved_bytes
        );
        // Without compression the image is another one.
        let plain = copy_image(&docker, &name, &registry, Compression::None).await;
        assert!(plain.digest != first.digest && plain.moved_blobs == 2, "{plain:?}");
    }
}

/// A manifest as other tools write it, and one with unusual white space.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn layers_compressed_by_others_are_not_reused() {
    let engine = classic_engine();
    let name = unique("foreign");
    let image = Image::new(&name, vec![tar(&[("a", text(&name))])]);
    engine.load(&image.archive());
    let registry = TestRegistry::start(Version::V31);
    let ours = copy_image(&engine.graph(), &name, &registry, Compression::Gzip).await;
    let repository = registry.repository(name.trim_end_matches(":1"));
    let existing = repository.manifest("1").await.unwrap().unwrap();
    let mut foreign: Manifest = existing.manifest().unwrap().clone();
    foreign.layers[0].annotations.clear();
    let spaced = [&existing.raw[..], b"\n"].concat();
    for document in [
        Document::of_manifest(foreign).unwrap(),
        Document::parse(None, spaced.into()).unwrap(),
    ] {
        repository.put_manifest(&document, "1").await.unwrap();
        let again = copy_image(&engine.graph(), &name, &registry, Compression::Gzip).await;
        assert_eq!((again.digest, again.moved_blobs), (ours.digest.clone(), 1));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_shared_base_layer_is_compressed_once() {
    let engine = classic_engine();
    for graph in [true, false] {
        let docker = match graph {
            true => engine.graph(),
            false => engine.docker.clone(),
        };
        let names = [unique("one"), unique("two"), unique("three")];
        let base = tar(&[("base", text(&names[0]))]);
        for name in &names {
            let own = tar(&[("own", name.as_bytes())]);
            engine.load(&Image::new(name, vec![base.clone(), own]).archive());
        }
        let registry = TestRegistry::start(Version::V31);
        let known = Arc::default();
        let transfers = names.each_ref().map(|name| Transfer {
            known: Arc::clone(&known),
            ..transfer(&docker, name, &registry, "team", Compression::Zstd)
        });
        // Two concurrently, one later.
        let (one, two) = futures::try_join!(transfers[0].run(), transfers[1].run()).unwrap();
        let three = transfers[2].run().await.unwrap();
        let blobs = one.moved_blobs + two.moved_blobs + three.moved_blobs;
        let bytes = one.moved_bytes + two.moved_bytes + three.moved_bytes;
        assert_eq!(blobs, 1 + 3 * 2, "the base, and a layer and a configuration each");
        assert!(bytes < base.len() as u64 + 20_000, "{bytes}");
        for transfer in &transfers {
            let existing = transfer.destination.document("1").await.unwrap().unwrap();
            for layer in &existing.manifest().unwrap().layers {
                let held = transfer.destination.holds(&layer.digest).await.unwrap();
                assert_eq!(held, Some(layer.size));
            }
            let config: Digest = existing.manifest().unwrap().config.digest.clone();
            assert!(transfer.destination.holds(&config).await.unwrap().is_some());
        }
    }
}

//! Layers read directly from the folders of real engines, and damage in these folders.

use std::collections::BTreeSet;
use std::io::{Read as _, Write as _};
use std::path::{Path, PathBuf};
use std::process::Command;

use jackal_operator::fault::Reason;
use jackal_operator::oci::{Compression, Digest};
use jackal_operator::source::docker::{Docker, StorageKind};
use jackal_operator::source::{Delivery, ImageSource, Method};
use tempfile::TempDir;

use super::engines::{DockerEngine, Image, noise};
use super::memory_sink::MemorySink;
use super::tars::{Tar, many_files, unusual_entries};
use super::{deliver, manifest, reference, stored_image, transfer};
use crate::support::registry::{TestRegistry, Version};

fn classic_engines() -> impl Iterator<Item = DockerEngine> {
    DockerEngine::all()
        .into_iter()
        .filter(|engine| engine.shape == StorageKind::Classic)
}

fn assert_delivered(delivered: &Delivery, sink: &MemorySink, image: &Image, host: &str) {
    let manifest = manifest(delivered);
    assert_eq!(manifest.config.digest, Digest::of(&image.config), "{host}");
    let layers: Vec<Digest> = manifest.layers.iter().map(|layer| layer.digest.clone()).collect();
    assert_eq!(layers, image.diff_ids(), "{host}");
    let blobs = sink.blobs.lock().unwrap();
    for (layer, content) in manifest.layers.iter().zip(&image.layers) {
        assert!(blobs[&layer.digest] == content.as_slice(), "{host}: {}", layer.digest);
    }
    // Each layer once.
    let taken: BTreeSet<_> = image
        .diff_ids()
        .into_iter()
        .chain([Digest::of(&image.config)])
        .collect();
    drop(blobs);
    assert_eq!(sink.taken().len(), taken.len(), "{host}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn layers_read_from_the_folder_equal_the_engines_export() {
    for engine in classic_engines() {
        let mut image = Image::varied("jackal-test/graph:1");
        let base = Tar::default()
            .folder("gone/")
            .file("gone/x", b"x")
            .folder("e/")
            .file("e/y", b"y")
            .end(1024);
        image
            .layers
            .splice(0..0, [base, unusual_entries(), many_files(20_000), unusual_entries()]);
        let image = Image::new(&image.name, image.layers);
        engine.load(&image.archive());

        let sink = MemorySink::default();
        let read = deliver(&engine.graph(), &image.name, &sink).await;
        assert_eq!(
            (read.method, &read.method_message),
            (Method::DockerGraph, &None),
            "{}",
            engine.host
        );
        assert_delivered(&read, &sink, &image, &engine.host);

        let exported = deliver(&engine.docker, &image.name, &MemorySink::default()).await;
        assert_eq!(exported.method, Method::DockerSave);
        assert_eq!(exported.documents, read.documents, "{}", engine.host);
        let again = deliver(&engine.graph(), &image.name, &sink).await;
        assert_eq!((again.method, again.method_message), (Method::Unchanged, None));
        assert_eq!(again.documents, read.documents);
        assert_eq!(sink.taken(), vec![], "{}", engine.host);
    }
}

#[tokio::test]
async fn existing_layers_are_not_read() {
    for engine in classic_engines() {
        let image = Image::varied("jackal-test/graph-held:1");
        engine.load(&image.archive());
        let sink = MemorySink::default();
        for held in [0, 1, 2] {
            sink.hold_diff(&image.layers[held]);
        }
        // Only one layer and the configuration are needed from the folder.
        let copy = Copy::of(&engine, &image);
        for held in [0, 1, 2, 3] {
            std::fs::remove_dir_all(copy.entry(held)).unwrap();
        }
        let delivered = deliver(&copy.docker, &image.name, &sink).await;
        assert_eq!(delivered.method_message, None);
        assert_eq!(delivered.method, Method::DockerGraph);
        let mut expected = vec![Digest::of(&image.config), Digest::of(&image.layers[4])];
        let mut taken = sink.taken();
        taken.sort();
        expected.sort();
        assert_eq!(taken, expected, "{}", engine.host);
    }
}

/// A copy of an engine's data of an image, which a test may damage without affecting the engine.
struct Copy {
    folder: TempDir,
    chain: Vec<Digest>,
    docker: Docker,
}

impl Copy {
    fn of(engine: &DockerEngine, image: &Image) -> Self {
        let root = PathBuf::from(engine.output(&["info", "--format", "{{.DockerRootDir}}"]).trim());
        let folder = tempfile::tempdir().unwrap();
        let mut chain: Vec<Digest> = Vec::new();
        for diff_id in image.diff_ids() {
            chain.push(match chain.last() {
                Some(below) => Digest::of(format!("{below} {diff_id}").as_bytes()),
                None => diff_id,
            });
        }
        let copy = |path: &Path| {
            let to = folder.path().join(path);
            std::fs::create_dir_all(to.parent().unwrap()).unwrap();
            let copied = Command::new("cp")
                .arg("-a")
                .arg(root.join(path))
                .arg(&to)
                .status()
                .unwrap();
            assert!(copied.success(), "{}", path.display());
        };
        let content = Path::new("image/overlay2/imagedb/content/sha256");
        copy(&content.join(Digest::of(&image.config).hex()));
        for link in &chain {
            let entry = Path::new("image/overlay2/layerdb/sha256").join(link.hex());
            copy(&entry);
            let cache_id = std::fs::read_to_string(folder.path().join(&entry).join("cache-id")).unwrap();
            copy(&Path::new("overlay2").join(cache_id).join("diff"));
        }
        let docker = Docker::new(engine.docker.engine().clone(), Some(folder.path().to_owned()));
        Self { folder, chain, docker }
    }

    fn entry(&self, layer: usize) -> PathBuf {
        let layerdb = self.folder.path().join("image/overlay2/layerdb/sha256");
        layerdb.join(self.chain[layer].hex())
    }

    fn diff(&self, layer: usize) -> PathBuf {
        let cache_id = std::fs::read_to_string(self.entry(layer).join("cache-id")).unwrap();
        self.folder.path().join("overlay2").join(cache_id).join("diff")
    }

    /// Rewrites the tar-split of a layer.
    fn split(&self, layer: usize, change: impl FnOnce(String) -> String) {
        let path = self.entry(layer).join("tar-split.json.gz");
        let mut lines = String::new();
        flate2::read::GzDecoder::new(std::fs::File::open(&path).unwrap())
            .read_to_string(&mut lines)
            .unwrap();
        let changed = change(lines.clone());
        assert_ne!(changed, lines);
        let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        gzip.write_all(changed.as_bytes()).unwrap();
        std::fs::write(path, gzip.finish().unwrap()).unwrap();
    }
}

fn change_byte(path: &Path) {
    let mut content = std::fs::read(path).unwrap();
    let middle = content.len() / 2;
    content[middle] ^= 1;
    std::fs::write(path, content).unwrap();
}

/// The description of the same files, with another mode of the first one.
fn other_mode(lines: String) -> String {
    use base64::Engine as _;
    use base64::engine::general_purpose::STANDARD;
    let (first, rest) = lines.split_once('\n').unwrap();
    let mut first: serde_json::Value = serde_json::from_str(first).unwrap();
    let mut header = STANDARD.decode(first["payload"].as_str().unwrap()).unwrap();
    header[106] ^= 1;
    first["payload"] = STANDARD.encode(header).into();
    format!("{first}\n{rest}")
}

/// Name, damage of the layer 4, and words of the reported reason.
type Damage = (&'static str, fn(&Copy), &'static str);

const DAMAGES: [Damage; 12] = [
    (
        "a changed byte",
        |copy| change_byte(&copy.diff(4).join("large")),
        "its file \"large\" was changed",
    ),
    (
        "a removed file",
        |copy| std::fs::remove_file(copy.diff(4).join("large")).unwrap(),
        "large does not exist",
    ),
    (
        "a shorter file",
        |copy| {
            std::fs::File::options()
                .write(true)
                .open(copy.diff(4).join("large"))
                .unwrap()
                .set_len(100)
                .unwrap()
        },
        "has 100 bytes, not 3145728",
    ),
    (
        "a link out",
        |copy| {
            let file = copy.diff(4).join("large");
            let outside = copy.folder.path().join("outside");
            std::fs::rename(&file, &outside).unwrap();
            std::os::unix::fs::symlink(&outside, &file).unwrap();
        },
        "large is a link or not a directory",
    ),
    (
        "no files",
        |copy| std::fs::remove_dir_all(copy.diff(4)).unwrap(),
        "diff does not exist",
    ),
    (
        "no tar-split",
        |copy| std::fs::remove_file(copy.entry(4).join("tar-split.json.gz")).unwrap(),
        "tar-split.json.gz does not exist",
    ),
    (
        "half a tar-split",
        |copy| {
            let path = copy.entry(4).join("tar-split.json.gz");
            let content = std::fs::read(&path).unwrap();
            std::fs::write(&path, &content[..content.len() / 2]).unwrap();
        },
        "its tar-split, line ",
    ),
    // The file's mode in the header: length and checksums stay correct.
    (
        "another header",
        |copy| copy.split(4, other_mode),
        "its content is not what its digest says",
    ),
    (
        "a shorter tar",
        |copy| {
            copy.split(4, |lines| {
                let first: Vec<&str> = lines.split_inclusive('\n').take(2).collect();
                first.concat()
            });
        },
        "its content is not what its digest says",
    ),
    (
        "a name that leads out",
        |copy| {
            copy.split(4, |lines| {
                lines.replace("\"name\":\"large\"", "\"name\":\"../diff/large\"")
            })
        },
        "leads out of its directory",
    ),
    (
        "a folder that leads out",
        |copy| std::fs::write(copy.entry(4).join("cache-id"), "../../etc").unwrap(),
        "an invalid name",
    ),
    (
        "another layer",
        |copy| std::fs::write(copy.entry(4).join("diff"), Digest::of(b"other").as_str()).unwrap(),
        "it is another layer",
    ),
];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_unreadable_layer_is_exported_and_the_others_are_read() {
    for engine in classic_engines() {
        let image = Image::varied("jackal-test/graph-doubt:1");
        engine.load(&image.archive());
        let layer = image.diff_ids()[4].short_form();
        for (what, damage, why) in DAMAGES {
            let copy = Copy::of(&engine, &image);
            damage(&copy);
            let sink = MemorySink::default();
            let delivered = deliver(&copy.docker, &image.name, &sink).await;
            assert_eq!(delivered.method, Method::DockerSave, "{}: {what}", engine.host);
            let declined = delivered.method_message.clone().unwrap();
            let expected = format!("layer {layer} was not read from the engine's directory: ");
            assert!(
                declined.starts_with(&expected) && declined.contains(why),
                "{what}: {declined}"
            );
            // They are taken in order, so the last one came from the export.
            assert_eq!(sink.taken.lock().unwrap().last(), Some(&image.diff_ids()[4]), "{what}");
            assert_delivered(&delivered, &sink, &image, what);
        }
    }
}

#[tokio::test]
async fn a_folder_of_another_engine_is_not_read() {
    for engine in classic_engines() {
        let image = Image::varied("jackal-test/graph-root:1");
        engine.load(&image.archive());
        let copy = Copy::of(&engine, &image);
        let content = copy.folder.path().join("image/overlay2/imagedb/content/sha256");
        change_byte(&content.join(Digest::of(&image.config).hex()));
        let empty = tempfile::tempdir().unwrap();
        for (root, why) in [
            (Path::new("/nowhere"), "/nowhere does not exist"),
            (empty.path(), "image/overlay2/imagedb/content/sha256 does not exist"),
            (copy.folder.path(), "is not that of the image"),
        ] {
            let docker = Docker::new(engine.docker.engine().clone(), Some(root.to_owned()));
            let sink = MemorySink::default();
            let delivered = deliver(&docker, &image.name, &sink).await;
            assert_eq!(delivered.method, Method::DockerSave);
            let declined = delivered.method_message.clone().unwrap();
            assert!(
                declined.starts_with("the engine's directory was not read: "),
                "{declined}"
            );
            assert!(
                declined.contains(why) && declined.contains("--docker-root"),
                "{declined}"
            );
            assert_delivered(&delivered, &sink, &image, &engine.host);
        }
    }
}

#[tokio::test]
async fn an_image_removed_during_a_transfer_is_reported_as_not_found() {
    for engine in classic_engines() {
        let mut layer = Tar::default();
        for at in 0..64 {
            layer = layer.file(&format!("part-{at}"), &noise(1 << 20));
        }
        let image = Image::new("jackal-test/graph-removed:1", vec![layer.end(1024)]);
        engine.load(&image.archive());
        let docker = engine.graph();
        let resolved = docker.resolve(&reference(&image.name), &[]).await.unwrap();
        let sink = MemorySink::default();
        let (host, name) = (engine.host.clone(), image.name.clone());
        sink.interrupt(move || DockerEngine::at(host, StorageKind::Classic).run(&["rmi", &name]));
        let fault = docker.deliver(&resolved, &sink).await.unwrap_err();
        assert_eq!(fault.reason, Reason::SourceNotFound, "{}: {fault}", engine.host);
        let layer = &image.diff_ids()[0];
        assert!(!sink.blobs.lock().unwrap().contains_key(layer), "{}", engine.host);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_corrupt_layer_never_reaches_the_registry() {
    let registry = TestRegistry::start(Version::V31);
    for (at, engine) in classic_engines().enumerate() {
        let image = Image::varied("jackal-test/graph-registry:1");
        engine.load(&image.archive());
        let copy = Copy::of(&engine, &image);
        change_byte(&copy.diff(4).join("large"));
        copy.split(0, other_mode);
        let prefix = format!("graph{at}");
        let transfer = transfer(&copy.docker, &image.name, &registry, &prefix, Compression::None);
        let outcome = transfer.run().await.unwrap();
        assert_eq!(outcome.method, Method::DockerSave, "{}", engine.host);
        let declined = outcome.method_message.unwrap();
        for why in [
            "was changed: its checksum is another",
            "its content is not what its digest says",
        ] {
            assert!(declined.contains(why), "{declined}");
        }
        stored_image(&transfer, &image).await;
    }
}

//! Images of several platforms in a containerd store.

use std::collections::BTreeMap;

use jackal_operator::fault::Reason;
use jackal_operator::oci::{Descriptor, Digest, Document, Index, Manifest, Platform, media_type};
use jackal_operator::source::docker::Docker;
use jackal_operator::source::{Delivery, ImageSource};
use serde_json::json;

use super::engines::{DockerEngine, tar};
use super::memory_sink::MemorySink;
use super::{content, reference};

/// An image of several platforms.
pub struct Built {
    pub index: Document,
    /// An index that lists the index.
    pub outer: Option<Document>,
    pub manifests: Vec<Document>,
    /// By index of the platform, so that one can be omitted.
    pub blobs: BTreeMap<usize, Vec<Vec<u8>>>,
}

pub fn build(salt: &str, platforms: &[&str]) -> Built {
    let mut built = Built {
        index: Document::of_index(Index::new(Vec::new())).unwrap(),
        outer: None,
        manifests: Vec::new(),
        blobs: BTreeMap::new(),
    };
    let mut entries = Vec::new();
    for (at, platform) in platforms.iter().enumerate() {
        let platform: Platform = platform.parse().unwrap();
        let layer = tar(&[("platform", format!("{salt} {platform}"))]);
        let config = json!({
            "architecture": platform.architecture, "os": platform.os, "config": {},
            "rootfs": {"type": "layers", "diff_ids": [Digest::of(&layer)]},
        });
        let config = config.to_string().into_bytes();
        let blob = |kind: &str, content: &[u8]| Descriptor::new(kind, Digest::of(content), content.len() as u64);
        let manifest = Document::of_manifest(Manifest::new(
            blob(media_type::OCI_CONFIG, &config),
            vec![blob(media_type::OCI_LAYER, &layer)],
        ))
        .unwrap();
        let mut entry = manifest.descriptor.clone();
        entry.platform = Some(platform);
        entries.push(entry);
        built.manifests.push(manifest);
        built.blobs.insert(at, vec![config, layer]);
    }
    built.index = Document::of_index(Index::new(entries)).unwrap();
    built
}

impl Built {
    /// An OCI layout, without the blobs of the platform `without`.
    pub fn archive(&self, name: &str, without: Option<usize>) -> Vec<u8> {
        let mut root = self.outer.as_ref().unwrap_or(&self.index).descriptor.clone();
        root.annotations
            .insert("io.containerd.image.name".to_owned(), name.to_owned());
        let top = Document::of_index(Index::new(vec![root])).unwrap();
        let mut files = vec![
            ("oci-layout".to_owned(), br#"{"imageLayoutVersion":"1.0.0"}"#.to_vec()),
            ("index.json".to_owned(), top.raw.to_vec()),
        ];
        let held = self.blobs.iter().filter(|(at, _)| Some(**at) != without);
        let documents = self.manifests.iter().enumerate().filter(|(at, _)| Some(*at) != without);
        let contents = held
            .flat_map(|(_, blobs)| blobs.clone())
            .chain(documents.map(|(_, document)| document.raw.to_vec()))
            .chain([self.index.raw.to_vec()])
            .chain(self.outer.iter().map(|outer| outer.raw.to_vec()));
        for content in contents {
            files.push((format!("blobs/sha256/{}", Digest::of(&content).hex()), content));
        }
        tar(&files)
    }
}

/// By the engine's export, its store's folder, and its containerd's socket.
fn methods(engine: &DockerEngine) -> [Docker; 3] {
    [engine.docker.clone(), content::folder(engine), content::socket(engine)]
}

async fn deliver(docker: &Docker, name: &str, platforms: &[&str]) -> (Delivery, Vec<Digest>) {
    let platforms: Vec<Platform> = platforms.iter().map(|platform| platform.parse().unwrap()).collect();
    let sink = MemorySink::default();
    let image = docker.resolve(&reference(name), &platforms).await.unwrap();
    let delivered = docker.deliver(&image, &sink).await.unwrap();
    let root = delivered.documents.last().unwrap().digest();
    assert_eq!(image.identity.digest(), root, "a repeat is known as one");
    for document in &delivered.documents {
        for blob in document.manifest().map(Manifest::blobs).unwrap_or_default() {
            assert!(sink.blobs.lock().unwrap().contains_key(&blob.digest), "{}", blob.digest);
        }
    }
    (delivered, sink.taken())
}

#[tokio::test]
async fn platforms_are_selected_from_an_index() {
    let engine = DockerEngine::containerd();
    let name = "docker.io/jackal-test/index:1";
    let built = build("whole", &["linux/amd64", "linux/arm64", "linux/s390x"]);
    engine.load(&built.archive(name, None));
    for docker in methods(&engine) {
        assert_selection(&docker, name, &built).await;
    }
}

async fn assert_selection(docker: &Docker, name: &str, built: &Built) {
    let (whole, _) = deliver(docker, name, &[]).await;
    assert_eq!(whole.documents.last().unwrap().raw, built.index.raw);
    assert_eq!(whole.documents.len(), 4);

    let (one, taken) = deliver(docker, name, &["linux/arm64"]).await;
    assert_eq!(one.documents, vec![built.manifests[1].clone()]);
    // Only that platform was requested.
    assert_eq!(taken.len(), 2);

    let (two, _) = deliver(docker, name, &["linux/s390x", "linux/amd64"]).await;
    let index = two.documents.last().unwrap().index().unwrap();
    let entries = &built.index.index().unwrap().manifests;
    assert_eq!(index.manifests, vec![entries[0].clone(), entries[2].clone()]);
    assert_eq!(two.documents.len(), 3);

    let absent = ["linux/ppc64le".parse().unwrap()];
    let fault = docker.resolve(&reference(name), &absent).await.unwrap_err();
    assert_eq!(fault.reason, Reason::SourceNotFound);
    assert!(fault.message.contains("linux/ppc64le"), "{fault}");
}

#[tokio::test]
async fn only_stored_platforms_of_a_sparse_index_are_copied() {
    let engine = DockerEngine::containerd();
    let name = "docker.io/jackal-test/sparse:1";
    let built = build("sparse", &["linux/amd64", "linux/arm64"]);
    engine.load(&built.archive(name, Some(1)));
    let sparser_name = "docker.io/jackal-test/sparse:2";
    let sparser = build("sparser", &["linux/amd64", "linux/arm64", "linux/s390x"]);
    engine.load(&sparser.archive(sparser_name, Some(1)));
    for docker in methods(&engine) {
        assert_stored_platforms(&docker, name, &built, sparser_name).await;
    }
}

async fn assert_stored_platforms(docker: &Docker, name: &str, built: &Built, sparser: &str) {
    let (one, _) = deliver(docker, name, &[]).await;
    assert_eq!(one.documents, vec![built.manifests[0].clone()]);
    let arm = ["linux/arm64".parse().unwrap()];
    let fault = docker.resolve(&reference(name), &arm).await.unwrap_err();
    assert_eq!(fault.reason, Reason::SourceNotFound);

    let fault = docker.resolve(&reference(sparser), &[]).await.unwrap_err();
    assert!(fault.message.contains("holds linux/amd64, linux/s390x"), "{fault}");
    let (two, _) = deliver(docker, sparser, &["linux/amd64", "linux/s390x"]).await;
    assert_eq!(two.documents.len(), 3);
}

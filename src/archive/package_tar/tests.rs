use serde_json::json;

use super::*;
use crate::archive::open::contents_of;
use crate::archive::testing::{Memory, Tar};
use crate::oci::{Descriptor, Document, Manifest, media_type};

/// The files of a package with one image and one tar, by their paths.
fn files() -> Vec<(String, Vec<u8>)> {
    let blob = |kind: &str, content: &[u8]| Descriptor::new(kind, Digest::of(content), content.len() as u64);
    let layer = blob(media_type::OCI_LAYER, b"layer");
    let manifest = Manifest::new(blob(media_type::OCI_CONFIG, b"config"), vec![layer]);
    let manifest = Document::of_manifest(manifest).unwrap();
    let name = "docker.io/library/nginx:1";
    let index = json!({ "schemaVersion": 2, "manifests": [{
        "mediaType": media_type::OCI_MANIFEST, "digest": manifest.digest(), "size": manifest.raw.len(),
        "annotations": { "org.opencontainers.image.base.name": name },
    }]});
    let blob_file = |content: &[u8]| (format!("{LAYOUT_BLOBS}{}", Digest::of(content).hex()), content.to_vec());
    let mut files = vec![
        ("components/web.tar".to_owned(), b"a tar".to_vec()),
        (LAYOUT_INDEX.to_owned(), index.to_string().into_bytes()),
        blob_file(b"layer"),
        blob_file(b"config"),
        blob_file(&manifest.raw),
    ];
    let lines = files
        .iter()
        .map(|(path, content)| format!("{} {path}\n", Digest::of(content).hex()));
    let checksums: String = lines.collect();
    let definition = format!(
        "kind: ZarfPackageConfig\nmetadata: {{name: shop, version: 1.0.0, aggregateChecksum: {}}}\n\
         build: {{architecture: amd64}}\n",
        Digest::of(checksums.as_bytes()).hex()
    );
    files.push(("checksums.txt".to_owned(), checksums.into_bytes()));
    files.push(("zarf.yaml".to_owned(), definition.into_bytes()));
    files
}

fn tar(files: &[(String, Vec<u8>)]) -> Tar {
    let files = files.iter();
    files.fold(Tar::default(), |tar, (path, content)| tar.file(path, content))
}

async fn open(tar: Tar) -> Result<Archive, Fault> {
    Archive::new(contents_of(Arc::new(Memory(tar.end()))).await?).await
}

#[tokio::test]
async fn a_package_is_read_with_its_images() {
    let files = files();
    let bytes = tar(&files).file("zarf.yaml.sig", b"signature").end();
    for bytes in [zstd::bulk::compress(&bytes, 3).unwrap(), bytes] {
        let contents = contents_of(Arc::new(Memory(bytes))).await.unwrap();
        let archive = Archive::new(contents).await.unwrap();
        let [package] = archive.packages() else {
            panic!("{} packages", archive.packages().len())
        };
        let manifest = package.manifest.manifest().unwrap();
        assert_eq!(manifest.layers.len(), files.len() + 1);
        for layer in &manifest.layers {
            let content = archive.blob(&layer.digest).await.unwrap().unwrap();
            assert_eq!(content.len() as u64, layer.size);
        }
        assert_eq!(
            archive.blob(&manifest.config.digest).await.unwrap().unwrap(),
            package.config
        );
        let [image] = archive.images() else {
            panic!("{} images", archive.images().len())
        };
        assert_eq!(image.name.as_ref().unwrap().to_string(), "docker.io/library/nginx:1");
        assert!(archive.document(&image.root.digest).is_some());
    }
}

#[tokio::test]
async fn what_is_wrong_is_named() {
    let sound = files();
    let changed = |path: &str, content: &[u8]| {
        let mut files = sound.clone();
        for file in files.iter_mut().filter(|file| file.0 == path) {
            file.1 = content.to_vec();
        }
        tar(&files)
    };
    let mut lacking = sound.clone();
    lacking.remove(0);
    for (tar, expected) in [
        (
            tar(&sound).file("more", b"more"),
            "checksums.txt does not list \"more\"",
        ),
        (tar(&sound).link("more", "zarf.yaml"), "\"more\" is a link"),
        (
            tar(&lacking),
            "it lacks \"components/web.tar\", which checksums.txt lists",
        ),
        (changed("checksums.txt", b""), "checksums.txt has the digest sha256:"),
        (
            changed("zarf.yaml", b"metadata: {name: shop}"),
            "checksums.txt has the digest sha256:",
        ),
        (tar(&sound[..6]).file("jackal.yaml", b"["), "jackal.yaml is not YAML"),
        (tar(&sound[6..]), "it lacks \"checksums.txt\""),
        (changed(LAYOUT_INDEX, b"{}"), "has the digest sha256:"),
    ] {
        let fault = open(tar).await.err().unwrap();
        assert!(
            fault.is_stalled() && fault.message.contains(expected),
            "{expected}: {fault}"
        );
    }
}

#[tokio::test]
async fn content_is_compared_with_its_checksum_when_it_is_read() {
    let mut files = files();
    files[0].1 = b"other".to_vec();
    let archive = open(tar(&files)).await.unwrap();
    let fault = archive.blob(&Digest::of(b"a tar")).await.unwrap_err();
    assert!(fault.message.contains("has the digest"), "{fault}");
}

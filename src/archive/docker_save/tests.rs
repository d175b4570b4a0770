use serde_json::{Value, json};

use super::*;
use crate::archive::contents::Archive;
use crate::archive::open::contents_of;
use crate::archive::testing::{Memory, Tar, gzip};
use crate::oci::media_type;

/// The configuration of an image with `layers`, its path, and their digests.
fn config(layers: &[&[u8]]) -> (String, Vec<u8>) {
    let diff_ids: Vec<Digest> = layers.iter().map(|layer| Digest::of(layer)).collect();
    let config = json!({ "rootfs": { "type": "layers", "diff_ids": diff_ids } })
        .to_string()
        .into_bytes();
    (format!("{}.json", Digest::of(&config).hex()), config)
}

fn listed(config: &str, tags: &Value, layers: &[&str]) -> Vec<u8> {
    json!([{ "Config": config, "RepoTags": tags, "Layers": layers }])
        .to_string()
        .into_bytes()
}

async fn open(tar: Vec<u8>) -> Result<Archive, Fault> {
    Archive::new(contents_of(Arc::new(Memory(tar))).await?).await
}

/// An archive of docker 20.10: the upper layer is there twice, the second time as a link.
fn docker_20() -> Tar {
    let (path, config) = config(&[b"lower", b"upper", b"upper"]);
    let layers = ["a/layer.tar", "b/layer.tar", "c/layer.tar"];
    Tar::default()
        .file("a/VERSION", b"1.0")
        .file("a/layer.tar", b"lower")
        .file("b/layer.tar", b"upper")
        .link("c/layer.tar", "../b/layer.tar")
        .file(&path, &config)
        .file(
            "manifest.json",
            &listed(&path, &json!(["app:1", "team/app:2"]), &layers),
        )
        .file("repositories", b"{}")
}

#[tokio::test]
async fn the_manifest_is_the_one_of_an_engine() {
    let plain = docker_20().end();
    for tar in [plain.clone(), gzip(&plain), zstd::bulk::compress(&plain, 3).unwrap()] {
        let archive = open(tar).await.unwrap();
        let names: Vec<String> = archive
            .images()
            .iter()
            .map(|image| image.name.as_ref().unwrap().to_string())
            .collect();
        assert_eq!(names, ["docker.io/library/app:1", "docker.io/team/app:2"]);
        let root = &archive.images()[0].root;
        let (_, config) = config(&[b"lower", b"upper", b"upper"]);
        let layer = |content: &[u8]| Descriptor::new(media_type::OCI_LAYER, Digest::of(content), 5);
        let layers = vec![layer(b"lower"), layer(b"upper"), layer(b"upper")];
        let manifest = Manifest::for_image(Digest::of(&config), config.len() as u64, layers);
        assert_eq!(
            *archive.document(&root.digest).unwrap(),
            Document::of_manifest(manifest).unwrap()
        );
        for content in [&b"lower"[..], b"upper", &config] {
            assert_eq!(archive.blob(&Digest::of(content)).await.unwrap().unwrap(), content);
        }
    }
}

#[tokio::test]
async fn compressed_layers_keep_their_digests() {
    let (path, config) = config(&[b"lower", b"upper"]);
    let (lower, upper) = (gzip(b"lower"), gzip(b"upper"));
    // The first is named by its digest, as go-containerregistry does it.
    let layers = [format!("{}.tar.gz", Digest::of(&lower).hex()), "upper.tgz".to_owned()];
    let tar = Tar::default()
        .file(&layers[0], &lower)
        .file(&layers[1], &upper)
        .file(&path, &config)
        .file("manifest.json", &listed(&path, &json!(null), &[&layers[0], &layers[1]]));
    let archive = open(tar.end()).await.unwrap();
    assert_eq!(archive.images()[0].name, None);
    let manifest = archive
        .document(&archive.images()[0].root.digest)
        .unwrap()
        .manifest()
        .unwrap();
    for (layer, content) in manifest.layers.iter().zip([&lower, &upper]) {
        assert_eq!(layer.media_type, media_type::OCI_LAYER_GZIP);
        assert_eq!(archive.blob(&layer.digest).await.unwrap().unwrap(), *content);
    }
}

#[tokio::test]
async fn an_image_may_be_listed_twice() {
    let (path, config) = config(&[b"lower"]);
    let list = json!([
        { "Config": path, "RepoTags": ["app:1", "app:1"], "Layers": ["a.tar"] },
        { "Config": path, "RepoTags": ["app:2", "app:1"], "Layers": ["a.tar"] },
    ]);
    let tar = Tar::default()
        .file(&path, &config)
        .file("a.tar", b"lower")
        .file("manifest.json", list.to_string().as_bytes());
    let archive = open(tar.end()).await.unwrap();
    let names: Vec<String> = archive
        .images()
        .iter()
        .map(|image| image.name.as_ref().unwrap().to_string())
        .collect();
    assert_eq!(names, ["docker.io/library/app:1", "docker.io/library/app:2"]);
}

#[tokio::test]
async fn what_is_wrong_is_named() {
    let (path, config) = config(&[b"lower"]);
    let manifest = |layers: &[&str]| listed(&path, &json!(["app:1"]), layers);
    let with = |layers: &[&str]| {
        Tar::default()
            .file(&path, &config)
            .file("manifest.json", &manifest(layers))
    };
    let layer = |path: &str| Tar::default().file(path, b"lower");
    for (tar, expected) in [
        (with(&[]), "its configuration lists 1 layers, and manifest.json 0"),
        (with(&["a.tar"]), "it lacks the layer \"a.tar\""),
        (
            with(&["a"]).link("a", "../b"),
            "the link \"a\" names a file outside the archive",
        ),
        (
            with(&["a"]).link("a", "/etc/passwd"),
            "the link \"a\" names a file outside",
        ),
        (
            with(&["a"]).link("a", "b").link("b", "a"),
            "the link \"a\" leads to too many links, or in a circle",
        ),
        (
            with(&["a"]).link("a", "b"),
            "the link \"a\" names a file that the archive lacks",
        ),
        (
            with(&["a"]).file("a", b"lower").file("a", b"other"),
            "\"a\" is there twice",
        ),
        (
            Tar::default()
                .file("manifest.json", &manifest(&["a"]))
                .file("a", b"lower"),
            "it lacks \"",
        ),
        (
            Tar::default().file("manifest.json", b"{}"),
            "its manifest.json cannot be read",
        ),
        (
            Tar::default().file("manifest.json", "[".repeat(100_000).as_bytes()),
            "its manifest.json cannot be read",
        ),
        (layer("../a"), "\"../a\" is not the path of a file in it"),
        (layer("/a"), "\"/a\" is not the path of a file in it"),
        (layer("a/../../b"), "is not the path of a file in it"),
        (
            Tar::default()
                .file(&path, &config)
                .file("a", b"lower")
                .file("manifest.json", &listed(&path, &json!(["not a name"]), &["a"])),
            "`not a name` is not an image reference",
        ),
    ] {
        let fault = open(tar.end()).await.err().unwrap();
        assert!(
            fault.is_stalled() && fault.message.contains(expected),
            "{expected}: {fault}"
        );
    }
}

#[tokio::test]
async fn another_layer_than_the_configuration_says_is_found_when_it_is_read() {
    let (path, config) = config(&[b"lower"]);
    let tar = Tar::default()
        .file(&path, &config)
        .file("a.tar", b"other")
        .file("manifest.json", &listed(&path, &json!(["app:1"]), &["a.tar"]));
    let archive = open(tar.end()).await.unwrap();
    let read: Vec<_> = archive.read(&Digest::of(b"lower")).unwrap().collect().await;
    let fault = read.last().unwrap().clone().unwrap_err();
    assert!(fault.message.contains("has the digest"), "{fault}");
}

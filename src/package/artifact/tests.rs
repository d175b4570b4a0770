use super::*;
use crate::package::Plan;

pub(super) fn blob(content: &str, kind: &str) -> Descriptor {
    Descriptor::new(kind, Digest::of(content.as_bytes()), content.len() as u64)
}

pub(super) fn image(name: &str, layers: &[&str]) -> Document {
    let layers = layers.iter().map(|layer| blob(layer, media_type::OCI_LAYER)).collect();
    Document::of_manifest(Manifest::new(
        blob(&format!("config of {name}"), media_type::OCI_CONFIG),
        layers,
    ))
    .unwrap()
}

pub(super) fn index(children: &[(&Document, &str)]) -> Document {
    let entries = children
        .iter()
        .map(|(child, platform)| Descriptor {
            platform: Some(platform.parse().unwrap()),
            ..child.descriptor.clone()
        })
        .collect();
    Document::of_index(Index::new(entries)).unwrap()
}

/// The last document is the root.
pub(super) fn stored(reference: &str, repository: &str, documents: &[&Document]) -> ArtifactImage {
    ArtifactImage {
        reference: reference.parse().unwrap(),
        repository: repository.to_owned(),
        root: documents.last().unwrap().digest().clone(),
        documents: documents.iter().map(|&document| document.clone()).collect(),
        foreign: std::collections::BTreeSet::new(),
    }
}

fn definition(naming: &str) -> Definition {
    let spec = serde_json::from_value(serde_json::json!({
        "version": "1.0.0", "naming": naming, "architecture": "arm64",
        "components": [{"name": "web", "images": [{"image": "nginx:1"}, {"image": "ghcr.io/x/y:2"}]}],
    }))
    .unwrap();
    let plan = Plan::of(&spec, "127.0.0.1:31999", "").unwrap();
    Definition::of("podinfo", &spec, &plan).unwrap()
}

fn of(images: &[ArtifactImage]) -> ArtifactContents<'_> {
    ArtifactContents {
        images,
        ..ArtifactContents::default()
    }
}

fn text<'a>(artifact: &'a Artifact, path: &str) -> &'a str {
    std::str::from_utf8(&artifact.files[path]).unwrap()
}

#[test]
fn the_artifact_has_the_expected_bytes() {
    let nginx = image("nginx", &["base", "nginx"]);
    let artifact = Artifact::of(
        &definition("Zarf"),
        of(&[stored("nginx:1", "library/nginx", &[&nginx])]),
    )
    .unwrap();
    // Computed by another program from the same strings; `sha256sum` gives the lines of the blobs.
    let expected = "\
18f0797eab35a4597c1e9624aa4f15fd91f6254e5538c1e0d193b2a95dd4acc6 images/oci-layout
1bb4562d475140d1e2ccc21221b7c514665d9438224736a8ea4a5be455f5034b images/blobs/sha256/1bb4562d475140d1e2ccc21221b7c514665d9438224736a8ea4a5be455f5034b
5be1ecc7935f1dd85635d4feedaf660594030253cc97c9e9ca3819ffeac36b65 images/blobs/sha256/5be1ecc7935f1dd85635d4feedaf660594030253cc97c9e9ca3819ffeac36b65
a371c5c785588e12eb3da0243d966e587f1c97b34201f747f5459ca048098e50 images/index.json
b6397bbc10340028a7f9eea65280382eb6e9ab57816e5b2da97b5888d9eda7a7 images/blobs/sha256/b6397bbc10340028a7f9eea65280382eb6e9ab57816e5b2da97b5888d9eda7a7
cae662172fd450bb0cd710a769079c05bfc5d8e35efa6576edc7d0377afdd4a2 images/blobs/sha256/cae662172fd450bb0cd710a769079c05bfc5d8e35efa6576edc7d0377afdd4a2
";
    assert_eq!(text(&artifact, "checksums.txt"), expected);
    let checksum = "25f0137ddb8fe9551956ed953add94c70fb269ec0fb5dfe86019f8bceeaed7e3";
    assert!(text(&artifact, "zarf.yaml").contains(&format!("  aggregateChecksum: '{checksum}'\n")));
    // That program sorts the layers by digest; this one puts the definition first.
    let mut manifest = artifact.manifest.manifest().unwrap().clone();
    manifest.layers.sort_by(|left, right| left.digest.cmp(&right.digest));
    assert_eq!(
        Document::of_manifest(manifest).unwrap().digest().as_str(),
        "sha256:c751977afb7d098ad27a169c43b8a8ae1c093d88bcbfe7bbb7eb1b2a98ecbc33"
    );
    assert_eq!(
        artifact.manifest.digest().as_str(),
        "sha256:1a25c85ce64dbd4d54993fe149e41e3ea8921e4a921092e157b2c9ac6b248b8d"
    );
}

#[test]
fn the_artifact_contains_and_lists_each_file_once() {
    let nginx = image("nginx", &["base", "nginx"]);
    let other = image("y", &["base", "y"]);
    let images = [
        stored("nginx:1", "library/nginx", &[&nginx]),
        stored("ghcr.io/x/y:2", "x/y", &[&other]),
    ];
    let artifact = Artifact::of(&definition("Zarf"), of(&images)).unwrap();
    let manifest = artifact.manifest.manifest().unwrap();
    assert_eq!(manifest.config.media_type, "application/vnd.zarf.config.v1+json");
    assert_eq!(manifest.config.digest, Digest::of(&artifact.config));
    assert_eq!(manifest.annotations[TITLE], "podinfo");
    assert_eq!(
        manifest.annotations["org.opencontainers.image.created"],
        "1970-01-01T00:00:00Z"
    );
    assert_eq!(manifest.layers[0].annotations[TITLE], "zarf.yaml");
    assert!(manifest.layers[1..].is_sorted_by_key(|layer| layer.digest.as_str()));
    assert!(
        manifest
            .layers
            .iter()
            .all(|layer| layer.media_type == "application/vnd.zarf.layer.v1.blob")
    );

    // Readers check this: all layers except the two roots of trust are listed with their digests, and no others.
    let mut lines: Vec<String> = manifest
        .layers
        .iter()
        .filter(|layer| !["zarf.yaml", "checksums.txt"].contains(&layer.annotations[TITLE].as_str()))
        .map(|layer| format!("{} {}\n", layer.digest.hex(), layer.annotations[TITLE]))
        .collect();
    lines.sort();
    assert_eq!(lines.concat(), text(&artifact, "checksums.txt"));
    // Two manifests, two configs, three layers, and the layout's two files.
    assert_eq!((lines.len(), artifact.mounts.len()), (9, 5));
    let checksum = Digest::of(&artifact.files["checksums.txt"]);
    assert!(text(&artifact, "zarf.yaml").contains(&format!("aggregateChecksum: '{}'", checksum.hex())));

    let sum = manifest.layers.iter().map(|layer| layer.size).sum::<u64>();
    assert_eq!(
        artifact.size,
        sum + manifest.config.size + artifact.manifest.descriptor.size
    );
    let platform = artifact.entry().platform.unwrap();
    assert_eq!(
        (platform.os.as_str(), platform.architecture.as_str()),
        ("multi", "arm64")
    );
}

#[test]
fn each_image_is_named_for_zarf_and_jackal() {
    let nginx = image("nginx", &["base"]);
    let images = [
        stored("nginx:1", "library/nginx", &[&nginx]),
        stored("ghcr.io/x/y:2", "x/y", &[&nginx]),
    ];
    let artifact = Artifact::of(&definition("Zarf"), of(&images)).unwrap();
    let layout: Index = serde_json::from_str(text(&artifact, "images/index.json")).unwrap();
    let names: Vec<_> = layout
        .manifests
        .iter()
        .map(|entry| {
            (
                entry.annotations[REF_NAME].as_str(),
                entry.annotations[BASE_NAME].as_str(),
            )
        })
        .collect();
    assert_eq!(
        names,
        [
            ("docker.io/library/nginx:1", "docker.io/library/nginx:1"),
            ("ghcr.io/x/y:2", "ghcr.io/x/y:2")
        ]
    );
    assert_eq!(
        text(&artifact, "images/oci-layout"),
        r#"{"imageLayoutVersion":"1.0.0"}"#
    );
}

#[test]
fn the_order_of_images_does_not_matter() {
    let nginx = image("nginx", &["base", "nginx"]);
    let other = image("y", &["base", "y"]);
    let list = index(&[(&nginx, "linux/amd64"), (&other, "linux/arm64")]);
    let mut images = vec![
        stored("nginx:1", "library/nginx", &[&nginx]),
        stored("ghcr.io/x/y:2", "x/y", &[&other]),
        stored("ghcr.io/x/z:2", "a/z", &[&nginx, &other, &list]),
    ];
    for naming in ["Jackal", "Zarf"] {
        let first = Artifact::of(&definition(naming), of(&images)).unwrap();
        images.reverse();
        assert_eq!(Artifact::of(&definition(naming), of(&images)).unwrap(), first);
        images.swap(0, 1);
        images[2].documents.reverse();
        assert_eq!(Artifact::of(&definition(naming), of(&images)).unwrap(), first);
        assert!(first.mounts.iter().all(|mount| mount.from == "a/z"));
    }
}

#[test]
fn an_index_is_included_with_all_its_images() {
    let amd64 = image("amd64", &["one"]);
    let arm64 = image("arm64", &["two"]);
    let list = index(&[(&amd64, "linux/amd64"), (&arm64, "linux/arm64")]);
    let images = [stored("nginx:1", "library/nginx", &[&amd64, &arm64, &list])];

    let zarf = Artifact::of(&definition("Zarf"), of(&images)).unwrap();
    for document in [&amd64, &arm64, &list] {
        assert_eq!(zarf.files[&blob_path(document.digest())], document.raw);
    }
    assert_eq!(zarf.mounts.len(), 4);
    assert!(text(&zarf, "zarf.yaml").contains("version: 'v0.77.0'"));
    let layout: Index = serde_json::from_str(text(&zarf, "images/index.json")).unwrap();
    assert_eq!(layout.manifests.len(), 1);

    // Jackal finds a single image under the base name: that of the package's architecture.
    let jackal = Artifact::of(&definition("Jackal"), of(&images)).unwrap();
    assert!(text(&jackal, "jackal.yaml").contains("kind: 'JackalPackageConfig'"));
    assert!(!jackal.files.contains_key("zarf.yaml"));
    let layout: Index = serde_json::from_str(text(&jackal, "images/index.json")).unwrap();
    let find = |key: &str| {
        let mut named = layout
            .manifests
            .iter()
            .filter(|entry| entry.annotations.contains_key(key));
        let found = named.next().unwrap();
        assert!(named.next().is_none());
        (&found.digest, found.annotations[key].as_str())
    };
    assert_eq!(find(BASE_NAME), (arm64.digest(), "docker.io/library/nginx:1"));
    assert_eq!(find(REF_NAME), (list.digest(), "docker.io/library/nginx:1"));
}

#[test]
fn foreign_layers_are_included_if_the_registry_has_them() {
    let foreign = blob("windows", "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip");
    let manifest = Manifest::new(blob("c", media_type::OCI_CONFIG), vec![foreign.clone()]);
    let document = Document::of_manifest(manifest).unwrap();
    let artifact = Artifact::of(&definition("Zarf"), of(&[stored("nginx:1", "n", &[&document])])).unwrap();
    assert_eq!(artifact.mounts.len(), 1);
    assert!(!text(&artifact, "checksums.txt").contains(foreign.digest.hex()));
    let mut image = stored("nginx:1", "n", &[&document]);
    image.foreign.insert(foreign.digest.clone());
    let artifact = Artifact::of(&definition("Zarf"), of(&[image])).unwrap();
    assert_eq!(artifact.mounts.len(), 2);
    assert!(text(&artifact, "checksums.txt").contains(foreign.digest.hex()));
}

#[test]
fn a_package_without_images_has_no_layout() {
    let artifact = Artifact::of(&definition("Zarf"), of(&[])).unwrap();
    assert_eq!(
        artifact.files.keys().collect::<Vec<_>>(),
        ["checksums.txt", "zarf.yaml"]
    );
    assert_eq!(text(&artifact, "checksums.txt"), "\n");
}

#[test]
fn incomplete_images_are_refused() {
    let amd64 = image("amd64", &["one"]);
    let list = index(&[(&amd64, "linux/amd64")]);
    let fault = Artifact::of(&definition("Zarf"), of(&[stored("nginx:1", "library/nginx", &[&list])])).unwrap_err();
    assert_eq!(fault.disposition, crate::fault::Disposition::Retryable);
    assert!(fault.message.contains(amd64.digest().as_str()), "{fault}");

    let lies = Manifest::new(
        blob("c", media_type::OCI_CONFIG),
        vec![Descriptor::new(media_type::OCI_LAYER, Digest::of(b"one"), 99)],
    );
    let lies = Document::of_manifest(lies).unwrap();
    let images = [
        stored("nginx:1", "a", &[&amd64]),
        stored("ghcr.io/x/y:2", "b", &[&lies]),
    ];
    let fault = Artifact::of(&definition("Zarf"), of(&images)).unwrap_err();
    assert!(
        fault.message.contains("3 bytes in one manifest and 99 in another"),
        "{fault}"
    );

    let strange: Digest = format!("sha512:{}", "0".repeat(128)).parse().unwrap();
    let strange = Manifest::new(Descriptor::new(media_type::OCI_CONFIG, strange, 1), Vec::new());
    let strange = Document::of_manifest(strange).unwrap();
    let fault = Artifact::of(&definition("Zarf"), of(&[stored("nginx:1", "a", &[&strange])])).unwrap_err();
    assert!(fault.message.contains("only sha256"), "{fault}");
}

#[test]
fn a_manifest_that_is_too_long_is_refused() {
    let layers: Vec<String> = (0..16_000).map(|number| number.to_string()).collect();
    let layers: Vec<&str> = layers.iter().map(String::as_str).collect();
    let big = image("big", &layers);
    let fault = Artifact::of(&definition("Zarf"), of(&[stored("nginx:1", "a", &[&big])]))
        .err()
        .unwrap();
    assert!(fault.message.contains("split it into two packages"), "{fault}");
}

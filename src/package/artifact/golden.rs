//! The artifacts of fixed packages, pinned by digest. They depend on no server, time or output of another crate.
//!
//! A digest that changes here changes for all users: the new version publishes every package again at its first
//! reconciliation, the tag gets another digest, clusters that pin one (`status.artifact.digest`, Flux) pull it again, and
//! signatures of the old digest no longer apply to the tag. So do not just copy the new digests: decide whether to change
//! them, explain it in the commit, and announce in the release notes that packages get new digests.

use super::tests::{blob, image, index, stored};
use super::*;
use crate::package::{PackedDefinition, Plan};

/// Two components, an image of two platforms with an attestation, one pinned by digest, one in both components.
fn artifact(naming: &str, architecture: &str) -> Artifact {
    let single = image("single", &["base", "single"]);
    let amd64 = image("amd64", &["base", "amd64"]);
    let arm64 = image("arm64", &["base", "arm64"]);
    let attestation = image("attestation", &["in-toto"]);
    let mut list = index(&[
        (&amd64, "linux/amd64"),
        (&arm64, "linux/arm64"),
        (&attestation, "unknown/unknown"),
    ]);
    let mut entries = list.index().unwrap().manifests.clone();
    entries[2].annotations.insert(
        "vnd.docker.reference.type".to_owned(),
        "attestation-manifest".to_owned(),
    );
    list = Document::of_index(Index::new(entries)).unwrap();
    // As Docker's own tools push it.
    let docker = Manifest {
        media_type: Some(media_type::DOCKER_MANIFEST.to_owned()),
        ..Manifest::new(
            blob("config of docker", "application/vnd.docker.container.image.v1+json"),
            vec![blob("base", "application/vnd.docker.image.rootfs.diff.tar.gzip")],
        )
    };
    let docker = Document::of_manifest(docker).unwrap();
    let pinned = format!("quay.io/x/pinned@{}", docker.digest());
    let spec = serde_json::from_value(serde_json::json!({
        "version": "1.2.3-rc.1", "naming": naming, "architecture": architecture, "description": "A page, and its \"database\": ünïcode",
        "components": [
            {"name": "web", "required": true, "images": [{"image": "nginx:1"}, {"image": "ghcr.io/x/multi:2"}]},
            {"name": "data", "description": "Yes", "images": [{"image": "ghcr.io/x/multi:2"}, {"image": pinned}]},
        ],
    }))
    .unwrap();
    let plan = Plan::of(&spec, "127.0.0.1:31999", "").unwrap();
    let definition = Definition::of("podinfo", &spec, &plan).unwrap();
    let images = [
        stored("nginx:1", "library/nginx", &[&single]),
        stored("ghcr.io/x/multi:2", "x/multi", &[&amd64, &arm64, &attestation, &list]),
        stored(&pinned, "x/pinned", &[&docker]),
    ];
    let contents = ArtifactContents {
        images: &images,
        ..ArtifactContents::default()
    };
    Artifact::of(&definition, contents).unwrap()
}

/// The pinned digests of an artifact, one a line. Each determines the next, so the first line that differs shows the cause.
fn digests(artifact: &Artifact) -> String {
    let definition = ["zarf.yaml", "jackal.yaml"]
        .into_iter()
        .find(|path| artifact.files.contains_key(*path))
        .unwrap();
    let mut lines = String::new();
    for path in ["images/index.json", "checksums.txt", definition] {
        lines += &format!("{path} {}\n", &Digest::of(&artifact.files[path]).hex()[..16]);
    }
    let alone = Document::of_index(Index::new(vec![artifact.entry()])).unwrap();
    lines += &format!("config {}\n", &Digest::of(&artifact.config).hex()[..16]);
    lines += &format!("manifest {}\n", artifact.manifest.digest());
    lines + &format!("tag {}\n", alone.digest())
}

fn pin(naming: &str, architecture: &str, expected: &str) {
    assert_eq!(
        digests(&artifact(naming, architecture)),
        expected,
        "{naming}, {architecture}: existing packages would be published again under other digests; \
         see the head of this file"
    );
}

#[test]
fn a_package_for_zarf_has_the_pinned_digests() {
    let expected = "\
images/index.json 38333bb36acbf983
checksums.txt 43b5afa7058a4de2
zarf.yaml 1748bdba3dd1f65e
config 677f42221acf1bb1
manifest sha256:9d57080cf2a6ef819f7df9660aa0dda6ad1a7e0430eca6e029224b7168b6219a
tag sha256:0a275299fe8ed2f580203c9854a960ab24b63eb56704a1b4541a3fb2c97263da
";
    pin("Zarf", "amd64", expected);
}

#[test]
fn a_package_for_jackal_has_the_pinned_digests() {
    let expected = "\
images/index.json 7201d57bce0e720d
checksums.txt c44f8d09a0ec932c
jackal.yaml dde4fa9d573dd5fe
config 19449d5cc4c4b0bd
manifest sha256:af2c8c51affd3990bc74b05e9a8bef68046caa3a3b827b66b4e51a97b4a7f070
tag sha256:1ef5c17cbe292e027b0f8068420031841f5a6f44a8dda730361e2fbe2aa34564
";
    pin("Jackal", "amd64", expected);
}

#[test]
fn a_package_for_another_architecture_has_the_pinned_digests() {
    let expected = "\
images/index.json 38333bb36acbf983
checksums.txt 43b5afa7058a4de2
zarf.yaml 1e6fc7fdd77a0bff
config 37e232d8a993fcdf
manifest sha256:674caca625d9e1e6b4e9f46b5729495a8022867f8842dfd762c929fde83a9ff0
tag sha256:348d8fcf11e446a26414be4e6d7b4806dda4dbaf6b2d349c4fbbffeb76203a87
";
    pin("Zarf", "arm64", expected);
}

/// Names without a checksum change the images' locations, but not the package.
#[test]
fn plain_naming_gives_the_artifact_for_zarf() {
    assert_eq!(artifact("Plain", "amd64"), artifact("Zarf", "amd64"));
}

/// The files of a package say all that its manifest has, unless it has tars, whose inputs are known to the registry alone.
#[test]
fn a_packed_package_has_the_same_manifest() {
    for (naming, file) in [("Zarf", "zarf.yaml"), ("Jackal", "jackal.yaml")] {
        let artifact = artifact(naming, "amd64");
        let packed = PackedDefinition::parse(file, &artifact.files[file]).unwrap();
        assert_eq!(*packed.config(), artifact.config);
        let made = artifact.files.iter();
        let made = made.map(|(path, content)| (path.clone(), Digest::of(content), content.len() as u64));
        let mounted = artifact
            .mounts
            .iter()
            .map(|Mount { blob, .. }| (blob_path(&blob.digest), blob.digest.clone(), blob.size));
        assert_eq!(packed.manifest(made.chain(mounted)).unwrap(), artifact.manifest);
        let listed = packed.checksums(&artifact.files["checksums.txt"]).unwrap();
        assert_eq!(listed.len(), artifact.files.len() + artifact.mounts.len() - 2);
    }
}

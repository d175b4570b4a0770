//! SBOMs of images in real registries, by the real syft.

pub mod failures;
mod packages;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use jackal_operator::oci::{Document, Index};
use jackal_operator::registry::Repository;
use jackal_operator::sbom::{Format, Isolation, Limits, Sboms, Syft, find_claimed, generate};
use jackal_operator::transfer::{Destination, LayoutDestination, RegistryDestination, Upload};
use serde_json::Value;

use crate::docker::engines::tar;
use crate::support::image::{entry, of_layer, put, stream};
use crate::support::process::run;
use crate::support::program;
use crate::support::registry::{Options, TestRegistry, Version};
use crate::support::scripted::{ScriptedServer, reply};
use crate::support::workspace::{Workspace, stderr, stdout};

/// The layer of an Alpine image whose database has these packages, by name and version.
fn alpine(packages: &[(&str, &str)]) -> Vec<u8> {
    let installed: String = packages
        .iter()
        .map(|(name, version)| {
            format!("C:Q1AAAAAAAAAAAAAAAAAAAAAAAAAAA=\nP:{name}\nV:{version}\nA:x86_64\nS:1\nI:1\nT:<b>{name}</b></script>\nL:MIT\no:{name}\n\n")
        })
        .collect();
    let release = "ID=alpine\nVERSION_ID=3.22.0\nPRETTY_NAME=\"Alpine Linux v3.22\"\n";
    tar(&[
        ("etc/os-release", release.to_owned()),
        ("lib/apk/db/installed", installed),
    ])
}

/// Pushes the image of such a layer under `tag`.
pub async fn put_alpine(repository: &Repository, tag: &str, packages: &[(&str, &str)]) -> Document {
    let image = of_layer(repository, "linux/amd64", &alpine(packages)).await;
    put(repository, &image, Some(tag)).await;
    image
}

/// The real syft, working below `root`.
async fn syft_below(root: &Path) -> Syft {
    syft_with(program("JACKAL_BIN_SYFT"), root, Limits::default()).await
}

async fn syft_with(program: PathBuf, root: &Path, limits: Limits) -> Syft {
    Syft::new(program, root.to_owned(), limits).await
}

fn at(repository: Repository) -> RegistryDestination {
    RegistryDestination::new(repository)
}

async fn content(destination: &dyn Destination, sboms: &Sboms, format: Format) -> Value {
    let blob = destination
        .blob(&sboms.contents[&format].digest, 1 << 24)
        .await
        .unwrap();
    serde_json::from_slice(&blob.unwrap()).unwrap()
}

/// The number of files of syft below `root`, once it has cleaned up.
async fn remaining_files(root: &Path) -> usize {
    let count = || std::fs::read_dir(root).unwrap().count();
    for _ in 0..400 {
        if count() == 0 {
            break;
        }
        tokio::time::sleep(Duration::from_millis(25)).await;
    }
    count()
}

#[tokio::test]
async fn a_copied_foreign_layer_is_scanned() {
    let registry = TestRegistry::start(Version::Olareg);
    let repository = registry.repository("team/web");
    let image = put_alpine(&repository, "plain", &[("musl", "1.2.5-r9")]).await;
    // The server of the urls gets no request, even if the registry returns nothing.
    let publisher = ScriptedServer::start(|_| reply(404, &[], "")).await;
    let mut manifest = image.manifest().unwrap().clone();
    let layer = &mut manifest.layers[0];
    layer.media_type = layer.media_type.replace("layer.v1", "layer.nondistributable.v1");
    layer.urls = vec![format!("http://{}/layer", publisher.host)];
    let image = Document::of_manifest(manifest).unwrap();
    put(&repository, &image, Some("1")).await;
    let root = tempfile::tempdir().unwrap();
    let syft = syft_below(root.path()).await;
    let layouts = tempfile::tempdir().unwrap();
    let layout = LayoutDestination::new(layouts.path(), "web");
    for blob in image
        .manifest()
        .unwrap()
        .layers
        .iter()
        .chain([&image.manifest().unwrap().config])
    {
        let content = repository.small_blob(&blob.digest, 1 << 20).await.unwrap().unwrap();
        layout.keep(&blob.digest, content).await.unwrap();
    }
    layout.publish(&image, Some("1")).await.unwrap();
    for destination in [&at(repository) as &dyn Destination, &layout] {
        let sboms = generate(&syft, destination, &image).await.unwrap();
        let spdx = content(destination, &sboms, Format::Spdx).await;
        let packages = spdx["packages"].as_array().unwrap();
        assert!(packages.iter().any(|package| package["name"] == "musl"), "{spdx}");
    }
    assert_eq!(publisher.requests().len(), 0);
    assert_eq!(remaining_files(root.path()).await, 0);
}

#[tokio::test]
async fn an_image_has_an_sbom_in_each_format() {
    for version in [Version::V28, Version::V31, Version::Olareg] {
        let registry = TestRegistry::start(version);
        let root = tempfile::tempdir().unwrap();
        let image = put_alpine(
            &registry.repository("team/web"),
            "1",
            &[("musl", "1.2.5-r9"), ("zlib", "1.3.1-r2")],
        )
        .await;
        let destination = at(registry.repository("team/web"));
        let syft = syft_below(root.path()).await;
        assert_eq!(find_claimed(&destination, image.digest()).await.unwrap(), None);
        let sboms = generate(&syft, &destination, &image).await.unwrap();
        assert!(sboms.tool.starts_with("syft 1."), "{}", sboms.tool);
        assert_eq!(
            find_claimed(&destination, image.digest()).await.unwrap().as_ref(),
            Some(&sboms)
        );

        let spdx = content(&destination, &sboms, Format::Spdx).await;
        let named = |list: &Value, version: &str| {
            let all = list.as_array().unwrap().iter();
            let mut all: Vec<String> = all
                .filter(|package| ["musl", "zlib"].contains(&package["name"].as_str().unwrap()))
                .map(|package| {
                    format!(
                        "{} {}",
                        package["name"].as_str().unwrap(),
                        package[version].as_str().unwrap()
                    )
                })
                .collect();
            all.sort();
            all
        };
        let expected = ["musl 1.2.5-r9", "zlib 1.3.1-r2"];
        assert_eq!(spdx["spdxVersion"], "SPDX-2.3");
        assert_eq!(named(&spdx["packages"], "versionInfo"), expected);
        let cyclonedx = content(&destination, &sboms, Format::CycloneDx).await;
        assert_eq!(cyclonedx["specVersion"], "1.6");
        assert_eq!(named(&cyclonedx["components"], "version"), expected);
        let own = content(&destination, &sboms, Format::Syft).await;
        assert_eq!(named(&own["artifacts"], "version"), expected);
        assert_eq!(own["distro"]["id"], "alpine");
        // It does not disclose where the image was read.
        for document in [&spdx, &cyclonedx, &own] {
            let text = document.to_string();
            let here = root.path().display().to_string();
            assert!(!text.contains(&registry.host) && !text.contains(&here), "{text}");
        }
        assert_eq!(remaining_files(root.path()).await, 0);

        // Another client finds them by the image.
        let listed: Index = serde_json::from_str(&listing(&registry, version, "team/web", &image)).unwrap();
        let mut kinds: Vec<String> = listed
            .manifests
            .into_iter()
            .filter_map(|entry| entry.artifact_type)
            .collect();
        kinds.sort();
        assert_eq!(
            kinds,
            [
                "application/spdx+json",
                "application/vnd.cyclonedx+json",
                "application/vnd.syft+json"
            ]
        );
    }
}

/// The referrers of an image as the registry lists them: by its API, or under the tag.
fn listing(registry: &TestRegistry, version: Version, repository: &str, image: &Document) -> String {
    let digest = image.digest();
    if version == Version::Olareg {
        let url = format!("http://{}/v2/{repository}/referrers/{digest}", registry.host);
        return run("curl", &["--silent", "--fail", "--noproxy", "*", &url]);
    }
    registry.crane(
        "manifest",
        &format!("{repository}:{}", digest.as_str().replace(':', "-")),
    )
}

#[tokio::test]
async fn the_sboms_of_an_image_do_not_depend_on_its_location() {
    let packages = [("musl", "1.2.5-r9")];
    let (root, folder) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let syft = syft_below(root.path()).await;
    let plain = TestRegistry::start(Version::V31);
    let image = put_alpine(&plain.repository("a"), "1", &packages).await;
    let one = generate(&syft, &at(plain.repository("a")), &image).await.unwrap();

    // With TLS of an unknown authority, with a password, in another repository.
    let options = Options {
        login: Some(("alice", "geheim")),
        tls: true,
    };
    let closed = TestRegistry::start_with(Version::V28, options);
    let same = put_alpine(&closed.repository("team/b"), "2", &packages).await;
    assert_eq!(same.digest(), image.digest());
    let other = generate(&syft, &at(closed.repository("team/b")), &same).await.unwrap();
    assert_eq!(other, one);

    // In a layout with other images.
    let layout = LayoutDestination::new(folder.path(), "c");
    for document in [&image, &put_alpine(&plain.repository("a"), "3", &[("zlib", "1")]).await] {
        for blob in document.manifest().unwrap().blobs() {
            let bytes = plain
                .repository("a")
                .small_blob(&blob.digest, 1 << 20)
                .await
                .unwrap()
                .unwrap();
            layout
                .upload(Upload {
                    digest: Some(blob.digest.clone()),
                    size: Some(blob.size),
                    bytes: stream(bytes),
                })
                .await
                .unwrap();
        }
        layout.publish(document, Some(document.digest().short())).await.unwrap();
    }
    let third = generate(&syft, &layout, &image).await.unwrap();
    assert_eq!(third, one);
    assert_eq!(find_claimed(&layout, image.digest()).await.unwrap(), Some(third));
}

#[tokio::test]
async fn an_sbom_made_concurrently_is_reused() {
    let registry = TestRegistry::start(Version::V31);
    let root = tempfile::tempdir().unwrap();
    let image = put_alpine(&registry.repository("a"), "1", &[("musl", "1")]).await;
    let runs = root.path().join("runs");
    let work = root.path().join("work");
    std::fs::create_dir(&work).unwrap();
    let counting = failures::script(
        root.path(),
        &format!(
            "echo run >>'{}'\nexec '{}' \"$@\"",
            runs.display(),
            program("JACKAL_BIN_SYFT").display()
        ),
    );
    // The script writes where syft must not.
    let free = Limits {
        isolation: Isolation::None,
        ..Limits::default()
    };
    let syft = Arc::new(syft_with(counting, &work, free).await);
    let destination = at(registry.repository("a"));
    let (one, other) = tokio::join!(
        generate(&syft, &destination, &image),
        generate(&syft, &destination, &image)
    );
    assert_eq!(one.unwrap(), other.unwrap());
    assert_eq!(std::fs::read_to_string(&runs).unwrap(), "run\n");
}

#[tokio::test]
async fn an_index_has_sboms_for_each_platform() {
    let registry = TestRegistry::start(Version::V31);
    let repository = registry.repository("team/multi");
    let mut entries = Vec::new();
    for (platform, version) in [("linux/amd64", "1"), ("linux/arm64", "2")] {
        let image = of_layer(&repository, platform, &alpine(&[("musl", version)])).await;
        put(&repository, &image, None).await;
        entries.push(entry(&image, platform));
    }
    let index = Document::of_index(Index::new(entries)).unwrap();
    put(&repository, &index, Some("1")).await;
    let root = tempfile::tempdir().unwrap();
    let command = Workspace::new().run(&[
        "sbom",
        &format!("{}/team/multi:1", registry.host),
        "--insecure",
        "--syft",
        program("JACKAL_BIN_SYFT").to_str().unwrap(),
        "--sbom-scratch",
        root.path().to_str().unwrap(),
    ]);
    assert!(command.status.success(), "{}", stderr(&command));
    let output = stdout(&command);
    assert_eq!(output.lines().count(), 6, "{output}");
    for (platform, child) in [("linux-amd64", 0), ("linux-arm64", 1)] {
        let digest = &index.index().unwrap().manifests[child].digest;
        let sboms = find_claimed(&at(repository.clone()), digest).await.unwrap().unwrap();
        let line = format!("team/multi:1-{platform} {digest} application/spdx+json");
        assert!(
            output.contains(&line) && output.contains(sboms.contents[&Format::Spdx].digest.as_str()),
            "{output}"
        );
    }
}

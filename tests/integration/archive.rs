//! `pack` and `load`: packages of registries and layouts in one file, and back.

use std::collections::BTreeMap;

use jackal_operator::archive::Header;
use jackal_operator::archive::format::{SKIPPABLE_HEADER, SeekTable, header_length};
use jackal_operator::oci::Digest;
use serde_json::{Value, json};

use crate::support::image::{multi_platform, noise};
use crate::support::process::run;
use crate::support::registry::{TestRegistry, Version};
use crate::support::workspace::{CommandResult as _, Workspace, stderr};

/// A package of an image and a file, in the registry and in the layout `out` of the workspace.
pub struct Packages {
    pub workspace: Workspace,
    pub registry: TestRegistry,
    pub reference: String,
}

impl Packages {
    pub async fn new() -> Self {
        let registry = TestRegistry::start(Version::V31);
        multi_platform(&registry.repository("team/app"), "1").await;
        let workspace = Workspace::new();
        let package = json!({
            "apiVersion": "jackal.dev/v1alpha1", "kind": "JackalPackage", "metadata": { "name": "shop" },
            "spec": {
                "version": "1.4.0", "format": "Zarf",
                "components": [{
                    "name": "web",
                    "images": [format!("{}/team/app:1", registry.host)],
                    "files": [{ "inline": "a page\n".repeat(100_000), "target": "/srv/page.txt" }],
                }],
            },
        });
        let text = package.to_string();
        workspace.text_report(&text, &registry.host, &[&registry.host], &[]);
        workspace.text_report(&text, "oci:out", &[&registry.host], &[]);
        let reference = format!("{}/shop:1.4.0", registry.host);
        Self {
            workspace,
            registry,
            reference,
        }
    }

    pub fn pack(&self, reference: &str, file: &str, more: &[&str]) -> std::process::Output {
        let flags = ["pack", reference, "--insecure", "--output", file];
        self.workspace.run(&[&flags[..], more].concat())
    }
}

/// The digests of the files of a tar, by their paths, as tar and zstd read it.
fn unpacked(workspace: &Workspace, file: &str) -> BTreeMap<String, String> {
    let to = workspace.path(format!("{file}.unpacked"));
    std::fs::create_dir(&to).unwrap();
    let (file, to) = (workspace.path(file), to.to_str().unwrap().to_owned());
    run("tar", &["--zstd", "-xf", file.to_str().unwrap(), "-C", &to]);
    let sums = run(
        "sh",
        &[
            "-c",
            &format!("cd {to} && find . -type f -printf '%P\\0' | xargs -0 sha256sum"),
        ],
    );
    let sums = sums.lines().map(|line| line.split_once("  ").unwrap());
    sums.map(|(sum, path)| (path.to_owned(), sum.to_owned())).collect()
}

#[tokio::test]
async fn a_package_file_has_every_file_of_the_package() {
    let packages = Packages::new().await;
    packages.pack(&packages.reference, "shop.tar.zst", &[]).succeeded();
    let files = unpacked(&packages.workspace, "shop.tar.zst");
    let checksums = std::fs::read_to_string(packages.workspace.path("shop.tar.zst.unpacked/checksums.txt")).unwrap();
    let mut expected: BTreeMap<String, String> = checksums
        .lines()
        .map(|line| line.split_once(' ').unwrap())
        .map(|(sum, path)| (path.to_owned(), sum.to_owned()))
        .collect();
    for path in ["zarf.yaml", "checksums.txt"] {
        expected.insert(path.to_owned(), files[path].clone());
    }
    assert_eq!(files, expected);
    let blobs = files.keys().filter(|path| path.starts_with("images/blobs/sha256/"));
    assert!(blobs.count() > 4 && files.contains_key("components/web.tar"));

    // Its first and last frames tell what the registry holds, and where everything lies.
    let bytes = std::fs::read(packages.workspace.path("shop.tar.zst")).unwrap();
    let length = header_length(&bytes).unwrap() as usize;
    let header = Header::decode(&bytes[SKIPPABLE_HEADER..SKIPPABLE_HEADER + length]).unwrap();
    let index: Value = serde_json::from_str(&packages.registry.crane("manifest", "shop:1.4.0")).unwrap();
    let digest = header.packages[0].manifest.digest().as_str();
    assert_eq!(index["manifests"][0]["digest"], digest);
    let frame = SeekTable::frame_length(&bytes[bytes.len() - 9..]).unwrap();
    let table = SeekTable::parse(&bytes[bytes.len() - frame..]).unwrap();
    assert_eq!(table.compressed() as usize, bytes.len() - frame);
    // The text got shorter, and the layers did not get longer than by their frames.
    assert!(table.content() > 700_000 && (bytes.len() as u64) < table.content() - 600_000);
}

#[tokio::test]
async fn the_same_package_gives_the_same_bytes_wherever_it_lies() {
    let packages = Packages::new().await;
    packages.pack(&packages.reference, "a.tar.zst", &[]).succeeded();
    packages.pack("oci:out:shop:1.4.0", "b.tar.zst", &[]).succeeded();
    let pipe = packages.pack(&packages.reference, "-", &[]);
    pipe.succeeded();
    let read = |file: &str| std::fs::read(packages.workspace.path(file)).unwrap();
    assert_eq!(Digest::of(&read("a.tar.zst")), Digest::of(&read("b.tar.zst")));
    assert_eq!(Digest::of(&read("a.tar.zst")), Digest::of(&pipe.stdout));
    let report = packages.pack(&packages.reference, "a.tar.zst", &["--format", "json"]);
    report.succeeded();
    let report: Value = serde_json::from_slice(&report.stdout).unwrap();
    assert_eq!(report["digest"], Digest::of(&read("a.tar.zst")).as_str());
    assert_eq!(report["size"], read("a.tar.zst").len());
}

#[tokio::test]
async fn an_architecture_is_chosen_where_there_are_several() {
    let packages = Packages::new().await;
    let text = std::fs::read_to_string(packages.workspace.path("package.yaml")).unwrap();
    let other = text.replace("\"spec\":{", "\"spec\":{\"architecture\":\"arm64\",");
    let host = &packages.registry.host;
    packages.workspace.text_report(&other, host, &[host], &[]);
    let unclear = packages.pack(&packages.reference, "a.tar.zst", &[]);
    unclear.failed(2, &["has packages for amd64, arm64; choose one by --architecture"]);
    packages
        .pack(&packages.reference, "a.tar.zst", &["--architecture", "arm64"])
        .succeeded();
    unpacked(&packages.workspace, "a.tar.zst");
    let definition = std::fs::read_to_string(packages.workspace.path("a.tar.zst.unpacked/zarf.yaml")).unwrap();
    assert!(definition.contains("architecture: 'arm64'"), "{definition}");
    let absent = packages.pack(&packages.reference, "b.tar.zst", &["--architecture", "riscv64"]);
    absent.failed(2, &["has packages for amd64, arm64"]);
}

#[tokio::test]
async fn what_cannot_be_packed_leaves_no_file() {
    let packages = Packages::new().await;
    let image = format!("{}/team/app:1", packages.registry.host);
    packages.pack(&image, "a.tar.zst", &[]).failed(2, &["is not a package"]);
    packages
        .pack(&packages.reference, "a.zip", &[])
        .failed(2, &["name the file *.tar.zst"]);
    packages
        .pack(&packages.reference, "nowhere/a.tar.zst", &[])
        .failed(1, &["nowhere/a.tar.zst cannot be written"]);
    let absent = format!("{}/shop:2", packages.registry.host);
    packages.pack(&absent, "a.tar.zst", &[]).failed(1, &["does not exist"]);

    // A layer of the layout is another content of the same length, one is cut, and one is gone.
    let index = std::fs::read(packages.workspace.path("out/index.json")).unwrap();
    let layers = largest_blobs(&packages.workspace);
    let content = bytes::Bytes::from(std::fs::read(&layers).unwrap());
    for (damaged, words) in [
        (Some(noise(7, content.len())), "sent content that is not sha256:"),
        (Some(content.slice(..content.len() / 2)), "sha256:"),
        (None, "does not hold sha256:"),
    ] {
        match damaged {
            Some(damaged) => std::fs::write(&layers, damaged).unwrap(),
            None => std::fs::remove_file(&layers).unwrap(),
        }
        let output = packages.pack("oci:out:shop:1.4.0", "a.tar.zst", &[]);
        assert!(!output.status.success());
        assert!(
            stderr(&output).contains(words) && stderr(&output).contains("of the package: "),
            "{}",
            stderr(&output)
        );
    }
    assert_eq!(std::fs::read(packages.workspace.path("out/index.json")).unwrap(), index);
    let left: Vec<String> = std::fs::read_dir(packages.workspace.path("."))
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .filter(|name| name.ends_with(".zst"))
        .collect();
    assert!(left.is_empty(), "{left:?}");
}

/// The largest blob of the layout `out`.
fn largest_blobs(workspace: &Workspace) -> std::path::PathBuf {
    let blobs = std::fs::read_dir(workspace.path("out/blobs/sha256")).unwrap();
    blobs
        .map(|entry| entry.unwrap())
        .max_by_key(|entry| entry.metadata().unwrap().len())
        .unwrap()
        .path()
}

/// The digests under every tag that the package and its image have at `host`.
pub fn digests(registry: &TestRegistry, prefix: &str) -> Vec<String> {
    let names = ["shop:1.4.0", "team/app:1"];
    names
        .map(|name| registry.crane("digest", &format!("{prefix}{name}")))
        .to_vec()
}

#[tokio::test]
async fn a_loaded_package_is_the_one_that_was_packed() {
    let packages = Packages::new().await;
    packages.pack(&packages.reference, "shop.tar.zst", &[]).succeeded();
    let expected = digests(&packages.registry, "");
    for (version, prefix) in [(Version::V31, ""), (Version::V28, "site/")] {
        let to = TestRegistry::start(version);
        let target = format!("{}/{prefix}", to.host);
        let arguments = [
            "load",
            "shop.tar.zst",
            "--to",
            &target,
            "--insecure",
            "--output",
            "json",
        ];
        let first = packages.workspace.run(&arguments);
        first.succeeded();
        assert_eq!(digests(&to, prefix), expected);
        to.crane("validate", &format!("{prefix}team/app:1"));
        let report: Value = serde_json::from_slice(&first.stdout).unwrap();
        assert_eq!(report["package"], format!("{}/{prefix}shop:1.4.0", to.host));
        assert_eq!(report["digest"], expected[0].trim());
        assert_eq!(report["images"], json!([format!("{}/{prefix}team/app:1", to.host)]));
        assert!(report["sentBytes"].as_u64().unwrap() > 100_000);
        // A repeat sends nothing, also out of a pipe.
        let bytes = std::fs::read(packages.workspace.path("shop.tar.zst")).unwrap();
        let repeat = packages
            .workspace
            .run_with(&[&["load", "-"], &arguments[2..]].concat(), &bytes);
        repeat.succeeded();
        let report: Value = serde_json::from_slice(&repeat.stdout).unwrap();
        assert_eq!(report["sentBytes"], 0, "{report}");
        // What was loaded is packed to the same bytes.
        let reference = format!("{}/{prefix}shop:1.4.0", to.host);
        packages.pack(&reference, "again.tar.zst", &[]).succeeded();
        assert_eq!(
            Digest::of(&std::fs::read(packages.workspace.path("again.tar.zst")).unwrap()),
            Digest::of(&bytes)
        );
    }
    packages
        .workspace
        .run(&["load", "shop.tar.zst", "--to", "oci:loaded"])
        .succeeded();
    packages
        .pack("oci:loaded:shop:1.4.0", "layout.tar.zst", &[])
        .succeeded();
    let digest = |file: &str| Digest::of(&std::fs::read(packages.workspace.path(file)).unwrap());
    assert_eq!(digest("layout.tar.zst"), digest("shop.tar.zst"));
}

/// Every manifest that a registry names by a tag.
pub async fn tags(registry: &TestRegistry) -> Vec<String> {
    let mut tags = Vec::new();
    for repository in ["shop", "team/app"] {
        let listed = registry.repository(repository).tags(100).await.unwrap();
        tags.extend(listed.unwrap_or_default());
    }
    tags
}

#[tokio::test]
async fn a_damaged_file_is_refused_before_a_tag_is_written() {
    let packages = Packages::new().await;
    packages.pack(&packages.reference, "shop.tar.zst", &[]).succeeded();
    let sound = std::fs::read(packages.workspace.path("shop.tar.zst")).unwrap();
    let header = header_length(&sound).unwrap() as usize + SKIPPABLE_HEADER;
    let middle = header + (sound.len() - header) / 2;
    let flipped = |at: usize| {
        let mut bytes = sound.clone();
        bytes[at] ^= 1;
        bytes
    };
    let to = TestRegistry::start(Version::V31);
    let mut damaged = vec![
        (Vec::new(), "it is too short"),
        (b"not a package".to_vec(), "it does not begin as files of `pack` do"),
        (sound[..header - 10].to_vec(), "it ends in its header"),
        (sound[..header].to_vec(), "its end is missing"),
        (sound[..middle].to_vec(), ""),
        (flipped(header / 2), ""),
        (sound[..header].iter().chain(&sound[middle..]).copied().collect(), ""),
    ];
    // One bit in each of many places behind the header.
    let table = SeekTable::frame_length(&sound[sound.len() - 9..]).unwrap();
    let step = (sound.len() - table - header) / 40;
    damaged.extend((header..sound.len() - table).step_by(step).map(|at| (flipped(at), "")));
    for (number, (bytes, words)) in damaged.into_iter().enumerate() {
        packages.workspace.write("damaged.tar.zst", &bytes);
        // A repository of its own for each: content that exists already is not read.
        let destination = format!("{}/n{number}", to.host);
        let arguments = ["load", "damaged.tar.zst", "--to", &destination, "--insecure"];
        let output = packages.workspace.run(&arguments);
        let said = stderr(&output);
        assert!(!output.status.success(), "{number} was loaded");
        assert!(said.contains(words) && !said.contains("panicked"), "{number}: {said}");
        assert!(tags(&to).await.is_empty(), "{number}");
    }
    let arguments = ["load", "shop.tar.zst", "--to", &to.host, "--insecure"];
    packages.workspace.run(&arguments).succeeded();
    assert_eq!(digests(&to, ""), digests(&packages.registry, ""));
}

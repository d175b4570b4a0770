//! `unpack`: the images of a package file in containerd, docker and skopeo.

use std::path::Path;
use std::process::Output;

use bytes::Bytes;
use jackal_operator::archive::format::{SeekTable, header as header_frame, stored};
use jackal_operator::archive::{Header, Packed};
use jackal_operator::oci::{Descriptor, Digest, Document, Manifest, media_type};
use jackal_operator::registry::Repository;
use serde_json::{Value, json};

use crate::containerd::node::Node;
use crate::docker::engines::{DockerEngine, Image};
use crate::support::image::{multi_platform, push, put};
use crate::support::program;
use crate::support::registry::{TestRegistry, Version};
use crate::support::workspace::{CommandResult as _, Workspace, all_output, stderr};

/// The package file `shop.tar.zst` with the images `multi:1`, of three platforms, and `single:2`.
pub struct PackedImages {
    pub workspace: Workspace,
    pub registry: TestRegistry,
    pub single: Image,
}

impl PackedImages {
    pub async fn new() -> Self {
        let registry = TestRegistry::start(Version::V31);
        multi_platform(&registry.repository("multi"), "1").await;
        let single = Image::varied(&format!("{}/single:2", registry.host));
        push_single(&registry.repository("single"), &single).await;
        let workspace = Workspace::new();
        let package = json!({
            "apiVersion": "jackal.dev/v1alpha1", "kind": "JackalPackage", "metadata": { "name": "shop" },
            "spec": {
                "version": "1.4.0", "format": "Zarf",
                "components": [{
                    "name": "web",
                    "images": [format!("{}/multi:1", registry.host), format!("{}/single:2", registry.host)],
                }],
            },
        });
        workspace.text_report(&package.to_string(), &registry.host, &[&registry.host], &[]);
        let reference = format!("{}/shop:1.4.0", registry.host);
        workspace
            .run(&["pack", &reference, "--insecure", "--output", "shop.tar.zst"])
            .succeeded();
        Self {
            workspace,
            registry,
            single,
        }
    }

    /// The whole name of `multi:1` or `single:2`.
    pub fn name(&self, image: &str) -> String {
        format!("{}/{image}", self.registry.host)
    }

    pub fn digest(&self, image: &str) -> Digest {
        self.registry.crane("digest", image).trim().parse().unwrap()
    }

    fn unpack(&self, format: &str, more: &[&str]) -> Output {
        let flags = ["unpack", "shop.tar.zst", "--format", format];
        self.workspace.run(&[&flags[..], more].concat())
    }

    /// Runs `unpack` with `arguments` into a pipe to the command `reader`, and returns the exit code of `unpack` behind what both
    /// printed.
    fn pipe(&self, arguments: &str, reader: &str) -> String {
        let script = format!(
            "set -o pipefail; {} unpack shop.tar.zst {arguments} | {reader}; echo codes ${{PIPESTATUS[@]}}",
            env!("CARGO_BIN_EXE_jackal-operator")
        );
        let output = self.workspace.command_of(Path::new("bash"), &["-c", &script]).output();
        all_output(&output.unwrap())
    }

    fn skopeo(&self, arguments: &[&str]) -> String {
        let output = self
            .workspace
            .command_of(&program("JACKAL_BIN_SKOPEO"), arguments)
            .output();
        let output = output.unwrap();
        output.succeeded();
        String::from_utf8(output.stdout).unwrap()
    }
}

/// Pushes `image` with its layers in gzip, in Zstandard and as they are.
async fn push_single(repository: &Repository, image: &Image) {
    let mut layers = Vec::new();
    for (at, layer) in image.layers.iter().enumerate() {
        let (kind, content): (_, Bytes) = match at % 3 {
            0 => (
                media_type::OCI_LAYER_ZSTD,
                zstd::bulk::compress(layer, 3).unwrap().into(),
            ),
            1 => (media_type::OCI_LAYER_GZIP, gzip(layer)),
            _ => (media_type::OCI_LAYER, layer.clone().into()),
        };
        layers.push(push(repository, kind, content).await);
    }
    let config = push(repository, media_type::OCI_CONFIG, image.config.clone().into()).await;
    let manifest = Document::of_manifest(Manifest::new(config, layers)).unwrap();
    put(repository, &manifest, Some("2")).await;
}

fn gzip(content: &[u8]) -> Bytes {
    use std::io::Write as _;
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(content).unwrap();
    encoder.finish().unwrap().into()
}

#[tokio::test]
async fn containerd_imports_a_pipe() {
    let packed = PackedImages::new().await;
    for (node, more) in Node::all().into_iter().zip([
        // A ctr of version 2 asks a containerd of version 1.6 for a service that it does not have.
        "--local --no-unpack --all-platforms",
        "--no-unpack --all-platforms",
    ]) {
        let ctr = format!(
            "{} --address {} --namespace jackal-unpack images import {more} -",
            program("JACKAL_BIN_CTR").display(),
            node.address
        );
        let said = packed.pipe("--format oci-archive -", &ctr);
        assert!(said.ends_with("codes 0 0\n"), "{said}");
        for image in ["multi:1", "single:2"] {
            let listed = node.ctr_in(
                "jackal-unpack",
                &["images", "list", &format!("name=={}", packed.name(image))],
            );
            assert!(listed.contains(packed.digest(image).as_str()), "{image}: {listed}");
        }
        // All of the content is there, for every platform.
        let checked = node.ctr_in("jackal-unpack", &["images", "check"]);
        for image in ["multi:1", "single:2"] {
            let row = checked.lines().find(|row| row.starts_with(&packed.name(image)));
            assert!(row.is_some_and(|row| row.contains(" complete")), "{checked}");
        }
    }
}

#[tokio::test]
async fn docker_loads_a_pipe() {
    let packed = PackedImages::new().await;
    let docker = std::env::var("JACKAL_BIN_DOCKER").unwrap_or_else(|_| "docker".to_owned());
    let multi: Value = serde_json::from_str(&packed.registry.crane("config", "multi:1")).unwrap();
    for engine in DockerEngine::all() {
        let load = format!("{docker} --host {} load", engine.host);
        let said = packed.pipe("--format docker-archive", &load);
        assert!(said.ends_with("codes 0 0\n"), "{said}");
        let inspect = |image: &str, field: &str| {
            let format = format!("{{{{json {field}}}}}");
            let text = engine.output(&["image", "inspect", "--format", &format, &packed.name(image)]);
            serde_json::from_str::<Value>(&text).unwrap()
        };
        assert_eq!(inspect("single:2", ".RootFS.Layers"), json!(packed.single.diff_ids()));
        assert_eq!(inspect("multi:1", ".RootFS.Layers"), multi["rootfs"]["diff_ids"]);
        // The containerd store names images by their manifests, and makes one for a tar that has none.
        if engine.host != DockerEngine::containerd().host {
            assert_eq!(inspect("single:2", ".Id"), json!(Digest::of(&packed.single.config)));
        }
    }
    // It takes a layout too, and keeps the digests.
    let engine = DockerEngine::containerd();
    let load = format!("{docker} --host {} load", engine.host);
    let said = packed.pipe("--format oci-archive --output -", &load);
    assert!(said.ends_with("codes 0 0\n"), "{said}");
    for image in ["multi:1", "single:2"] {
        let id = engine.output(&["image", "inspect", "--format", "{{.Id}}", &packed.name(image)]);
        assert_eq!(id.trim(), packed.digest(image).as_str());
    }
}

#[tokio::test]
async fn skopeo_reads_every_form() {
    let packed = PackedImages::new().await;
    packed.unpack("oci-archive", &["--output", "images.tar"]).succeeded();
    packed.unpack("oci", &["--output", "images"]).succeeded();
    packed
        .unpack(
            "docker-archive",
            &["--output", "docker.tar", "--image", &packed.name("single:2")],
        )
        .succeeded();
    for image in ["multi:1", "single:2"] {
        let name = packed.name(image);
        let raw = packed.registry.crane("manifest", image);
        for from in ["oci-archive:images.tar", "oci:images"] {
            assert_eq!(packed.skopeo(&["inspect", "--raw", &format!("{from}:{name}")]), raw);
            let copy = ["copy", "--all", &format!("{from}:{name}"), &format!("dir:{image}")];
            packed.skopeo(&copy);
            let copied = std::fs::read(packed.workspace.path(format!("{image}/manifest.json"))).unwrap();
            assert_eq!(String::from_utf8(copied).unwrap(), raw);
        }
    }
    let config = packed.skopeo(&["inspect", "--config", "--raw", "docker-archive:docker.tar"]);
    assert_eq!(config.as_bytes(), packed.single.config);
    let copy = ["copy", "docker-archive:docker.tar", "dir:docker"];
    packed.skopeo(&copy);
    // The same archive gives the same bytes, into a file and into a pipe.
    let pipe = packed.unpack("oci-archive", &[]);
    pipe.succeeded();
    let file = std::fs::read(packed.workspace.path("images.tar")).unwrap();
    assert_eq!(Digest::of(&pipe.stdout), Digest::of(&file));
    // A repeat writes nothing into a layout that is complete.
    let before = packed.workspace.files("images/blobs");
    packed.unpack("oci", &["--output", "images"]).succeeded();
    assert_eq!(packed.workspace.files("images/blobs"), before);
}

#[tokio::test]
async fn one_platform_of_one_image_is_unpacked() {
    let packed = PackedImages::new().await;
    let name = packed.name("multi:1");
    for (platform, format, from) in [
        ("linux/arm64", "docker-archive", "docker-archive:one.tar"),
        ("linux/s390x", "oci-archive", "oci-archive:one.tar"),
    ] {
        let flags = ["--output", "one.tar", "--image", &name, "--platform", platform];
        packed.unpack(format, &flags).succeeded();
        let config = packed.skopeo(&["inspect", "--config", "--raw", from]);
        let config: Value = serde_json::from_str(&config).unwrap();
        assert_eq!(
            Some(config["architecture"].as_str().unwrap()),
            platform.strip_prefix("linux/")
        );
    }
    let absent = ["--output", "one.tar", "--image", &name, "--platform", "linux/riscv64"];
    packed.unpack("oci-archive", &absent).failed(
        2,
        &["for linux/amd64, linux/arm64, linux/s390x, not for linux/riscv64; choose one with --platform"],
    );
    packed
        .unpack("oci-archive", &["--output", "one.tar", "--image", "absent:1"])
        .failed(2, &["the archive has no image docker.io/library/absent:1"]);
    packed
        .unpack("oci", &[])
        .failed(2, &["name the file or directory to write with --output"]);
    packed
        .unpack("oci", &["-o", "-"])
        .failed(2, &["--format oci writes a directory"]);
    packed
        .unpack("oci-archive", &["-o", "nowhere/one.tar"])
        .failed(1, &["nowhere/one.tar cannot be written"]);
    packed
        .unpack("oci-archive", &["one.tar", "-o", "one.tar"])
        .failed(2, &["cannot be used with"]);
}

#[tokio::test]
async fn a_reader_that_ends_early_is_named() {
    let packed = PackedImages::new().await;
    for format in ["oci-archive", "docker-archive"] {
        let said = packed.pipe(&format!("--format {format}"), "head -c 1000 > /dev/null");
        assert!(
            said.contains("the program that reads the output ended before"),
            "{said}"
        );
        assert!(said.ends_with("codes 1 0\n") && !said.contains("panicked"), "{said}");
    }
    if Path::new("/dev/full").exists() {
        let output = packed.pipe("--format oci-archive > /dev/full", "cat");
        assert!(
            output.contains("No space left on device") && output.ends_with("codes 1 0\n"),
            "{output}"
        );
    }
}

/// A package file whose manifest has these files.
fn forged(files: &[(&str, Bytes)]) -> Vec<u8> {
    let layers = files.iter().map(|(path, content)| Descriptor {
        annotations: [("org.opencontainers.image.title".to_owned(), (*path).to_owned())].into(),
        ..Descriptor::new(
            "application/vnd.zarf.layer.v1.blob",
            Digest::of(content),
            content.len() as u64,
        )
    });
    let config = Bytes::from_static(br#"{"metadata":{"name":"x","version":"1","architecture":"amd64"}}"#);
    let described = Descriptor::new(media_type::ZARF_CONFIG, Digest::of(&config), config.len() as u64);
    let header = Header {
        packages: vec![Packed {
            manifest: Document::of_manifest(Manifest::new(described, layers.collect())).unwrap(),
            config,
            omitted: Default::default(),
        }],
    };
    // The names in the tar do not count: those in the manifest are compared first.
    let members: Vec<(&str, &Bytes)> = files
        .iter()
        .map(|(path, content)| (path.trim_start_matches(['.', '/']), content))
        .collect();
    let tar = crate::docker::engines::tar(&members);
    let frames = [(header_frame(&header.encode()).unwrap(), 0), (stored(&tar), tar.len())];
    let (mut file, mut table) = (Vec::new(), SeekTable::default());
    for (frame, content) in frames {
        table.push(frame.len(), content).unwrap();
        file.extend_from_slice(&frame);
    }
    file.extend_from_slice(&table.frame().unwrap());
    file
}

/// Where a package file has a blob of an image.
fn blob_path(digest: &Digest) -> String {
    format!("images/blobs/sha256/{}", digest.hex())
}

/// An image without layers and platform: its manifest, its configuration, and the list of images that names it.
fn image_named(name: &str) -> (Document, Bytes, Bytes) {
    let config = Bytes::from_static(b"{}");
    let described = Descriptor::new(media_type::OCI_CONFIG, Digest::of(&config), 2);
    let manifest = Document::of_manifest(Manifest::new(described, Vec::new())).unwrap();
    let mut entry = serde_json::to_value(&manifest.descriptor).unwrap();
    entry["annotations"] = json!({ "org.opencontainers.image.ref.name": name });
    let index = json!({ "schemaVersion": 2, "manifests": [entry] });
    (manifest, config, Bytes::from(index.to_string()))
}

#[tokio::test]
async fn nothing_is_written_outside_of_the_directory() {
    for (name, path, words) in [
        ("x:1", "../../evil", "is not one of a file in the package"),
        ("x:1", "/tmp/evil", "is not one of a file in the package"),
        ("../../evil", "evil", "it lists the image \"../../evil\""),
        ("../evil:1", "evil", "it lists the image \"../evil:1\""),
        ("x:../../evil", "evil", "it lists the image \"x:../../evil\""),
    ] {
        let (manifest, config, index) = image_named(name);
        let manifest_path = blob_path(manifest.digest());
        let config_path = blob_path(&Digest::of(&config));
        let evil = Bytes::from_static(b"evil");
        let files = [
            (path, evil),
            ("images/index.json", index),
            (&manifest_path, manifest.raw.clone()),
            (&config_path, config),
        ];
        let workspace = Workspace::new().file("in/forged.tar.zst", forged(&files));
        let output = workspace.run(&[
            "unpack",
            "in/forged.tar.zst",
            "--format",
            "oci",
            "--output",
            "in/a/b/out",
        ]);
        output.failed(2, &[words]);
        assert!(!stderr(&output).contains("panicked"));
        let written = workspace.files("in");
        assert_eq!(written.len(), 1, "{written:?}");
    }
    // The same without such a name is unpacked.
    let (manifest, config, index) = image_named("x:1");
    let (manifest_path, config_path) = (blob_path(manifest.digest()), blob_path(&Digest::of(&config)));
    let files = [
        ("images/index.json", index),
        (manifest_path.as_str(), manifest.raw.clone()),
        (config_path.as_str(), config),
    ];
    let workspace = Workspace::new().file("forged.tar.zst", forged(&files));
    workspace
        .run(&["unpack", "forged.tar.zst", "--format", "oci", "--output", "out"])
        .succeeded();
    let blobs = workspace.files("out/blobs");
    assert_eq!(blobs.len(), 2, "{blobs:?}");
    // It says no platform: it is one for this machine, and not for one that is asked for.
    let unpack = |more: &[&str]| {
        let flags = [
            "unpack",
            "forged.tar.zst",
            "--format",
            "docker-archive",
            "--output",
            "docker.tar",
        ];
        workspace.run(&[&flags[..], more].concat())
    };
    unpack(&[]).succeeded();
    unpack(&["--platform", "linux/arm64"]).failed(2, &["docker.io/library/x:1 for no platform, not for linux/arm64"]);
}

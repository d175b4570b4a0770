//! `load` of archives that other tools write: skopeo, docker engines, and tar with the files of a package.

use jackal_operator::oci::{Compression, Descriptor, Digest, Document, Manifest, media_type};
use jackal_operator::source::docker::StorageKind;
use serde_json::{Value, json};

use crate::docker::engines::{DockerEngine, Image, tar};
use crate::docker::indexes::build;
use crate::signing::signing_file;
use crate::support::image::multi_platform;
use crate::support::independent::{Pulled, pull_and_verify};
use crate::support::process::run;
use crate::support::program;
use crate::support::registry::{TestRegistry, Version};
use crate::support::workspace::{CommandResult as _, Workspace, stdout};

/// A registry with an image of several platforms, `team/app:1`, and an empty one.
struct Registries {
    workspace: Workspace,
    source: TestRegistry,
    to: TestRegistry,
    digest: String,
}

impl Registries {
    async fn new() -> Self {
        let source = TestRegistry::start(Version::V31);
        let (index, _) = multi_platform(&source.repository("team/app"), "1").await;
        Self {
            workspace: Workspace::new(),
            source,
            to: TestRegistry::start(Version::V28),
            digest: index.digest().to_string(),
        }
    }

    /// Copies the image by skopeo.
    fn skopeo(&self, flags: &[&str], to: &str) {
        let from = format!("docker://{}/team/app:1", self.source.host);
        let (kind, path) = to.split_once(':').unwrap();
        let to = format!("{kind}:{}", self.workspace.path(path).display());
        let insecure = ["--insecure-policy", "copy", "--src-tls-verify=false"];
        run(
            program("JACKAL_BIN_SKOPEO"),
            &[&insecure, flags, &[&from, &to]].concat(),
        );
    }

    /// Loads `file` below `prefix`. Returns the result.
    fn load(&self, file: &str, prefix: &str, more: &[&str]) -> Value {
        let to = format!("{}/{prefix}", self.to.host);
        let flags = ["load", file, "--to", &to, "--insecure", "--output", "json"];
        let output = self.workspace.run(&[&flags, more].concat());
        output.succeeded();
        serde_json::from_str(&stdout(&output)).unwrap()
    }

    async fn pulled(&self, repository: &str, tag: &str) -> Pulled {
        pull_and_verify(&self.to.host, repository, tag).await
    }

    fn shell(&self, script: &str) {
        let folder = self.workspace.path(".");
        run("sh", &["-ec", &format!("cd {}; {script}", folder.display())]);
    }
}

#[tokio::test]
async fn what_skopeo_writes_is_loaded_with_its_digests() {
    let registries = Registries::new().await;
    let name = "registry.example.com/team/app:1";
    registries.skopeo(&["--all"], &format!("oci-archive:image.tar:{name}"));
    registries.skopeo(&["--all"], &format!("oci:layout:{name}"));
    registries
        .shell("gzip -k image.tar; zstd -q image.tar -o image.tar.zst; mkdir renamed; cp image.tar.gz renamed/data");
    for (number, file) in ["image.tar", "layout", "image.tar.zst", "renamed/data"]
        .iter()
        .enumerate()
    {
        let prefix = format!("n{number}");
        let report = registries.load(file, &prefix, &[]);
        assert_eq!(
            report["images"],
            json!([format!("{}/{prefix}/team/app:1", registries.to.host)]),
            "{file}"
        );
        assert!(report["sentBytes"].as_u64().unwrap() > 600_000, "{file}: {report}");
        let pulled = registries.pulled(&format!("{prefix}/team/app"), "1").await;
        assert_eq!(pulled.digest, registries.digest, "{file}");
        assert_eq!(registries.load(file, &prefix, &[])["sentBytes"], 0, "{file}");
    }
    let flags = ["load", "image.tar.zst", "--to", "oci:out", "--naming", "zarf"];
    let output = registries.workspace.run(&flags);
    output.succeeded();
    let index = std::fs::read_to_string(registries.workspace.path("out/index.json")).unwrap();
    assert!(
        index.contains(&registries.digest) && stdout(&output).contains("oci:out:team/app:1-zarf-"),
        "{index}"
    );
}

#[tokio::test]
async fn images_alone_have_a_receipt_and_no_signature() {
    let registries = Registries::new().await;
    registries.skopeo(&["--all"], "oci-archive:image.tar:example.com/team/app:1");
    std::fs::copy(signing_file("cosign.pub"), registries.workspace.path("cosign.pub")).unwrap();
    let arguments = ["load", "image.tar", "--to", &registries.to.host, "--insecure"];
    let keyed = [&arguments[..], &["--key", "cosign.pub", "--receipt", "receipt.json"]].concat();
    let refused = registries.workspace.run(&keyed);
    refused.failed(2, &["image.tar", "no package that could be signed"]);
    assert!(!registries.workspace.path("receipt.json").exists());
    let repositories = registries.to.client().repositories().await.unwrap();
    assert_eq!(repositories, Vec::<String>::new());
    let report = registries.load("image.tar", "", &["--receipt", "receipt.json"]);
    let receipt = std::fs::read(registries.workspace.path("receipt.json")).unwrap();
    let receipt: Value = serde_json::from_slice(&receipt).unwrap();
    let image = json!({ "name": format!("{}/team/app:1", registries.to.host), "digest": registries.digest });
    assert_eq!(
        (&receipt["packages"], &receipt["images"]),
        (&json!([]), &json!([image]))
    );
    assert_eq!(receipt["sentBytes"], report["sentBytes"]);
    assert_eq!(receipt["signaturesVerified"], false);
}

#[tokio::test]
async fn an_image_without_name_gets_one() {
    let registries = Registries::new().await;
    registries.skopeo(&["--all"], "oci-archive:image.tar:1.2");
    let arguments = ["load", "image.tar", "--to", &registries.to.host, "--insecure"];
    let nameless = registries.workspace.run(&arguments);
    nameless.failed(
        2,
        &["image.tar", &registries.digest, "has no name", "give it one by --name"],
    );
    let report = registries.load("image.tar", "", &["--name", "example.com/other/app:2"]);
    assert_eq!(report["images"], json!([format!("{}/other/app:2", registries.to.host)]));
    assert_eq!(registries.pulled("other/app", "2").await.digest, registries.digest);
    registries
        .workspace
        .run(&[&arguments[..], &["--name", "Not A Name"]].concat())
        .failed(2, &["is not an image reference"]);

    let pipe = std::fs::read(registries.workspace.path("image.tar")).unwrap();
    let pipe = registries
        .workspace
        .run_with(&["load", "-", "--to", &registries.to.host, "--insecure"], &pipe);
    pipe.failed(2, &["an archive of another tool must be a file, not a pipe"]);
}

/// The digest of the manifest that is made for an image of an engine with a classic store.
fn generated(image: &Image) -> Digest {
    let layer = |layer: &Vec<u8>| Compression::None.layer(Digest::of(layer), layer.len() as u64);
    let layers = image.layers.iter().map(layer).collect();
    let manifest = Manifest::for_image(Digest::of(&image.config), image.config.len() as u64, layers);
    Document::of_manifest(manifest).unwrap().digest().clone()
}

#[tokio::test]
async fn what_engines_save_is_loaded() {
    let registries = Registries::new().await;
    for (number, engine) in DockerEngine::all().iter().enumerate() {
        let image = Image::varied(&format!("jackal-test/saved-{number}:1"));
        engine.load(&image.archive());
        let other = format!("jackal-test/also-{number}:2");
        engine.run(&["tag", &image.name, &other]);
        let file = registries.workspace.path(format!("{number}.tar"));
        engine.run(&["save", "--output", file.to_str().unwrap(), &image.name, &other]);
        engine.run(&["rmi", "--force", &image.name, &other]);
        registries.shell(&format!("gzip -k {number}.tar"));
        for file in [format!("{number}.tar"), format!("{number}.tar.gz")] {
            let prefix = file.replace('.', "-");
            let report = registries.load(&file, &prefix, &[]);
            assert_eq!(report["images"].as_array().unwrap().len(), 2, "{file}: {report}");
            let pulled = registries
                .pulled(&format!("{prefix}/jackal-test/saved-{number}"), "1")
                .await;
            let other = registries
                .pulled(&format!("{prefix}/jackal-test/also-{number}"), "2")
                .await;
            assert_eq!(pulled.digest, other.digest, "{file}");
            assert!(pulled.blobs.contains(Digest::of(&image.config).as_str()), "{file}");
            // Old engines keep no manifest; their archives get the one that a transfer from them gives.
            if number == 0 {
                assert_eq!(pulled.digest, generated(&image).as_str());
            }
            if engine.shape == StorageKind::Classic {
                let layers = image
                    .diff_ids()
                    .into_iter()
                    .filter(|layer| pulled.blobs.contains(layer.as_str()));
                assert_eq!(layers.count(), image.layers.len(), "{file}");
            }
        }
    }
}

#[tokio::test]
async fn an_engine_that_holds_one_platform_saves_an_index_of_it() {
    let registries = Registries::new().await;
    let engine = DockerEngine::containerd();
    let name = "docker.io/jackal-test/partial:1";
    let built = build("partly loaded", &["linux/amd64", "linux/arm64"]);
    engine.load(&built.archive(name, Some(1)));
    let file = registries.workspace.path("partial.tar");
    engine.run(&["save", "--output", file.to_str().unwrap(), name]);
    engine.run(&["rmi", "--force", name]);
    registries.load("partial.tar", "", &[]);
    let pulled = registries.pulled("jackal-test/partial", "1").await;
    let held = built.manifests[0].digest().as_str();
    assert!(
        pulled.manifests.contains(held) && pulled.manifests.len() == 2,
        "{pulled:?}"
    );
}

#[tokio::test]
async fn a_damaged_archive_gives_no_image_a_tag() {
    let registries = Registries::new().await;
    let sound = Image::varied("jackal-test/a-sound:1");
    let damaged = Image::varied("jackal-test/b-damaged:1");
    let entry = |image: &Image, layers: &[Vec<u8>]| {
        let config = format!("{}.json", Digest::of(&image.config).hex());
        let paths: Vec<String> = (0..layers.len()).map(|at| format!("{}/{at}.tar", image.name)).collect();
        let files: Vec<(String, Vec<u8>)> = paths.iter().cloned().zip(layers.iter().cloned()).collect();
        let listed = json!({ "Config": config, "RepoTags": [image.name], "Layers": paths });
        (listed, [files, vec![(config, image.config.clone())]].concat())
    };
    let mut layers = damaged.layers.clone();
    layers.last_mut().unwrap()[700] ^= 1;
    let (first, mut files) = entry(&sound, &sound.layers);
    let (second, more) = entry(&damaged, &layers);
    files.extend(more);
    files.push((
        "manifest.json".to_owned(),
        json!([first, second]).to_string().into_bytes(),
    ));
    let whole = tar(&files);
    registries.workspace.write("damaged.tar", &whole);
    registries.workspace.write("cut.tar", &whole[..whole.len() / 2]);
    let load = |file: &str| {
        let arguments = ["load", file, "--to", &registries.to.host, "--insecure"];
        registries.workspace.run(&arguments)
    };
    load("damaged.tar").failed(
        2,
        &[
            "damaged.tar: image `docker.io/jackal-test/b-damaged:1`",
            "has the digest",
        ],
    );
    load("cut.tar").failed(2, &["cut.tar", "is not a complete tar"]);
    for repository in ["jackal-test/a-sound", "jackal-test/b-damaged"] {
        let tags = registries.to.repository(repository).tags(10).await.unwrap();
        assert!(tags.unwrap_or_default().is_empty(), "{repository}");
    }
}

#[tokio::test]
async fn an_archive_of_hauler_is_loaded_with_what_belongs_to_its_images() {
    // As hauler 2 writes it (`store save`): a layout at the root, with a manifest.json for docker besides.
    let registries = Registries::new().await;
    let blob = |kind: &str, content: &[u8]| Descriptor::new(kind, Digest::of(content), content.len() as u64);
    let layer = |kind: &str, content: &str| (blob(kind, content.as_bytes()), content.as_bytes().to_vec());
    let config = (blob(media_type::OCI_CONFIG, b"{}"), b"{}".to_vec());
    let mut files = vec![
        ("oci-layout".to_owned(), br#"{"imageLayoutVersion":"1.0.0"}"#.to_vec()),
        ("manifest.json".to_owned(), b"[]".to_vec()),
    ];
    let mut entries = Vec::new();
    for (kind, content, reference, containerd) in [
        ("image", "image", "team/app:1", Some("example.com/team/app:1")),
        ("sigs", "signature", "team/app:1", Some("example.com/team/app:1")),
        ("image", "chart", "hauler/shop:1.0.0", None),
    ] {
        let (layer, content) = layer(media_type::OCI_LAYER, content);
        let manifest = Document::of_manifest(Manifest::new(config.0.clone(), vec![layer])).unwrap();
        let mut entry = serde_json::to_value(&manifest.descriptor).unwrap();
        entry["annotations"] =
            json!({ "kind": format!("dev.hauler/{kind}"), "org.opencontainers.image.ref.name": reference });
        if let Some(containerd) = containerd {
            entry["annotations"]["io.containerd.image.name"] = containerd.into();
        }
        entries.push(entry);
        for content in [content, config.1.clone(), manifest.raw.to_vec()] {
            let path = format!("blobs/sha256/{}", Digest::of(&content).hex());
            if !files.iter().any(|(known, _)| *known == path) {
                files.push((path, content));
            }
        }
    }
    let index = json!({ "schemaVersion": 2, "manifests": entries });
    files.push(("index.json".to_owned(), index.to_string().into_bytes()));
    registries.workspace.write("haul.tar", tar(&files));
    registries.shell("zstd -q haul.tar");
    let report = registries.load("haul.tar.zst", "site", &[]);
    assert_eq!(report["images"].as_array().unwrap().len(), 3, "{report}");
    let digest = |entry: &Value| entry["digest"].as_str().unwrap().to_owned();
    let signature = digest(&entries[0]).replace(':', "-") + ".sig";
    for (entry, repository, tag) in [
        (&entries[0], "site/team/app", "1"),
        (&entries[1], "site/team/app", signature.as_str()),
        (&entries[2], "site/hauler/shop", "1.0.0"),
    ] {
        let name = format!("{repository}:{tag}");
        assert_eq!(registries.to.crane("digest", &name).trim(), digest(entry), "{name}");
    }
}

/// The digest of the only package that the index under a tag lists.
fn package(registry: &TestRegistry, name: &str) -> Value {
    let index: Value = serde_json::from_str(&registry.crane("manifest", name)).unwrap();
    index["manifests"][0].clone()
}

#[tokio::test]
async fn a_package_that_was_packed_again_is_the_same_one() {
    let registries = Registries::new().await;
    let host = &registries.source.host;
    for (format, files) in [
        ("Zarf", json!([])),
        ("Jackal", json!([])),
        ("Zarf", json!([{ "inline": "a page", "target": "/page.txt" }])),
    ] {
        let has_files = files != json!([]);
        let name = format!("shop-{}-{has_files}", format.to_lowercase());
        let spec = json!({
            "apiVersion": "jackal.dev/v1alpha1", "kind": "JackalPackage", "metadata": { "name": name },
            "spec": {
                "version": "1.4.0", "format": format,
                "components": [{ "name": "web", "images": [format!("{host}/team/app:1")], "files": files }],
            },
        });
        let workspace = &registries.workspace;
        workspace.text_report(&spec.to_string(), host, &[host], &[]);
        let reference = format!("{host}/{name}:1.4.0");
        workspace
            .run(&["pack", &reference, "--insecure", "--output", &format!("{name}.tar.zst")])
            .succeeded();
        registries.shell(&format!(
            "mkdir {name}; tar --zstd -xf {name}.tar.zst -C {name}; \
             tar -cf {name}.tar -C {name} .; zstd -q {name}.tar -o again-{name}.tar.zst"
        ));
        for (prefix, file) in [
            ("plain", format!("{name}.tar")),
            ("zstd", format!("again-{name}.tar.zst")),
        ] {
            let report = registries.load(&file, prefix, &[]);
            assert_eq!(
                report["package"],
                format!("{}/{prefix}/{name}:1.4.0", registries.to.host)
            );
            assert_eq!(
                report["images"],
                json!([format!("{}/{prefix}/team/app:1", registries.to.host)])
            );
            let pulled = registries.pulled(&format!("{prefix}/team/app"), "1").await;
            assert_eq!(pulled.digest, registries.digest);
            let loaded = package(&registries.to, &format!("{prefix}/{name}:1.4.0"));
            let packed = package(&registries.source, &format!("{name}:1.4.0"));
            // What a tar of a component was made of is in no file.
            assert_eq!(
                loaded["digest"] == packed["digest"],
                !has_files,
                "{name}: {loaded} {packed}"
            );
            assert_eq!(loaded["platform"], packed["platform"]);
        }
    }
}

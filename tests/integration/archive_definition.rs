//! `pack` of a package definition: its images come from registries and engines into the file.

use std::collections::BTreeMap;
use std::process::Output;

use jackal_operator::oci::Digest;
use serde_json::{Value, json};

use crate::containerd::node::Node;
use crate::docker::engines::{DockerEngine, Image, noise, required, tar};
use crate::support::image::{image, multi_platform, noise as seeded, put};
use crate::support::independent::pull_and_verify;
use crate::support::process::run;
use crate::support::registry::{TestRegistry, Version};
use crate::support::workspace::{CommandResult as _, Workspace, stderr};

fn definition(images: &[Value]) -> String {
    json!({
        "apiVersion": "jackal.dev/v1alpha1", "kind": "JackalPackage", "metadata": { "name": "shop" },
        "spec": {
            "version": "1.4.0", "format": "Zarf",
            "components": [{
                "name": "web", "images": images,
                "files": [{ "inline": "a page\n".repeat(140_000), "target": "/srv/page.txt" }],
            }],
        },
    })
    .to_string()
}

fn pack(workspace: &Workspace, registry: &TestRegistry, file: &str) -> Output {
    let flags = [
        "--insecure-registry",
        &registry.host,
        "--output",
        file,
        "--format",
        "json",
    ];
    workspace.run(&[&["pack", "shop.yaml"], &flags[..]].concat())
}

/// The digests of the files of a tar, by their paths, as tar and zstd read it.
fn unpacked(workspace: &Workspace, file: &str) -> BTreeMap<String, String> {
    let to = workspace.path(format!("{file}.unpacked"));
    std::fs::create_dir(&to).unwrap();
    let (file, to) = (workspace.path(file), to.to_str().unwrap().to_owned());
    run("tar", &["--zstd", "-xf", file.to_str().unwrap(), "-C", &to]);
    let script = format!("cd {to} && find . -type f -printf '%P\\0' | xargs -0 sha256sum");
    let sums = run("sh", &["-c", &script]);
    let sums = sums.lines().map(|line| line.split_once("  ").unwrap());
    sums.map(|(sum, path)| (path.to_owned(), sum.to_owned())).collect()
}

/// Pulls every blob of an image. crane does not take uncompressed layers.
async fn pulled(registry: &TestRegistry, image: &str) {
    let (repository, tag) = image.rsplit_once(':').unwrap();
    pull_and_verify(&registry.host, repository, tag).await;
}

/// Packs `shop.yaml` twice, and checks the file, and what is loaded from it, whole and out of a pipe.
async fn check(workspace: &Workspace, registry: &TestRegistry, image: &str) {
    let first = pack(workspace, registry, "a.tar.zst");
    first.succeeded();
    let second = pack(workspace, registry, "b.tar.zst");
    second.succeeded();
    let bytes = std::fs::read(workspace.path("a.tar.zst")).unwrap();
    assert!(
        bytes == std::fs::read(workspace.path("b.tar.zst")).unwrap(),
        "the same bytes"
    );
    let report: Value = serde_json::from_slice(&first.stdout).unwrap();
    assert_eq!(report["digest"], Digest::of(&bytes).as_str());
    assert!(!workspace.path(".a.tar.zst.partial").exists());

    let files = unpacked(workspace, "a.tar.zst");
    let checksums = std::fs::read_to_string(workspace.path("a.tar.zst.unpacked/checksums.txt")).unwrap();
    let mut expected: BTreeMap<String, String> = checksums
        .lines()
        .map(|line| line.split_once(' ').unwrap())
        .map(|(sum, path)| (path.to_owned(), sum.to_owned()))
        .collect();
    for path in ["zarf.yaml", "checksums.txt"] {
        expected.insert(path.to_owned(), files[path].clone());
    }
    assert_eq!(files, expected);

    let mut loaded = Vec::new();
    for (version, input) in [(Version::V31, "a.tar.zst"), (Version::V28, "-")] {
        let to = TestRegistry::start(version);
        let arguments = ["load", input, "--to", &to.host, "--insecure"];
        workspace.run_with(&arguments, &bytes).succeeded();
        pulled(&to, image).await;
        loaded.push([to.crane("digest", "shop:1.4.0"), to.crane("digest", image)]);
    }
    assert_eq!(loaded[0], loaded[1]);
}

async fn pack_from(variable: &str) {
    let registry = TestRegistry::start(Version::V31);
    let (index, _) = multi_platform(&registry.repository("shop/web"), "1").await;
    let engine = DockerEngine::all()
        .into_iter()
        .find(|engine| engine.host == required(variable))
        .unwrap();
    let name = format!("jackal-test-{:012x}/app:dev", fastrand::u64(..1 << 48));
    let large = tar(&[("large", noise(12_000_000)), ("name", name.as_bytes().to_vec())]);
    let text = tar(&[("text", b"a line\n".repeat(400_000))]);
    engine.load(&Image::new(&name, vec![large, text]).archive());
    let workspace = Workspace::new().set("DOCKER_HOST", &engine.host);
    let web = format!("{}/shop/web:1", registry.host);
    let images = [json!({ "image": web }), json!({ "image": name, "source": "Docker" })];
    workspace.write("shop.yaml", definition(&images));
    check(&workspace, &registry, "shop/web:1").await;
    let to = TestRegistry::start(Version::V31);
    let arguments = ["load", "a.tar.zst", "--to", &to.host, "--insecure"];
    workspace.run(&arguments).succeeded();
    assert_eq!(to.crane("digest", "shop/web:1").trim(), index.digest().as_str());
    pulled(&to, &name).await;
}

#[tokio::test]
async fn a_definition_is_packed_from_the_classic_store_of_docker() {
    pack_from("JACKAL_DOCKER_CLASSIC").await;
}

#[tokio::test]
async fn a_definition_is_packed_from_the_containerd_store_of_docker() {
    pack_from("JACKAL_DOCKER_CONTAINERD").await;
}

#[tokio::test]
async fn a_definition_is_packed_from_a_registry() {
    let registry = TestRegistry::start(Version::V28);
    multi_platform(&registry.repository("team/app"), "1").await;
    let other = registry.repository("team/other");
    let content = image(&other, "linux/amd64", seeded(9, 20_000_000)).await;
    put(&other, &content, Some("2")).await;
    let workspace = Workspace::new();
    let images = ["team/app:1", "team/other:2"].map(|image| json!(format!("{}/{image}", registry.host)));
    workspace.write("shop.yaml", definition(&images));
    check(&workspace, &registry, "team/other:2").await;

    // What a pipe cannot take, and what is not a package.
    let pipe = pack(&workspace, &registry, "-");
    pipe.failed(2, &["cannot be written to a pipe; name a file as --output"]);
    let several = ["pack", "shop.yaml", "oci:a:b:1", "--output", "c.tar.zst"];
    workspace.run(&several).failed(2, &["a definition is packed alone"]);
    let absent = [json!(format!("{}/team/app:9", registry.host))];
    workspace.write("shop.yaml", definition(&absent));
    let output = pack(&workspace, &registry, "c.tar.zst");
    assert!(
        !output.status.success() && stderr(&output).contains("team/app:9"),
        "{}",
        stderr(&output)
    );
    assert!(!workspace.path("c.tar.zst").exists());
}

#[tokio::test]
async fn a_definition_is_packed_from_containerd() {
    let registry = TestRegistry::start(Version::V28);
    for node in Node::all() {
        let name = format!("docker.io/jackal-test-{:012x}/app:dev", fastrand::u64(..1 << 48));
        node.import(&Image::varied(&name).archive());
        let workspace = Workspace::new().set("CONTAINERD_ADDRESS", &node.address);
        workspace.write(
            "shop.yaml",
            definition(&[json!({ "image": name, "source": "Containerd" })]),
        );
        check(&workspace, &registry, name.strip_prefix("docker.io/").unwrap()).await;
    }
}

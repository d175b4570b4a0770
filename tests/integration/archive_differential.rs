//! `pack --have --zarf`: packages that leave out whole images, as Zarf reads them.

use std::collections::BTreeSet;

use jackal_operator::oci::Digest;
use serde_json::{Value, json};

use crate::archive::Packages;
use crate::signing::signing_file;
use crate::support::image::multi_platform;
use crate::support::process::run;
use crate::support::registry::{TestRegistry, Version};
use crate::support::workspace::{CommandResult as _, Workspace, all_output};

const FILE: &str = "less.tar.zst";

/// A package of the images `team/app:1` and `team/other:2`, in the registry as `shop:1.4.0`.
async fn packages() -> Packages {
    let packages = Packages::new().await;
    let host = &packages.registry.host;
    for key in ["cosign.key", "cosign.pub"] {
        std::fs::copy(signing_file(key), packages.workspace.path(key)).unwrap();
    }
    multi_platform(&packages.registry.repository("team/other"), "2").await;
    let mut package: Value = serde_json::from_slice(&read(&packages.workspace, "package.yaml")).unwrap();
    let images = package["spec"]["components"][0]["images"].as_array_mut().unwrap();
    images.push(json!(format!("{host}/team/other:2")));
    packages.workspace.text_report(&package.to_string(), host, &[host], &[]);
    packages
}

fn read(workspace: &Workspace, file: &str) -> Vec<u8> {
    std::fs::read(workspace.path(file)).unwrap()
}

/// The inventory of a site that has `image` of `packages` under the names of `naming`.
fn inventory(packages: &Packages, image: &str, naming: &str) -> TestRegistry {
    let (site, workspace, host) = (
        TestRegistry::start(Version::V31),
        &packages.workspace,
        &packages.registry.host,
    );
    let object = json!({
        "apiVersion": "jackal.dev/v1alpha1", "kind": "JackalImage", "metadata": { "name": "image" },
        "spec": { "image": format!("{host}/{image}"), "naming": naming },
    });
    workspace.text_report(
        &object.to_string(),
        &format!("{}/site", site.host),
        &[host, &site.host],
        &[],
    );
    let place = format!("{}/site", site.host);
    let flags = ["inventory", &place, "--insecure", "--output", "have.json"];
    workspace.run(&flags).succeeded();
    site
}

/// The report of `pack --have --zarf`.
fn pack(packages: &Packages) -> Value {
    let flags = ["--have", "have.json", "--zarf", "--format", "json"];
    let packed = packages.pack(&packages.reference, FILE, &flags);
    packed.succeeded();
    serde_json::from_slice(&packed.stdout).unwrap()
}

#[tokio::test]
async fn images_that_the_site_has_are_left_out_as_a_whole() {
    let packages = packages().await;
    let (workspace, host) = (&packages.workspace, &packages.registry.host);
    packages.pack(&packages.reference, "all.tar.zst", &[]).succeeded();
    let site = inventory(&packages, "team/app:1", "Zarf");
    let report = pack(&packages);
    assert_eq!(report["omittedImages"], json!([format!("{host}/team/app:1")]));
    assert_eq!(report["omittedBlobs"], 0);

    // As tar and sha256sum read it: every file is in the checksums, and those in the definition.
    let folder = workspace.path("package");
    std::fs::create_dir(&folder).unwrap();
    let (file, to) = (workspace.path(FILE), folder.to_str().unwrap().to_owned());
    run("tar", &["--zstd", "-xf", file.to_str().unwrap(), "-C", &to]);
    run(
        "sh",
        &[
            "-c",
            &format!("cd {to} && sed 's/ /  /' checksums.txt | sha256sum --check --quiet"),
        ],
    );
    let sums = std::fs::read_to_string(folder.join("checksums.txt")).unwrap();
    let listed: BTreeSet<&str> = sums.lines().map(|line| line.split_once(' ').unwrap().1).collect();
    let found = run("sh", &["-c", &format!("cd {to} && find . -type f -printf '%P\\n'")]);
    let mut found: BTreeSet<&str> = found.lines().collect();
    assert!(found.remove("zarf.yaml") && found.remove("checksums.txt"));
    assert_eq!(found, listed);
    let definition = std::fs::read_to_string(folder.join("zarf.yaml")).unwrap();
    let definition: Value = serde_saphyr::from_str(&definition).unwrap();
    let images = &definition["components"][0]["images"];
    assert_eq!(images, &json!([format!("{host}/team/other:2")]));
    assert_eq!(definition["build"]["differential"], true);
    assert_eq!(
        definition["metadata"]["aggregateChecksum"],
        Digest::of(sums.as_bytes()).hex()
    );
    // The blobs are those of the other image alone.
    let index: Value = serde_json::from_slice(&std::fs::read(folder.join("images/index.json")).unwrap()).unwrap();
    let [entry] = &index["manifests"].as_array().unwrap()[..] else {
        panic!("{index}")
    };
    let other = packages.registry.crane("digest", "team/other:2");
    assert_eq!(entry["digest"], other.trim());
    run(
        "sh",
        &["-c", &format!("mkdir {to}/layout && cp -r {to}/images/. {to}/layout")],
    );
    let blobs = found.iter().filter(|path| path.starts_with("images/blobs/"));
    assert_eq!(blobs.count(), needed(&packages, other.trim()));

    // It is a package as any other for our own commands.
    workspace.run(&["verify", FILE]).succeeded();
    let place = format!("{}/site", site.host);
    let flags = ["load", FILE, "--to", &place, "--insecure", "--naming", "zarf"];
    workspace.run(&flags).succeeded();
    let whole = TestRegistry::start(Version::V31);
    let flags = [
        "load",
        "all.tar.zst",
        "--to",
        &whole.host,
        "--insecure",
        "--naming",
        "zarf",
    ];
    workspace.run(&flags).succeeded();
    for (image, tag) in [("team/app", "1"), ("team/other", "2")] {
        let names = |registry: &TestRegistry, repository: &str| -> BTreeSet<String> {
            registry.crane("ls", repository).lines().map(str::to_owned).collect()
        };
        let found = names(&site, &format!("site/{image}"));
        assert_eq!(found, names(&whole, image));
        assert!(found.len() == 2 && found.contains(tag), "{found:?}");
        let digest = packages.registry.crane("digest", &format!("{image}:{tag}"));
        assert_eq!(site.crane("digest", &format!("site/{image}:{tag}")), digest);
    }

    // The same bytes again.
    let first = read(workspace, FILE);
    pack(&packages);
    assert!(read(workspace, FILE) == first);
}

/// The number of manifests and blobs of the image `digest` of `team/other`.
fn needed(packages: &Packages, digest: &str) -> usize {
    let (mut found, mut open) = (BTreeSet::new(), vec![digest.to_owned()]);
    while let Some(digest) = open.pop() {
        found.insert(digest.clone());
        let text = packages.registry.crane("manifest", &format!("team/other@{digest}"));
        let manifest: Value = serde_json::from_str(&text).unwrap();
        let entries = |field: &str| manifest[field].as_array().cloned().unwrap_or_default();
        let text = |blob: &Value| blob["digest"].as_str().unwrap().to_owned();
        open.extend(entries("manifests").iter().map(text));
        found.extend(entries("layers").iter().chain(manifest.get("config")).map(text));
    }
    found.len()
}

#[tokio::test]
async fn only_the_same_image_under_zarfs_name_is_left_out() {
    let packages = packages().await;
    let workspace = &packages.workspace;
    let text = String::from_utf8(read(workspace, "package.yaml")).unwrap();
    packages.pack(&packages.reference, "all.tar.zst", &[]).succeeded();
    // Zarf names images with a checksum of their names.
    inventory(&packages, "team/app:1", "Plain");
    let report = pack(&packages);
    assert_eq!(report["omittedImages"], Value::Null);
    assert!(read(workspace, FILE) == read(workspace, "all.tar.zst"));
    // Another image under the same name.
    let host = &packages.registry.host;
    let repository = packages.registry.repository("team/app");
    let before = repository.manifest("1").await.unwrap().unwrap();
    let image = crate::support::image::image(&repository, "linux/amd64", "another".into()).await;
    crate::support::image::put(&repository, &image, Some("1")).await;
    inventory(&packages, "team/app:1", "Zarf");
    crate::support::image::put(&repository, &before, Some("1")).await;
    assert_eq!(pack(&packages)["omittedImages"], Value::Null);

    for (references, more, words) in [
        (&["oci:out:shop:1.4.0"][..], &["--zarf"][..], "--have"),
        (
            &[packages.reference.as_str(), "oci:out:shop:1.4.0"],
            &["--zarf", "--have", "have.json"],
            "--zarf needs one package",
        ),
    ] {
        let flags = [&["pack"], references, &["--insecure", "--output", FILE], more].concat();
        workspace.run(&flags).failed(2, &[words]);
    }
    // Its signature would not fit.
    workspace.text_report(&text, host, &[host], &["--key", "cosign.key"]);
    inventory(&packages, "team/app:1", "Zarf");
    let flags = ["--have", "have.json", "--zarf"];
    let refused = packages.pack(&packages.reference, FILE, &flags);
    refused.failed(2, &["the package is signed"]);
    assert!(all_output(&refused).contains("leave out --zarf"));
}

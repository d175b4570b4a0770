//! `inventory`, and packages that leave out what the destination holds.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Value, json};

use crate::archive::{Packages, digests, tags};
use crate::signing::signing_file;
use crate::support::fault_proxy::{Action, FaultProxy};
use crate::support::image::{image, multi_platform, noise, put, referrer};
use crate::support::process::{output, run};
use crate::support::program;
use crate::support::registry::{TestRegistry, VERSIONS, Version};
use crate::support::workspace::{CommandResult as _, Workspace, stderr};

const TIME: [&str; 2] = ["--time", "2026-11-28T06:00:00Z"];

/// The inventory of `place` in the file `file` of the workspace.
fn inventory(workspace: &Workspace, place: &str, file: &str, more: &[&str]) -> Value {
    let flags = ["inventory", place, "--insecure", "--output", file];
    workspace.run(&[&flags[..], &TIME, more].concat()).succeeded();
    serde_json::from_slice(&std::fs::read(workspace.path(file)).unwrap()).unwrap()
}

/// The inventory of `registry`, as crane reads it: `repository` with tags, manifests and blobs.
fn independent(registry: &TestRegistry, repository: &str) -> Value {
    let (mut tags, mut manifests, mut blobs) = (BTreeMap::new(), BTreeMap::new(), BTreeMap::new());
    let mut open = Vec::new();
    for tag in registry.crane("ls", repository).lines() {
        let digest = registry
            .crane("digest", &format!("{repository}:{tag}"))
            .trim()
            .to_owned();
        tags.insert(tag.to_owned(), digest.clone());
        open.push(digest);
    }
    while let Some(digest) = open.pop() {
        let text = registry.crane("manifest", &format!("{repository}@{digest}"));
        let manifest: Value = serde_json::from_str(&text).unwrap();
        let children = manifest["manifests"].as_array().into_iter().flatten();
        open.extend(children.map(|entry| entry["digest"].as_str().unwrap().to_owned()));
        let layers = manifest["layers"].as_array().into_iter().flatten();
        for blob in layers.chain(manifest.get("config")) {
            blobs.insert(
                blob["digest"].as_str().unwrap().to_owned(),
                blob["size"].as_u64().unwrap(),
            );
        }
        manifests.insert(digest, text.len());
    }
    json!({ "repository": repository, "tags": tags, "manifests": manifests, "blobs": blobs })
}

#[tokio::test]
async fn an_inventory_lists_what_a_registry_holds() {
    for version in VERSIONS {
        let (registry, workspace) = (TestRegistry::start(version), Workspace::new());
        for repository in ["team/app", "team/sub/app", "teams", "other"] {
            let repository = registry.repository(repository);
            let (index, _) = multi_platform(&repository, "1").await;
            put(&repository, &index, Some("2")).await;
            // distribution lists it under a tag.
            let about = referrer(&repository, &index, "application/spdx+json", "{}").await;
            repository.attach(&about).await.unwrap();
        }
        let all = inventory(&workspace, &registry.host, "all.json", &[]);
        let repositories: Vec<Value> = ["other", "team/app", "team/sub/app", "teams"]
            .map(|name| independent(&registry, name))
            .to_vec();
        assert_eq!(all["repositories"], json!(repositories), "{version:?}");
        assert_eq!(all["registry"], registry.host.as_str());
        assert_eq!(all["time"], "2026-11-28T06:00:00Z");
        let place = format!("{}/team/", registry.host);
        let below = inventory(&workspace, &place, "below.json", &[]);
        assert_eq!(below["repositories"], json!(repositories[1..3]));
        let named = ["--repository", "sub/app", "--repository", "app"];
        let named = inventory(&workspace, &place, "named.json", &named);
        assert_eq!(named, below);
        // The same bytes each time.
        let read = |file: &str| std::fs::read(workspace.path(file)).unwrap();
        inventory(&workspace, &registry.host, "again.json", &[]);
        assert!(read("all.json") == read("again.json"));
    }
}

#[tokio::test]
async fn referrers_of_the_api_and_many_tags_are_listed() {
    let (registry, workspace) = (TestRegistry::start(Version::Olareg), Workspace::new());
    let repository = registry.repository("team/app");
    let document = image(&repository, "linux/amd64", noise(1, 1000)).await;
    let names: BTreeSet<String> = (0..1_200).map(|number| format!("v{number}")).collect();
    for name in &names {
        put(&repository, &document, Some(name)).await;
    }
    let about = referrer(&repository, &document, "application/spdx+json", "an sbom").await;
    repository.attach(&about).await.unwrap();
    let found = inventory(&workspace, &registry.host, "have.json", &["--repository", "team/app"]);
    let found = &found["repositories"][0];
    let listed: BTreeSet<String> = found["tags"].as_object().unwrap().keys().cloned().collect();
    assert_eq!(listed, names);
    let blobs = about
        .manifest()
        .unwrap()
        .layers
        .iter()
        .map(|layer| layer.digest.as_str());
    assert!(found["manifests"][about.digest().as_str()].is_u64());
    assert!(
        blobs.into_iter().all(|digest| found["blobs"][digest].is_u64()),
        "{found}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_read_is_named_and_nothing_is_written() {
    let (registry, workspace) = (TestRegistry::start(Version::V31), Workspace::new());
    multi_platform(&registry.repository("team/app"), "1").await;
    multi_platform(&registry.repository("team/bad"), "1").await;
    let proxy = FaultProxy::to(&registry.host, |request| match request.path.as_str() {
        path if path.contains("_catalog") => Action::Answer(404, Vec::new(), String::new()),
        path if path.contains("team/bad/manifests") => Action::Answer(500, Vec::new(), String::new()),
        _ => Action::Pass,
    });
    let run = |more: &[&str]| {
        let flags = ["inventory", &proxy.host, "--insecure", "--output", "have.json"];
        workspace.run(&[&flags[..], more].concat())
    };
    run(&[]).failed(1, &["name each by --repository"]);
    let named = [
        "--repository",
        "team/app",
        "--repository",
        "team/bad",
        "--repository",
        "none",
    ];
    let failed = run(&named);
    failed.failed(1, &["no inventory is written", "\n  team/bad: ", "\n  none: "]);
    assert!(!stderr(&failed).contains("team/app:"), "{}", stderr(&failed));
    assert!(!workspace.path("have.json").exists());
    run(&named[..2]).succeeded();
    let flags = ["inventory", "oci:none", "--output", "have.json"];
    workspace.run(&flags).failed(2, &["none is not an OCI layout"]);
    let flags = ["inventory", "127.0.0.1:1", "--insecure", "--output", "-", "--key", "k"];
    workspace.run(&flags).failed(2, &["the signature needs a file"]);
}

/// A second version of the package, with one more image. Its first one has the images of the first.
async fn second_version(packages: &Packages) -> String {
    let host = &packages.registry.host;
    let repository = packages.registry.repository("team/new");
    put(
        &repository,
        &image(&repository, "linux/amd64", noise(9, 300_000)).await,
        Some("1"),
    )
    .await;
    let text = std::fs::read_to_string(packages.workspace.path("package.yaml")).unwrap();
    let image = format!("\"{host}/team/app:1\"");
    let text = text
        .replace(&image, &format!("{image},\"{host}/team/new:1\""))
        .replace("1.4.0", "1.5.0");
    packages.workspace.text_report(&text, host, &[host], &[]);
    format!("{host}/shop:1.5.0")
}

#[tokio::test]
async fn only_what_the_site_lacks_is_carried() {
    let packages = Packages::new().await;
    let workspace = &packages.workspace;
    let reference = second_version(&packages).await;
    packages.pack(&packages.reference, "first.tar.zst", &[]).succeeded();
    packages.pack(&reference, "whole.tar.zst", &[]).succeeded();
    let size = |file: &str| std::fs::metadata(workspace.path(file)).unwrap().len();
    for (version, prefix) in [(Version::V31, ""), (Version::V28, "/site")] {
        let site = TestRegistry::start(version);
        let place = format!("{}{prefix}", site.host);
        let load = |file: &str, more: &[&str]| {
            let flags = ["load", file, "--to", &place, "--insecure", "--output", "json"];
            workspace.run(&[&flags[..], more].concat())
        };
        load("first.tar.zst", &[]).succeeded();
        inventory(workspace, &place, "have.json", &[]);
        let packed = packages.pack(&reference, "less.tar.zst", &["--have", "have.json", "--format", "json"]);
        packed.succeeded();
        assert!(stderr(&packed).contains("Zarf does not"), "{}", stderr(&packed));
        let report: Value = serde_json::from_slice(&packed.stdout).unwrap();
        assert!(report["omittedBlobs"].as_u64().unwrap() > 6, "{report}");
        assert!(size("less.tar.zst") > 300_000 && size("less.tar.zst") < size("whole.tar.zst") - 600_000);
        packages
            .pack(&reference, "again.tar.zst", &["--have", "have.json"])
            .succeeded();
        let read = |file: &str| std::fs::read(workspace.path(file)).unwrap();
        assert!(read("less.tar.zst") == read("again.tar.zst"));
        // Also out of a pipe, into another prefix of the same registry.
        let other = format!("{}/other", site.host);
        let flags = ["load", "-", "--to", &other, "--insecure"];
        workspace.run_with(&flags, &read("less.tar.zst")).succeeded();
        let loaded = load("less.tar.zst", &[]);
        loaded.succeeded();
        let report: Value = serde_json::from_slice(&loaded.stdout).unwrap();
        assert!(report["sentBytes"].as_u64().unwrap() < 400_000, "{report}");
        for below in [prefix.trim_start_matches('/'), "other"] {
            for name in ["shop:1.5.0", "team/app:1", "team/new:1"] {
                let there = format!("{below}/{name}");
                let there = there.trim_start_matches('/');
                assert_eq!(site.crane("digest", there), packages.registry.crane("digest", name));
                if name != "shop:1.5.0" {
                    site.crane("validate", there);
                }
            }
            let again = format!("{}/{below}/shop:1.5.0", site.host).replace("//", "/");
            packages.pack(&again, "back.tar.zst", &[]).succeeded();
            assert!(read("back.tar.zst") == read("whole.tar.zst"));
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn blobs_of_images_are_mounted_or_read_at_the_site() {
    let packages = Packages::new().await;
    let workspace = &packages.workspace;
    // The site has the image alone, under another name.
    let site = TestRegistry::start(Version::V31);
    let (from, to) = (
        format!("{}/team/app:1", packages.registry.host),
        format!("{}/x/y:2", site.host),
    );
    run(program("JACKAL_BIN_CRANE"), &["copy", "--insecure", &from, &to]);
    inventory(workspace, &site.host, "have.json", &[]);
    packages
        .pack(&packages.reference, "less.tar.zst", &["--have", "have.json"])
        .succeeded();
    // One that refuses to mount.
    let proxy = FaultProxy::to(&site.host, |request| match request.path.contains("mount=") {
        true => Action::Answer(404, Vec::new(), String::new()),
        false => Action::Pass,
    });
    for (host, prefix) in [(&site.host, "mounted"), (&proxy.host, "read")] {
        let place = format!("{host}/{prefix}");
        let flags = ["load", "less.tar.zst", "--to", &place, "--insecure"];
        workspace.run(&flags).succeeded();
        assert_eq!(digests(&site, &format!("{prefix}/")), digests(&packages.registry, ""));
        site.crane("validate", &format!("{prefix}/team/app:1"));
    }
    assert!(proxy.count("POST", "mount=") > 3);
}

#[tokio::test]
async fn content_that_the_site_lacks_is_named_before_anything_is_written() {
    let packages = Packages::new().await;
    let workspace = &packages.workspace;
    inventory(workspace, &packages.registry.host, "have.json", &[]);
    packages
        .pack(&packages.reference, "less.tar.zst", &["--have", "have.json"])
        .succeeded();
    let site = TestRegistry::start(Version::V31);
    let flags = [
        "load",
        "less.tar.zst",
        "--to",
        &site.host,
        "--insecure",
        "--output",
        "json",
    ];
    let refused = workspace.run(&flags);
    let image = format!("{}/team/app:1", packages.registry.host);
    refused.failed(
        2,
        &[
            "leaves out content that",
            "jackal-operator inventory",
            "pack --have",
            &format!("bytes of {image})"),
        ],
    );
    let report: Value = serde_json::from_slice(&refused.stdout).unwrap();
    let missing = report["missing"].as_array().unwrap();
    assert!(missing.len() > 3, "{report}");
    assert!(
        missing
            .iter()
            .any(|blob| blob["images"] == json!([image]) && blob["size"].as_u64().unwrap() > 1000)
    );
    let bytes = std::fs::read(workspace.path("less.tar.zst")).unwrap();
    let flags = ["load", "-", "--to", &site.host, "--insecure"];
    workspace
        .run_with(&flags, &bytes)
        .failed(2, &["leaves out content that"]);
    assert!(tags(&site).await.is_empty());
    assert_eq!(site.client().repositories().await.unwrap(), Vec::<String>::new());
    // A layout has nothing either; after it was given the whole package, it takes the rest.
    let flags = ["load", "less.tar.zst", "--to", "oci:site"];
    workspace.run(&flags).failed(2, &["leaves out content that the layout"]);
    packages.pack(&packages.reference, "whole.tar.zst", &[]).succeeded();
    workspace
        .run(&["load", "whole.tar.zst", "--to", "oci:site"])
        .succeeded();
    workspace.run(&flags).succeeded();
    // Its inventory has the blobs of the registry's.
    inventory(workspace, "oci:site", "layout.json", &[]);
    packages
        .pack(&packages.reference, "layout.tar.zst", &["--have", "layout.json"])
        .succeeded();
    let size = |file: &str| std::fs::metadata(workspace.path(file)).unwrap().len();
    assert!(size("layout.tar.zst") <= size("less.tar.zst"));
}

#[tokio::test]
async fn inventories_are_signed_and_verified() {
    let packages = Packages::new().await;
    let workspace = &packages.workspace;
    for key in ["cosign.key", "cosign.pub", "p384.pub"] {
        std::fs::copy(signing_file(key), workspace.path(key)).unwrap();
    }
    inventory(
        workspace,
        &packages.registry.host,
        "have.json",
        &["--key", "cosign.key"],
    );
    let path = |file: &str| workspace.path(file).to_str().unwrap().to_owned();
    let (key, bundle, file) = (path("cosign.pub"), path("have.json.sigstore.json"), path("have.json"));
    let verify = |file: &str| {
        let verify = [
            "verify-blob",
            "--key",
            &key,
            "--insecure-ignore-tlog=true",
            "--bundle",
            &bundle,
            file,
        ];
        output(&program("JACKAL_BIN_COSIGN"), &verify)
    };
    assert!(verify(&file).status.success(), "{}", stderr(&verify(&file)));
    assert!(!verify(&key).status.success());
    let pack = |key: &str| {
        let flags = ["--have", "have.json", "--have-key", key];
        packages.pack(&packages.reference, "less.tar.zst", &flags)
    };
    pack("cosign.pub").succeeded();
    pack("p384.pub").failed(2, &["it was not made with the ECDSA P-384 key"]);
    let text = std::fs::read_to_string(&file).unwrap();
    workspace.write("have.json", text.replace("team/app", "team/apq"));
    pack("cosign.pub").failed(2, &["have.json: it is not signed as required"]);
    std::fs::remove_file(&bundle).unwrap();
    pack("cosign.pub").failed(2, &["its signature have.json.sigstore.json cannot be read"]);
    workspace.write("have.json", &text[..text.len() / 2]);
    let damaged = packages.pack(&packages.reference, "less.tar.zst", &["--have", "have.json"]);
    damaged.failed(2, &["it is not an inventory that this version"]);
}

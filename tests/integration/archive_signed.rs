//! `load` of packages that must be signed, and its receipts.

use jackal_operator::oci::{Digest, Document};
use serde_json::{Value, json};

use crate::archive::{Packages, digests, tags};
use crate::signing::signing_file;
use crate::support::image::{push, put};
use crate::support::process::{output, run};
use crate::support::program;
use crate::support::registry::{TestRegistry, Version};
use crate::support::workspace::{CommandResult as _, all_output, stderr};

/// Packages whose workspace has keys.
async fn packages() -> Packages {
    let packages = Packages::new().await;
    for key in ["cosign.key", "cosign.pub", "p384.pub"] {
        std::fs::copy(signing_file(key), packages.workspace.path(key)).unwrap();
    }
    packages
}

/// The same package, signed by `cosign.key`.
fn signed(packages: &Packages) {
    let host = &packages.registry.host;
    let text = std::fs::read_to_string(packages.workspace.path("package.yaml")).unwrap();
    packages
        .workspace
        .text_report(&text, host, &[host], &["--key", "cosign.key"]);
}

/// The package's manifest with the file at `path` replaced, in the registry. The reference to it.
async fn changed(packages: &Packages, path: &str, content: &[u8]) -> String {
    let repository = packages.registry.repository("shop");
    let index = repository.manifest("1.4.0").await.unwrap().unwrap();
    let digest = &index.index().unwrap().manifests[0].digest;
    let manifest = repository.manifest(digest.as_str()).await.unwrap().unwrap();
    let mut json: Value = serde_json::from_slice(&manifest.raw).unwrap();
    let blob = push(&repository, "application/octet-stream", content.to_vec().into()).await;
    let layers = json["layers"].as_array_mut().unwrap();
    let title = |layer: &Value| layer["annotations"]["org.opencontainers.image.title"] == path;
    let layer = layers.iter_mut().find(|layer| title(layer)).unwrap();
    layer["digest"] = json!(blob.digest);
    layer["size"] = json!(blob.size);
    let changed = Document::parse(None, serde_json::to_vec(&json).unwrap().into()).unwrap();
    put(&repository, &changed, None).await;
    format!("{}/shop@{}", packages.registry.host, changed.digest())
}

/// The digest of a layer of the package's image.
async fn layer(packages: &Packages) -> Digest {
    let repository = packages.registry.repository("team/app");
    let mut document = repository.manifest("1").await.unwrap().unwrap();
    if let Some(index) = document.index() {
        let digest = index.manifests[0].digest.to_string();
        document = repository.manifest(&digest).await.unwrap().unwrap();
    }
    document.manifest().unwrap().layers[0].digest.clone()
}

#[tokio::test]
async fn a_package_that_is_not_signed_as_required_is_not_loaded() {
    let packages = packages().await;
    let workspace = &packages.workspace;
    packages.pack(&packages.reference, "unsigned.tar.zst", &[]).succeeded();
    signed(&packages);
    packages.pack(&packages.reference, "signed.tar.zst", &[]).succeeded();
    let tar = changed(&packages, "components/web.tar", b"another component").await;
    packages.pack(&tar, "tar.tar.zst", &[]).succeeded();
    let sums = changed(&packages, "checksums.txt", b"").await;
    packages.pack(&sums, "sums.tar.zst", &[]).succeeded();
    let bundle = std::fs::read(signing_file("blob.bundle.json")).unwrap();
    let bundle = changed(&packages, "zarf.bundle.sig", &bundle).await;
    packages.pack(&bundle, "bundle.tar.zst", &[]).succeeded();
    let to = TestRegistry::start(Version::V31);
    let own = ["--key", "cosign.pub"];
    for (file, key, words) in [
        ("unsigned.tar.zst", &own, "its zarf.yaml has no signature"),
        (
            "signed.tar.zst",
            &["--key", "p384.pub"],
            "it was not made with the ECDSA P-384 key",
        ),
        (
            "tar.tar.zst",
            &own,
            "checksums.txt does not have \"components/web.tar\" as they are",
        ),
        (
            "sums.tar.zst",
            &own,
            "checksums.txt is not the one whose checksum zarf.yaml has",
        ),
        (
            "bundle.tar.zst",
            &own,
            "zarf.bundle.sig: it was not made with the ECDSA P-256 key",
        ),
    ] {
        let flags = ["--to", &to.host, "--insecure"];
        let from_disk = workspace.run(&[&["load", file], &flags[..], key].concat());
        from_disk.failed(2, &[words, "Nothing is published"]);
        let verified = workspace.run(&[&["verify", file], &key[..]].concat());
        verified.failed(2, &[file, words]);
        assert!(!all_output(&verified).contains("published"));
        // Nothing at all was sent.
        assert_eq!(to.client().repositories().await.unwrap(), Vec::<String>::new());
    }
    for (file, key) in [
        ("unsigned", "cosign.pub"),
        ("signed", "p384.pub"),
        ("tar", "cosign.pub"),
        ("sums", "cosign.pub"),
    ] {
        let prefix = format!("{}/{file}", to.host);
        let bytes = std::fs::read(workspace.path(format!("{file}.tar.zst"))).unwrap();
        let flags = ["load", "-", "--to", &prefix, "--insecure", "--key", key];
        let piped = workspace.run_with(&flags, &bytes);
        piped.failed(2, &["is not signed as required"]);
        let repository = to.repository(&format!("{file}/shop"));
        assert_eq!(repository.tags(10).await.unwrap().unwrap(), Vec::<String>::new());
        // It ended before the first layer.
        let layer = layer(&packages).await;
        assert_eq!(repository.head_blob(&layer).await.unwrap(), None);
    }
    assert!(tags(&to).await.is_empty());
    let flags = ["load", "signed.tar.zst", "--to", &to.host, "--insecure"];
    for (more, words) in [
        (&["--issuer", "https://a"][..], "say nothing alone"),
        (&["--key", "none.pub"], "cannot read none.pub"),
        (&["--receipt-key", "cosign.key"], "--receipt"),
    ] {
        workspace.run(&[&flags[..], more].concat()).failed(2, &[words]);
    }
    let bytes = std::fs::read(workspace.path("signed.tar.zst")).unwrap();
    let piped = [
        "load",
        "-",
        "--to",
        &to.host,
        "--insecure",
        "--key",
        "p384.pub",
        "--key",
        "cosign.pub",
    ];
    workspace.run_with(&piped, &bytes).succeeded();
    workspace.run(&[&flags[..], &own].concat()).succeeded();
    assert_eq!(digests(&to, ""), digests(&packages.registry, ""));
    // A file without packages, or one that leaves content out, is no way around it.
    let site = format!("{}/site", to.host);
    let inventory = ["inventory", &to.host, "--insecure", "--output", "have.json"];
    workspace.run(&inventory).succeeded();
    packages
        .pack(&tar, "less.tar.zst", &["--have", "have.json"])
        .succeeded();
    let less = [
        "load",
        "less.tar.zst",
        "--to",
        &site,
        "--insecure",
        "--key",
        "cosign.pub",
    ];
    workspace.run(&less).failed(2, &["checksums.txt does not have"]);
    packages
        .pack(&packages.reference, "less.tar.zst", &["--have", "have.json"])
        .succeeded();
    workspace.run(&less).succeeded();
}

#[tokio::test]
async fn verify_requires_signatures_of_whole_files_and_of_parts() {
    let packages = packages().await;
    let workspace = &packages.workspace;
    let list = "parts.tar.zst.part000";
    let pack = || {
        packages.pack(&packages.reference, "whole.tar.zst", &[]).succeeded();
        let parts = ["--max-part-size", "100Ki"];
        packages.pack(&packages.reference, "parts.tar.zst", &parts).succeeded();
    };
    pack();
    for file in ["whole.tar.zst", list] {
        let verified = workspace.run(&["verify", file, "--key", "cosign.pub"]);
        verified.failed(2, &[file, "not signed as required", "has no signature"]);
        workspace.run(&["verify", file]).succeeded();
    }
    signed(&packages);
    pack();
    for file in ["whole.tar.zst", list] {
        let verified = workspace.run(&["verify", file, "--key", "cosign.pub", "--output", "json"]);
        verified.succeeded();
        let report: Value = serde_json::from_slice(&verified.stdout).unwrap();
        assert_eq!(report["signed"], true);
        let text = workspace.run(&["verify", file, "--key", "p384.pub", "--key", "cosign.pub"]);
        assert!(all_output(&text).contains("is sound and signed as required"));
        let other = workspace.run(&["verify", file, "--key", "p384.pub"]);
        other.failed(2, &[file, "it was not made with the ECDSA P-384 key"]);
    }
    let part = workspace.run(&["verify", "parts.tar.zst.part001", "--key", "cosign.pub"]);
    part.failed(2, &["a part alone has no signature; verify parts.tar.zst.part000"]);
    // The signature says nothing of content that was damaged afterwards.
    let path = workspace.path("parts.tar.zst.part002");
    let mut content = std::fs::read(&path).unwrap();
    content[70_000] ^= 1;
    std::fs::write(&path, content).unwrap();
    let damaged = workspace.run(&["verify", list, "--key", "cosign.pub"]);
    damaged.failed(2, &["part002"]);
}

#[tokio::test]
async fn every_package_of_a_file_must_be_signed() {
    let packages = packages().await;
    let (workspace, host) = (&packages.workspace, &packages.registry.host);
    signed(&packages);
    let shop = std::fs::read_to_string(workspace.path("package.yaml")).unwrap();
    let unsigned = shop.replace("\"name\":\"shop\"", "\"name\":\"unsigned\"");
    assert_ne!(unsigned, shop);
    workspace.text_report(&unsigned, host, &[host], &[]);
    let other = shop.replace("\"name\":\"shop\"", "\"name\":\"other\"");
    workspace.text_report(&other, host, &[host], &["--key", "cosign.key"]);
    let pack = |second: &str, file: &str| {
        let second = format!("{host}/{second}:1.4.0");
        let flags = ["pack", &packages.reference, &second, "--insecure", "--output", file];
        workspace.run(&flags).succeeded();
    };
    pack("unsigned", "mixed.tar.zst");
    pack("other", "both.tar.zst");
    let to = TestRegistry::start(Version::V31);
    let load = |file: &str| ["load", file, "--to", &to.host, "--insecure", "--key", "cosign.pub"].map(str::to_owned);
    let words = ["unsigned", "its zarf.yaml has no signature"];
    let [from_disk, from_pipe] = ["mixed.tar.zst", "-"].map(load);
    workspace
        .run(&from_disk.each_ref().map(String::as_str))
        .failed(2, &words);
    let piped = from_pipe.each_ref().map(String::as_str);
    let bytes = std::fs::read(workspace.path("mixed.tar.zst")).unwrap();
    workspace.run_with(&piped, &bytes).failed(2, &words);
    assert!(tags(&to).await.is_empty());
    let bytes = std::fs::read(workspace.path("both.tar.zst")).unwrap();
    workspace.run_with(&piped, &bytes).succeeded();
    assert_eq!(digests(&to, ""), digests(&packages.registry, ""));
}

#[tokio::test]
async fn a_receipt_says_what_was_loaded() {
    let packages = packages().await;
    let workspace = &packages.workspace;
    signed(&packages);
    packages.pack(&packages.reference, "shop.tar.zst", &[]).succeeded();
    let to = TestRegistry::start(Version::V31);
    let place = format!("{}/site", to.host);
    let flags = ["load", "shop.tar.zst", "--to", &place, "--insecure", "--output", "json"];
    let run = |more: &[&str]| workspace.run(&[&flags[..], more].concat());
    // Nothing is loaded where no receipt can be written, and none is written where nothing is loaded.
    run(&["--receipt", "nowhere/receipt.json"]).failed(1, &["nowhere/receipt.json cannot be written"]);
    run(&["--receipt", "receipt.json", "--receipt-identity", " "]).failed(2, &["it is empty"]);
    run(&["--receipt", "receipt.json", "--key", "p384.pub"]).failed(2, &["not signed as required"]);
    assert_eq!(to.client().repositories().await.unwrap(), Vec::<String>::new());
    assert!(!workspace.path("receipt.json").exists());

    let signed = [
        "--receipt",
        "receipt.json",
        "--receipt-key",
        "cosign.key",
        "--key",
        "cosign.pub",
    ];
    let loaded = run(&[&signed[..], &["--receipt-identity", "a person"]].concat());
    loaded.succeeded();
    let report: Value = serde_json::from_slice(&loaded.stdout).unwrap();
    let read = || -> Value { serde_json::from_slice(&std::fs::read(workspace.path("receipt.json")).unwrap()).unwrap() };
    let receipt = read();
    let digest = |name: &str| to.crane("digest", &format!("site/{name}")).trim().to_owned();
    let index: Value = serde_json::from_str(&to.crane("manifest", "site/shop:1.4.0")).unwrap();
    let package = json!({
        "name": format!("{place}/shop:1.4.0"),
        "digest": digest("shop:1.4.0"),
        "manifest": index["manifests"][0]["digest"],
    });
    assert_eq!(receipt["packages"], json!([package]));
    let image = json!({ "name": format!("{place}/team/app:1"), "digest": digest("team/app:1") });
    assert_eq!(receipt["images"], json!([image]));
    assert_eq!(receipt["sentBytes"], report["sentBytes"]);
    assert_eq!(receipt["signaturesVerified"], true);
    assert_eq!(
        (&receipt["identity"], &receipt["file"]),
        (&json!("a person"), &json!("shop.tar.zst"))
    );
    assert_eq!(receipt["destination"], place);
    let time: jiff::Timestamp = receipt["time"].as_str().unwrap().parse().unwrap();
    assert!(jiff::Timestamp::now().duration_since(time).as_secs() < 600);

    let path = |file: &str| workspace.path(file).to_str().unwrap().to_owned();
    let (key, file, bundle) = (
        path("cosign.pub"),
        path("receipt.json"),
        path("receipt.json.sigstore.json"),
    );
    let verify = [
        "verify-blob",
        "--key",
        &key,
        "--insecure-ignore-tlog=true",
        "--bundle",
        &bundle,
        &file,
    ];
    let verify = || output(&program("JACKAL_BIN_COSIGN"), &verify);
    assert!(verify().status.success(), "{}", stderr(&verify()));
    std::fs::write(&file, receipt.to_string()).unwrap();
    assert!(!verify().status.success());

    // Another receipt without a key has no signature of the one before.
    run(&["--receipt", "receipt.json"]).succeeded();
    assert!(!workspace.path("receipt.json.sigstore.json").exists());
    let again = read();
    assert_eq!(
        (&again["sentBytes"], &again["signaturesVerified"]),
        (&json!(0), &json!(false))
    );
    assert!(again["identity"].as_str().unwrap().contains('@'), "{again}");
    let left = std::fs::read_dir(workspace.path(".")).unwrap();
    let left = left.map(|entry| entry.unwrap().file_name().into_string().unwrap());
    assert!(left.into_iter().all(|name| !name.ends_with(".partial")));
}

#[tokio::test]
async fn what_an_unsigned_package_leaves_out_is_not_mounted() {
    let packages = packages().await;
    let workspace = &packages.workspace;
    let layer = layer(&packages).await;
    // Somebody else's repository at the site has the layer.
    let to = TestRegistry::start(Version::V31);
    let (from, others) = (
        format!("{}/team/app:1", packages.registry.host),
        format!("{}/others/app:1", to.host),
    );
    run(program("JACKAL_BIN_CRANE"), &["copy", "--insecure", &from, &others]);
    let flags = ["inventory", &to.host, "--insecure", "--output", "have.json"];
    workspace.run(&flags).succeeded();
    packages
        .pack(&packages.reference, "less.tar.zst", &["--have", "have.json"])
        .succeeded();
    let bytes = std::fs::read(workspace.path("less.tar.zst")).unwrap();
    let prefix = format!("{}/team", to.host);
    let flags = ["load", "-", "--to", &prefix, "--insecure", "--key", "cosign.pub"];
    let piped = workspace.run_with(&flags, &bytes);
    piped.failed(2, &["is not signed as required"]);
    let repository = to.repository("team/shop");
    assert_eq!(repository.head_blob(&layer).await.unwrap(), None);
    let flags = ["load", "-", "--to", &prefix, "--insecure"];
    workspace.run_with(&flags, &bytes).succeeded();
    assert!(repository.head_blob(&layer).await.unwrap().is_some());
}

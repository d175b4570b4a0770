//! Packages that come from an archive in a registry.

use jackal_operator::api::v1alpha1::{JackalImage, JackalPackage};
use jackal_operator::oci::{Descriptor, Digest, Document, Manifest};
use jackal_operator::registry::Repository;
use serde_json::{Value, json};

use crate::archive::Packages;
use crate::signing::signing_file;
use crate::support::cluster::{Cluster, condition, package_stalled};
use crate::support::image::{multi_platform, push, put};
use crate::support::independent::pull_and_verify;
use crate::support::objects::registry_at;
use crate::support::registry::{TestRegistry, VERSIONS, Version};
use crate::support::workspace::CommandResult as _;

/// A package from the archive `oci`, which is written to `target`.
fn package(name: &str, oci: &str, target: &TestRegistry, more: &str) -> String {
    format!(
        "apiVersion: jackal.dev/v1alpha1
kind: JackalPackage
metadata: {{name: {name}}}
spec:
  from: {{archive: {{oci: '{oci}'}}}}
  naming: Plain
  {}
  {more}
",
        registry_at(&target.host)
    )
}

/// The digest of the package's manifest under `tag`, as crane reads it.
fn manifest(registry: &TestRegistry, tag: &str) -> String {
    let index: Value = serde_json::from_str(&registry.crane("manifest", &format!("shop:{tag}"))).unwrap();
    index["manifests"][0]["digest"].as_str().unwrap().to_owned()
}

/// Pushes `file` as the only layer of an artifact under `tag`.
async fn push_file(repository: &Repository, tag: &str, file: Vec<u8>) {
    let config = push(repository, "application/vnd.oci.empty.v1+json", "{}".into()).await;
    let layer = push(repository, "application/vnd.oci.image.layer.v1.tar", file.into()).await;
    let layer = Descriptor {
        annotations: [("org.opencontainers.image.title".to_owned(), "shop.tar.zst".to_owned())].into(),
        ..layer
    };
    let document = Document::of_manifest(Manifest::new(config, vec![layer])).unwrap();
    put(repository, &document, Some(tag)).await;
}

async fn children(cluster: &Cluster) -> Vec<JackalImage> {
    cluster.images().await
}

fn verified(package: &JackalPackage) -> Option<(String, String)> {
    let found = condition(&package.status.as_ref()?.conditions, "Verified")?;
    Some((found.status.clone(), found.reason.clone()))
}

#[tokio::test]
async fn a_package_of_an_archive_is_copied_unchanged() {
    let packages = Packages::new().await;
    let source = &packages.registry;
    packages.pack(&packages.reference, "shop.tar.zst", &[]).succeeded();
    let file = std::fs::read(packages.workspace.path("shop.tar.zst")).unwrap();
    push_file(&source.repository("files/shop"), "stable", file).await;
    let image = source.crane("digest", "team/app:1").trim().to_owned();
    // The archive is enough: the image's own repository is gone.
    let own = source.storage().join("docker/registry/v2/repositories/team");
    std::fs::remove_dir_all(own).unwrap();
    for (version, oci) in VERSIONS.into_iter().zip(["shop:1.4.0", "files/shop:stable"]) {
        let (cluster, target) = (Cluster::new().await, TestRegistry::start(version));
        let _controller = cluster.controller(&["--insecure-registry", &source.host]);
        cluster.apply(&package("shop", &format!("{}/{oci}", source.host), &target, ""));
        let status = cluster.ready("shop").await.status.unwrap();
        let artifact = status.artifact.unwrap();
        assert_eq!(artifact.digest, manifest(source, "1.4.0"), "{oci}");
        assert_eq!(manifest(&target, "1.4.0"), artifact.digest);
        assert_eq!(status.version.as_deref(), Some("1.4.0"));
        assert_eq!(artifact.revision, format!("1.4.0@{}", artifact.digest));
        assert_eq!(status.history[0].reason, "FirstBuild");
        let [row] = &status.images[..] else {
            panic!("{:?}", status.images)
        };
        assert_eq!(row.image, format!("{}/team/app:1", source.host));
        assert_eq!(row.digest.as_deref(), Some(image.as_str()));
        assert_eq!(target.crane("digest", "team/app:1").trim(), image);
        pull_and_verify(&target.host, "team/app", "1").await;
        let [child] = &children(&cluster).await[..] else {
            panic!("one image")
        };
        let archive = &child.spec.from.as_ref().unwrap().archive;
        assert_eq!(archive.digest, image);
        let (repository, _) = oci.rsplit_once(':').unwrap();
        assert!(
            archive
                .oci
                .starts_with(&format!("{}/{repository}@sha256:", source.host))
        );
        // Every file of the package is there.
        packages
            .workspace
            .run(&[
                "pack",
                &format!("{}/shop:1.4.0", target.host),
                "--insecure",
                "--output",
                "back.tar.zst",
            ])
            .succeeded();
        let whole = |file: &str| std::fs::read(packages.workspace.path(file)).unwrap();
        assert!(whole("back.tar.zst") == whole("shop.tar.zst"));
    }
}

#[tokio::test]
async fn another_archive_under_the_tag_replaces_the_package() {
    let packages = Packages::new().await;
    let source = &packages.registry;
    let text = std::fs::read_to_string(packages.workspace.path("package.yaml")).unwrap();
    let shop = source.repository("shop");
    let follow = async |version: &str| {
        let index = shop.manifest(version).await.unwrap().unwrap();
        put(&shop, &index, Some("stable")).await;
    };
    follow("1.4.0").await;
    let (cluster, target) = (Cluster::new().await, TestRegistry::start(Version::V31));
    let _controller = cluster.controller(&["--insecure-registry", &source.host]);
    cluster.apply(&package("shop", &format!("{}/shop:stable", source.host), &target, ""));
    let first = cluster.ready("shop").await.status.unwrap();
    assert_eq!(first.version.as_deref(), Some("1.4.0"));
    let before = children(&cluster).await;

    multi_platform(&source.repository("team/other"), "2").await;
    let next = text.replace("1.4.0", "1.5.0").replace("team/app:1", "team/other:2");
    packages
        .workspace
        .text_report(&next, &source.host, &[&source.host], &[]);
    follow("1.5.0").await;
    cluster.request("shop", "again").await;
    let status = cluster
        .package_where("shop", "1.5.0", |package| {
            let status = package.status.as_ref()?;
            let ready = condition(&status.conditions, "Ready")?;
            (ready.status == "True" && status.version.as_deref() == Some("1.5.0")).then_some(())
        })
        .await
        .status
        .unwrap();
    assert_eq!(status.artifact.unwrap().digest, manifest(source, "1.5.0"));
    assert_eq!(status.history[0].reason, "VersionChanged");
    let after = children(&cluster).await;
    assert_eq!((before.len(), after.len()), (1, 1));
    assert!(after[0].spec.image.ends_with("team/other:2"));

    // Suspended, it keeps its images, also in a process that has not read the archive.
    drop(_controller);
    let _controller = cluster.controller(&["--insecure-registry", &source.host]);
    cluster
        .patch::<JackalPackage>("shop", json!({ "spec": { "suspend": true } }))
        .await;
    cluster
        .package_where("shop", "suspended", |package| {
            let ready = condition(&package.status.as_ref()?.conditions, "Ready")?;
            let is_current = ready.observed_generation == package.metadata.generation;
            (ready.reason == "Suspended" && is_current).then_some(())
        })
        .await;
    let suspended = children(&cluster).await;
    assert!(suspended.len() == 1 && suspended[0].spec.suspend);
}

#[tokio::test]
async fn a_package_must_be_signed_in_itself_as_verify_says() {
    let packages = Packages::new().await;
    for key in ["cosign.key", "cosign.pub"] {
        std::fs::copy(signing_file(key), packages.workspace.path(key)).unwrap();
    }
    let source = &packages.registry;
    let reference = format!("{}/shop:1.4.0", source.host);
    let (cluster, target) = (Cluster::new().await, TestRegistry::start(Version::V31));
    let _controller = cluster.controller(&["--insecure-registry", &source.host]);
    let key = |file: &str| {
        let pem = std::fs::read_to_string(signing_file(file)).unwrap();
        format!("verify: [{{publicKeys: [{{inline: {}}}]}}]", json!(pem))
    };
    let unsigned = |package: &JackalPackage| {
        let current = condition(&package.status.as_ref()?.conditions, "Ready")?;
        let is_current = current.observed_generation == package.metadata.generation;
        let refused = current.status == "False" && current.reason == "VerificationError" && is_current;
        refused.then(|| current.message.clone())
    };
    cluster.apply(&package("shop", &reference, &target, &key("p384.pub")));
    let refused = cluster.package_where("shop", "refused", unsigned).await;
    let message = unsigned(&refused).unwrap();
    assert!(message.contains("its zarf.yaml has no signature"), "{message}");
    assert_eq!(
        verified(&refused),
        Some(("False".to_owned(), "VerificationError".to_owned()))
    );

    let host = &source.host;
    let text = std::fs::read_to_string(packages.workspace.path("package.yaml")).unwrap();
    packages
        .workspace
        .text_report(&text, host, &[host], &["--key", "cosign.key"]);
    let other = |package: &JackalPackage| {
        let message = unsigned(package)?;
        message
            .contains("it was not made with the ECDSA P-384 key")
            .then_some(())
    };
    // It is read again without a request: another archive may be published under the tag.
    cluster.package_where("shop", "refused again", other).await;
    assert_eq!(children(&cluster).await.len(), 0);
    assert_eq!(target.client().repositories().await.unwrap(), Vec::<String>::new());

    cluster.apply(&package("shop", &reference, &target, &key("cosign.pub")));
    let ready = cluster.ready("shop").await;
    assert_eq!(verified(&ready), Some(("True".to_owned(), "Succeeded".to_owned())));
}

#[tokio::test]
async fn what_is_not_an_archive_of_the_package_is_refused() {
    let packages = Packages::new().await;
    let source = &packages.registry;
    let (cluster, target) = (Cluster::new().await, TestRegistry::start(Version::V31));
    let _controller = cluster.controller(&["--insecure-registry", &source.host]);
    let at = |path: &str| format!("{}/{path}", source.host);
    cluster.apply(&package("other", &at("shop:1.4.0"), &target, ""));
    let message = package_stalled(&cluster, "other", "InvalidSpec").await;
    assert!(message.contains("the archive has the package `shop`"), "{message}");
    cluster.apply(&package("another", &at("Shop:1.4.0"), &target, ""));
    package_stalled(&cluster, "another", "InvalidReference").await;

    push_file(&source.repository("noise"), "1", b"no archive".to_vec()).await;
    for (name, oci, reason, words) in [
        ("nothing", at("shop:9"), "SourceNotFound", "shop:9 does not exist"),
        (
            "image",
            at("team/app:1"),
            "SourceFailed",
            "is an index, and not one of packages",
        ),
        ("noise", at("noise:1"), "SourceFailed", "is not a tar"),
    ] {
        cluster.apply(&package(name, &oci, &target, ""));
        let failed = |package: &JackalPackage| {
            let ready = condition(&package.status.as_ref()?.conditions, "Ready")?;
            (ready.status == "False" && ready.reason == reason).then(|| ready.message.clone())
        };
        let found = cluster.package_where(name, reason, failed).await;
        let message = failed(&found).unwrap();
        assert!(message.contains(words), "{message}");
    }

    // An image of an archive is found by its digest.
    let digest = Digest::of(b"none");
    let pinned = format!("{}/shop@{}", source.host, manifest(source, "1.4.0"));
    let image = json!({
        "apiVersion": "jackal.dev/v1alpha1", "kind": "JackalImage", "metadata": { "name": "app" },
        "spec": {
            "image": "team/renamed:2", "naming": "Plain", "from": { "archive": { "oci": pinned, "digest": digest } },
            "registry": { "address": target.host, "insecure": true },
        },
    });
    cluster.apply(&image.to_string());
    let missing = crate::support::cluster::image_stalled(&cluster, "app", "SourceNotFound").await;
    assert!(missing.contains(digest.as_str()), "{missing}");
    let mut existing = image;
    existing["spec"]["from"]["archive"]["digest"] = json!(source.crane("digest", "team/app:1").trim());
    cluster.apply(&existing.to_string());
    let ready = cluster.image_ready("app").await.status.unwrap();
    assert_eq!(ready.digest.unwrap(), target.crane("digest", "team/renamed:2").trim());
}

#[tokio::test]
async fn fields_of_built_packages_are_refused_beside_an_archive() {
    let cluster = Cluster::new().await;
    let apply = |kind: &str, spec: Value| {
        let object =
            json!({ "apiVersion": "jackal.dev/v1alpha1", "kind": kind, "metadata": { "name": "shop" }, "spec": spec });
        cluster.try_apply_with(&object.to_string(), &["--dry-run=server"])
    };
    let refused = |kind: &str, spec: Value, words: &str| {
        let message = apply(kind, spec).unwrap_err();
        assert!(message.contains(words), "{words}: {message}");
    };
    let archive = json!({ "archive": { "oci": "registry.example.com/shop:1" } });
    apply("JackalPackage", json!({ "from": archive, "architecture": "arm64" })).unwrap();
    for (field, value) in [
        ("version", json!("1")),
        ("versionFrom", json!({ "image": "a" })),
        ("components", json!([{ "name": "a" }])),
        ("description", json!("x")),
        ("sbom", json!({ "enabled": false })),
        ("differentialFrom", json!({ "version": "1" })),
        ("signing", json!({ "secretRef": { "name": "key" } })),
    ] {
        let spec = json!({ "from": archive, field: value });
        refused("JackalPackage", spec, "a package from an archive is copied unchanged");
    }
    let verify = json!([{ "images": ["a"], "publicKeys": [{ "inline": "x" }] }]);
    refused(
        "JackalPackage",
        json!({ "from": archive, "verify": verify }),
        "remove verify[].images",
    );
    refused("JackalPackage", json!({ "from": { "archive": {} } }), "oci");
    refused("JackalPackage", json!({ "version": "1" }), "set components, or from");
    let digest = Digest::of(b"");
    let image = json!({ "archive": { "oci": format!("registry.example.com/shop@{digest}"), "digest": digest } });
    apply("JackalImage", json!({ "image": "a:1", "from": image })).unwrap();
    for (field, value) in [
        ("source", json!("Docker")),
        ("platforms", json!(["linux/amd64"])),
        ("verify", json!([{ "publicKeys": [{ "inline": "x" }] }])),
    ] {
        let spec = json!({ "image": "a:1", "from": image, field: value });
        refused("JackalImage", spec, "from reads the whole image from an archive");
    }
    let tag = json!({ "archive": { "oci": "registry.example.com/shop:1", "digest": digest } });
    refused(
        "JackalImage",
        json!({ "image": "a:1", "from": tag }),
        "names the archive by its digest",
    );
    let short = json!({ "archive": { "oci": format!("a@{digest}"), "digest": "sha256:0" } });
    refused("JackalImage", json!({ "image": "a:1", "from": short }), "digest");
}

//! In a cluster: signed packages and images, and images that must be signed.

use jackal_operator::api::v1alpha1::JackalImage;
use jackal_operator::oci::Digest;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use serde_json::json;

use super::keyless::{IDENTITY, ISSUER, signed_image};
use super::{SigningWorkspace, attach, text};
use crate::support::cluster::{Cluster, condition};
use crate::support::fault_proxy::{Action, FaultProxy};
use crate::support::image::{image, noise, put};
use crate::support::objects::{package, registry_at};
use crate::support::registry::{TestRegistry, VERSIONS, Version};

/// A Secret in the format of `cosign generate-key-pair k8s://…`.
pub fn key_pair(name: &str, password: &str) -> String {
    json!({
        "apiVersion": "v1", "kind": "Secret", "metadata": { "name": name }, "immutable": false,
        "stringData": {
            "cosign.key": text("cosign.key"), "cosign.pub": text("cosign.pub"), "cosign.password": password,
        },
    })
    .to_string()
}

/// A ConfigMap of one entry.
pub fn config_map(name: &str, key: &str, content: &str) -> String {
    json!({ "apiVersion": "v1", "kind": "ConfigMap", "metadata": { "name": name }, "data": { key: content } })
        .to_string()
}

#[tokio::test]
async fn a_package_and_its_images_are_signed_once() {
    let (cluster, workspace) = (Cluster::new().await, SigningWorkspace::new());
    cluster.apply(&key_pair("cosign-key", "secret"));
    for version in VERSIONS {
        let registry = TestRegistry::start(version);
        let proxy = FaultProxy::to(&registry.host, |_| Action::Pass);
        let source = TestRegistry::start(Version::V31);
        let app = source.repository("team/app");
        let root = image(&app, "linux/amd64", noise(5, 1000)).await;
        put(&app, &root, Some("1")).await;
        let _controller = cluster.controller(&["--insecure-registry", &source.host]);
        let name = format!("shop-{}", format!("{version:?}").to_lowercase());
        let line = format!("{{image: '{}/team/app:1'}}", source.host);
        let more = format!(
            "{}\n  naming: Zarf\n  signing: {{secretRef: {{name: cosign-key}}, images: ['*']}}",
            registry_at(&proxy.host)
        );
        cluster.apply(&package(&name, "1", &[&line], &more));
        let status = cluster.ready(&name).await.status.unwrap();
        let signed = condition(&status.conditions, "Signed").unwrap();
        assert_eq!(signed.status, "True");
        assert!(
            signed.message.starts_with("signed by the key sha256:"),
            "{}",
            signed.message
        );
        let artifact = status.artifact.unwrap();
        let at = &registry.host;
        let brought = status.images[0].name.as_str();
        let brought = brought.split_once('/').unwrap().1;
        for reference in [
            format!("{at}/{name}:1"),
            format!("{at}/{name}@{}", artifact.digest),
            format!("{at}/{brought}"),
        ] {
            workspace.cosign_verifies(&reference, "cosign.pub").unwrap();
            workspace.cosign_verifies(&reference, "p384.pub").unwrap_err();
        }
        for reference in [format!("{at}/{name}:1"), format!("{at}/{name}@{}", artifact.digest)] {
            let provenance = workspace.provenance(&reference, "cosign.pub").unwrap();
            let built = &provenance["predicate"]["buildDefinition"];
            assert_eq!(built["externalParameters"]["spec"]["version"], "1");
            let material = &built["resolvedDependencies"][0];
            assert_eq!(material["uri"], format!("oci://{}/team/app:1", source.host));
            assert_eq!(material["digest"]["sha256"], root.digest().hex());
            assert_eq!(material["annotations"], json!({ "method": "Registry" }));
            workspace.provenance(&reference, "p384.pub").unwrap_err();
        }
        // Another reconciliation writes nothing.
        let writes = |proxy: &FaultProxy| {
            ["PUT", "POST", "PATCH"]
                .map(|method| proxy.count(method, ""))
                .iter()
                .sum::<usize>()
        };
        let before = writes(&proxy);
        cluster.request(&name, "again").await;
        cluster
            .package_where(&name, "looked at again", |package| {
                (package.status.as_ref()?.last_handled_reconcile_at.as_deref() == Some("again")).then_some(())
            })
            .await;
        assert_eq!(writes(&proxy), before);
        cluster.kubectl(&["delete", "jkpkg", &name, "--timeout=30s"]);
    }
}

/// Expects this Verified condition.
#[track_caller]
fn verified(conditions: &[Condition], status: &str, reason: &str) {
    let verified = condition(conditions, "Verified").unwrap();
    assert_eq!((verified.status.as_str(), verified.reason.as_str()), (status, reason));
}

#[tokio::test]
async fn an_image_is_copied_only_if_every_matching_verify_entry_is_satisfied() {
    let (cluster, workspace) = (Cluster::new().await, SigningWorkspace::new());
    let (source, registry) = (TestRegistry::start(Version::V31), TestRegistry::start(Version::V31));
    let app = source.repository("acme/app");
    let signed = signed_image(&workspace, &app, 7).await;
    let other = source.repository("other/app");
    put(&other, &image(&other, "linux/amd64", noise(8, 1000)).await, Some("8")).await;
    cluster.apply(&config_map("keys", "cosign.pub", &text("cosign.pub")));
    let root = std::fs::read_to_string(workspace.path("trusted_root.json")).unwrap();
    cluster.apply(&config_map("sigstore", "trusted_root.json", &root));
    let _controller = cluster.controller(&["--insecure-registry", &source.host]);
    let verify = format!(
        "verify:
  - images: ['{host}/acme/*']
    publicKeys: [{{configMapRef: {{name: keys}}}}]
  - images: ['{host}/acme/*']
    identities: [{{issuer: '{ISSUER}', subject: '{IDENTITY}'}}]
    trustRootRef: {{name: sigstore}}",
        host = source.host
    );
    let more = format!("{}\n  {verify}", registry_at(&registry.host));
    let lines = [
        format!("{{image: '{}/acme/app:7'}}", source.host),
        format!("{{image: '{}/other/app:8'}}", source.host),
    ];
    cluster.apply(&package("shop", "1", &[&lines[0], &lines[1]], &more));
    let refused = |why: &'static str| {
        move |package: &jackal_operator::api::v1alpha1::JackalPackage| {
            let ready = condition(&package.status.as_ref()?.conditions, "Ready")?;
            (ready.reason == "VerificationError" && ready.message.contains(why)).then_some(())
        }
    };
    let package = cluster
        .package_where("shop", "not signed", refused("it has no signature"))
        .await;
    verified(&package.status.unwrap().conditions, "False", "VerificationError");
    let exists = async || {
        registry
            .repository("acme/app")
            .head_manifest("7")
            .await
            .unwrap()
            .is_some()
    };
    assert!(!exists().await);
    // One of two is not sufficient.
    let logged = std::fs::read(workspace.path("logged.json")).unwrap();
    attach(&app, &signed, &logged).await;
    cluster.request("shop", "logged").await;
    cluster
        .package_where(
            "shop",
            "not signed by the key",
            refused("it was not made with the ECDSA P-256 key"),
        )
        .await;
    assert!(!exists().await);
    workspace.cosign_signs(&format!("{}/acme/app@{}", source.host, signed.digest()), true);
    cluster.request("shop", "signed").await;
    let status = cluster.ready("shop").await.status.unwrap();
    assert_eq!(status.images[0].digest.as_deref(), Some(signed.digest().as_str()));
    assert!(exists().await);
    verified(&status.conditions, "True", "Succeeded");
    for row in &status.images {
        let image = cluster.api::<JackalImage>().get(&row.resource).await.unwrap();
        let conditions = image.status.unwrap().conditions;
        match row.image.contains("/acme/") {
            true => verified(&conditions, "True", "Succeeded"),
            // No entry matches it.
            false => assert!(condition(&conditions, "Verified").is_none(), "{conditions:?}"),
        }
    }

    // Another image under the tag has no signature, and the existing copy is not replaced.
    let newer = image(&app, "linux/amd64", noise(9, 1000)).await;
    put(&app, &newer, Some("7")).await;
    cluster.request("shop", "newer").await;
    cluster
        .package_where("shop", "newer is not signed", refused("it has no signature"))
        .await;
    let stored = registry
        .repository("acme/app")
        .head_manifest("7")
        .await
        .unwrap()
        .unwrap();
    assert_eq!(&stored.digest, signed.digest());
}

#[tokio::test]
async fn selected_platforms_are_verified_by_the_signature_of_their_index() {
    let (cluster, workspace) = (Cluster::new().await, SigningWorkspace::new());
    let (source, registry) = (TestRegistry::start(Version::V31), TestRegistry::start(Version::V31));
    let app = source.repository("acme/app");
    let (index, children) = crate::support::image::multi_platform(&app, "1").await;
    workspace.cosign_signs(&format!("{}/acme/app@{}", source.host, index.digest()), false);
    cluster.apply(&key_pair("keys", "secret"));
    let _controller = cluster.controller(&["--insecure-registry", &source.host]);
    let line = format!("{{image: '{}/acme/app:1', platforms: [linux/amd64]}}", source.host);
    let verify = "verify: [{publicKeys: [{secretRef: {name: keys}}]}]";
    let more = format!("{}\n  {verify}", registry_at(&registry.host));
    cluster.apply(&package("shop", "1", &[&line], &more));
    let status = cluster.ready("shop").await.status.unwrap();
    let brought: Digest = status.images[0].digest.as_deref().unwrap().parse().unwrap();
    assert!(children.iter().any(|child| *child.digest() == brought), "{brought}");
}

//! Signatures by keys.

use jackal_operator::oci::Digest;

use super::SigningWorkspace;
use crate::support::image::{image, multi_platform, noise, put};
use crate::support::registry::{TestRegistry, VERSIONS, Version};

#[tokio::test]
async fn cosign_verifies_our_signatures() {
    let workspace = SigningWorkspace::new();
    for version in VERSIONS {
        let registry = TestRegistry::start(version);
        let repository = registry.repository("team/app");
        let (index, children) = multi_platform(&repository, "1").await;
        let name = format!("{}/team/app", registry.host);
        let (by_tag, by_digest) = (format!("{name}:1"), format!("{name}@{}", index.digest()));
        workspace.cosign_verifies(&by_tag, "cosign.pub").unwrap_err();
        let signed = workspace
            .run_operator(&["sign", &by_tag, "--insecure", "--key", "cosign.key"])
            .unwrap();
        assert!(signed.starts_with(&format!("{by_digest} is signed by ")), "{signed}");
        for reference in [&by_tag, &by_digest] {
            let verified = workspace.cosign_verifies(reference, "cosign.pub").unwrap();
            assert!(verified.contains(index.digest().as_str()), "{verified}");
        }
        workspace.cosign_verifies(&by_tag, "p384.pub").unwrap_err();
        // Only the index was signed.
        let child = format!("{name}@{}", children[0].digest());
        workspace.cosign_verifies(&child, "cosign.pub").unwrap_err();
        workspace
            .run_operator(&[
                "verify",
                &by_tag,
                "--insecure",
                "--key",
                "p384.pub",
                "--key",
                "cosign.pub",
            ])
            .unwrap();
        let refused = workspace
            .run_operator(&["verify", &by_tag, "--insecure", "--key", "p384.pub"])
            .unwrap_err();
        assert!(
            refused.contains("it was not made with the ECDSA P-384 key"),
            "{refused}"
        );
        let refused = workspace
            .run_operator(&["verify", &child, "--insecure", "--key", "cosign.pub"])
            .unwrap_err();
        assert!(refused.contains("it has no signature"), "{refused}");

        // The same key in another format makes the same signature, which exists.
        let before = repository.referrers(index.digest()).await.unwrap();
        let again = workspace
            .run_operator(&["sign", &by_digest, "--insecure", "--key", "plain.key"])
            .unwrap();
        assert!(again.contains("is already signed"), "{again}");
        assert_eq!(repository.referrers(index.digest()).await.unwrap(), before);
        // cosign adds its own signature.
        workspace.cosign_signs(&by_digest, false);
        assert_eq!(
            repository.referrers(index.digest()).await.unwrap().len(),
            before.len() + 1
        );
    }
}

#[tokio::test]
async fn signatures_of_cosign_are_verified() {
    let workspace = SigningWorkspace::new();
    for version in VERSIONS {
        let registry = TestRegistry::start(version);
        for (repository, older) in [("team/bundle", false), ("team/elder", true)] {
            let at = registry.repository(repository);
            let document = image(&at, "linux/amd64", noise(3, 1000)).await;
            put(&at, &document, Some("1")).await;
            let reference = format!("{}/{repository}@{}", registry.host, document.digest());
            workspace.cosign_signs(&reference, older);
            // In the intended format.
            let tag = format!("sha256-{}.sig", document.digest().hex());
            assert_eq!(at.head_manifest(&tag).await.unwrap().is_some(), older);
            workspace
                .run_operator(&["verify", &reference, "--insecure", "--key", "cosign.pub"])
                .unwrap();
            let refused = workspace
                .run_operator(&["verify", &reference, "--insecure", "--key", "rsa.pub"])
                .unwrap_err();
            assert!(refused.contains("it was not made with the RSA key"), "{refused}");
        }
    }
}

#[tokio::test]
async fn an_image_layout_is_signed_and_verified() {
    let workspace = SigningWorkspace::new();
    let registry = TestRegistry::start(Version::V31);
    let source = registry.repository("team/app");
    put(&source, &image(&source, "linux/amd64", noise(4, 1000)).await, Some("1")).await;
    let package = format!(
        "apiVersion: jackal.dev/v1alpha1\nkind: JackalPackage\nmetadata: {{name: shop}}\nspec: {{version: '1', components: [{{name: a, images: [{{image: '{}/team/app:1'}}]}}]}}",
        registry.host
    );
    std::fs::write(workspace.path("shop.yaml"), package).unwrap();
    let source = ["--insecure-registry", registry.host.as_str()];
    let build = [
        &["build", "shop.yaml", "--to", "oci:./shop", "--key", "cosign.key"][..],
        &source,
    ]
    .concat();
    workspace.run_operator(&build).unwrap();
    let verify = ["verify", "oci:./shop:shop:1", "--key", "cosign.pub"];
    workspace.run_operator(&verify).unwrap();
    // Signing again leaves it unchanged.
    let index = std::fs::read(workspace.path("shop/index.json")).unwrap();
    let again = workspace
        .run_operator(&["sign", "oci:./shop:shop:1", "--key", "plain.key"])
        .unwrap();
    assert!(again.contains("is already signed"), "{again}");
    assert_eq!(
        Digest::of(&std::fs::read(workspace.path("shop/index.json")).unwrap()),
        Digest::of(&index)
    );
    let refused = workspace
        .run_operator(&["verify", "oci:./shop", "--key", "cosign.pub"])
        .unwrap_err();
    assert!(refused.contains("write oci:DIR:NAME"), "{refused}");
}

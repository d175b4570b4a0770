//! Signatures by identities, with all of Sigstore simulated by `scripts/go/sigstore`.

use jackal_operator::oci::{Descriptor, Digest, Document, Manifest};
use jackal_operator::registry::Repository;
use serde_json::Value;

use super::{SigningWorkspace, attach, store};
use crate::support::image::{image, noise, put};
use crate::support::process::run;
use crate::support::program;
use crate::support::registry::{TestRegistry, Version};

pub const IDENTITY: &str = "https://github.com/acme/app/.github/workflows/release.yaml@refs/heads/main";
pub const ISSUER: &str = "https://token.actions.githubusercontent.com";

/// An image whose signatures by an identity are in the workspace.
pub async fn signed_image(workspace: &SigningWorkspace, repository: &Repository, seed: u64) -> Document {
    let document = image(repository, "linux/amd64", noise(seed, 1000)).await;
    put(repository, &document, Some(&seed.to_string())).await;
    let (out, digest) = (workspace.path(""), document.digest().as_str());
    let out = out.to_str().unwrap();
    run(
        program("JACKAL_BIN_SIGSTORE"),
        &[
            "--digest",
            digest,
            "--identity",
            IDENTITY,
            "--issuer",
            ISSUER,
            "--out",
            out,
        ],
    );
    document
}

/// Stores a signature of cosign 2 under the image's tag for them.
async fn keep_simple(repository: &Repository, subject: &Document, json: &[u8]) {
    let read: Value = serde_json::from_slice(json).unwrap();
    use base64::Engine as _;
    let payload = base64::engine::general_purpose::STANDARD
        .decode(read["payload"].as_str().unwrap())
        .unwrap();
    let config = br#"{"architecture":"","os":"","rootfs":{"type":"layers","diff_ids":[]},"config":{}}"#;
    store(repository, config).await;
    store(repository, &payload).await;
    let mut layer = Descriptor::new(
        "application/vnd.dev.cosign.simplesigning.v1+json",
        Digest::of(&payload),
        payload.len() as u64,
    );
    layer.annotations = serde_json::from_value(read["annotations"].clone()).unwrap();
    let config = Descriptor::new(
        "application/vnd.oci.image.config.v1+json",
        Digest::of(config),
        config.len() as u64,
    );
    let document = Document::of_manifest(Manifest::new(config, vec![layer])).unwrap();
    let tag = format!("sha256-{}.sig", subject.digest().hex());
    put(repository, &document, Some(&tag)).await;
}

#[tokio::test]
async fn keyless_identities_are_verified_like_cosign_does() {
    let workspace = SigningWorkspace::new();
    let registry = TestRegistry::start(Version::V31);
    // Each format in a separate repository, because one valid signature is sufficient.
    for (seed, form) in (1..).zip([
        "logged",
        "tiled",
        "simple",
        "stamped",
        "expired",
        "unlisted",
        "foreign",
        "misstamped",
        "forged",
    ]) {
        let repository = registry.repository(&format!("team/{form}"));
        let document = signed_image(&workspace, &repository, seed).await;
        let json = std::fs::read(workspace.path(&format!("{form}.json"))).unwrap();
        match form {
            "simple" => keep_simple(&repository, &document, &json).await,
            _ => attach(&repository, &document, &json).await,
        }
        let reference = format!("{}/team/{form}@{}", registry.host, document.digest());
        let (root, more): (&str, &[&str]) = match form {
            "stamped" => (
                "trusted_root_tsa.json",
                &["--use-signed-timestamps=true", "--insecure-ignore-tlog=true"],
            ),
            _ => ("trusted_root.json", &[]),
        };
        let cosign = |identity: &str| {
            let (identity, issuer) = (
                format!("--certificate-identity={identity}"),
                format!("--certificate-oidc-issuer={ISSUER}"),
            );
            let root = format!("--trusted-root={root}");
            workspace.cosign(&[&["verify", &identity, &issuer, &root, &reference][..], more].concat())
        };
        let run_operator = |identity: &str| {
            workspace.run_operator(&[
                "verify",
                &reference,
                "--insecure",
                "--identity",
                identity,
                "--issuer",
                ISSUER,
                "--trust-root",
                root,
            ])
        };
        let good = matches!(form, "logged" | "tiled" | "simple" | "stamped");
        let (theirs, own) = (cosign(IDENTITY), run_operator(IDENTITY));
        assert_eq!(theirs.is_ok(), good, "cosign on {form}: {theirs:?}");
        assert_eq!(own.is_ok(), good, "we on {form}: {own:?}");
        let other = "https://github.com/acme/other/.github/workflows/release.yaml@refs/heads/main";
        assert!(cosign(other).is_err() && run_operator(other).is_err(), "{form}");
    }
}

//! Unusable keys, roots and fields: each is reported clearly, and nothing is published.

use jackal_operator::api::v1alpha1::JackalPackage;

use super::cluster::{config_map, key_pair};
use super::{SigningWorkspace, text};
use crate::support::cluster::{Cluster, condition};
use crate::support::image::{image, noise, put};
use crate::support::objects::{package, registry_at};
use crate::support::registry::{TestRegistry, Version};

#[tokio::test]
async fn unusable_keys_are_reported_until_corrected() {
    let (cluster, workspace) = (Cluster::new().await, SigningWorkspace::new());
    let (source, registry) = (TestRegistry::start(Version::V31), TestRegistry::start(Version::V31));
    let app = source.repository("acme/app");
    let document = image(&app, "linux/amd64", noise(11, 1000)).await;
    put(&app, &document, Some("1")).await;
    workspace.cosign_signs(&format!("{}/acme/app@{}", source.host, document.digest()), false);
    let _controller = cluster.controller(&["--insecure-registry", &source.host]);
    let line = format!("{{image: '{}/acme/app:1'}}", source.host);
    let apply = |name: &str, more: &str| {
        let more = format!("{}\n  {more}", registry_at(&registry.host));
        cluster.apply(&package(name, "1", &[&line], &more));
    };
    cluster.apply(&key_pair("wrong-password", "wrong"));
    cluster.apply(&config_map("no-key", "other", "x"));
    cluster.apply(&config_map("private", "cosign.pub", &text("plain.key")));
    cluster.apply(&config_map("no-root", "trusted_root.json", "{}"));
    let signing = |secret: &str| format!("signing: {{secretRef: {{name: {secret}}}}}");
    let by_map = |name: &str| format!("verify: [{{publicKeys: [{{configMapRef: {{name: {name}}}}}]}}]");
    let identity = "identities: [{issuer: 'https://a', subject: b}]";
    for (name, more, reason, told) in [
        (
            "wrong-password",
            signing("wrong-password"),
            "SigningFailed",
            "the password is wrong",
        ),
        (
            "no-secret",
            signing("no-secret"),
            "SecretUnavailable",
            "no-secret does not exist",
        ),
        (
            "no-map",
            by_map("no-map"),
            "ConfigMapUnavailable",
            "no-map does not exist",
        ),
        (
            "no-key",
            by_map("no-key"),
            "ConfigMapUnavailable",
            "has no entry cosign.pub",
        ),
        (
            "private",
            by_map("private"),
            "ConfigMapUnavailable",
            "it is a private key",
        ),
        (
            "no-root",
            format!("verify: [{{{identity}, trustRootRef: {{name: no-root}}}}]"),
            "ConfigMapUnavailable",
            "it is not a trusted_root.json of Sigstore",
        ),
        (
            "damaged",
            "verify: [{publicKeys: [{inline: 'no key'}]}]".to_owned(),
            "InvalidSpec",
            "it is not a public key in PEM",
        ),
        (
            "pattern",
            "verify: [{identities: [{issuer: 'https://a', subjectPattern: '('}], trustRootRef: {name: no-root}}]"
                .to_owned(),
            "InvalidSpec",
            "`(` is not a regular expression",
        ),
        (
            "other-key",
            format!(
                "verify: [{{publicKeys: [{{inline: {}}}]}}]",
                serde_json::json!(text("p384.pub"))
            ),
            "VerificationError",
            "it was not made with the ECDSA P-384 key",
        ),
    ] {
        apply(name, &more);
        let found = cluster
            .package_where(name, told, |package: &JackalPackage| {
                let ready = condition(&package.status.as_ref()?.conditions, "Ready")?;
                (ready.reason == reason && ready.message.contains(told)).then(|| ready.message.clone())
            })
            .await;
        let status = found.status.unwrap();
        assert!(status.artifact.is_none());
        let signed = condition(&status.conditions, "Signed");
        match more.contains("signing:") {
            true => {
                let signed = signed.unwrap();
                assert_eq!(
                    (signed.status.as_str(), signed.reason.as_str()),
                    ("False", reason),
                    "{name}"
                );
            }
            false => assert!(signed.is_none(), "{name}: {signed:?}"),
        }
        let published = registry.repository(name).head_manifest("1").await.unwrap();
        assert!(published.is_none(), "{name}");
    }
    // After the repair, each continues automatically.
    cluster.apply(&key_pair("wrong-password", "secret"));
    cluster.apply(&config_map("private", "cosign.pub", &text("cosign.pub")));
    for name in ["wrong-password", "private"] {
        cluster.request(name, "repaired").await;
        cluster.ready(name).await;
    }
    workspace
        .cosign_verifies(&format!("{}/wrong-password:1", registry.host), "cosign.pub")
        .unwrap();
}

#[tokio::test]
async fn mutually_exclusive_signing_fields_are_rejected_by_the_api_server() {
    let cluster = Cluster::new().await;
    let refused = |more: &str| {
        cluster
            .try_apply(&package("shop", "1", &["{image: a/b}"], more))
            .unwrap_err()
    };
    for (more, told) in [
        ("verify: [{}]", "set publicKeys or identities, with at least one entry"),
        ("verify: [{identities: [{issuer: a, subject: b}]}]", "set trustRootRef"),
        (
            "verify: [{publicKeys: [{inline: a}], trustRootRef: {name: a}}]",
            "set identities, or remove trustRootRef",
        ),
        (
            "verify: [{publicKeys: [{}]}]",
            "set exactly one of inline, secretRef and configMapRef",
        ),
        (
            "verify: [{publicKeys: [{inline: a, secretRef: {name: a}}]}]",
            "set exactly one of inline, secretRef and configMapRef",
        ),
        (
            "verify: [{identities: [{issuer: a}], trustRootRef: {name: a}}]",
            "set exactly one of subject and subjectPattern",
        ),
        (
            "verify: [{identities: [{issuer: a, subject: b, subjectPattern: c}], trustRootRef: {name: a}}]",
            "set exactly one of subject and subjectPattern",
        ),
        ("signing: {}", "secretRef"),
    ] {
        let message = refused(more);
        assert!(message.contains(told), "{more}: {message}");
    }
}

#[tokio::test]
async fn a_verify_entry_for_an_engine_image_is_rejected() {
    let cluster = Cluster::new().await;
    let registry = TestRegistry::start(Version::V31);
    let _controller = cluster.controller(&[]);
    let verify = format!(
        "verify: [{{images: ['docker.io/library/app'], publicKeys: [{{inline: {}}}]}}]",
        serde_json::json!(text("cosign.pub"))
    );
    let more = format!("{}\n  {verify}", registry_at(&registry.host));
    cluster.apply(&package("shop", "1", &["{image: 'app:dev', source: Docker}"], &more));
    cluster
        .package_where("shop", "InvalidSpec", |package| {
            let stalled = condition(&package.status.as_ref()?.conditions, "Stalled")?;
            (stalled.reason == "InvalidSpec" && stalled.message.contains("keeps none")).then_some(())
        })
        .await;
}

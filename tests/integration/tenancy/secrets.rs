//! Secrets are read only in the object's own namespace.

use serde_json::json;

use super::{EXCLUSIVE, clear, package, standalone_image};
use crate::support::cluster::{Cluster, condition, required};
use crate::support::image::multi_platform;
use crate::support::registry::{Options, TestRegistry, Version};

#[tokio::test]
async fn secrets_of_other_namespaces_are_not_requested() {
    let _guard = EXCLUSIVE.lock().await;
    let tenant = Cluster::exclusive().await;
    let owner = tenant.another_namespace().await;
    let guarded = TestRegistry::start_with(
        Version::V31,
        Options {
            login: Some(("u", "p")),
            ..Options::default()
        },
    );
    let registry = TestRegistry::start(Version::V28);
    multi_platform(&guarded.repository("team/app"), "1").await;
    let auth = json!({ "auths": { &guarded.host: { "username": "u", "password": "p" } } });
    let secret = |name: &str| {
        json!({
            "apiVersion": "v1",
            "kind": "Secret",
            "type": "kubernetes.io/dockerconfigjson",
            "metadata": { "name": name },
            "stringData": { ".dockerconfigjson": auth.to_string() },
        })
        .to_string()
    };
    let account = json!({
        "apiVersion": "v1",
        "kind": "ServiceAccount",
        "metadata": { "name": "builder" },
        "imagePullSecrets": [{ "name": "pull" }],
    });
    owner.apply(&secret("pull"));
    owner.apply(&account.to_string());
    tenant.apply(&account.to_string());
    let _controller = tenant.controller(&["--insecure-registry", &guarded.host]);
    let image = format!("{}/team/app:1", guarded.host);
    let open = format!("registry: {{address: '{}', insecure: true}}", registry.host);
    let closed = format!(
        "registry: {{address: '{}', insecure: true, secretRef: {{name: pull}}}}",
        guarded.host
    );
    tenant.apply(&standalone_image(
        "by-name",
        &image,
        &format!("{open}\n  imagePullSecrets: [{{name: pull}}]"),
    ));
    tenant.apply(&standalone_image(
        "by-account",
        &image,
        &format!("{open}\n  serviceAccountName: builder"),
    ));
    let line = format!("{{image: '{image}'}}");
    tenant.apply(&package("push", "1", &[&line], &closed));
    let missing = format!("the Secret {}/pull does not exist", tenant.namespace);
    for name in ["by-name", "by-account"] {
        tenant
            .image_where(name, "without its Secret", |image| {
                let ready = condition(&image.status.as_ref()?.conditions, "Ready")?;
                (ready.reason == "SecretUnavailable" && ready.message.contains(&missing)).then_some(())
            })
            .await;
    }
    tenant
        .package_where("push", "without its Secret", |package| {
            let ready = condition(&package.status.as_ref()?.conditions, "Ready")?;
            (ready.reason == "SecretUnavailable" && ready.message.contains(&missing)).then_some(())
        })
        .await;
    // All requests to the API server, of any client.
    let log = std::fs::read_to_string(required("JACKAL_AUDIT")).unwrap();
    let gets = |namespace: &str| {
        let events = log
            .lines()
            .filter_map(|line| serde_json::from_str::<serde_json::Value>(line).ok());
        events
            .filter(|event| {
                let object = &event["objectRef"];
                let read = ["get", "list", "watch"].contains(&event["verb"].as_str().unwrap_or_default());
                let kind = ["secrets", "serviceaccounts"].contains(&object["resource"].as_str().unwrap_or_default());
                let ours = event["userAgent"]
                    .as_str()
                    .is_none_or(|agent| !agent.starts_with("kubectl"));
                read && kind && ours && object["namespace"] == namespace
            })
            .count()
    };
    assert!(gets(&tenant.namespace) > 0);
    assert_eq!(gets(&owner.namespace), 0);
    // With its own Secret it succeeds.
    tenant.apply(&secret("pull"));
    tenant.image_ready("by-name").await;
    tenant.image_ready("by-account").await;
    clear(&[&tenant, &owner]);
}

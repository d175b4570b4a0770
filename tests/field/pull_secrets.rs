//! Credentials in Secrets as the kubelet reads them, and the messages for unusable ones.

use jackal_operator::api::v1alpha1::JackalImage;
use serde_json::{Value, json};

use super::credentials::{invalid_entry, registry, valid_entry};
use super::{Case, check, on_one_thread};
use crate::support::cluster::{Cluster, condition};
use crate::support::objects::{registry_at, standalone_image};
use crate::support::registry::TestRegistry;

/// Copies `team/app:1` of a registry with authentication by a JackalImage with `more` in its spec, with the objects
/// that `secrets` returns for the registry's host. Returns reason and message of its final Ready condition.
async fn copy_with_secrets(secrets: impl FnOnce(&str) -> Vec<Value>, more: &str) -> (String, String) {
    copy_from_with_secrets(registry(true).await, secrets, more).await
}

/// The same from `source`.
async fn copy_from_with_secrets(
    source: TestRegistry,
    secrets: impl FnOnce(&str) -> Vec<Value>,
    more: &str,
) -> (String, String) {
    let (destination, cluster) = (registry(false).await, Cluster::new().await);
    for secret in secrets(&source.host) {
        cluster.apply(&secret.to_string());
    }
    let spec = format!("{}\n  {more}", registry_at(&destination.host));
    cluster.apply(&standalone_image("app", &format!("{}/team/app:1", source.host), &spec));
    let _controller = cluster.controller(&["--insecure-registry", &source.host]);
    let settled = |image: &JackalImage| {
        let ready = condition(&image.status.as_ref()?.conditions, "Ready")?;
        (ready.reason != "Transferring" && ready.status != "Unknown").then_some(())
    };
    let image = cluster.image_where("app", "settled", settled).await;
    let conditions = image.status.expect("a status").conditions;
    let ready = condition(&conditions, "Ready").expect("a condition");
    (ready.status.clone(), ready.message.clone())
}

fn secret(name: &str, kind: &str, key: &str, content: &Value) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Secret", "metadata": { "name": name },
        "type": format!("kubernetes.io/{kind}"), "stringData": { key: content.to_string() },
    })
}

fn config(name: &str, auths: Value) -> Value {
    secret(
        name,
        "dockerconfigjson",
        ".dockerconfigjson",
        &json!({ "auths": auths }),
    )
}

const ONE: &str = "imagePullSecrets: [{name: a}]";
const SEVERAL: &str = "imagePullSecrets: [{name: a}, {name: b}, {name: c}]";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn pull_secrets_are_read_like_the_kubelet_does() {
    check(&[
        Case {
            report: "enix/kube-image-keeper#237",
            input: "several Secrets for one host, of which the last is accepted",
            expected: "they are tried in turn",
            run: || {
                on_one_thread(|| async {
                    let secrets = |host: &str| {
                        vec![
                            config("a", json!({ host: invalid_entry() })),
                            config("b", json!({ format!("https://{host}/v1/"): invalid_entry() })),
                            config("c", json!({ host: valid_entry() })),
                        ]
                    };
                    let (status, message) = copy_with_secrets(secrets, SEVERAL).await;
                    assert_eq!(status, "True", "{message}");
                })
            },
        },
        Case {
            report: "estahn/k8s-image-swapper#127",
            input: "`*` in the host",
            expected: "it matches any characters of its part",
            run: || {
                on_one_thread(|| async {
                    let secrets = |host: &str| vec![config("a", json!({ host.replacen("0.0", "*.*", 1): valid_entry() }))];
                    let (status, message) = copy_with_secrets(secrets, ONE).await;
                    assert_eq!(status, "True", "{message}");
                })
            },
        },
        Case {
            report: "aquasecurity/starboard#569",
            input: "a Secret of the type kubernetes.io/dockercfg",
            expected: "its credentials are used",
            run: || {
                on_one_thread(|| async {
                    let secrets = |host: &str| vec![secret("a", "dockercfg", ".dockercfg", &json!({ host: valid_entry() }))];
                    let (status, message) = copy_with_secrets(secrets, ONE).await;
                    assert_eq!(status, "True", "{message}");
                })
            },
        },
        Case {
            report: "kubernetes/kubernetes#12736",
            input: "imagePullSecrets of which none exists, or one without credentials, and a registry without authentication",
            expected: "the image is copied",
            run: || {
                on_one_thread(|| async {
                    let opaque = json!({ "apiVersion": "v1", "kind": "Secret", "metadata": { "name": "b" } });
                    for secrets in [Vec::new(), vec![opaque]] {
                        let (status, message) = copy_from_with_secrets(registry(false).await, |_| secrets, SEVERAL).await;
                        assert_eq!(status, "True", "{message}");
                    }
                })
            },
        },
        Case {
            report: "kubernetes/kubernetes#12736",
            input: "a ServiceAccount with a Secret that does not exist and one with the right credentials",
            expected: "the image is copied",
            run: || {
                on_one_thread(|| async {
                    let objects = |host: &str| {
                        let account = json!({
                            "apiVersion": "v1", "kind": "ServiceAccount", "metadata": { "name": "builder" },
                            "imagePullSecrets": [{ "name": "gone" }, { "name": "a" }],
                        });
                        vec![account, config("a", json!({ host: valid_entry() }))]
                    };
                    let (status, message) = copy_with_secrets(objects, "serviceAccountName: builder").await;
                    assert_eq!(status, "True", "{message}");
                })
            },
        },
        Case {
            report: "kubernetes/website#48718",
            input: "a Secret that does not exist, and a registry with authentication",
            expected: "the message names the Secret, and contains the registry's response",
            run: || {
                on_one_thread(|| async {
                    let secrets = |host: &str| vec![config("a", json!({ host: invalid_entry() }))];
                    let (status, message) = copy_with_secrets(secrets, SEVERAL).await;
                    assert_eq!(status, "False");
                    for text in ["/b does not exist: create it", "/c does not exist", "the registry answered 401"] {
                        assert!(message.contains(text), "{message}");
                    }
                })
            },
        },
        Case {
            report: "kubernetes/kubernetes pkg/credentialprovider",
            input: "`auths` is null in every Secret",
            expected: "anonymous: the message names imagePullSecrets and no flag or file",
            run: || {
                on_one_thread(|| async {
                    let (status, message) = copy_with_secrets(|_| vec![config("a", Value::Null)], ONE).await;
                    assert_eq!(status, "False");
                    assert!(
                        message.contains("in the Secret of imagePullSecrets"),
                        "{message}"
                    );
                    for means in ["docker login", "config.json", "--"] {
                        assert!(!message.contains(means), "{message}");
                    }
                })
            },
        },
    ])
    .await;
}

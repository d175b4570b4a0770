//! Registries without the image, with access denied, unreachable, with an untrusted certificate, or with corrupt
//! content; and Secrets that do not exist yet.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use base64::Engine as _;
use jackal_operator::api::v1alpha1::JackalPackage;
use jackal_operator::oci::{Descriptor, Digest, Document, Manifest, media_type};
use serde_json::{Value, json};
use tokio::net::{TcpSocket, TcpStream};
use tokio_util::task::AbortOnDropHandle;

use super::harness::{Case, Harness};
use super::specs::{ADDRESS, of, package};
use crate::support::cluster::Cluster;
use crate::support::image::{image, noise, put};
use crate::support::registry::{Options, TestRegistry, Version};
use crate::support::scripted::{RecordedRequest, ScriptedServer, reply};

const LOGIN: (&str, &str) = ("pusher", "right");

/// A Secret with credentials, as YAML.
pub fn credentials(name: &str, host: &str, password: &str) -> String {
    let auth = base64::engine::general_purpose::STANDARD.encode(format!("{}:{password}", LOGIN.0));
    let config = json!({ "auths": { host: { "auth": auth } } }).to_string();
    json!({
        "apiVersion": "v1", "kind": "Secret", "metadata": { "name": name },
        "type": "kubernetes.io/dockerconfigjson", "stringData": { ".dockerconfigjson": config },
    })
    .to_string()
}

/// A Secret with the authority of a registry, as YAML.
fn authority(name: &str, registry: &TestRegistry) -> String {
    let ca = String::from_utf8(registry.endpoint().trust.authorities.unwrap()).unwrap();
    json!({ "apiVersion": "v1", "kind": "Secret", "metadata": { "name": name }, "stringData": { "ca.crt": ca } })
        .to_string()
}

async fn push(registry: &TestRegistry, name: &str, seed: u64) {
    let repository = registry.repository(name);
    let document = image(&repository, "linux/amd64", noise(seed, 10_000)).await;
    put(&repository, &document, Some("1")).await;
}

/// A reserved port on which nothing listens yet.
struct ReservedPort {
    host: String,
    socket: TcpSocket,
}

impl ReservedPort {
    fn new() -> Self {
        let socket = TcpSocket::new_v4().unwrap();
        socket.bind("127.0.0.1:0".parse().unwrap()).unwrap();
        let host = socket.local_addr().unwrap().to_string();
        Self { host, socket }
    }

    /// Makes `to` reachable on it.
    fn open(self, to: &str) -> AbortOnDropHandle<()> {
        let to: SocketAddr = to.parse().unwrap();
        let listener = self.socket.listen(64).unwrap();
        AbortOnDropHandle::new(tokio::spawn(async move {
            while let Ok((mut client, _)) = listener.accept().await {
                tokio::spawn(async move {
                    let mut server = TcpStream::connect(to).await.unwrap();
                    let _ = tokio::io::copy_bidirectional(&mut client, &mut server).await;
                });
            }
        }))
    }
}

/// A registry with one image, whose layer differs from its manifest until it is repaired.
struct CorruptRegistry {
    scripted: ScriptedServer,
    honest: Arc<AtomicBool>,
}

impl CorruptRegistry {
    async fn start() -> Self {
        let layer = vec![7_u8; 20_000];
        let config = br#"{"architecture":"amd64","os":"linux","rootfs":{"type":"layers","diff_ids":[]}}"#.to_vec();
        let described = |kind: &str, content: &[u8]| Descriptor::new(kind, Digest::of(content), content.len() as u64);
        let manifest = Manifest::new(
            described(media_type::OCI_CONFIG, &config),
            vec![described(media_type::OCI_LAYER, &layer)],
        );
        let document = Document::of_manifest(manifest).unwrap();
        let honest = Arc::new(AtomicBool::new(false));
        let turned = Arc::clone(&honest);
        let (config_digest, layer_digest) = (Digest::of(&config).to_string(), Digest::of(&layer).to_string());
        let answers = move |request: &RecordedRequest| {
            if request.path.contains("/manifests/") {
                let digest = document.digest().as_str();
                let headers = [
                    ("content-type", document.descriptor.media_type.as_str()),
                    ("docker-content-digest", digest),
                ];
                return reply(200, &headers, document.raw.clone());
            }
            if request.path.ends_with(&config_digest) {
                return reply(200, &[], config.clone());
            }
            if request.path.ends_with(&layer_digest) {
                let mut content = layer.clone();
                if !turned.load(Ordering::Relaxed) {
                    content[100] = 8;
                }
                return reply(200, &[], content);
            }
            reply(200, &[], "")
        };
        Self {
            scripted: ScriptedServer::start(answers).await,
            honest,
        }
    }
}

async fn edit(cluster: &Cluster, package: &str, spec: Value) {
    cluster.patch::<JackalPackage>(package, json!({ "spec": spec })).await;
}

async fn apply(cluster: &Cluster, yaml: String) {
    cluster.apply(&yaml);
}

#[tokio::test]
async fn registry_failures_are_reported_until_resolved() {
    let open = TestRegistry::start(Version::V31);
    let guarded = TestRegistry::start_with(
        Version::V28,
        Options {
            login: Some(LOGIN),
            tls: false,
        },
    );
    let sealed = TestRegistry::start_with(Version::V31, Options { login: None, tls: true });
    let (away, gone, corrupt) = (ReservedPort::new(), ReservedPort::new(), CorruptRegistry::start().await);
    push(&open, "team/app", 21).await;
    push(&guarded, "team/app", 22).await;
    let (in_open, in_guarded) = (
        format!("{}/team/app:1", open.host),
        format!("{}/team/app:1", guarded.host),
    );
    let (away_host, gone_host) = (away.host.clone(), gone.host.clone());

    let sources = [&open.host, &guarded.host, &away.host, &corrupt.scripted.host]
        .map(String::as_str)
        .join(",");
    let harness = Harness::new(&["--insecure-registry", &sources]).await;
    let cluster = &harness.cluster;
    let to_open = json!({ "address": ADDRESS, "endpoint": open.host, "insecure": true });
    let to = |host: &str, more: Value| {
        let mut registry = json!({ "address": ADDRESS, "endpoint": host });
        registry
            .as_object_mut()
            .unwrap()
            .extend(more.as_object().unwrap().clone());
        registry
    };
    let bring = |name: &str, image: &str, registry: &Value, more: Value| {
        // Images with the same path from two registries have different names in the cluster.
        let mut spec = json!({ "components": of(json!({ "image": image })), "registry": registry, "naming": "Jackal" });
        spec.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        cluster.apply(&package(name, "", spec));
    };
    let plain = json!({ "insecure": true });

    bring("absent", &format!("{}/team/absent:1", open.host), &to_open, json!({}));
    cluster.apply(&credentials("pull", &guarded.host, "wrong"));
    bring(
        "pull",
        &in_guarded,
        &to_open,
        json!({ "imagePullSecrets": [{ "name": "pull" }] }),
    );
    cluster.apply(&credentials("push", &guarded.host, "wrong"));
    let pushes = to(
        &guarded.host,
        json!({ "insecure": true, "secretRef": { "name": "push" } }),
    );
    bring("push", &in_open, &pushes, json!({}));
    cluster.apply(&credentials("other", "elsewhere:5000", "right"));
    let other = to(
        &guarded.host,
        json!({ "insecure": true, "secretRef": { "name": "other" } }),
    );
    bring("no-entry", &in_open, &other, json!({}));
    bring("source-away", &format!("{away_host}/team/app:1"), &to_open, json!({}));
    bring("destination-away", &in_open, &to(&gone_host, plain.clone()), json!({}));
    bring("unknown-authority", &in_open, &to(&sealed.host, json!({})), json!({}));
    bring(
        "liar",
        &format!("{}/team/liar:1", corrupt.scripted.host),
        &to_open,
        json!({}),
    );
    let awaited = |name: &str, field: &str| {
        to(
            &guarded.host,
            json!({ "insecure": field != "certSecretRef", field: { "name": name } }),
        )
    };
    bring("no-secret", &in_open, &awaited("late-push", "secretRef"), json!({}));
    let sealed_later = to(&sealed.host, json!({ "certSecretRef": { "name": "late-ca" } }));
    bring("no-authority", &in_open, &sealed_later, json!({}));
    bring(
        "no-pull",
        &in_guarded,
        &to_open,
        json!({ "imagePullSecrets": [{ "name": "late-pull" }] }),
    );
    bring(
        "no-account",
        &in_guarded,
        &to_open,
        json!({ "serviceAccountName": "late" }),
    );

    let account = json!({
        "apiVersion": "v1", "kind": "ServiceAccount", "metadata": { "name": "late" },
        "imagePullSecrets": [{ "name": "late-pull" }],
    });
    let missing = |what: &str, name: &str| format!("the {what} {}/{name} does not exist: create it", cluster.namespace);
    let cases = vec![
        Case::new(
            "absent",
            "SourceNotFound",
            &["/team/absent:1 does not exist", "check the name and the tag, or push"],
            Box::pin(push(&open, "team/absent", 23)),
        ),
        Case::new(
            "pull",
            "AuthenticationFailed",
            &["cannot read", &in_guarded, "401", "imagePullSecrets"],
            Box::pin(apply(cluster, credentials("pull", &guarded.host, LOGIN.1))),
        ),
        Case::new(
            "push",
            "AuthenticationFailed",
            &["cannot push to", &guarded.host, "401", "secretRef"],
            Box::pin(apply(cluster, credentials("push", &guarded.host, LOGIN.1))),
        ),
        Case::new(
            "no-entry",
            "AuthenticationFailed",
            &["the Secret other has no entry for", &guarded.host, "registry.secretRef"],
            Box::pin(apply(cluster, credentials("other", &guarded.host, LOGIN.1))),
        )
        .of_package(),
        Case::new(
            "source-away",
            "RegistryUnavailable",
            &[
                "cannot read",
                &away_host,
                "connection refused",
                "check that the registry is running",
            ],
            Box::pin(async {
                push(&open, "team/app", 21).await;
                std::mem::forget(away.open(&open.host));
            }),
        ),
        Case::new(
            "destination-away",
            "RegistryUnavailable",
            &[
                "cannot push to",
                &gone_host,
                "connection refused",
                "check that the registry is running",
            ],
            Box::pin(async {
                std::mem::forget(gone.open(&open.host));
            }),
        ),
        Case::new(
            "unknown-authority",
            "RegistryUnavailable",
            &["certificate signed by unknown authority", "registry.certSecretRef"],
            Box::pin(async {
                cluster.apply(&authority("ca", &sealed));
                let spec = json!({ "registry": { "certSecretRef": { "name": "ca" } } });
                edit(cluster, "unknown-authority", spec).await;
            }),
        ),
        Case {
            // The claim is acquired and released in each attempt, because bytes are transferred.
            writes: 2 * 5,
            ..Case::new(
                "liar",
                "DigestMismatch",
                &["cannot read", "/team/liar:1", "check for a proxy that alters content"],
                Box::pin(async { corrupt.honest.store(true, Ordering::Relaxed) }),
            )
        },
        Case::new(
            "no-secret",
            "SecretUnavailable",
            &[&missing("Secret", "late-push")],
            Box::pin(apply(cluster, credentials("late-push", &guarded.host, LOGIN.1))),
        )
        .of_package(),
        Case::new(
            "no-authority",
            "SecretUnavailable",
            &[&missing("Secret", "late-ca")],
            Box::pin(apply(cluster, authority("late-ca", &sealed))),
        )
        .of_package(),
        Case::new(
            "no-pull",
            "SecretUnavailable",
            &[&missing("Secret", "late-pull")],
            Box::pin(apply(cluster, credentials("late-pull", &guarded.host, LOGIN.1))),
        ),
        Case::new(
            "no-account",
            "SecretUnavailable",
            &[&missing("ServiceAccount", "late")],
            Box::pin(apply(cluster, account.to_string())),
        ),
    ];
    harness.fail(&cases).await;
    let asked = corrupt.scripted.requests().len();
    assert!(asked < 60, "{asked} requests for one image in seconds");
    harness.recover(cases).await;
}

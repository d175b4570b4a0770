//! Attempts to have credentials sent to a host that they are not for.

use base64::Engine as _;
use serde_json::json;

use super::{Attack, check};
use crate::support::cluster::{Cluster, condition, image_stalled};
use crate::support::image::{image, noise, put};
use crate::support::objects::{ADDRESS, standalone_image};
use crate::support::process::run;
use crate::support::program;
use crate::support::registry::{Options, TestRegistry, Version};
use crate::support::scripted::{RecordedRequest, ScriptedServer, reply};
use crate::support::table::on_one_thread;

const TENANT: &str = "a tenant";
const WRITES_OBJECTS: &str = "creates JackalImages that refer to Secrets of their namespace, which they need not read";
const LOGIN: (&str, &str) = ("pusher", "right");
/// The network of all test servers.
const LOOPBACK: (&str, &str) = ("JACKAL_ALLOWED_NETWORKS", "127.0.0.0/8");

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn credentials_are_sent_only_to_their_host() {
    check(&[
        Attack {
            attacker: TENANT,
            capabilities: WRITES_OBJECTS,
            attempt: "a Secret for the registry A, with A as registry.address and B as registry.endpoint",
            expected: "AuthenticationFailed: the Secret has no entry for B",
            final_state: "B receives no credentials",
            run: || on_one_thread(a_mismatched_endpoint),
        },
        Attack {
            attacker: "a tenant between the operator and its registry",
            capabilities: "creates JackalImages and Secrets, and answers instead of the registry",
            attempt: "registry.certSecretRef with its own certificate authority for the operator's registry",
            expected: "PolicyDenied, which names registry.certSecretRef",
            final_state: "the impostor gets no request with the operator's credentials",
            run: || on_one_thread(a_certificate_authority_of_a_tenant),
        },
        Attack {
            attacker: "a user who may create namespaces",
            capabilities: "creates the namespace jackal with a Secret jackal-state in a cluster that Zarf initialised",
            attempt: "its registry becomes the registry of all objects that name none",
            expected: "objects use the registry of the Secret that the administrator names",
            final_state: "no name contains the attacker's registry",
            run: || on_one_thread(a_forged_state_secret),
        },
    ])
    .await;
}

/// A Secret with the credentials for `host`.
fn login(name: &str, host: &str) -> String {
    let auth = base64::engine::general_purpose::STANDARD.encode(format!("{}:{}", LOGIN.0, LOGIN.1));
    let config = json!({ "auths": { host: { "auth": auth } } }).to_string();
    json!({
        "apiVersion": "v1", "kind": "Secret", "metadata": { "name": name },
        "type": "kubernetes.io/dockerconfigjson", "stringData": { ".dockerconfigjson": config },
    })
    .to_string()
}

/// A registry with an image that is readable without credentials, and the image's name.
async fn source() -> (TestRegistry, String) {
    let source = TestRegistry::start(Version::V31);
    let repository = source.repository("team/app");
    let document = image(&repository, "linux/amd64", noise(2, 10_000)).await;
    put(&repository, &document, Some("1")).await;
    let image = format!("{}/team/app:1", source.host);
    (source, image)
}

async fn a_mismatched_endpoint() {
    let cluster = Cluster::new().await;
    let (source, image) = source().await;
    let attacker_server =
        ScriptedServer::start(|_: &RecordedRequest| reply(401, &[("www-authenticate", "Basic realm=\"r\"")], "")).await;
    let insecure = format!("{},{}", source.host, attacker_server.host);
    let _controller = cluster.guarded_controller(&["--insecure-registry", &insecure], &[LOOPBACK]);
    cluster.apply(&login("others", "registry.example.com"));
    let registry = format!(
        "registry: {{address: registry.example.com, endpoint: '{}', insecure: true, secretRef: {{name: others}}}}",
        attacker_server.host
    );
    cluster.apply(&standalone_image("app", &image, &registry));
    let found = cluster.image_where("app", "without credentials", |image| {
        let ready = condition(&image.status.as_ref()?.conditions, "Ready")?;
        (ready.reason == "AuthenticationFailed").then_some(())
    });
    let status = found.await.status.unwrap();
    let message = condition(&status.conditions, "Ready").unwrap().message.clone();
    let sent = attacker_server
        .requests()
        .into_iter()
        .find(|request| request.headers.contains_key("authorization"));
    assert!(
        sent.is_none(),
        "the credentials for registry.example.com went to {sent:?}"
    );
    assert!(
        message.contains(&format!("no entry for {}", attacker_server.host)),
        "{message}"
    );
}

async fn a_certificate_authority_of_a_tenant() {
    let cluster = Cluster::new().await;
    let (source, image) = source().await;
    // The impostor presents a certificate that the operator does not trust, and accepts the operator's credentials.
    let options = Options {
        login: Some(LOGIN),
        tls: true,
    };
    let impostor = TestRegistry::start_with(Version::V31, options);
    let flags = [
        "--registry-address",
        ADDRESS,
        "--registry-endpoint",
        &impostor.host,
        "--registry-secret",
        "own",
        "--insecure-registry",
        &source.host,
    ];
    let controller = cluster.guarded_controller(&flags, &[LOOPBACK]);
    cluster.apply(&login("own", ADDRESS));
    let authority = json!({
        "apiVersion": "v1", "kind": "Secret", "metadata": { "name": "ca" }, "stringData": { "ca.crt": impostor.authority() },
    });
    cluster.apply(&authority.to_string());
    let specs = [
        "registry: {certSecretRef: {name: ca}}".to_owned(),
        format!("registry: {{address: '{ADDRESS}', certSecretRef: {{name: ca}}}}"),
        format!(
            "registry: {{address: '{ADDRESS}', endpoint: '{}', certSecretRef: {{name: ca}}}}",
            impostor.host
        ),
    ];
    for (number, spec) in specs.iter().enumerate() {
        cluster.apply(&standalone_image(&format!("app-{number}"), &image, spec));
    }
    for (number, spec) in specs.iter().enumerate() {
        let message = image_stalled(&cluster, &format!("app-{number}"), "PolicyDenied").await;
        assert!(message.contains("registry.certSecretRef"), "{spec}: {message}");
    }
    drop(controller);
    let existing = impostor.repository("team/app").head_manifest("1").await.unwrap();
    assert!(existing.is_none(), "the operator's credentials were used");
}

async fn a_forged_state_secret() {
    let cluster = Cluster::new().await;
    let (source, image) = source().await;
    let destination = TestRegistry::start(Version::V31);
    let state = |tool: &str, address: &str| {
        let state =
            json!({ "registryInfo": { "address": address, "pushUsername": "", "pushPassword": "" } }).to_string();
        let objects = json!({ "apiVersion": "v1", "kind": "List", "items": [
            { "apiVersion": "v1", "kind": "Namespace", "metadata": { "name": tool } },
            {
                "apiVersion": "v1", "kind": "Secret", "stringData": { "state": state },
                "metadata": { "name": format!("{tool}-state"), "namespace": tool },
            },
        ]});
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("state.yaml");
        std::fs::write(&file, objects.to_string()).unwrap();
        let file = file.to_str().unwrap();
        run(
            program("JACKAL_BIN_KUBECTL"),
            &["apply", "--server-side", "--filename", file],
        );
    };
    state("zarf", "127.0.0.1:31991");
    state("jackal", "127.0.0.1:31666");
    // Set by a variable, which an operator version without it ignores.
    let _controller = cluster.guarded_controller(
        &[
            "--registry-endpoint",
            &destination.host,
            "--insecure-registry",
            &source.host,
        ],
        &[LOOPBACK, ("JACKAL_STATE_SECRET", "zarf/zarf-state")],
    );
    cluster.apply(&standalone_image("app", &image, ""));
    let status = cluster.image_ready("app").await.status.unwrap();
    let name = status.name.unwrap();
    for tool in ["jackal", "zarf"] {
        let secret = format!("{tool}-state");
        run(
            program("JACKAL_BIN_KUBECTL"),
            &["--namespace", tool, "delete", "secret", &secret],
        );
    }
    assert!(name.starts_with("127.0.0.1:31991/"), "{name}");
}

//! Objects without a registry, and the state Secret that Jackal and Zarf leave in a cluster, which the administrator
//! names. Its registry has a name that no other test uses.

use jackal_operator::oci::Naming;
use serde_json::json;

use super::harness::{Case, Harness};
use super::specs::of;
use crate::support::cluster::Cluster;
use crate::support::image::{image, noise, put};
use crate::support::process::run;
use crate::support::program;
use crate::support::registry::{Options, TestRegistry, Version};
use crate::support::scripted::{ScriptedServer, reply};

/// The registry's address in the state Secret.
const ADDRESS: &str = "127.0.0.1:31990";

/// The namespace for the state of `tool`, different from its usual one: operators of other tests must not find it.
fn namespace(tool: &str) -> String {
    format!("{tool}-of-state-tests")
}

/// Creates the state Secret of `tool`.
fn create_state(tool: &str) {
    let registry = json!({ "address": ADDRESS, "pushUsername": "pusher", "pushPassword": "right" });
    let state = json!({ "registryInfo": registry }).to_string();
    let objects = json!({ "apiVersion": "v1", "kind": "List", "items": [
        { "apiVersion": "v1", "kind": "Namespace", "metadata": { "name": namespace(tool) } },
        {
            "apiVersion": "v1", "kind": "Secret", "stringData": { "state": state },
            "metadata": { "name": format!("{tool}-state"), "namespace": namespace(tool) },
        },
    ]});
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("state.yaml");
    std::fs::write(&file, objects.to_string()).unwrap();
    kubectl(&["apply", "--server-side", "--filename", file.to_str().unwrap()]);
}

fn delete_state(tool: &str) {
    let secret = format!("{tool}-state");
    kubectl(&[
        "--namespace",
        &namespace(tool),
        "delete",
        "secret",
        &secret,
        "--ignore-not-found",
    ]);
}

/// The package `name` of this image, in the cluster's registry or with these registry fields.
fn package_yaml(name: &str, image: &str, registry: serde_json::Value) -> String {
    let spec = json!({ "version": "1", "components": of(json!(image)), "registry": registry });
    json!({ "apiVersion": "jackal.dev/v1alpha1", "kind": "JackalPackage", "metadata": { "name": name }, "spec": spec })
        .to_string()
}

/// Expects the naming of `tool` for names and artifact in the cluster's registry, and plain names elsewhere.
async fn assert_naming(cluster: &Cluster, tool: &str, source: &str, destination: &TestRegistry) {
    let (mine, other) = (format!("{tool}-mine"), format!("{tool}-other"));
    let image = |what: &str| format!("{source}/{tool}/{what}:1");
    cluster.apply(&package_yaml(&mine, &image("mine"), json!({})));
    let own = json!({ "address": destination.host, "insecure": true, "secretRef": { "name": "own" } });
    cluster.apply(&package_yaml(&other, &image("other"), own));
    let standalone_image = json!({ "apiVersion": "jackal.dev/v1alpha1", "kind": "JackalImage", "metadata": { "name": mine },
        "spec": { "image": image("lone"), "registry": {
            "address": ADDRESS, "endpoint": destination.host, "insecure": true, "secretRef": { "name": "state" } } } });
    cluster.apply(&standalone_image.to_string());
    let lowercase = |naming: Option<Naming>| naming.map(|naming| format!("{naming:?}").to_lowercase());
    let status = cluster.ready(&mine).await.status.unwrap();
    let name = &status.images[0].name;
    assert!(name.starts_with(&format!("{ADDRESS}/{tool}/mine:1-{tool}-")), "{name}");
    assert_eq!(lowercase(status.naming).as_deref(), Some(tool));
    let artifact = destination
        .repository(&mine)
        .manifest(&status.artifact.unwrap().digest)
        .await
        .unwrap()
        .unwrap();
    let config = &artifact.manifest().unwrap().config.media_type;
    assert_eq!(*config, format!("application/vnd.{tool}.config.v1+json"));
    let status = cluster.ready(&other).await.status.unwrap();
    assert_eq!(status.images[0].name, format!("{}/{tool}/other:1", destination.host));
    assert_eq!(lowercase(status.naming).as_deref(), Some("plain"));
    let status = cluster.image_ready(&mine).await.status.unwrap();
    let name = status.name.unwrap();
    assert!(name.starts_with(&format!("{ADDRESS}/{tool}/lone:1-{tool}-")), "{name}");
    assert_eq!(lowercase(status.naming).as_deref(), Some(tool));

    delete_state(tool);
}

fn kubectl(arguments: &[&str]) {
    run(program("JACKAL_BIN_KUBECTL"), arguments);
}

#[tokio::test]
async fn without_a_registry_objects_wait_for_the_state_secret() {
    let login = Some(("pusher", "right"));
    let destination = TestRegistry::start_with(Version::V31, Options { login, tls: false });
    let source = TestRegistry::start(Version::V31);
    let repository = source.repository("team/app");
    put(
        &repository,
        &image(&repository, "linux/amd64", noise(31, 10_000)).await,
        Some("1"),
    )
    .await;
    for tool in ["jackal", "zarf"] {
        for what in ["mine", "other", "lone"] {
            let repository = source.repository(&format!("{tool}/{what}"));
            let content = image(&repository, "linux/amd64", noise(33, 5_000)).await;
            put(&repository, &content, Some("1")).await;
        }
    }
    // Left by an aborted run.
    delete_state("jackal");
    delete_state("zarf");

    let state = |tool: &str| format!("{}/{tool}-state", namespace(tool));
    let (jackals, zarfs) = (state("jackal"), state("zarf"));
    let arguments = |state| {
        [
            "--registry-endpoint",
            &destination.host,
            "--insecure-registry",
            &source.host,
            "--state-secret",
            state,
            // The webhooks of Jackal and Zarf do not support a namespace prefix.
            "--repository-policy",
            "any",
        ]
    };
    let harness = Harness::new(&arguments(&jackals)).await;
    let cluster = &harness.cluster;
    cluster.apply(&package_yaml("app", &format!("{}/team/app:1", source.host), json!({})));
    let case = Case::new(
        "app",
        "InvalidSpec",
        &[
            "no registry is configured",
            "spec.registry.address",
            "--registry-address",
            "initialise the cluster",
            &jackals,
        ],
        Box::pin(async { create_state("jackal") }),
    );
    harness.run(vec![case.of_package()]).await;
    let status = cluster.package("app").await.status.unwrap();
    assert!(status.images[0].name.starts_with(ADDRESS), "{:?}", status.images);
    let url = status.artifact.unwrap().url;
    assert_eq!(url, format!("oci://{ADDRESS}/app:1"));
    let digest = destination.repository("team/app").head_manifest("1").await.unwrap();
    assert_eq!(
        digest.unwrap().digest.as_str(),
        status.images[0].digest.as_deref().unwrap()
    );

    let secrets = |cluster: &Cluster| {
        cluster.apply(&super::registries::credentials("own", &destination.host, "right"));
        cluster.apply(&super::registries::credentials("state", ADDRESS, "right"));
    };
    secrets(cluster);
    assert_naming(cluster, "jackal", &source.host, &destination).await;

    let other = Cluster::new().await;
    let _controller = other.controller(&arguments(&zarfs));
    secrets(&other);
    create_state("zarf");
    assert_naming(&other, "zarf", &source.host, &destination).await;
}

/// The operator's own credentials are for the registry of its flags, not for one with the same name at another endpoint
/// of an object.
#[tokio::test]
async fn the_operators_credentials_are_not_sent_to_an_objects_endpoint() {
    let source = TestRegistry::start(Version::V31);
    let repository = source.repository("team/app");
    put(
        &repository,
        &image(&repository, "linux/amd64", noise(32, 10_000)).await,
        Some("1"),
    )
    .await;
    let attacker_server = ScriptedServer::start(|_| reply(401, &[("www-authenticate", "Basic realm=\"r\"")], "")).await;
    let flags = [
        "--registry-address",
        ADDRESS,
        "--registry-secret",
        "own",
        "--insecure-registry",
        &source.host,
    ];
    let harness = Harness::new(&flags).await;
    let cluster = &harness.cluster;
    cluster.apply(&super::registries::credentials("own", ADDRESS, "right"));
    let package_yaml = json!({
        "apiVersion": "jackal.dev/v1alpha1", "kind": "JackalPackage", "metadata": { "name": "thief" },
        "spec": {
            "version": "1", "components": of(json!({ "image": format!("{}/team/app:1", source.host) })),
            "registry": { "address": ADDRESS, "endpoint": attacker_server.host, "insecure": true },
        },
    });
    cluster.apply(&package_yaml.to_string());
    let case = Case::new(
        "thief",
        "AuthenticationFailed",
        &["cannot push to", &attacker_server.host, "secretRef"],
        Box::pin(async {}),
    );
    harness.fail(&[case]).await;
    let leaked = attacker_server
        .requests()
        .into_iter()
        .find(|request| request.headers.contains_key("authorization"));
    assert!(leaked.is_none(), "the operator's own credentials went to {leaked:?}");
}

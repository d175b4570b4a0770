//! No registry named anywhere, and the state that Jackal and Zarf leave in a cluster, which the administrator names. Its
//! registry has a name that no other test uses.

use jackal_operator::oci::Naming;
use serde_json::json;

use super::specs::of;
use super::trial::{Case, Trial};
use crate::support::cluster::Cluster;
use crate::support::faulty::{Scripted, reply};
use crate::support::image::{image, noise, put};
use crate::support::process::run;
use crate::support::program;
use crate::support::registry::{Options, TestRegistry, Version};

/// What pods call the registry that the state names.
const ADDRESS: &str = "127.0.0.1:31990";

/// The namespace of what `tool` leaves, another than its own: other tests' operators are not to find it.
fn namespace(tool: &str) -> String {
    format!("{tool}-of-state-tests")
}

/// Has the cluster say that `tool` set up its registry.
fn initialise(tool: &str) {
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

fn forget(tool: &str) {
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

/// The package `name` of that image, in the cluster's own registry or in the one of these fields.
fn written(name: &str, image: &str, registry: serde_json::Value) -> String {
    let spec = json!({ "version": "1", "components": of(json!(image)), "registry": registry });
    json!({ "apiVersion": "jackal.dev/v1alpha1", "kind": "JackalPackage", "metadata": { "name": name }, "spec": spec })
        .to_string()
}

/// Expects names and an artifact as `tool` has them, where the cluster's registry is meant, and plain ones elsewhere.
async fn named_as(cluster: &Cluster, tool: &str, source: &str, destination: &TestRegistry) {
    let (mine, other) = (format!("{tool}-mine"), format!("{tool}-other"));
    let image = |what: &str| format!("{source}/{tool}/{what}:1");
    cluster.apply(&written(&mine, &image("mine"), json!({})));
    let own = json!({ "address": destination.host, "insecure": true, "secretRef": { "name": "own" } });
    cluster.apply(&written(&other, &image("other"), own));
    let lone = json!({ "apiVersion": "jackal.dev/v1alpha1", "kind": "JackalImage", "metadata": { "name": mine },
        "spec": { "image": image("lone"), "registry": {
            "address": ADDRESS, "endpoint": destination.host, "insecure": true, "secretRef": { "name": "state" } } } });
    cluster.apply(&lone.to_string());
    let said = |naming: Option<Naming>| naming.map(|naming| format!("{naming:?}").to_lowercase());
    let status = cluster.ready(&mine).await.status.unwrap();
    let name = &status.images[0].name;
    assert!(name.starts_with(&format!("{ADDRESS}/{tool}/mine:1-{tool}-")), "{name}");
    assert_eq!(said(status.naming).as_deref(), Some(tool));
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
    assert_eq!(said(status.naming).as_deref(), Some("plain"));
    let status = cluster.image_ready(&mine).await.status.unwrap();
    let name = status.name.unwrap();
    assert!(name.starts_with(&format!("{ADDRESS}/{tool}/lone:1-{tool}-")), "{name}");
    assert_eq!(said(status.naming).as_deref(), Some(tool));

    forget(tool);
}

fn kubectl(arguments: &[&str]) {
    run(program("JACKAL_BIN_KUBECTL"), arguments);
}

#[tokio::test]
async fn without_a_registry_it_waits_for_the_clusters_own() {
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
    // Of a run that was broken off.
    forget("jackal");
    forget("zarf");

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
            // The webhooks of Jackal and Zarf know no part of a namespace.
            "--repository-policy",
            "any",
        ]
    };
    let trial = Trial::new(&arguments(&jackals)).await;
    let cluster = &trial.cluster;
    cluster.apply(&written("app", &format!("{}/team/app:1", source.host), json!({})));
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
        Box::pin(async { initialise("jackal") }),
    );
    trial.run(vec![case.of_package()]).await;
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
    named_as(cluster, "jackal", &source.host, &destination).await;

    let other = Cluster::new().await;
    let _controller = other.controller(&arguments(&zarfs));
    secrets(&other);
    initialise("zarf");
    named_as(&other, "zarf", &source.host, &destination).await;
}

/// The operator's own credentials are for the registry that its flags name, not for one of the same name that an
/// object points elsewhere.
#[tokio::test]
async fn the_operators_credentials_go_to_no_endpoint_of_an_object() {
    let source = TestRegistry::start(Version::V31);
    let repository = source.repository("team/app");
    put(
        &repository,
        &image(&repository, "linux/amd64", noise(32, 10_000)).await,
        Some("1"),
    )
    .await;
    let thief = Scripted::start(|_| reply(401, &[("www-authenticate", "Basic realm=\"r\"")], "")).await;
    let flags = [
        "--registry-address",
        ADDRESS,
        "--registry-secret",
        "own",
        "--insecure-registry",
        &source.host,
    ];
    let trial = Trial::new(&flags).await;
    let cluster = &trial.cluster;
    cluster.apply(&super::registries::credentials("own", ADDRESS, "right"));
    let written = json!({
        "apiVersion": "jackal.dev/v1alpha1", "kind": "JackalPackage", "metadata": { "name": "thief" },
        "spec": {
            "version": "1", "components": of(json!({ "image": format!("{}/team/app:1", source.host) })),
            "registry": { "address": ADDRESS, "endpoint": thief.host, "insecure": true },
        },
    });
    cluster.apply(&written.to_string());
    let case = Case::new(
        "thief",
        "AuthenticationFailed",
        &["cannot push to", &thief.host, "secretRef"],
        Box::pin(async {}),
    );
    trial.fail(&[case]).await;
    let told = thief
        .seen()
        .into_iter()
        .find(|seen| seen.headers.contains_key("authorization"));
    assert!(told.is_none(), "the operator's own credentials went to {told:?}");
}

//! No registry named anywhere, and the state that Jackal leaves in a cluster. Its namespace is one for the whole
//! API server, so nothing else may use it.

use k8s_openapi::api::core::v1::Secret;
use kube::Api;
use kube::api::DeleteParams;
use serde_json::json;

use super::specs::{ADDRESS, of};
use super::trial::{Case, Trial};
use crate::support::faulty::{Scripted, reply};
use crate::support::image::{image, noise, put};
use crate::support::process::run;
use crate::support::program;
use crate::support::registry::{Options, TestRegistry, Version};

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
    // Of a run that was broken off.
    kubectl(&[
        "--namespace",
        "jackal",
        "delete",
        "secret",
        "jackal-state",
        "--ignore-not-found",
    ]);

    let arguments = [
        "--registry-endpoint",
        &destination.host,
        "--insecure-registry",
        &source.host,
    ];
    let trial = Trial::new(&arguments).await;
    let cluster = &trial.cluster;
    let written = json!({
        "apiVersion": "jackal.dev/v1alpha1", "kind": "JackalPackage", "metadata": { "name": "app" },
        "spec": { "version": "1", "components": of(json!({ "image": format!("{}/team/app:1", source.host) })) },
    });
    cluster.apply(&written.to_string());
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("state.yaml");
    let file = file.to_str().unwrap();
    let case = Case::new(
        "app",
        "InvalidSpec",
        &[
            "no registry is named",
            "spec.registry.address",
            "--registry-address",
            "initialise the cluster",
        ],
        Box::pin(async {
            let registry = json!({ "address": ADDRESS, "pushUsername": "pusher", "pushPassword": "right" });
            let state = json!({ "registryInfo": registry }).to_string();
            let objects = json!({ "apiVersion": "v1", "kind": "List", "items": [
                { "apiVersion": "v1", "kind": "Namespace", "metadata": { "name": "jackal" } },
                {
                    "apiVersion": "v1", "kind": "Secret", "stringData": { "state": state },
                    "metadata": { "name": "jackal-state", "namespace": "jackal" },
                },
            ]});
            std::fs::write(file, objects.to_string()).unwrap();
            kubectl(&["apply", "--server-side", "--filename", file]);
        }),
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

    let secrets: Api<Secret> = Api::namespaced(cluster.client.clone(), "jackal");
    secrets.delete("jackal-state", &DeleteParams::default()).await.unwrap();
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

//! Components with other content than images, in a cluster.

use std::path::Path;

use jackal_operator::api::v1alpha1::{JackalPackage, JackalPackageStatus};
use jackal_operator::oci::Digest;
use serde_json::{Value, json};

use super::ADDRESS;
use crate::support::charts;
use crate::support::cluster::Cluster;
use crate::support::file_server::FileServer;
use crate::support::image::{multi_platform, noise};
use crate::support::registry::{Options, TestRegistry, Version};
use crate::support::wait::{SOON, eventually};

const LOGIN: (&str, &str) = ("u", "p");

fn config_map(name: &str, key: &str, text: &str) -> String {
    json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name}, "data": {key: text}}).to_string()
}

fn pod(image: &str) -> String {
    format!("apiVersion: v1\nkind: Pod\nspec: {{containers: [{{image: '{image}'}}]}}\n")
}

fn package(name: &str, endpoint: &str, component: &Value) -> String {
    json!({
        "apiVersion": "jackal.dev/v1alpha1", "kind": "JackalPackage", "metadata": {"name": name},
        "spec": {
            "version": "1.0.0", "imagePullSecrets": [{"name": "pull"}], "components": [component],
            "registry": {"address": ADDRESS, "endpoint": endpoint, "insecure": true},
        },
    })
    .to_string()
}

fn push(folder: &Path, host: &str, note: &str) {
    let archive = charts::package(folder, "front", "1.0.0", "quay.io/team/front:1", note);
    charts::push(&archive, host);
}

async fn wait_for_request(cluster: &Cluster, request: &str) -> JackalPackageStatus {
    cluster.request("app", request).await;
    let package = cluster
        .package_where("app", "asked again and Ready", |package: &JackalPackage| {
            let status = package.status.as_ref()?;
            let ready = status
                .conditions
                .iter()
                .any(|c| c.type_ == "Ready" && c.status == "True");
            (ready && status.last_handled_reconcile_at.as_deref() == Some(request)).then_some(())
        })
        .await;
    package.status.unwrap()
}

#[tokio::test]
async fn changes_of_manifests_charts_and_files_are_followed() {
    let cluster = Cluster::new().await;
    let (source, registry) = (TestRegistry::start(Version::V31), TestRegistry::start(Version::V28));
    multi_platform(&source.repository("team/app"), "1").await;
    let folder = tempfile::tempdir().unwrap();
    push(folder.path(), &source.host, "first");
    let file_server = FileServer::new().await;
    let stable = folder.path().join("stable");
    std::fs::create_dir(&stable).unwrap();
    let back = charts::package(&stable, "back", "1.0.0", "redis:7", "first");
    file_server.put("/stable/back-1.0.0.tgz", std::fs::read(back).unwrap());
    file_server.put("/stable/index.yaml", charts::index(&stable));
    let tool = noise(8, 100_000);
    let url = file_server.put("/tool", tool.clone());
    let auth = json!({ "auths": { &source.host: { "username": LOGIN.0, "password": LOGIN.1 } } });
    let secret = json!({
        "apiVersion": "v1", "kind": "Secret", "type": "kubernetes.io/dockerconfigjson", "metadata": {"name": "pull"},
        "stringData": {".dockerconfigjson": auth.to_string()},
    });
    cluster.apply(&secret.to_string());
    cluster.apply(&config_map("manifests", "pod.yaml", &pod("redis:7")));
    cluster.apply(&config_map("values", "values.yaml", "replicas: 3\n"));
    let insecure = format!("{},{}", source.host, file_server.host);
    let _controller = cluster.controller(&["--insecure-registry", &insecure]);
    let component = json!({
        "name": "web",
        "images": [{"image": format!("{}/team/app:1", source.host)}],
        "manifests": [{"name": "own", "configMapRef": {"name": "manifests", "key": "pod.yaml"}}],
        "charts": [{"name": "front", "version": "1.0.0", "namespace": "web", "url": format!("oci://{}/charts/front", source.host),
                    "values": {"deep": {"list": [1, "two"]}}, "valuesFrom": [{"configMapRef": {"name": "values"}}]},
                   {"name": "back", "version": "1.0.0", "namespace": "web", "url": format!("http://{}/stable", file_server.host)}],
        "files": [{"target": "/bin/tool", "url": url, "sha256": Digest::of(&tool).hex(), "executable": true}],
    });
    cluster.apply(&package("app", &registry.host, &component));
    let first = cluster.ready("app").await.status.unwrap();
    assert_eq!(first.charts.len(), 2);
    let missing: Vec<&str> = first
        .missing_images
        .iter()
        .map(|missing| missing.image.as_str())
        .collect();
    assert_eq!(
        missing,
        [
            "docker.io/library/redis:7",
            "docker.io/library/redis:7",
            "quay.io/team/front:1"
        ]
    );
    let message = &first.conditions[0].message;
    assert!(
        message.contains("2 images that its manifests and charts name"),
        "{message}"
    );
    // An event is written after its status.
    eventually(SOON, "what is missing has its event", async || {
        let events = cluster.events("app").await;
        let reported = events.iter().any(|event| event.contains("ImagesMissing"));
        reported.then_some(()).ok_or_else(|| format!("{events:?}"))
    })
    .await;

    // A reconciliation without changes reads no file and no chart.
    let asked = file_server.asked().len();
    let same = wait_for_request(&cluster, "again").await;
    assert_eq!((&same.artifact, &same.history), (&first.artifact, &first.history));
    assert_eq!(file_server.asked()[asked..], ["/stable/index.yaml"]);

    // A ConfigMap is followed.
    cluster.apply(&config_map(
        "manifests",
        "pod.yaml",
        &pod(&format!("{}/team/app:1", source.host)),
    ));
    let second = wait_for_request(&cluster, "configured").await;
    assert_ne!(second.artifact, first.artifact);
    assert_eq!(second.missing_images.len(), 2);
    assert_eq!(second.charts, first.charts);

    // New content of the same chart version is used and reported.
    push(folder.path(), &source.host, "second");
    let third = wait_for_request(&cluster, "pushed").await;
    assert_ne!(third.charts, first.charts);
    let (reason, message) = (&third.history[0].reason, &third.history[0].message);
    assert_eq!(reason, "ChartsChanged");
    assert!(
        message.starts_with("chart front 1.0.0 was sha256:") && message.ends_with("under the same version"),
        "{message}"
    );
}

#[tokio::test]
async fn charts_are_subject_to_the_same_policies_as_images() {
    let cluster = Cluster::new().await;
    let closed = TestRegistry::start_with(
        Version::V31,
        Options {
            login: Some(LOGIN),
            ..Options::default()
        },
    );
    let registry = TestRegistry::start(Version::V28);
    let file_server = FileServer::new().await;
    let listed = format!("{},registry.example.com", closed.host);
    let insecure = format!("{},{}", closed.host, file_server.host);
    let _controller = cluster.controller_with(
        &[
            "--insecure-registry",
            &insecure,
            "--registry-address",
            ADDRESS,
            "--registry-endpoint",
            &registry.host,
            "--registry-insecure",
        ],
        &[("JACKAL_SOURCE_HOSTS", &listed)],
    );
    let own = |name: &str, component: &Value| {
        json!({
            "apiVersion": "jackal.dev/v1alpha1", "kind": "JackalPackage", "metadata": {"name": name},
            "spec": {"version": "1.0.0", "components": [component]},
        })
        .to_string()
    };
    let chart = |url: &str| json!({"name": "web", "charts": [{"name": "front", "version": "1.0.0", "namespace": "web", "url": url}]});
    let file = json!({"name": "web", "files": [{"target": "/x", "url": format!("http://{}/x", file_server.host), "sha256": "a".repeat(64)}]});
    cluster.apply(&own("closed", &chart(&format!("oci://{}/charts/front", closed.host))));
    cluster.apply(&own("unlisted", &chart(&format!("http://{}/charts", file_server.host))));
    cluster.apply(&own("unlisted-file", &file));
    for (name, reason, words) in [
        (
            "closed",
            "AuthenticationFailed",
            "component `web`: chart `front`: cannot read",
        ),
        (
            "unlisted",
            "PolicyDenied",
            "component `web`: chart `front`: its url names the host",
        ),
        (
            "unlisted-file",
            "PolicyDenied",
            "component `web`: file `/x`: its url names the host",
        ),
    ] {
        cluster
            .package_where(name, reason, |package: &JackalPackage| {
                let conditions = &package.status.as_ref()?.conditions;
                let ready = conditions.iter().find(|condition| condition.type_ == "Ready")?;
                (ready.reason == reason && ready.message.starts_with(words)).then_some(())
            })
            .await;
    }
    assert!(file_server.asked().is_empty());
}

//! Unavailable content of a component other than images.

use jackal_operator::api::v1alpha1::JackalPackage;
use jackal_operator::oci::Digest;
use serde_json::{Value, json};

use super::harness::{Case, Harness};
use super::specs::package;
use crate::support::charts;
use crate::support::file_server::FileServer;
use crate::support::registry::{TestRegistry, Version};

const POD: &str = "apiVersion: v1\nkind: Pod\nmetadata: {name: a}\n";

fn config_map(name: &str, data: Value) -> String {
    json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name}, "data": data}).to_string()
}

#[tokio::test]
async fn unavailable_content_is_reported_until_it_is_available() {
    let (registry, file_server) = (TestRegistry::start(Version::V31), FileServer::new().await);
    let folder = tempfile::tempdir().unwrap();
    let insecure = format!("{},{}", registry.host, file_server.host);
    let harness = Harness::new(&["--insecure-registry", &insecure]).await;
    let cluster = &harness.cluster;
    let apply = |name: &str, content: Value| {
        let mut component = json!({"name": "web"});
        component
            .as_object_mut()
            .unwrap()
            .extend(content.as_object().unwrap().clone());
        cluster.apply(&package(name, &registry.host, json!({"components": [component]})));
    };
    let chart =
        |url: String| json!({"charts": [{"name": "front", "version": "1.0.0", "namespace": "web", "url": url}]});
    let in_registry = |name: &str| chart(format!("oci://{}/charts/{name}", registry.host));
    let in_repository = |name: &str| chart(format!("http://{}/{name}", file_server.host));
    let file = |url: String, content: &str| json!({"files": [{"target": "/x", "url": url, "sha256": Digest::of(content.as_bytes()).hex()}]});
    let edit = |name: &'static str, content: Value| async move {
        let mut component = json!({"name": "web"});
        component
            .as_object_mut()
            .unwrap()
            .extend(content.as_object().unwrap().clone());
        cluster
            .patch::<JackalPackage>(name, json!({"spec": {"components": [component]}}))
            .await;
    };

    apply("chart-missing", in_registry("front"));
    apply("version-missing", in_repository("stable"));
    file_server.put("/stable/index.yaml", "entries: {front: [{version: 0.9.0, urls: [x]}]}");
    apply("no-index", in_repository("site"));
    file_server.put("/site/index.yaml", "<html></html>");
    apply("no-chart", in_repository("noise"));
    file_server.put(
        "/noise/index.yaml",
        "entries: {front: [{version: 1.0.0, urls: [x.tgz]}]}",
    );
    file_server.put("/noise/x.tgz", "no chart");
    apply("other-content", file(file_server.put("/x", "one"), "two"));
    apply("file-missing", file(format!("http://{}/y", file_server.host), "two"));
    apply(
        "map-missing",
        json!({"manifests": [{"name": "a", "configMapRef": {"name": "gone"}}]}),
    );
    cluster.apply(&config_map("half", json!({"a.yaml": POD})));
    apply(
        "key-missing",
        json!({"manifests": [{"name": "a", "configMapRef": {"name": "half", "key": "b.yaml"}}]}),
    );
    cluster.apply(&config_map("broken", json!({"a.yaml": "a: ["})));
    apply(
        "no-yaml",
        json!({"manifests": [{"name": "a", "configMapRef": {"name": "broken"}}]}),
    );
    apply(
        "upwards",
        json!({"files": [{"target": "/a/../../etc/passwd", "inline": "x"}]}),
    );
    apply(
        "no-manifest",
        json!({"manifests": [{"name": "a", "inline": "just: words"}]}),
    );

    let archive = charts::package(folder.path(), "front", "1.0.0", "a/b:1", "first");
    let content = std::fs::read(&archive).unwrap();
    let index = charts::index(folder.path());
    let serve = |place: &'static str| {
        let (content, index, file_server) = (content.clone(), index.clone(), &file_server);
        Box::pin(async move {
            file_server.put(&format!("/{place}/front-1.0.0.tgz"), content);
            file_server.put(&format!("/{place}/index.yaml"), index);
        })
    };
    let host = &registry.host;
    harness
        .run(vec![
            Case::new(
                "chart-missing",
                "SourceNotFound",
                &["component `web`: chart `front`", "charts/front:1.0.0 does not exist"],
                Box::pin(async { charts::push(&archive, host) }),
            )
            .of_package(),
            Case::new(
                "version-missing",
                "SourceNotFound",
                &["lists no version 1.0.0 of front, only for example 0.9.0"],
                serve("stable"),
            )
            .of_package(),
            Case::new(
                "no-index",
                "SourceFailed",
                &["is not the index of a chart repository"],
                serve("site"),
            )
            .of_package(),
            Case::new("no-chart", "SourceFailed", &["is not a Helm chart"], serve("noise")).of_package(),
            Case::new(
                "other-content",
                "DigestMismatch",
                &["file `/x`", "the content has another digest"],
                Box::pin(async { drop(file_server.put("/x", "two")) }),
            )
            .of_package(),
            Case::new(
                "file-missing",
                "SourceNotFound",
                &["file `/x`", "the server answered 404"],
                Box::pin(async { drop(file_server.put("/y", "two")) }),
            )
            .of_package(),
            Case::new(
                "map-missing",
                "ConfigMapUnavailable",
                &["manifests `a`", "/gone does not exist"],
                Box::pin(async { cluster.apply(&config_map("gone", json!({"a": POD}))) }),
            )
            .of_package(),
            Case::new(
                "key-missing",
                "ConfigMapUnavailable",
                &["half has no entry b.yaml"],
                Box::pin(async { cluster.apply(&config_map("half", json!({"b.yaml": POD}))) }),
            )
            .of_package(),
            Case::new(
                "no-yaml",
                "ConfigMapUnavailable",
                &["entry a.yaml of the ConfigMap broken is not YAML"],
                Box::pin(async { cluster.apply(&config_map("broken", json!({"a.yaml": POD}))) }),
            )
            .of_package(),
            Case::new(
                "upwards",
                "InvalidSpec",
                &["its target contains '.' or '..'"],
                Box::pin(edit("upwards", json!({"files": [{"target": "/etc/x", "inline": "x"}]}))),
            )
            .of_package()
            .stalled(),
            Case::new(
                "no-manifest",
                "InvalidSpec",
                &["without apiVersion or kind"],
                Box::pin(edit(
                    "no-manifest",
                    json!({"manifests": [{"name": "a", "inline": POD}]}),
                )),
            )
            .of_package()
            .stalled(),
        ])
        .await;
}

#[tokio::test]
async fn mutually_exclusive_fields_are_rejected() {
    let cluster = crate::support::cluster::Cluster::new().await;
    let sha = "a".repeat(64);
    for (content, words) in [
        (
            json!({"manifests": [{"name": "a"}]}),
            "exactly one of inline and configMapRef",
        ),
        (
            json!({"manifests": [{"name": "a", "inline": "x", "configMapRef": {"name": "b"}}]}),
            "exactly one of inline and configMapRef",
        ),
        (json!({"files": [{"target": "/x"}]}), "exactly one of url and inline"),
        (
            json!({"files": [{"target": "/x", "url": "https://h/x"}]}),
            "set it if and only if url is set",
        ),
        (
            json!({"files": [{"target": "/x", "inline": "x", "sha256": sha}]}),
            "set it if and only if url is set",
        ),
        (
            json!({"files": [{"target": "/x", "url": "https://h/x", "sha256": "abc"}]}),
            "sha256",
        ),
        (
            json!({"charts": [{"name": "a", "version": "1", "namespace": "n", "url": "h/x"}]}),
            "url",
        ),
        (
            json!({"charts": [{"name": "a", "version": "1", "namespace": "n", "url": "oci://r.io/x", "values": [1]}]}),
            "values",
        ),
    ] {
        let mut component = json!({"name": "web"});
        component
            .as_object_mut()
            .unwrap()
            .extend(content.as_object().unwrap().clone());
        let object = package("bad", "r.io", json!({"components": [component]}));
        let refused = cluster.try_apply(&object).unwrap_err();
        assert!(refused.contains(words), "{content}: {refused}");
    }
}

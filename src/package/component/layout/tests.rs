use serde_json::json;

use super::*;
use crate::package::component::{ChartContent, FileContent};

fn content(text: &str) -> FileContent {
    let text = Bytes::from(text.to_owned());
    FileContent {
        digest: Digest::of(&text),
        origin: std::sync::Arc::new(text),
    }
}

fn spec() -> ComponentSpec {
    let files: Vec<serde_json::Value> = (0..11)
        .map(|index| json!({"target": format!("/opt/x{index}"), "inline": "x", "executable": index == 2}))
        .collect();
    serde_json::from_value(json!({
        "name": "app",
        "manifests": [{"name": "b", "configMapRef": {"name": "c"}}, {"name": "a", "inline": "x"}],
        "charts": [{"name": "podinfo", "version": "6.4.0+1", "namespace": "n", "url": "oci://r.io/podinfo"}],
        "files": files,
    }))
    .unwrap()
}

fn found() -> ComponentContent {
    let chart = content("chart");
    ComponentContent {
        manifests: vec![vec!["m0".into(), "m1".into()], vec!["m".into()]],
        charts: vec![ChartContent {
            digest: chart.digest,
            origin: chart.origin,
            values: vec!["v0".into(), "v1".into()],
            images: Vec::new(),
        }],
        files: (0..11).map(|index| content(&format!("file {index}"))).collect(),
    }
}

#[test]
fn entries_have_the_paths_that_a_deployment_reads() {
    let archive = archive(&spec(), &found()).unwrap();
    assert_eq!(archive.path, "components/app.tar");
    let entries: Vec<(&str, u32)> = archive
        .entries
        .iter()
        .map(|entry| (entry.path.as_str(), entry.mode))
        .collect();
    assert_eq!(
        entries,
        [
            ("app/charts/podinfo-6.4.0+1.tgz", 0o644),
            ("app/files/0/x0", 0o600),
            ("app/files/1/x1", 0o600),
            ("app/files/10/x10", 0o600),
            ("app/files/2/x2", 0o700),
            ("app/files/3/x3", 0o600),
            ("app/files/4/x4", 0o600),
            ("app/files/5/x5", 0o600),
            ("app/files/6/x6", 0o600),
            ("app/files/7/x7", 0o600),
            ("app/files/8/x8", 0o600),
            ("app/files/9/x9", 0o600),
            ("app/manifests/a-0.yaml", 0o644),
            ("app/manifests/b-0.yaml", 0o644),
            ("app/manifests/b-1.yaml", 0o644),
            ("app/values/podinfo-6.4.0+1-0", 0o644),
            ("app/values/podinfo-6.4.0+1-1", 0o644),
        ]
    );
    let identity = |path: &str| {
        archive
            .entries
            .iter()
            .find(|entry| entry.path == path)
            .unwrap()
            .identity
            .clone()
    };
    assert_eq!(identity("app/manifests/b-1.yaml"), Digest::of(b"m1"));
    assert_eq!(identity("app/files/10/x10"), Digest::of(b"file 10"));
    assert_eq!(identity("app/values/podinfo-6.4.0+1-0"), Digest::of(b"v0"));
}

#[test]
fn a_component_with_only_images_has_no_tar() {
    let spec = serde_json::from_value(json!({"name": "app", "images": [{"image": "nginx"}]})).unwrap();
    assert!(archive(&spec, &ComponentContent::default()).is_none());
}

#[test]
fn the_definition_lists_the_same_paths() {
    let spec: crate::api::v1alpha1::JackalPackageSpec = serde_json::from_value(json!({
        "version": "1", "naming": "Zarf", "components": [spec()],
    }))
    .unwrap();
    let mut spec = spec;
    spec.components[0].files.truncate(1);
    spec.components[0].files[0].executable = true;
    spec.components[0].manifests[1].inline = Some("apiVersion: v1\nkind: Pod".to_owned());
    let plan = crate::package::Plan::of(&spec, "r", "").unwrap();
    let definition = crate::package::Definition::of("p", &spec, &plan)
        .unwrap()
        .with_contents(&spec, &[found()]);
    let value = serde_json::to_value(&definition).unwrap();
    assert_eq!(
        value["components"][0],
        json!({
            "name": "app",
            "required": false,
            "manifests": [
                {"name": "b", "files": ["manifests/b-0.yaml", "manifests/b-1.yaml"]},
                {"name": "a", "files": ["manifests/a-0.yaml"]},
            ],
            "charts": [{
                "name": "podinfo", "version": "6.4.0+1", "url": "oci://r.io/podinfo", "namespace": "n",
                "valuesFiles": ["values/podinfo-6.4.0+1-0", "values/podinfo-6.4.0+1-1"],
            }],
            "files": [{"source": "files/0/x0", "target": "/opt/x0", "executable": true}],
        })
    );
}

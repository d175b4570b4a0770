//! The chart: what it renders, and how a real API server handles that.

mod agent;
mod dashboard;
mod installed;
mod nodes;
mod permissions;
pub(crate) mod registry;
mod rendered;
mod served;

use serde_json::{Value, json};
use tempfile::TempDir;

use crate::support::process::output;
use crate::support::program;

const CHART: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/charts/jackal-operator");

/// Values with which every template renders everything.
fn everything() -> Value {
    json!({
        "imagePullSecrets": [{ "name": "pull" }],
        "settings": { "sourceHosts": ["ghcr.io", "*.example.com:5000"], "insecureRegistries": ["r:5000", "*.svc:*"],
                      "allowedNetworks": ["10.0.0.0/8", "fd00::/8"], "uploadHosts": ["*.storage.example.com"] },
        "controller": {
            "extraEnv": [{ "name": "SSL_CERT_DIR", "value": "/ca" }],
            "extraVolumes": [{ "name": "ca", "configMap": { "name": "ca" } }],
            "extraVolumeMounts": [{ "name": "ca", "mountPath": "/ca" }],
            "podLabels": { "a": "b" },
            "podAnnotations": { "a": "b" },
            "priorityClassName": "system-cluster-critical",
            "tolerations": [{ "operator": "Exists" }],
            "affinity": { "nodeAffinity": {} },
        },
        "agent": {
            "enabled": true,
            "admit": ["team-a=registry.example.com/team-a/*"],
            "containerd": { "enabled": true },
            "tolerations": [{ "operator": "Exists" }],
        },
        "registry": { "deploy": { "enabled": true }, "stateSecret": "zarf/zarf-state" },
        "networkPolicy": {
            "metricsFrom": [{ "namespaceSelector": {} }],
            "registryFrom": [{ "ipBlock": { "cidr": "10.0.0.0/8" } }],
            "egress": [{ "to": [{ "ipBlock": { "cidr": "10.0.0.0/8" } }] }],
        },
        "serviceMonitor": { "enabled": true, "interval": "30s", "labels": { "release": "prometheus" } },
        "dashboard": { "enabled": true, "annotations": { "folder": "jackal" } },
        "admissionPolicies": {
            "engineNamespaces": ["a"], "registries": ["127.0.0.1:31999"], "sourceHosts": ["ghcr.io"],
        },
    })
}

/// Values in a file, for helm's `--values`.
struct Values(TempDir);

impl Values {
    fn of(values: &Value) -> Self {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("values.json"), values.to_string()).unwrap();
        Self(folder)
    }

    fn file(&self) -> String {
        self.0.path().join("values.json").to_str().unwrap().to_owned()
    }
}

/// The output of helm: standard output if it succeeds, standard error if it fails.
fn helm(arguments: &[&str]) -> Result<String, String> {
    let output = output(&program("JACKAL_BIN_HELM"), arguments);
    match output.status.success() {
        true => Ok(String::from_utf8(output.stdout).unwrap()),
        false => Err(String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned()),
    }
}

/// The objects of the release `shop` in the namespace `home`, or the error.
fn try_render(values: &Value) -> Result<Vec<Value>, String> {
    let values = Values::of(values);
    let rendered = helm(&[
        "template",
        "shop",
        CHART,
        "--namespace=home",
        "--values",
        &values.file(),
    ])?;
    let documents: Vec<Value> = serde_saphyr::from_multiple(&rendered).unwrap();
    Ok(documents.into_iter().filter(|document| !document.is_null()).collect())
}

fn render(values: &Value) -> Vec<Value> {
    try_render(values).unwrap_or_else(|error| panic!("{error}"))
}

/// The object with this kind and name.
fn find<'a>(objects: &'a [Value], kind: &str, name: &str) -> &'a Value {
    let mut found = objects
        .iter()
        .filter(|object| object["kind"] == kind && object["metadata"]["name"] == name);
    let object = found.next().unwrap_or_else(|| panic!("no {kind} {name}"));
    assert!(found.next().is_none(), "two {kind} {name}");
    object
}

/// The objects of this kind.
fn all<'a>(objects: &'a [Value], kind: &str) -> Vec<&'a Value> {
    objects.iter().filter(|object| object["kind"] == kind).collect()
}

/// The variables of the only container of a workload that have a literal value.
fn environment(workload: &Value) -> Vec<(String, String)> {
    let container = &workload["spec"]["template"]["spec"]["containers"][0];
    let variables = container["env"].as_array().unwrap().iter();
    let literal = variables.filter_map(|variable| {
        let value = variable["value"].as_str()?;
        Some((variable["name"].as_str().unwrap().to_owned(), value.to_owned()))
    });
    literal.collect()
}

/// The value of a variable.
fn variable(workload: &Value, name: &str) -> Option<String> {
    environment(workload)
        .into_iter()
        .find(|(key, _)| key == name)
        .map(|(_, value)| value)
}

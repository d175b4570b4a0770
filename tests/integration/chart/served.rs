//! How a real API server validates the rendered objects, and how Pod Security evaluates the pods.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use super::{all, everything, find, render};
use crate::support::cluster::Cluster;

/// The violations of Pod Security `restricted` by the agent. docs/install.md has the reason for each.
const EXCEPTIONS: [&str; 4] = [
    "unrestricted capabilities",
    "restricted volume types",
    "runAsNonRoot != true",
    "runAsUser=0",
];

fn text(objects: &[&Value]) -> String {
    let texts: Vec<String> = objects.iter().map(|object| object.to_string()).collect();
    texts.join("\n---\n")
}

/// Every field is known to the API server, and no value is rejected.
#[tokio::test]
async fn every_rendered_object_is_accepted_by_the_api_server() {
    let cluster = Cluster::new().await;
    // The namespace with the cluster's state.
    let state = cluster.another_namespace().await;
    let mut objects = render(&everything());
    let plain = render(&json!({ "registry": { "deploy": { "enabled": true, "persistence": { "enabled": false } } } }));
    objects.extend(plain);
    // Objects of the same names in other forms, which are only validated.
    objects.extend(render(&json!({ "registry": { "expose": "NodeProxy", "deploy": {
        "enabled": true, "replicas": 2, "persistence": { "accessMode": "ReadWriteMany" },
    } } })));
    objects.extend(render(
        &json!({ "registry": { "expose": "NodeProxy", "proxy": { "certSecretName": "own" }, "deploy": {
        "enabled": true, "replicas": 2, "storage": { "s3": { "bucket": "b", "region": "r" }, "secretName": "keys" },
    } } }),
    ));
    // A kind of the Prometheus operator.
    objects.retain(|object| object["kind"] != "ServiceMonitor");
    assert!(objects.len() > 40, "{}", objects.len());
    for object in &mut objects {
        let namespace = match object["metadata"]["namespace"].as_str() {
            Some("home") => &cluster.namespace,
            Some("zarf") => &state.namespace,
            _ => continue,
        };
        object["metadata"]["namespace"] = json!(namespace);
    }
    // kubectl accepts the objects of one namespace and cluster-wide ones.
    let mut by_namespace: BTreeMap<&str, Vec<&Value>> = BTreeMap::new();
    for object in &objects {
        let namespace = object["metadata"]["namespace"].as_str();
        by_namespace
            .entry(namespace.unwrap_or(&cluster.namespace))
            .or_default()
            .push(object);
    }
    let elsewhere = ["default", "kube-public", &state.namespace].map(|namespace| by_namespace[namespace].len());
    assert_eq!((elsewhere, by_namespace.len()), ([10, 4, 2], 4));
    for (namespace, objects) in by_namespace {
        let more = ["--dry-run=server", "--force-conflicts", "--namespace", namespace];
        let message = cluster
            .try_apply_with(&text(&objects), &more)
            .unwrap_or_else(|error| panic!("{error}"));
        assert_eq!(message.lines().count(), objects.len(), "{message}");
    }
}

/// A pod as a workload's controller creates it.
fn pod(workload: &Value) -> Value {
    let mut pod = workload["spec"]["template"].clone();
    if workload["kind"] == "Pod" {
        pod = workload.clone();
        pod["metadata"].as_object_mut().unwrap().remove("namespace");
    }
    for claim in workload["spec"]["volumeClaimTemplates"]
        .as_array()
        .into_iter()
        .flatten()
    {
        let volumes = pod["spec"]["volumes"].as_array_mut().unwrap();
        volumes.push(json!({ "name": claim["metadata"]["name"], "persistentVolumeClaim": { "claimName": "data" } }));
    }
    pod["apiVersion"] = json!("v1");
    pod["kind"] = json!("Pod");
    pod["metadata"]["name"] = workload["metadata"]["name"].clone();
    pod
}

#[tokio::test]
async fn only_the_agent_and_the_proxy_exceed_the_restricted_pod_security_level() {
    let cluster = Cluster::new().await;
    let label = [
        "label",
        "namespace",
        &cluster.namespace,
        "pod-security.kubernetes.io/enforce=restricted",
    ];
    cluster.kubectl(&label);
    let dry_run = |pod: &Value| cluster.try_apply_with(&pod.to_string(), &["--dry-run=server"]);
    let objects = render(&everything());
    let mut accepted = vec![
        find(&objects, "Deployment", "shop"),
        find(&objects, "StatefulSet", "shop-registry"),
        find(&objects, "DaemonSet", "shop-registry-image"),
    ];
    accepted.extend(all(&objects, "Pod"));
    assert_eq!(accepted.len(), 5);
    for workload in accepted {
        dry_run(&pod(workload)).unwrap_or_else(|error| panic!("{error}"));
    }

    let proxied = render(&json!({ "registry": { "expose": "NodeProxy", "deploy": { "enabled": true } } }));
    let docs = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/docs/install.md")).unwrap();
    let exceeding = [
        (pod(find(&objects, "DaemonSet", "shop-agent")), &EXCEPTIONS[..]),
        (
            pod(find(&proxied, "DaemonSet", "shop-registry-proxy")),
            &["host namespaces", "probe or lifecycle host"],
        ),
    ];
    for (pod, exceptions) in &exceeding {
        let message = dry_run(pod).unwrap_err();
        assert_eq!(&violations(&message), exceptions, "{message}");
        for exception in *exceptions {
            assert!(
                docs.contains(&format!("| `{exception}` |")),
                "docs/install.md does not say why: {exception}"
            );
        }
    }
    cluster.kubectl(&[
        "label",
        "--overwrite",
        "namespace",
        &cluster.namespace,
        "pod-security.kubernetes.io/enforce=privileged",
    ]);
    for (pod, _) in &exceeding {
        dry_run(pod).unwrap_or_else(|error| panic!("{error}"));
    }
}

/// The violations that the message of the API server names.
fn violations(message: &str) -> Vec<String> {
    let (_, violations) = message
        .split_once("violates PodSecurity \"restricted:latest\": ")
        .unwrap();
    // `violation (where ...), violation (where ...)`: the parts in parentheses name containers and volumes.
    let mut named = Vec::new();
    let (mut depth, mut word) = (0, String::new());
    for letter in violations.trim().chars() {
        match letter {
            '(' => depth += 1,
            ')' => depth -= 1,
            ',' if depth == 0 => named.push(std::mem::take(&mut word)),
            letter if depth == 0 => word.push(letter),
            _ => {}
        }
    }
    named.push(word);
    named.iter().map(|word| word.trim().to_owned()).collect()
}

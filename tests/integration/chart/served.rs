//! What a real API server says of the objects, and its Pod Security of the pods.

use serde_json::{Value, json};

use super::{all, everything, find, render};
use crate::support::cluster::Cluster;

/// What of Pod Security `restricted` the agent does not keep. Each stands in docs/install.md with its reason.
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

/// Every field is one that the API server knows, and none has a value that it refuses.
#[tokio::test]
async fn everything_is_served() {
    let cluster = Cluster::new().await;
    let mut objects = render(&everything());
    let plain = render(&json!({ "registry": { "deploy": { "enabled": true, "persistence": { "enabled": false } } } }));
    objects.extend(plain);
    let objects: Vec<Value> = objects
        .into_iter()
        // Its kind is the Prometheus operator's.
        .filter(|object| object["kind"] != "ServiceMonitor")
        .map(|mut object| {
            if object["metadata"]["namespace"] == "home" {
                object["metadata"]["namespace"] = json!(cluster.namespace);
            }
            object
        })
        .collect();
    assert!(objects.len() > 40, "{}", objects.len());
    let beside = |object: &&Value| object["metadata"]["namespace"] == "kube-public";
    let (public, own): (Vec<&Value>, Vec<&Value>) = objects.iter().partition(beside);
    assert_eq!(public.len(), 2);
    for (objects, namespace) in [(public, "kube-public"), (own, cluster.namespace.as_str())] {
        let more = ["--dry-run=server", "--force-conflicts", "--namespace", namespace];
        let said = cluster
            .try_apply_with(&text(&objects), &more)
            .unwrap_or_else(|error| panic!("{error}"));
        assert_eq!(said.lines().count(), objects.len(), "{said}");
    }
}

/// A pod as a workload's controller makes it.
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
async fn only_the_agent_needs_more_than_restricted() {
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
    ];
    accepted.extend(all(&objects, "Pod"));
    assert_eq!(accepted.len(), 4);
    for workload in accepted {
        dry_run(&pod(workload)).unwrap_or_else(|error| panic!("{error}"));
    }

    let agent = pod(find(&objects, "DaemonSet", "shop-agent"));
    let said = dry_run(&agent).unwrap_err();
    let (_, violations) = said.split_once("violates PodSecurity \"restricted:latest\": ").unwrap();
    // `what (where ...), what (where ...)`: the parts in brackets name containers and volumes.
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
    let named: Vec<&str> = named.iter().map(|word| word.trim()).collect();
    assert_eq!(named, EXCEPTIONS, "{said}");
    let docs = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/docs/install.md")).unwrap();
    for exception in EXCEPTIONS {
        assert!(
            docs.contains(&format!("| `{exception}` |")),
            "docs/install.md does not say why: {exception}"
        );
    }
    cluster.kubectl(&[
        "label",
        "--overwrite",
        "namespace",
        &cluster.namespace,
        "pod-security.kubernetes.io/enforce=privileged",
    ]);
    dry_run(&agent).unwrap_or_else(|error| panic!("{error}"));
}

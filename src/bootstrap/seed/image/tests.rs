use serde_json::{Value, json};

use super::*;

const PROXY: &str = "registry.k8s.io/kube-proxy:v1.35.1";
const PAUSE: &str = "registry.k8s.io/pause:3.10.1";
const COREDNS: &str = "registry.k8s.io/coredns/coredns:v1.12.4";

/// A node that reports these images, as kubelets do: by digest and by tag.
fn node(architecture: &str, taints: Value, images: &[&str]) -> Node {
    let images = images.iter().enumerate().map(|(index, image)| {
        let repository = image.split_once(':').map_or(*image, |(repository, _)| repository);
        json!({
            "names": [format!("{repository}@sha256:{}", format!("{index}").repeat(64)), image],
            "sizeBytes": 50_000_000 - 1_000_000 * index,
        })
    });
    serde_json::from_value(json!({
        "metadata": {"labels": {"kubernetes.io/os": "linux", "kubernetes.io/arch": architecture}},
        "spec": {"taints": taints},
        "status": {"images": images.collect::<Vec<_>>()},
    }))
    .unwrap()
}

fn control_plane(images: &[&str]) -> Node {
    let taint = json!([{"key": "node-role.kubernetes.io/control-plane", "effect": "NoSchedule"}]);
    node("amd64", taint, images)
}

fn worker(images: &[&str]) -> Node {
    node("amd64", json!([]), images)
}

fn daemon_set(namespace: &str, image: &str, pod: Value, ready: i32) -> DaemonSet {
    let mut spec = json!({
        "containers": [{"name": "main", "image": image}],
        "tolerations": [{"operator": "Exists"}],
    });
    spec.as_object_mut().unwrap().extend(pod.as_object().unwrap().clone());
    serde_json::from_value(json!({
        "metadata": {"namespace": namespace, "generation": 2},
        "spec": {"selector": {}, "template": {"spec": spec}},
        "status": {
            "observedGeneration": 2, "currentNumberScheduled": ready, "numberMisscheduled": 0,
            "desiredNumberScheduled": 2, "numberReady": ready, "updatedNumberScheduled": 2,
        },
    }))
    .unwrap()
}

#[test]
fn a_system_daemon_set_comes_first_and_one_with_a_secret_late() {
    let nodes = [control_plane(&[COREDNS, PAUSE]), worker(&[COREDNS, PAUSE])];
    let sets = [
        daemon_set(
            "logging",
            "vendor.example/agent:7",
            json!({"imagePullSecrets": [{"name": "vendor"}]}),
            2,
        ),
        daemon_set("monitoring", "quay.io/prometheus/node-exporter:v1.9.1", json!({}), 2),
        daemon_set("kube-system", "docker.io/calico/node:v3.31.0", json!({}), 1),
        daemon_set(
            "kube-system",
            PROXY,
            json!({"nodeSelector": {"kubernetes.io/os": "linux"}}),
            2,
        ),
        daemon_set("jackal-seed", "docker.io/library/none:1", json!({}), 2),
    ];
    assert_eq!(
        candidates(&sets, &nodes),
        [
            PROXY,
            PAUSE,
            "quay.io/prometheus/node-exporter:v1.9.1",
            COREDNS,
            "vendor.example/agent:7",
            "docker.io/calico/node:v3.31.0",
        ]
    );
}

#[test]
fn without_daemon_sets_all_nodes_report_the_image() {
    // k3s: kube-proxy is part of its binary. The nodes have other images besides.
    let pause = "docker.io/rancher/mirrored-pause:3.6";
    let coredns = "docker.io/rancher/mirrored-coredns-coredns:1.13.1";
    let one = node(
        "amd64",
        json!([]),
        &["docker.io/rancher/mirrored-library-traefik:3.5.1", coredns, pause],
    );
    let other = node("amd64", json!([]), &[pause, coredns]);
    assert_eq!(candidates(&[], &[one.clone(), other.clone()]), [pause, coredns]);
    // The list of the 50 largest may lack it.
    let third = node("amd64", json!([]), &[coredns]);
    assert_eq!(candidates(&[], &[one, other, third]), [coredns]);
    assert!(candidates(&[], &[worker(&[PAUSE]), worker(&[])]).is_empty());
    assert!(candidates(&[], &[]).is_empty());
}

#[test]
fn a_daemon_set_that_does_not_cover_all_nodes_is_no_candidate() {
    let nodes = [control_plane(&[]), worker(&[])];
    let required = json!({"affinity": {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": []}}}});
    for pod in [
        json!({"tolerations": []}),
        json!({"tolerations": [{"key": "node-role.kubernetes.io/control-plane", "operator": "Exists", "effect": "NoExecute"}]}),
        json!({"tolerations": [{"key": "node-role.kubernetes.io/control-plane", "value": "other"}]}),
        json!({"nodeSelector": {"gpu": "true"}}),
        json!({"nodeSelector": {"kubernetes.io/arch": "arm64"}}),
        required,
    ] {
        assert!(
            candidates(&[daemon_set("kube-system", PROXY, pod.clone(), 2)], &nodes).is_empty(),
            "{pod}"
        );
    }
    let precise = json!({"tolerations": [{"key": "node-role.kubernetes.io/control-plane", "effect": "NoSchedule"}]});
    assert_eq!(
        candidates(&[daemon_set("kube-system", PROXY, precise, 2)], &nodes),
        [PROXY]
    );
    let pressure = json!([{"key": "node.kubernetes.io/not-ready", "effect": "NoExecute"}]);
    let none = daemon_set("kube-system", PROXY, json!({"tolerations": []}), 2);
    assert_eq!(candidates(&[none], &[node("amd64", pressure, &[])]), [PROXY]);
}

#[test]
fn each_architecture_is_considered_alone() {
    let windows = serde_json::from_value(json!({
        "metadata": {"labels": {"kubernetes.io/os": "windows", "kubernetes.io/arch": "amd64"}},
    }))
    .unwrap();
    let nodes = [
        worker(&[PAUSE]),
        node("arm64", json!([]), &["k8s.gcr.io/pause-arm64:3.1"]),
        windows,
    ];
    let groups = by_architecture(&nodes);
    assert_eq!(groups.keys().collect::<Vec<_>>(), ["amd64", "arm64"]);
    let flannel = daemon_set(
        "kube-system",
        "quay.io/coreos/flannel:v0.9-arm64",
        json!({"nodeSelector": {"kubernetes.io/arch": "arm64"}}),
        2,
    );
    assert_eq!(candidates(std::slice::from_ref(&flannel), &groups["amd64"]), [PAUSE]);
    assert_eq!(
        candidates(&[flannel], &groups["arm64"]),
        ["quay.io/coreos/flannel:v0.9-arm64", "k8s.gcr.io/pause-arm64:3.1"]
    );
}

#[test]
fn images_without_a_tag_are_named_by_digest_and_nameless_ones_not_at_all() {
    let name = format!("docker.io/rancher/mirrored-pause@sha256:{}", "a".repeat(64));
    let nodes: Vec<Node> = (0..2)
        .map(|_| {
            serde_json::from_value(json!({"status": {"images": [
                {"names": ["<none>@<none>", "<none>:<none>"], "sizeBytes": 9},
                {"names": [name], "sizeBytes": 7},
                {"sizeBytes": 8},
            ]}}))
            .unwrap()
        })
        .collect();
    assert_eq!(candidates(&[], &nodes), [name.as_str()]);
}

#[test]
fn a_pod_tells_that_its_image_cannot_be_used() {
    let pod = |state: Value| -> Pod {
        serde_json::from_value(json!({"status": {"containerStatuses": [
            {"name": "seed", "image": "", "imageID": "", "ready": false, "restartCount": 0, "state": state}
        ]}}))
        .unwrap()
    };
    let waiting = |reason: &str| json!({"waiting": {"reason": reason, "message": "Container image is not present with pull policy of Never"}});
    assert_eq!(
        image_failure(&pod(waiting("ErrImageNeverPull"))).as_deref(),
        Some("ErrImageNeverPull: Container image is not present with pull policy of Never")
    );
    assert!(image_failure(&pod(waiting("CreateContainerError"))).is_some());
    assert!(image_failure(&pod(waiting("ContainerCreating"))).is_none());
    assert!(image_failure(&pod(waiting("CrashLoopBackOff"))).is_none());
    assert!(image_failure(&pod(json!({"running": {}}))).is_none());
    assert!(image_failure(&Pod::default()).is_none());
}

//! Checks of clusters as distributions set them up.

mod admission;
mod nodes;
mod proxies;
mod storage;

use k8s_openapi::api::core::v1::Node;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use super::archive::{ArchiveSummary, OperatorImage};
use super::dry_run::DryRun;
use super::facts::{AdmissionFacts, Clocks, ExistingFacts, Facts, ProxyFacts, Wanted};
use super::permissions::{EVERYTHING, Permission};
use super::report::{Check, Status};
use super::{judge, unreachable};
use crate::bootstrap::preflight::facts::Unreachable;

/// An object from JSON.
fn object<T: DeserializeOwned>(value: Value) -> T {
    serde_json::from_value(value).unwrap()
}

/// A node that is ready. `info` has `nodeInfo` beyond what every node has.
fn node(name: &str, runtime: &str, kubelet: &str) -> Node {
    object(json!({
        "metadata": { "name": name, "labels": { "kubernetes.io/hostname": name } },
        "status": {
            "addresses": [{ "type": "InternalIP", "address": "10.0.0.11" }, { "type": "Hostname", "address": name }],
            "allocatable": { "cpu": "4", "ephemeral-storage": "94477937300", "memory": "16Gi", "pods": "110" },
            "capacity": { "ephemeral-storage": "102623636Ki" },
            "conditions": [
                { "type": "MemoryPressure", "status": "False", "reason": "KubeletHasSufficientMemory" },
                { "type": "DiskPressure", "status": "False", "reason": "KubeletHasNoDiskPressure" },
                { "type": "Ready", "status": "True", "reason": "KubeletReady" },
            ],
            "nodeInfo": {
                "architecture": "amd64", "bootID": "x", "containerRuntimeVersion": runtime, "kernelVersion": "6.8.0",
                "kubeProxyVersion": "", "kubeletVersion": kubelet, "machineID": "x", "operatingSystem": "linux",
                "osImage": "Ubuntu 24.04", "systemUUID": "x",
            },
        },
    }))
}

/// A cluster of kubeadm, in which everything is as it should be.
fn kubeadm() -> Facts {
    let name = |name: &str| json!({ "metadata": { "name": name } });
    Facts {
        server: "https://10.0.0.10:6443".to_owned(),
        version: Ok("v1.36.3".to_owned()),
        clocks: Some(Clocks {
            server: 1_800_000_000,
            sent: 1_800_000_000,
            received: 1_800_000_001,
        }),
        nodes: Ok(vec![
            node("node1", "containerd://2.2.1", "v1.36.3"),
            node("node2", "containerd://2.2.1", "v1.36.3"),
        ]),
        more_nodes: false,
        leases: Ok(Vec::new()),
        disks: Default::default(),
        proxy: ProxyFacts {
            config_maps: vec![proxies::kubeadm_config("", "null", "true")],
            daemon_set: Some(proxies::daemon_set(&[
                "/usr/local/bin/kube-proxy",
                "--config=/var/lib/kube-proxy/config.conf",
                "--hostname-override=$(NODE_NAME)",
            ])),
            ..ProxyFacts::default()
        },
        storage_classes: Ok(vec![storage::class("standard", "ebs.csi.aws.com", true)]),
        drivers: Ok(vec![object(
            json!({ "metadata": name("ebs.csi.aws.com")["metadata"], "spec": {} }),
        )]),
        volumes: Ok(Vec::new()),
        admission: AdmissionFacts {
            namespace: DryRun::Accepted,
            pod: DryRun::Accepted,
            pod_namespace: "default".to_owned(),
            validating: Ok(Vec::new()),
            mutating: Ok(Vec::new()),
            endpoints: Default::default(),
        },
        permissions: Ok(vec![Permission {
            right: EVERYTHING,
            allowed: Some(true),
        }]),
        existing: ExistingFacts {
            definitions: Vec::new(),
            releases: Ok(Vec::new()),
            states: Default::default(),
            namespaces: Default::default(),
        },
        services: Ok(Vec::new()),
        node_port: DryRun::Accepted,
        kubernetes: Ok(object(
            json!({ "metadata": { "name": "kubernetes" }, "spec": { "ipFamilies": ["IPv4"] } }),
        )),
    }
}

/// An archive of 3 GiB with images of 60 MiB.
fn archive() -> ArchiveSummary {
    let image = |name: &str| {
        Some(OperatorImage {
            name: name.to_owned(),
            architectures: vec!["amd64".to_owned(), "arm64".to_owned()],
            size: 30 << 20,
        })
    };
    ArchiveSummary {
        size: 3 << 30,
        operator: image("ghcr.io/jackal-dev/jackal-operator:1.0.0"),
        registry: image("docker.io/library/registry:3"),
    }
}

/// The check `name` of `facts`.
fn check(facts: &Facts, name: &str) -> Check {
    let report = judge(facts, Some(&archive()), &Wanted::default());
    report.check(name).unwrap_or_else(|| panic!("no check {name}")).clone()
}

/// Expects the check `name` to end with `status` and to say each of `words`.
fn expect(facts: &Facts, name: &str, status: Status, words: &[&str]) {
    let check = check(facts, name);
    assert_eq!(check.status, status, "{check:?}");
    let text = format!("{} -> {}", check.found, check.advice);
    for words in words {
        assert!(text.contains(words), "`{words}` is not said: {text}");
    }
}

#[test]
fn every_check_of_a_cluster_of_kubeadm_is_ok() {
    let mut facts = kubeadm();
    for name in ["node1", "node2"] {
        let disk = super::facts::Disk {
            available: 50 << 30,
            capacity: 100 << 30,
        };
        facts.disks.insert(name.to_owned(), Ok(disk));
    }
    let report = judge(&facts, Some(&archive()), &Wanted::default());
    let others: Vec<&Check> = report
        .checks
        .iter()
        .filter(|check| check.status != Status::Ok)
        .collect();
    assert!(others.is_empty(), "{others:?}");
    assert_eq!(report.status, Status::Ok);
    assert!(report.not_checked.is_empty());
    let json = serde_json::to_value(&report).unwrap();
    assert_eq!((&json["status"], &json["expose"]), (&json!("ok"), &json!("NodePort")));
    assert_eq!(
        json["checks"][1],
        json!({ "name": "kubernetes-version", "status": "ok", "found": "v1.36.3" })
    );
    let without = judge(&facts, None, &Wanted::default());
    assert_eq!(
        without.not_checked,
        ["archive", "architectures", "disk-space", "claim-size"]
    );
    assert!(without.check("archive").is_none());
}

#[test]
fn each_check_has_a_section_of_its_own() {
    let page = include_str!("../../../docs/preflight.md");
    let report = judge(&kubeadm(), Some(&archive()), &Wanted::default());
    for check in &report.checks {
        assert!(
            page.contains(&format!("\n## {}\n", check.name)),
            "docs/preflight.md has no section {}",
            check.name
        );
    }
    let reason = Unreachable {
        message: "no answer within 15 s".to_owned(),
        is_refusal: false,
    };
    let report = unreachable("https://10.0.0.10:6443", &reason);
    assert_eq!((report.status, report.expose), (Status::Failure, None));
    assert!(report.checks[0].advice.contains("docs/preflight.md#api-server"));
}

#[test]
fn text_of_the_cluster_is_bounded_and_has_no_control_characters() {
    let mut facts = kubeadm();
    let long = format!("v1.30.\u{1b}[2J\n{}", "x".repeat(100_000));
    facts.version = Ok(long.clone());
    facts.server = long.clone();
    let nodes = (0..5000).map(|_| node(&long, &long, &long)).collect();
    facts.nodes = Ok(nodes);
    facts.node_port = DryRun::Refused(super::dry_run::Refusal {
        code: 422,
        message: long.clone(),
    });
    let report = judge(&facts, Some(&archive()), &Wanted::default());
    for check in &report.checks {
        assert!(check.found.chars().count() <= 4001, "{check:?}");
        assert!(
            !format!("{}{}", check.found, check.advice).contains(char::is_control),
            "{check:?}"
        );
    }
    assert!(report.server.len() < 4100);
}

//! Versions, nodes, clocks and disks.

use serde_json::json;

use super::{Status, archive, expect, kubeadm, node, object};
use crate::bootstrap::preflight::facts::{Clocks, Disk, Unread, Wanted};
use crate::bootstrap::preflight::judge;
use k8s_openapi::api::core::v1::{Node, NodeStatus};

fn status(node: &mut Node) -> &mut NodeStatus {
    node.status.as_mut().unwrap()
}

/// Sets the condition `kind` of a node.
fn set_condition(node: &mut Node, kind: &str, value: &str, reason: &str) {
    let conditions = status(node).conditions.as_mut().unwrap();
    conditions.retain(|condition| condition.type_ != kind);
    conditions.push(object(json!({ "type": kind, "status": value, "reason": reason })));
}

#[test]
fn versions_of_kubernetes() {
    let mut facts = kubeadm();
    for (version, status, words) in [
        ("v1.30.0", Status::Ok, "v1.30.0"),
        ("v1.33.1+k3s1", Status::Ok, "v1.33.1+k3s1"),
        ("v1.34.1-eks-113cf36", Status::Ok, ""),
        ("v1.29.15", Status::Failure, "upgrade Kubernetes to 1.30"),
        ("v1.9.0", Status::Failure, "1.30 or newer is required"),
        ("v1.40.0", Status::Ok, "newer than the tested 1.36"),
        ("v2.0", Status::Ok, ""),
        ("main", Status::Warning, "see that it is 1.30"),
        ("v1", Status::Warning, ""),
    ] {
        facts.version = Ok(version.to_owned());
        expect(&facts, "kubernetes-version", status, &[words]);
    }
    facts.version = Err(Unread::Forbidden);
    expect(
        &facts,
        "kubernetes-version",
        Status::Warning,
        &["may not read the version"],
    );
}

#[test]
fn versions_of_container_runtimes() {
    for (runtime, status, words) in [
        ("containerd://1.6.33", Status::Ok, "containerd 1.6.33 on node1"),
        ("containerd://1.5.18", Status::Failure, "upgrade containerd to 1.6"),
        ("containerd://1.7.27-k3s1", Status::Ok, ""),
        ("containerd://2.1.4", Status::Ok, "hosts.toml below config_path"),
        ("containerd://v2", Status::Warning, "cannot be read"),
        ("docker://24.0.7", Status::Ok, ""),
        ("cri-o://1.34.1", Status::Ok, ""),
        ("cri-o://1.36.0", Status::Warning, "verifies the certificate"),
        ("cri-o://unknown", Status::Warning, "verifies the certificate"),
        ("isulad://2.1", Status::Warning, "it was not tested"),
        ("", Status::Warning, "unknown on node1"),
    ] {
        let mut facts = kubeadm();
        facts.nodes = Ok(vec![node("node1", runtime, "v1.34.0")]);
        expect(&facts, "container-runtime", status, &[words]);
    }
    let mut facts = kubeadm();
    facts.nodes.as_mut().unwrap()[1] = node("node2", "containerd://1.4.0", "v1.34.0");
    expect(
        &facts,
        "container-runtime",
        Status::Failure,
        &["1.4.0 on node2: it is not supported; containerd 2.2.1 on node1"],
    );
}

#[test]
fn nodes_that_are_not_ready() {
    let mut facts = kubeadm();
    set_condition(
        &mut facts.nodes.as_mut().unwrap()[1],
        "Ready",
        "Unknown",
        "NodeStatusUnknown",
    );
    expect(
        &facts,
        "nodes",
        Status::Warning,
        &["not Ready: node2 (NodeStatusUnknown); 1 node Ready"],
    );
    set_condition(
        &mut facts.nodes.as_mut().unwrap()[0],
        "Ready",
        "False",
        "KubeletNotReady",
    );
    expect(
        &facts,
        "nodes",
        Status::Failure,
        &["none of 2 nodes is Ready", "network plugin"],
    );
    facts.nodes = Ok(Vec::new());
    expect(&facts, "nodes", Status::Failure, &["none of 0 nodes"]);
    facts.nodes = Err(Unread::Forbidden);
    for name in [
        "nodes",
        "node-conditions",
        "container-runtime",
        "architectures",
        "disk-space",
    ] {
        expect(
            &facts,
            name,
            Status::Warning,
            &["may not read nodes", "let the user get and list nodes"],
        );
    }
    let mut facts = kubeadm();
    let windows = &mut facts.nodes.as_mut().unwrap()[1];
    status(windows).node_info.as_mut().unwrap().operating_system = "windows".to_owned();
    status(windows).node_info.as_mut().unwrap().container_runtime_version = "containerd://1.4.0".to_owned();
    expect(&facts, "nodes", Status::Warning, &["Windows: node2", "1 node Ready"]);
    expect(&facts, "container-runtime", Status::Ok, &["on node1"]);
}

#[test]
fn conditions_of_nodes() {
    let mut facts = kubeadm();
    set_condition(
        &mut facts.nodes.as_mut().unwrap()[0],
        "DiskPressure",
        "True",
        "KubeletHasDiskPressure",
    );
    set_condition(
        &mut facts.nodes.as_mut().unwrap()[1],
        "PIDPressure",
        "True",
        "KubeletHasInsufficientPID",
    );
    expect(
        &facts,
        "node-conditions",
        Status::Failure,
        &["DiskPressure on node1; PIDPressure on node2"],
    );
    set_condition(&mut facts.nodes.as_mut().unwrap()[0], "DiskPressure", "False", "x");
    expect(&facts, "node-conditions", Status::Warning, &["PIDPressure on node2"]);
    set_condition(
        &mut facts.nodes.as_mut().unwrap()[0],
        "NetworkUnavailable",
        "True",
        "NoRouteCreated",
    );
    expect(
        &facts,
        "node-conditions",
        Status::Failure,
        &["NetworkUnavailable on node1"],
    );
}

#[test]
fn architectures_of_the_archive() {
    let mut facts = kubeadm();
    let of = |node: &mut Node, architecture: &str| {
        status(node).node_info.as_mut().unwrap().architecture = architecture.to_owned();
    };
    of(&mut facts.nodes.as_mut().unwrap()[1], "arm64");
    expect(&facts, "architectures", Status::Ok, &["amd64 (node1)", "arm64 (node2)"]);
    of(&mut facts.nodes.as_mut().unwrap()[1], "s390x");
    expect(
        &facts,
        "architectures",
        Status::Failure,
        &[
            "s390x (node2): the operator's image of the archive has amd64, arm64",
            "platform linux/s390x",
        ],
    );
    let mut without = archive();
    without.operator = None;
    let report = judge(&kubeadm(), Some(&without), &Wanted::default());
    let check = report.check("archive").unwrap();
    assert_eq!(check.status, Status::Failure);
    assert!(check.found.contains("no image jackal-operator"), "{check:?}");
}

#[test]
fn clocks_that_differ() {
    let mut facts = kubeadm();
    let now = 1_800_000_000;
    for (server, status, words) in [
        (now, Status::Ok, "this machine and the API server agree"),
        (now - 1, Status::Ok, "agree"),
        (now + 6, Status::Ok, "5 s ahead of this machine"),
        (now - 30, Status::Ok, "30 s behind this machine"),
        (now - 90, Status::Warning, "90 s behind this machine"),
        (now + 7201, Status::Failure, "7200 s ahead of this machine"),
    ] {
        facts.clocks = Some(Clocks {
            server,
            sent: now,
            received: now + 1,
        });
        expect(&facts, "clock", status, &[words]);
    }
    facts.clocks = None;
    expect(&facts, "clock", Status::Warning, &["no Date"]);
    let mut facts = kubeadm();
    for (renewed, status, words) in [
        ("2027-01-15T07:59:55.123456Z", Status::Ok, "nodes agree"),
        // Until its next renewal, a Lease says nothing.
        ("2027-01-15T07:59:10Z", Status::Ok, "nodes agree"),
        ("2027-01-15T07:58:00Z", Status::Warning, "node1 80 s behind"),
        ("2027-01-15T08:02:00Z", Status::Warning, "node1 120 s ahead"),
        ("2027-01-15T09:00:00Z", Status::Failure, "node1 3600 s ahead"),
        ("1999-01-01T00:00:00Z", Status::Failure, "behind"),
    ] {
        facts.leases = Ok(vec![
            object(json!({ "metadata": { "name": "node1" }, "spec": { "renewTime": renewed } })),
            object(json!({ "metadata": { "name": "absent" }, "spec": { "renewTime": "1999-01-01T00:00:00Z" } })),
            object(json!({ "metadata": { "name": "node2" }, "spec": {} })),
        ]);
        expect(&facts, "clock", status, &[words]);
    }
    // A node that is down renews nothing.
    set_condition(
        &mut facts.nodes.as_mut().unwrap()[0],
        "Ready",
        "Unknown",
        "NodeStatusUnknown",
    );
    expect(&facts, "clock", Status::Ok, &["nodes agree"]);
}

#[test]
fn space_on_nodes() {
    let gib = 1_u64 << 30;
    let disk = |available: u64| {
        Ok(Disk {
            available,
            capacity: 2 * gib,
        })
    };
    // 60 MiB of images need 300 MiB; 10% of 2 GiB must stay free.
    let mut facts = kubeadm();
    facts.disks = [("node1".to_owned(), disk(gib)), ("node2".to_owned(), disk(gib))].into();
    expect(
        &facts,
        "disk-space",
        Status::Ok,
        &["300.00 MiB needed on each node, enough on 2 of them"],
    );
    facts.disks.insert("node2".to_owned(), disk(400 << 20));
    expect(
        &facts,
        "disk-space",
        Status::Warning,
        &["less than 10% is left on node2 (400.00 MiB free)", "enough on 1"],
    );
    facts.disks.insert("node2".to_owned(), disk(200 << 20));
    expect(
        &facts,
        "disk-space",
        Status::Failure,
        &["too little on node2 (200.00 MiB free)", "free space"],
    );
    // Without the right to ask, only the size is known.
    facts.disks = [("node1".to_owned(), Err(Unread::Forbidden))].into();
    expect(
        &facts,
        "disk-space",
        Status::Warning,
        &["unknown on node1, node2", "let the user get nodes/proxy"],
    );
    let allocatable = status(&mut facts.nodes.as_mut().unwrap()[0])
        .allocatable
        .as_mut()
        .unwrap();
    allocatable.get_mut("ephemeral-storage").unwrap().0 = "100Mi".to_owned();
    expect(
        &facts,
        "disk-space",
        Status::Failure,
        &["too little on node1 (100.00 MiB in all)"],
    );
}

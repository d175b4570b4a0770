//! What serves NodePorts in clusters of several distributions.

use k8s_openapi::api::apps::v1::DaemonSet;
use k8s_openapi::api::core::v1::{ConfigMap, Pod};
use serde_json::json;

use super::{Facts, Status, expect, kubeadm, node, object};
use crate::bootstrap::install::Expose;
use crate::bootstrap::preflight::proxy::recommended_exposure;

/// The ConfigMap of kubeadm, which k0s and kind have too.
pub(super) fn kubeadm_config(mode: &str, addresses: &str, localhost: &str) -> ConfigMap {
    let text = format!(
        "apiVersion: kubeproxy.config.k8s.io/v1alpha1\nbindAddress: 0.0.0.0\nbindAddressHardFail: false\n\
         clientConnection:\n  acceptContentTypes: \"\"\n  burst: 0\n  kubeconfig: /var/lib/kube-proxy/kubeconfig.conf\n\
         clusterCIDR: 10.244.0.0/16\nconfigSyncPeriod: 0s\nconntrack:\n  maxPerCore: null\ndetectLocal:\n  bridgeInterface: \"\"\n\
         iptables:\n  localhostNodePorts: {localhost}\n  masqueradeAll: false\n  minSyncPeriod: 0s\n\
         ipvs:\n  excludeCIDRs: null\n  scheduler: \"\"\nkind: KubeProxyConfiguration\nmetricsBindAddress: \"\"\n\
         mode: \"{mode}\"\nnodePortAddresses: {addresses}\nwinkernel:\n  networkName: \"\"\n"
    );
    object(json!({
        "metadata": { "name": "kube-proxy", "namespace": "kube-system" },
        "data": { "config.conf": text, "kubeconfig.conf": "apiVersion: v1\nkind: Config\n" },
    }))
}

/// The DaemonSet of kube-proxy.
pub(super) fn daemon_set(command: &[&str]) -> DaemonSet {
    object(json!({
        "metadata": { "name": "kube-proxy", "namespace": "kube-system" },
        "spec": {
            "selector": { "matchLabels": { "k8s-app": "kube-proxy" } },
            "template": { "spec": { "containers": [{ "name": "kube-proxy", "image": "kube-proxy", "command": command }] } },
        },
    }))
}

fn cilium(replacement: &str) -> ConfigMap {
    object(json!({
        "metadata": { "name": "cilium-config", "namespace": "kube-system" },
        "data": { "kube-proxy-replacement": replacement, "bpf-lb-sock": "false", "enable-ipv4": "true" },
    }))
}

/// A cluster whose `kube-system` has nothing of kube-proxy.
fn bare(runtime: &str, kubelet: &str) -> Facts {
    let mut facts = kubeadm();
    facts.nodes = Ok(vec![node("node1", runtime, kubelet)]);
    facts.proxy = Default::default();
    facts
}

fn expect_exposure(facts: &Facts, exposure: Expose, words: &str) {
    let (found, reasons) = recommended_exposure(facts);
    assert_eq!(found, exposure, "{reasons:?}");
    assert!(reasons.join("; ").contains(words), "`{words}`: {reasons:?}");
}

#[test]
fn kubeadm_has_a_config_map() {
    for (mode, addresses, localhost, exposure, words) in [
        ("", "null", "null", Expose::NodePort, ""),
        ("iptables", "[]", "true", Expose::NodePort, ""),
        ("iptables", "[127.0.0.0/8, 10.0.0.0/8]", "true", Expose::NodePort, ""),
        ("iptables", "[\"::/0\"]", "true", Expose::NodePort, ""),
        (
            "iptables",
            "[10.0.0.0/8]",
            "true",
            Expose::NodeProxy,
            "only on 10.0.0.0/8 (nodePortAddresses)",
        ),
        ("iptables", "[primary]", "true", Expose::NodeProxy, "only on primary"),
        (
            "iptables",
            "null",
            "false",
            Expose::NodeProxy,
            "localhostNodePorts: false",
        ),
        (
            "ipvs",
            "null",
            "true",
            Expose::NodeProxy,
            "mode ipvs serves no NodePort on loopback",
        ),
        (
            "nftables",
            "null",
            "true",
            Expose::NodeProxy,
            "mode nftables serves no NodePort on loopback",
        ),
        ("userspace", "null", "true", Expose::NodeProxy, "unknown"),
    ] {
        let mut facts = kubeadm();
        facts.proxy.config_maps = vec![kubeadm_config(mode, addresses, localhost)];
        expect_exposure(&facts, exposure, words);
    }
    expect(
        &kubeadm(),
        "kube-proxy",
        Status::Ok,
        &["mode iptables (ConfigMap kube-proxy)"],
    );
    let mut facts = kubeadm();
    facts.proxy.config_maps = vec![kubeadm_config("nftables", "null", "null")];
    expect(&facts, "kube-proxy", Status::Ok, &["mode nftables"]);
    expect(
        &facts,
        "loopback",
        Status::Ok,
        &["mode nftables serves no NodePort", "--expose Auto uses NodeProxy"],
    );
}

#[test]
fn kube_proxy_itself_is_believed_first() {
    let mut facts = kubeadm();
    facts.proxy.measured.insert("node2".to_owned(), "ipvs".to_owned());
    expect(
        &facts,
        "kube-proxy",
        Status::Ok,
        &["iptables on node1", "ipvs on node2 (kube-proxy's own answer)"],
    );
    expect_exposure(&facts, Expose::NodeProxy, "mode ipvs");
}

#[test]
fn k3s_has_annotations() {
    let with = |arguments: &str| {
        let mut facts = bare("containerd://2.0.5-k3s1.32", "v1.33.1+k3s1");
        let nodes = facts.nodes.as_mut().unwrap();
        nodes[0].metadata.annotations = Some(
            [
                ("k3s.io/node-args".to_owned(), arguments.to_owned()),
                ("k3s.io/node-env".to_owned(), "{}".to_owned()),
            ]
            .into(),
        );
        facts
    };
    let facts = with(r#"["server","--write-kubeconfig-mode","644"]"#);
    expect(
        &facts,
        "kube-proxy",
        Status::Ok,
        &["iptables (the default of k3s and RKE2)"],
    );
    // k3s sets config_path, so its containerd tries HTTPS.
    expect_exposure(&facts, Expose::NodePort, "");
    for arguments in [
        r#"["server","--kube-proxy-arg","proxy-mode=ipvs"]"#,
        r#"["server","--kube-proxy-arg=proxy-mode=ipvs","--disable","traefik"]"#,
        r#"["agent","--kube-proxy-arg","--proxy-mode=ipvs"]"#,
    ] {
        expect_exposure(&with(arguments), Expose::NodeProxy, "mode ipvs");
    }
    let facts = with(r#"["server","--kube-proxy-arg","nodeport-addresses=10.0.0.0/8,192.168.0.0/16"]"#);
    expect_exposure(&facts, Expose::NodeProxy, "only on 10.0.0.0/8, 192.168.0.0/16");
    let facts = with(r#"["server","--disable-kube-proxy"]"#);
    expect(
        &facts,
        "kube-proxy",
        Status::Warning,
        &["unknown", "--expose NodeProxy"],
    );
    let mut facts = with(r#"["server","--disable-kube-proxy"]"#);
    facts.proxy.cilium = Some(cilium("true"));
    expect_exposure(&facts, Expose::NodePort, "");
    for damaged in ["no", "{}", "[1]", ""] {
        expect_exposure(&with(damaged), Expose::NodeProxy, "unknown");
    }
}

#[test]
fn rke2_has_static_pods() {
    let mut facts = bare("containerd://2.1.4-k3s1", "v1.34.2+rke2r1");
    let pod: Pod = object(json!({
        "metadata": { "name": "kube-proxy-node1", "labels": { "component": "kube-proxy", "tier": "control-plane" } },
        "spec": {
            "nodeName": "node1",
            "containers": [{ "name": "kube-proxy", "command": ["kube-proxy"], "args": [
                "--cluster-cidr=10.42.0.0/16", "--conntrack-max-per-core=0", "--healthz-bind-address=127.0.0.1",
                "--hostname-override=node1", "--kubeconfig=/var/lib/rancher/rke2/agent/kubeproxy.kubeconfig",
                "--proxy-mode=iptables",
            ] }],
        },
    }));
    facts.proxy.pods = vec![pod];
    expect(
        &facts,
        "kube-proxy",
        Status::Ok,
        &["iptables (arguments of its pod on the node)"],
    );
    expect_exposure(&facts, Expose::NodePort, "");
    let args = &mut facts.proxy.pods[0].spec.as_mut().unwrap().containers[0].args;
    args.as_mut()
        .unwrap()
        .push("--iptables-localhost-nodeports=false".to_owned());
    expect_exposure(&facts, Expose::NodeProxy, "localhostNodePorts: false");
}

#[test]
fn talos_has_arguments_in_its_daemon_set() {
    let mut facts = bare("containerd://2.1.4", "v1.34.1");
    facts.proxy.daemon_set = Some(daemon_set(&[
        "/usr/local/bin/kube-proxy",
        "--cluster-cidr=10.244.0.0/16",
        "--conntrack-max-per-core=0",
        "--hostname-override=$(NODE_NAME)",
        "--kubeconfig=/etc/kubernetes/kubeconfig",
        "--proxy-mode=nftables",
    ]));
    expect(
        &facts,
        "kube-proxy",
        Status::Ok,
        &["nftables (arguments of the DaemonSet kube-proxy)"],
    );
    expect_exposure(&facts, Expose::NodeProxy, "nftables");
}

#[test]
fn eks_and_aks_differ_from_kubeadm() {
    let mut facts = bare("containerd://1.7.28", "v1.33.5-eks-113cf36");
    facts.proxy.config_maps = vec![
        object(json!({ "metadata": { "name": "kube-proxy" }, "data": { "kubeconfig": "kind: Config" } })),
        object(json!({ "metadata": { "name": "kube-proxy-config" }, "data": { "config":
            "apiVersion: kubeproxy.config.k8s.io/v1alpha1\nkind: KubeProxyConfiguration\nmode: \"iptables\"\nnodePortAddresses: null\n\
             iptables:\n  masqueradeAll: false\nipvs:\n  scheduler: \"\"\n" } })),
    ];
    let command = [
        "kube-proxy",
        "--v=2",
        "--config=/var/lib/kube-proxy-config/config",
        "--hostname-override=$(NODE_NAME)",
    ];
    facts.proxy.daemon_set = Some(daemon_set(&command));
    expect(
        &facts,
        "kube-proxy",
        Status::Ok,
        &["iptables (ConfigMap kube-proxy-config)"],
    );
    expect_exposure(
        &facts,
        Expose::NodeProxy,
        "containerd before 2.2 tries HTTPS on 127.0.0.1 only with config_path",
    );
    // AKS names no mode.
    let mut facts = bare("containerd://2.2.0", "v1.33.5");
    facts.proxy.daemon_set = Some(daemon_set(&[
        "kube-proxy",
        "--metrics-bind-address=0.0.0.0:10249",
        "--v=3",
    ]));
    expect_exposure(&facts, Expose::NodePort, "");
    // The shell of a container.
    facts.proxy.daemon_set = Some(daemon_set(&["/bin/sh", "-c", "kube-proxy --proxy-mode ipvs --v=3"]));
    expect_exposure(&facts, Expose::NodeProxy, "ipvs");
}

#[test]
fn cilium_replaces_kube_proxy_or_not() {
    let mut facts = bare("containerd://2.2.0", "v1.34.1");
    for (replacement, exposure) in [
        ("true", Expose::NodePort),
        ("strict", Expose::NodePort),
        ("false", Expose::NodeProxy),
        ("disabled", Expose::NodeProxy),
    ] {
        facts.proxy.cilium = Some(cilium(replacement));
        expect_exposure(&facts, exposure, "");
    }
}

#[test]
fn openshift_has_neither_kube_proxy_nor_plain_loopback() {
    let mut facts = bare("cri-o://1.35.2-3.rhaos4.22", "v1.35.2");
    let node = &mut facts.nodes.as_mut().unwrap()[0];
    node.metadata.labels = Some([("node.openshift.io/os_id".to_owned(), "rhcos".to_owned())].into());
    expect(
        &facts,
        "kube-proxy",
        Status::Warning,
        &["OVN-Kubernetes", "--expose NodeProxy"],
    );
    expect_exposure(&facts, Expose::NodeProxy, "CRI-O since 1.35 verifies certificates");
    expect(
        &facts,
        "container-runtime",
        Status::Warning,
        &["cri-o 1.35.2", "location = \"127.0.0.1:31999\" insecure = true"],
    );
}

#[test]
fn what_is_not_read_is_named() {
    let mut facts = bare("containerd://2.2.0", "v1.34.1");
    facts.proxy.unread = vec!["configmaps kube-proxy (forbidden)".to_owned()];
    expect(
        &facts,
        "kube-proxy",
        Status::Warning,
        &["unknown", "not read: configmaps kube-proxy (forbidden)"],
    );
}

#[test]
fn only_ipv6_needs_the_proxy() {
    let mut facts = kubeadm();
    facts.kubernetes = Ok(object(json!({ "spec": { "ipFamilies": ["IPv6"] } })));
    expect(
        &facts,
        "ip-families",
        Status::Warning,
        &["only IPv6", "--expose NodeProxy"],
    );
    expect_exposure(&facts, Expose::NodeProxy, "IPv6");
    facts.kubernetes = Ok(object(json!({ "spec": { "ipFamilies": ["IPv6", "IPv4"] } })));
    expect(&facts, "ip-families", Status::Ok, &["IPv6 and IPv4"]);
    let node = &mut facts.nodes.as_mut().unwrap()[1];
    node.status.as_mut().unwrap().addresses.as_mut().unwrap()[0].address = "fd00::2".to_owned();
    expect(
        &facts,
        "ip-families",
        Status::Warning,
        &["without an IPv4 address: node2"],
    );
}

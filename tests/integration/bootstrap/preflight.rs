//! `preflight` with an API server of its own, whose nodes are objects.

use std::path::PathBuf;
use std::process::Output;

use serde_json::{Value, json};

use crate::crash::servers::Instance;
use crate::support::image::multi_platform;
use crate::support::process::run;
use crate::support::program;
use crate::support::registry::{TestRegistry, Version};
use crate::support::wait::{SOON, eventually};
use crate::support::workspace::{CommandResult as _, Workspace, all_output, stdout};

/// An API server, and the commands that use it.
struct Site {
    workspace: Workspace,
    kubeconfig: PathBuf,
    _instance: Instance,
}

impl Site {
    /// With two nodes of kubeadm and a storage class.
    fn new() -> Self {
        let instance = Instance::start("apiserver");
        let kubeconfig = PathBuf::from(instance.variable_value("KUBECONFIG"));
        let site = Self {
            workspace: Workspace::new(),
            kubeconfig,
            _instance: instance,
        };
        for name in ["node1", "node2"] {
            site.node(name, "containerd://2.2.1", &json!({}));
        }
        site.proxy("");
        site.apply(&json!({
            "apiVersion": "storage.k8s.io/v1", "kind": "StorageClass", "provisioner": "nfs.example",
            "metadata": { "name": "nfs", "annotations": { "storageclass.kubernetes.io/is-default-class": "true" } },
        }));
        site.apply(&json!({
            "apiVersion": "v1", "kind": "Service", "metadata": { "name": "kubernetes", "namespace": "default" },
            "spec": { "ports": [{ "port": 443 }] },
        }));
        site
    }

    fn kubectl(&self, arguments: &[&str]) -> String {
        let kubeconfig = ["--kubeconfig", self.kubeconfig.to_str().unwrap()];
        run(program("JACKAL_BIN_KUBECTL"), &[&kubeconfig[..], arguments].concat())
    }

    fn apply(&self, object: &Value) {
        self.apply_with(object, &[]);
    }

    fn apply_with(&self, object: &Value, more: &[&str]) {
        self.workspace.write("object.json", object.to_string());
        let path = self.workspace.path("object.json");
        let arguments = [
            "apply",
            "--server-side",
            "--force-conflicts",
            "--filename",
            path.to_str().unwrap(),
        ];
        self.kubectl(&[&arguments[..], more].concat());
    }

    /// A node that is ready, with `more` fields in its status.
    fn node(&self, name: &str, runtime: &str, more: &Value) {
        self.apply(&json!({ "apiVersion": "v1", "kind": "Node", "metadata": { "name": name } }));
        let mut status = json!({
            "addresses": [{ "type": "InternalIP", "address": "127.0.0.1" }],
            "allocatable": { "ephemeral-storage": "100Gi" }, "capacity": { "ephemeral-storage": "100Gi" },
            "conditions": [{ "type": "Ready", "status": "True", "reason": "KubeletReady" }],
            // Nothing listens there.
            "daemonEndpoints": { "kubeletEndpoint": { "Port": 1 } },
            "nodeInfo": {
                "architecture": "amd64", "bootID": "x", "containerRuntimeVersion": runtime, "kernelVersion": "6.8.0",
                "kubeProxyVersion": "", "kubeletVersion": "v1.36.3", "machineID": "x", "operatingSystem": "linux",
                "osImage": "Debian", "systemUUID": "x",
            },
        });
        for (key, value) in more.as_object().unwrap() {
            status[key] = value.clone();
        }
        let object = json!({ "apiVersion": "v1", "kind": "Node", "metadata": { "name": name }, "status": status });
        self.apply_with(&object, &["--subresource", "status"]);
    }

    /// kube-proxy's configuration, as kubeadm has it.
    fn proxy(&self, mode: &str) {
        let text =
            format!("apiVersion: kubeproxy.config.k8s.io/v1alpha1\nkind: KubeProxyConfiguration\nmode: \"{mode}\"\n");
        self.apply(&json!({
            "apiVersion": "v1", "kind": "ConfigMap", "metadata": { "name": "kube-proxy", "namespace": "kube-system" },
            "data": { "config.conf": text },
        }));
    }

    fn preflight(&self, more: &[&str]) -> Output {
        let kubeconfig = self.kubeconfig.to_str().unwrap();
        let flags = ["preflight", "--kubeconfig", kubeconfig];
        self.workspace.run(&[&flags[..], more].concat())
    }

    /// The report, with exit code `code`.
    fn report(&self, code: i32, more: &[&str]) -> Value {
        let output = self.preflight(&[more, &["--output", "json"]].concat());
        assert_eq!(output.status.code(), Some(code), "{}", all_output(&output));
        serde_json::from_slice(&output.stdout).unwrap()
    }

    /// Expects check `name` of a report to have the status `status` and to say `words`.
    fn expect(report: &Value, name: &str, status: &str, words: &str) {
        let checks = report["checks"].as_array().unwrap();
        let check = checks.iter().find(|check| check["name"] == name);
        let check = check.unwrap_or_else(|| panic!("no {name} in {report}"));
        let text = format!("{} -> {}", check["found"], check["advice"]);
        assert_eq!(check["status"], status, "{text}");
        assert!(text.contains(words), "`{words}` is not said: {text}");
    }
}

/// The names of the checks of a report that have a status.
fn names(report: &Value, status: &str) -> Vec<String> {
    let checks = report["checks"].as_array().unwrap().iter();
    let checks = checks.filter(|check| check["status"] == status);
    checks.map(|check| check["name"].as_str().unwrap().to_owned()).collect()
}

/// Packs images with the last names `images` into `shop.tar.zst`.
async fn pack(workspace: &Workspace, images: &[&str]) -> TestRegistry {
    let registry = TestRegistry::start(Version::V31);
    for image in images {
        multi_platform(&registry.repository(image), "1").await;
    }
    let images: Vec<String> = images
        .iter()
        .map(|image| format!("{}/{image}:1", registry.host))
        .collect();
    let package = json!({
        "apiVersion": "jackal.dev/v1alpha1", "kind": "JackalPackage", "metadata": { "name": "shop" },
        "spec": { "version": "1.4.0", "format": "Zarf", "components": [{ "name": "web", "images": images }] },
    });
    workspace.text_report(&package.to_string(), &registry.host, &[&registry.host], &[]);
    let reference = format!("{}/shop:1.4.0", registry.host);
    workspace
        .run(&["pack", &reference, "--insecure", "--output", "shop.tar.zst"])
        .succeeded();
    registry
}

#[tokio::test]
async fn a_cluster_is_judged() {
    let site = Site::new();
    let _registry = pack(&site.workspace, &["team/jackal-operator", "team/registry"]).await;
    let report = site.report(0, &["shop.tar.zst"]);
    assert_eq!(names(&report, "failure"), Vec::<String>::new(), "{report:#}");
    // There is no kubelet that could be asked for its free space.
    assert_eq!(names(&report, "warning"), ["disk-space"], "{report:#}");
    assert_eq!(
        (&report["status"], &report["expose"]),
        (&json!("warning"), &json!("NodePort"))
    );
    Site::expect(&report, "nodes", "ok", "2 nodes Ready");
    Site::expect(&report, "container-runtime", "ok", "containerd 2.2.1 on node1, node2");
    Site::expect(&report, "kube-proxy", "ok", "iptables (ConfigMap kube-proxy)");
    Site::expect(&report, "ports", "ok", "31999 is free and in the range");
    Site::expect(&report, "pod-security", "ok", "accepted in default");
    Site::expect(&report, "permissions", "ok", "the user may do everything");
    Site::expect(&report, "clock", "ok", "this machine and the API server agree");
    Site::expect(&report, "architectures", "ok", "amd64 (node1, node2): in the archive");
    // As text, without a file.
    let output = site.preflight(&[]);
    output.succeeded();
    let text = stdout(&output);
    assert!(text.contains("ok  loopback "), "{text}");
    assert!(
        text.ends_with("Not checked without FILE: archive, architectures, disk-space, claim-size\n"),
        "{text}"
    );

    // Nothing was stored.
    let left = site.kubectl(&[
        "get",
        "pods,services,namespaces",
        "--all-namespaces",
        "--output",
        "name",
    ]);
    assert!(!left.contains("jackal"), "{left}");

    site.proxy("nftables");
    site.node(
        "node2",
        "containerd://1.5.18",
        &json!({
            "conditions": [{ "type": "Ready", "status": "True" }, { "type": "DiskPressure", "status": "True" }],
        }),
    );
    site.node(
        "node3",
        "cri-o://1.35.1",
        &json!({ "conditions": [{ "type": "Ready", "status": "False", "reason": "Kubelet\u{7}NotReady" }] }),
    );
    let report = site.report(
        2,
        &["shop.tar.zst", "--storage-class", "absent", "--storage-size", "100Ki"],
    );
    let failed = ["node-conditions", "container-runtime", "storage-class", "claim-size"];
    assert_eq!(names(&report, "failure"), failed, "{report:#}");
    Site::expect(&report, "loopback", "ok", "mode nftables serves no NodePort");
    Site::expect(&report, "nodes", "warning", "node3 (Kubelet\u{fffd}NotReady)");
    assert_eq!(report["expose"], "NodeProxy");
}

#[tokio::test]
async fn what_admission_refuses_is_found_without_storing_anything() {
    let site = Site::new();
    // A namespace that exists and is not privileged.
    site.apply(&json!({ "apiVersion": "v1", "kind": "Namespace", "metadata": {
        "name": "jackal-seed", "labels": { "pod-security.kubernetes.io/enforce": "restricted" },
    } }));
    let report = site.report(2, &[]);
    Site::expect(
        &report,
        "pod-security",
        "failure",
        "Pod Security refuses a pod with the host's network in jackal-seed",
    );
    Site::expect(&report, "existing-installation", "ok", "is continued");
    site.kubectl(&[
        "label",
        "--overwrite",
        "namespace",
        "jackal-seed",
        "pod-security.kubernetes.io/enforce=privileged",
    ]);
    Site::expect(&site.report(0, &[]), "pod-security", "ok", "accepted in jackal-seed");
    // A policy of an administrator.
    site.apply(&json!({
        "apiVersion": "admissionregistration.k8s.io/v1", "kind": "ValidatingAdmissionPolicy", "metadata": { "name": "no-host-network" },
        "spec": {
            "failurePolicy": "Fail",
            "matchConstraints": { "resourceRules": [
                { "apiGroups": [""], "apiVersions": ["v1"], "operations": ["CREATE"], "resources": ["pods"] },
            ] },
            "validations": [{ "expression": "!has(object.spec.hostNetwork) || !object.spec.hostNetwork", "message": "not\u{1b}here" }],
        },
    }));
    site.apply(&json!({
        "apiVersion": "admissionregistration.k8s.io/v1", "kind": "ValidatingAdmissionPolicyBinding",
        "metadata": { "name": "no-host-network" }, "spec": { "policyName": "no-host-network", "validationActions": ["Deny"] },
    }));
    // The API server compiles policies in the background.
    let report = eventually(SOON, "the policy refuses", async || {
        let output = site.preflight(&["--output", "json"]);
        let report: Value = serde_json::from_slice(&output.stdout).unwrap();
        match output.status.code() {
            Some(2) => Ok(report),
            _ => Err(report.to_string()),
        }
    })
    .await;
    Site::expect(&report, "pod-security", "failure", "no-host-network");
    assert!(!report.to_string().contains("\\u001b"), "{report}");
    site.kubectl(&["delete", "validatingadmissionpolicybinding", "no-host-network"]);
    // A webhook whose program was removed.
    site.apply(&json!({
        "apiVersion": "admissionregistration.k8s.io/v1", "kind": "ValidatingWebhookConfiguration", "metadata": { "name": "left" },
        "webhooks": [{
            "name": "left.example.com", "admissionReviewVersions": ["v1"], "sideEffects": "None", "failurePolicy": "Fail",
            "clientConfig": { "service": { "namespace": "policies", "name": "webhook" } },
            "rules": [{ "apiGroups": [""], "apiVersions": ["v1"], "operations": ["CREATE"], "resources": ["pods"] }],
        }],
    }));
    let report = site.report(2, &[]);
    let words = "left.example.com of left must agree to every pod, but its Service policies/webhook has no endpoint";
    Site::expect(&report, "admission-webhooks", "failure", words);
    let endpoints = |ready: bool| {
        json!({
            "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "addressType": "IPv4",
            "metadata": { "name": "webhook-x", "namespace": "policies", "labels": { "kubernetes.io/service-name": "webhook" } },
            "endpoints": [{ "addresses": ["10.1.1.1"], "conditions": { "ready": ready } }],
        })
    };
    site.apply(&json!({ "apiVersion": "v1", "kind": "Namespace", "metadata": { "name": "policies" } }));
    site.apply(&endpoints(true));
    Site::expect(&site.report(2, &[]), "admission-webhooks", "ok", "has endpoints");
}

#[tokio::test]
async fn what_is_in_the_cluster_already_is_found() {
    let site = Site::new();
    for (name, namespace, port) in [("zarf-docker-registry", "zarf", 31999), ("web", "default", 31998)] {
        if namespace != "default" {
            site.apply(&json!({ "apiVersion": "v1", "kind": "Namespace", "metadata": { "name": namespace } }));
        }
        site.apply(&json!({
            "apiVersion": "v1", "kind": "Service", "metadata": { "name": name, "namespace": namespace },
            "spec": { "type": "NodePort", "ports": [{ "port": 5000, "nodePort": port }] },
        }));
    }
    site.apply(
        &json!({ "apiVersion": "v1", "kind": "Secret", "metadata": { "name": "zarf-state", "namespace": "zarf" } }),
    );
    let crds = concat!(env!("CARGO_MANIFEST_DIR"), "/crds");
    site.kubectl(&["apply", "--server-side", "--filename", crds]);
    let report = site.report(2, &[]);
    Site::expect(
        &report,
        "ports",
        "failure",
        "31999 is used by zarf/zarf-docker-registry; the NodePort 31998 is used by default/web",
    );
    Site::expect(&report, "existing-installation", "warning", "zarf/zarf-state exists");
    site.kubectl(&["delete", "service", "--namespace", "zarf", "zarf-docker-registry"]);
    site.kubectl(&["delete", "service", "web"]);
    site.kubectl(&[
        "annotate",
        "crd",
        "jackalimages.jackal.dev",
        "meta.helm.sh/release-name=jackal",
        "meta.helm.sh/release-namespace=tools",
    ]);
    let report = site.report(2, &[]);
    Site::expect(
        &report,
        "existing-installation",
        "failure",
        "belongs to the release jackal in tools",
    );
    assert_eq!(names(&report, "failure"), ["existing-installation"]);
}

#[tokio::test]
async fn a_user_without_rights_gets_a_list() {
    let site = Site::new();
    site.kubectl(&["create", "serviceaccount", "jane"]);
    let token = site.kubectl(&["create", "token", "jane"]);
    let with_token = |token: &str| {
        let text = std::fs::read_to_string(&site.kubeconfig).unwrap();
        let server = text
            .lines()
            .find_map(|line| line.trim().strip_prefix("server: "))
            .unwrap()
            .to_owned();
        let authority = text
            .lines()
            .find_map(|line| line.trim().strip_prefix("certificate-authority-data: "))
            .unwrap()
            .to_owned();
        json!({
            "apiVersion": "v1", "kind": "Config", "current-context": "none",
            "clusters": [{ "name": "site", "cluster": { "server": server, "certificate-authority-data": authority } }],
            "users": [{ "name": "jane", "user": { "token": token } }],
            "contexts": [{ "name": "jane", "context": { "cluster": "site", "user": "jane" } }],
        })
        .to_string()
    };
    site.workspace.write("jane.kubeconfig", with_token(token.trim()));
    let run = |more: &[&str]| {
        let flags = [
            "preflight",
            "--kubeconfig",
            "jane.kubeconfig",
            "--context",
            "jane",
            "--output",
            "json",
        ];
        site.workspace.run(&[&flags[..], more].concat())
    };
    let output = run(&[]);
    assert_eq!(output.status.code(), Some(2), "{}", all_output(&output));
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    Site::expect(
        &report,
        "permissions",
        "failure",
        "daemonsets.apps in jackal-seed (get, list, create, patch, delete)",
    );
    Site::expect(&report, "nodes", "warning", "may not read nodes");
    Site::expect(&report, "pod-security", "warning", "cannot be tried");
    assert_eq!(names(&report, "failure"), ["permissions"], "{report:#}");
    assert_eq!(report["expose"], "NodeProxy");
    // With some rights, only the others are missing.
    site.kubectl(&[
        "create",
        "clusterrole",
        "sets",
        "--verb",
        "*",
        "--resource",
        "daemonsets.apps",
    ]);
    site.kubectl(&[
        "create",
        "clusterrolebinding",
        "sets",
        "--clusterrole",
        "sets",
        "--serviceaccount",
        "default:jane",
    ]);
    // The API server reads roles in the background.
    let report = eventually(SOON, "the role counts", async || {
        let report: Value = serde_json::from_slice(&run(&[]).stdout).unwrap();
        match report.to_string().contains("daemonsets.apps in jackal-seed") {
            false => Ok(report),
            true => Err(report.to_string()),
        }
    })
    .await;
    Site::expect(
        &report,
        "permissions",
        "failure",
        "secrets in jackal-system (get, list, create, patch, delete)",
    );
    // A user who is not known at all.
    site.workspace.write("jane.kubeconfig", with_token("invalid"));
    let output = run(&[]);
    assert_eq!(output.status.code(), Some(2), "{}", all_output(&output));
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    Site::expect(&report, "api-server", "failure", "log in again");
    // Without a current context.
    let flags = ["preflight", "--kubeconfig", "jane.kubeconfig"];
    site.workspace.run(&flags).failed(
        2,
        &[
            "the kubeconfig jane.kubeconfig cannot be used",
            "name one with --kubeconfig",
        ],
    );
}

#[test]
fn an_api_server_that_does_not_answer() {
    let workspace = Workspace::new().file(
        "down.kubeconfig",
        json!({
            "apiVersion": "v1", "kind": "Config", "current-context": "site",
            "clusters": [{ "name": "site", "cluster": { "server": "https://127.0.0.1:1" } }],
            "users": [{ "name": "jane", "user": {} }],
            "contexts": [{ "name": "site", "context": { "cluster": "site", "user": "jane" } }],
        })
        .to_string(),
    );
    let output = workspace.run(&["preflight", "--kubeconfig", "down.kubeconfig"]);
    assert_eq!(output.status.code(), Some(1), "{}", all_output(&output));
    let text = stdout(&output);
    assert!(text.starts_with("failure  api-server  https://127.0.0.1:1: "), "{text}");
    assert!(text.contains("see that the API server runs"), "{text}");
    let output = workspace.run(&["preflight", "--kubeconfig", "down.kubeconfig", "-o", "json"]);
    assert_eq!(output.status.code(), Some(1), "{}", all_output(&output));
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!((&report["status"], report.get("expose")), (&json!("failure"), None));
    workspace
        .run(&["preflight", "--kubeconfig", "absent"])
        .failed(2, &["absent cannot be used"]);
    workspace
        .run(&["preflight", "absent.tar.zst", "--kubeconfig", "down.kubeconfig"])
        .failed(2, &["absent.tar.zst"]);
    workspace
        .run(&["preflight", "--storage-size", "much"])
        .failed(2, &["is not a size, such as 20Gi"]);
}

//! How nodes reach the registry that the chart deploys, what keeps its image there, and several replicas of it.

use serde_json::{Value, json};

use super::{CHART, Values, all, helm, render, try_render};
use crate::support::cluster::{Cluster, required};

fn deployed(more: Value) -> Value {
    let mut values = json!({ "registry": { "deploy": { "enabled": true } } });
    merge(&mut values, more);
    values
}

fn merge(into: &mut Value, from: Value) {
    match (into, from) {
        (Value::Object(into), Value::Object(from)) => {
            for (key, value) in from {
                merge(into.entry(key).or_insert(Value::Null), value);
            }
        }
        (into, from) => *into = from,
    }
}

fn names(objects: &[Value], kind: &str) -> Vec<String> {
    let mut names: Vec<String> = all(objects, kind)
        .iter()
        .map(|object| object["metadata"]["name"].as_str().unwrap().to_owned())
        .collect();
    names.sort_unstable();
    names
}

fn pod<'a>(objects: &'a [Value], kind: &str, name: &str) -> &'a Value {
    &super::find(objects, kind, name)["spec"]["template"]["spec"]
}

#[test]
fn nodes_reach_the_registry_by_a_node_port_or_a_proxy() {
    for (expose, proxies) in [
        (json!({}), false),
        (json!({ "expose": "NodePort" }), false),
        (json!({ "expose": "NodeProxy" }), true),
    ] {
        let objects = render(&deployed(json!({ "registry": expose })));
        let ports = names(&objects, "Service").contains(&"shop-registry-nodes".to_owned());
        assert_eq!(ports, !proxies);
        let name = if proxies {
            "shop-registry-proxy"
        } else {
            "shop-registry-image"
        };
        assert_eq!(names(&objects, "DaemonSet"), [name]);
        let pod = pod(&objects, "DaemonSet", name);
        let init = &pod["initContainers"][0];
        assert_eq!(
            (&init["image"], &init["command"]),
            (
                &json!("docker.io/library/registry:3.1.2"),
                &json!(["registry", "--version"])
            )
        );
        assert_eq!(pod["hostNetwork"] == true, proxies);
        assert_eq!(
            (&pod["tolerations"], &pod["automountServiceAccountToken"]),
            (&json!([{ "operator": "Exists" }]), &json!(false))
        );
    }
    let off = render(&deployed(
        json!({ "registry": { "deploy": { "keepImageOnNodes": false } } }),
    ));
    assert!(all(&off, "DaemonSet").is_empty());
    let off = render(&deployed(
        json!({ "registry": { "expose": "NodeProxy", "deploy": { "keepImageOnNodes": false } } }),
    ));
    assert_eq!(
        pod(&off, "DaemonSet", "shop-registry-proxy")["initContainers"],
        Value::Null
    );
    assert!(all(&render(&json!({ "registry": { "expose": "NodeProxy" } })), "DaemonSet").is_empty());
}

#[test]
fn a_proxy_has_the_least_rights_and_knows_the_registry() {
    let objects = render(&deployed(
        json!({ "registry": { "expose": "NodeProxy", "deploy": { "tls": { "pull": false } } } }),
    ));
    let pod = pod(&objects, "DaemonSet", "shop-registry-proxy");
    assert_eq!(
        (&pod["dnsPolicy"], &pod["priorityClassName"]),
        (&json!("ClusterFirstWithHostNet"), &json!("system-node-critical"))
    );
    assert_eq!(
        (&pod["securityContext"]["runAsNonRoot"], &pod["hostPID"]),
        (&json!(true), &Value::Null)
    );
    let container = &pod["containers"][0];
    let context = json!({ "allowPrivilegeEscalation": false, "readOnlyRootFilesystem": true, "capabilities": { "drop": ["ALL"] } });
    assert_eq!(
        (
            &container["securityContext"],
            &pod["initContainers"][0]["securityContext"]
        ),
        (&context, &context)
    );
    let arguments: Vec<&str> = container["args"]
        .as_array()
        .unwrap()
        .iter()
        .map(|one| one.as_str().unwrap())
        .collect();
    let expected = [
        "proxy",
        "--port=31999",
        "--registry=shop-registry.home.svc:5001",
        "--host=127.0.0.1:31999",
        "--health-listen=127.0.0.1:18999",
        "--connections=256",
        "--ca-file=/etc/jackal-proxy/authority/ca.crt",
        "--credentials=/etc/jackal-proxy/login/config.json",
    ];
    assert_eq!(arguments, expected);
    // A declared port of the host's network would keep the pod from a node whose port is not free yet.
    assert_eq!(container["ports"], Value::Null);
    for probe in ["livenessProbe", "readinessProbe"] {
        assert_eq!(container[probe]["httpGet"]["host"], "127.0.0.1");
    }
    let secrets: Vec<&Value> = pod["volumes"]
        .as_array()
        .unwrap()
        .iter()
        .map(|volume| &volume["secret"]["secretName"])
        .collect();
    assert_eq!(secrets, ["shop-registry-ca", "shop-registry-pull"]);
    // The proxy verifies the registry, so the read-only process serves HTTPS whatever tls.pull says.
    let config = super::find(&objects, "ConfigMap", "shop-registry");
    assert!(config["data"]["pull.yml"].as_str().unwrap().contains("tls:"));
    let service = super::find(&objects, "Service", "shop-registry");
    assert_eq!(
        service["spec"]["ports"][1],
        json!({ "name": "pull", "port": 5001, "targetPort": "pull" })
    );
    let other = json!({ "registry": { "expose": "NodeProxy", "proxy": { "addCredentials": false, "certSecretName": "own" }, "deploy": { "tls": { "enabled": false } } } });
    let objects = render(&deployed(other));
    let container =
        &super::find(&objects, "DaemonSet", "shop-registry-proxy")["spec"]["template"]["spec"]["containers"][0];
    let text = container["args"].to_string();
    assert!(
        text.contains("--plain-http") && text.contains("--tls-cert=/etc/jackal-proxy/tls/tls.crt"),
        "{text}"
    );
    assert!(!text.contains("--credentials") && !text.contains("--ca-file"), "{text}");
}

#[test]
fn several_replicas_need_shared_storage() {
    let replicas = |more: Value| deployed(json!({ "registry": { "deploy": more } }));
    for alone in [
        json!({ "replicas": 2 }),
        json!({ "replicas": 2, "persistence": { "existingClaim": "x" } }),
        json!({ "replicas": 2, "persistence": { "enabled": false, "accessMode": "ReadWriteMany" } }),
    ] {
        let message = try_render(&replicas(alone)).unwrap_err();
        assert!(
            message.contains("set registry.deploy.persistence.accessMode to ReadWriteMany"),
            "{message}"
        );
    }
    let both = json!({ "storage": { "s3": { "bucket": "b" } }, "persistence": { "existingClaim": "x" } });
    assert!(try_render(&replicas(both)).unwrap_err().contains("mutually exclusive"));
    let secret = try_render(&replicas(json!({ "storage": { "s3": { "secretkey": "s" } } }))).unwrap_err();
    assert!(secret.contains("/registry/deploy/storage/s3"), "{secret}");

    let claim = |more: Value| {
        let objects = render(&replicas(more));
        assert!(names(&objects, "StatefulSet").is_empty());
        let volumes = pod(&objects, "Deployment", "shop-registry")["volumes"]
            .as_array()
            .unwrap()
            .clone();
        let data = volumes.into_iter().find(|volume| volume["name"] == "data");
        (
            objects,
            data.map(|volume| volume["persistentVolumeClaim"]["claimName"].clone()),
        )
    };
    let many = json!({ "accessMode": "ReadWriteMany" });
    let (objects, name) = claim(json!({ "replicas": 3, "persistence": many }));
    assert_eq!(name, Some(json!("shop-registry")));
    let made = super::find(&objects, "PersistentVolumeClaim", "shop-registry");
    assert_eq!(made["spec"]["accessModes"], json!(["ReadWriteMany"]));
    let budget = super::find(&objects, "PodDisruptionBudget", "shop-registry");
    assert_eq!(budget["spec"]["maxUnavailable"], 1);
    let workload = super::find(&objects, "Deployment", "shop-registry");
    assert_eq!(
        (&workload["spec"]["replicas"], &budget["spec"]["selector"]),
        (&json!(3), &workload["spec"]["selector"])
    );
    assert_eq!(
        workload["spec"]["template"]["spec"]["topologySpreadConstraints"][0]["topologyKey"],
        "kubernetes.io/hostname"
    );
    assert_eq!(
        super::find(&objects, "Service", "shop-registry")["spec"]["sessionAffinity"],
        "ClientIP"
    );
    let (objects, name) = claim(json!({ "persistence": { "existingClaim": "own" } }));
    assert_eq!(
        (name, all(&objects, "PersistentVolumeClaim").len()),
        (Some(json!("own")), 0)
    );
    assert_eq!(
        super::find(&objects, "Deployment", "shop-registry")["spec"]["strategy"],
        json!({ "type": "Recreate" })
    );

    let s3 = json!({ "s3": { "bucket": "images", "region": "eu-1", "regionendpoint": "https://s3.example.com" }, "secretName": "keys" });
    let (objects, name) = claim(json!({ "replicas": 2, "storage": s3 }));
    assert_eq!(name, None);
    let config = super::find(&objects, "ConfigMap", "shop-registry")["data"]["pull.yml"]
        .as_str()
        .unwrap();
    let config: Value = serde_saphyr::from_str(config).unwrap();
    assert_eq!(
        (
            &config["storage"]["s3"]["bucket"],
            &config["storage"]["redirect"]["disable"]
        ),
        (&json!("images"), &json!(true))
    );
    assert_eq!(config["storage"]["filesystem"], Value::Null);
    let containers = pod(&objects, "Deployment", "shop-registry")["containers"]
        .as_array()
        .unwrap();
    assert_eq!(containers.len(), 2, "only files are collected");
    assert!(
        containers[1]["env"].to_string().contains(
            r#""REGISTRY_STORAGE_S3_SECRETKEY","valueFrom":{"secretKeyRef":{"key":"secretkey","name":"keys"}"#
        )
    );
}

#[test]
fn the_collector_runs_beside_the_registry() {
    let objects = render(&deployed(
        json!({ "registry": { "deploy": { "garbageCollection": { "quarantine": "2h" } } } }),
    ));
    let workload = super::find(&objects, "StatefulSet", "shop-registry");
    let containers = workload["spec"]["template"]["spec"]["containers"].as_array().unwrap();
    let collector = &containers[2];
    assert_eq!(
        collector["args"],
        json!([
            "garbage-collect",
            "/var/lib/registry",
            "--interval=24h",
            "--min-age=24h",
            "--quarantine=2h"
        ])
    );
    assert_eq!(
        collector["volumeMounts"],
        json!([{ "name": "data", "mountPath": "/var/lib/registry" }])
    );
    let off = render(&deployed(
        json!({ "registry": { "deploy": { "garbageCollection": { "enabled": false } } } }),
    ));
    assert_eq!(
        pod(&off, "StatefulSet", "shop-registry")["containers"]
            .as_array()
            .unwrap()
            .len(),
        2
    );
}

/// `Auto` follows what the cluster says of kube-proxy.
#[tokio::test]
async fn auto_chooses_by_the_mode_of_kube_proxy() {
    let cluster = Cluster::new().await;
    let kubeconfig = required("KUBECONFIG");
    let values = Values::of(&deployed(
        json!({ "registry": { "expose": "Auto" }, "crds": { "install": false } }),
    ));
    let daemon_sets = || {
        let arguments = [
            "template",
            "shop",
            CHART,
            "--dry-run=server",
            "--kubeconfig",
            &kubeconfig,
            "--namespace",
            &cluster.namespace,
            "--values",
            &values.file(),
        ];
        let rendered = helm(&arguments).unwrap_or_else(|error| panic!("{error}"));
        let documents: Vec<Value> = serde_saphyr::from_multiple(&rendered).unwrap();
        let objects: Vec<Value> = documents.into_iter().filter(|document| !document.is_null()).collect();
        names(&objects, "DaemonSet")
    };
    let (port, proxy) = (["shop-registry-image"], ["shop-registry-proxy"]);
    let system = ["--namespace", "kube-system"];
    let map = |name: &str, entry: &str, content: &str| {
        let object = json!({ "apiVersion": "v1", "kind": "ConfigMap", "metadata": { "name": name }, "data": { entry: content } });
        cluster
            .try_apply_with(&object.to_string(), &system)
            .unwrap_or_else(|error| panic!("{error}"));
    };
    let delete = |object: &str| cluster.kubectl(&[&["delete", object, "--ignore-not-found"], &system[..]].concat());
    let own = [
        "configmap/kube-proxy",
        "configmap/cilium-config",
        "daemonset/kube-proxy",
    ];
    for object in own {
        delete(object);
    }
    assert_eq!(daemon_sets(), port);
    for (mode, expected) in [("nftables", proxy), ("ipvs", proxy), ("iptables", port), ("", port)] {
        let config =
            format!("apiVersion: kubeproxy.config.k8s.io/v1alpha1\nkind: KubeProxyConfiguration\nmode: \"{mode}\"\n");
        map("kube-proxy", "config.conf", &config);
        assert_eq!(daemon_sets(), expected, "{mode}");
    }
    map("kube-proxy", "config.conf", "mode: nftables\n");
    map("cilium-config", "kube-proxy-replacement", "false");
    assert_eq!(daemon_sets(), proxy);
    map("cilium-config", "kube-proxy-replacement", "true");
    assert_eq!(daemon_sets(), port);
    for object in &own[..2] {
        delete(object);
    }
    for (flags, expected) in [
        (json!(["--proxy-mode=nftables"]), proxy),
        (json!(["--proxy-mode", "ipvs"]), proxy),
        (json!(["--proxy-mode=iptables"]), port),
    ] {
        let labels = json!({ "a": "b" });
        let container = json!({ "name": "a", "image": "a", "command": ["kube-proxy"], "args": flags });
        let object = json!({
            "apiVersion": "apps/v1", "kind": "DaemonSet", "metadata": { "name": "kube-proxy" },
            "spec": { "selector": { "matchLabels": labels }, "template": { "metadata": { "labels": labels }, "spec": { "containers": [container] } } },
        });
        cluster
            .try_apply_with(&object.to_string(), &system)
            .unwrap_or_else(|error| panic!("{error}"));
        assert_eq!(daemon_sets(), expected, "{flags}");
    }
    delete(own[2]);
}

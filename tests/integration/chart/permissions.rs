//! The rights and mounts that the templates render.

use std::collections::BTreeSet;

use serde_json::{Value, json};

use super::{all, environment, find, render};

/// With one watched namespace, no right is cluster-wide, except for reading labels of nodes.
#[test]
fn watching_one_namespace_grants_rights_only_there() {
    let values = json!({
        "settings": { "watchNamespace": "shop" },
        "registry": { "deploy": { "enabled": true }, "stateSecret": "zarf/zarf-state" },
    });
    let objects = render(&values);
    assert!(all(&objects, "ClusterRole").is_empty() && all(&objects, "ClusterRoleBinding").is_empty());
    let mut values = values;
    values["agent"] = json!({ "enabled": true, "secretNamespaces": ["shop"] });
    let objects = render(&values);
    let wide: Vec<_> = all(&objects, "ClusterRole")
        .iter()
        .map(|role| role["rules"].clone())
        .collect();
    let nodes = json!([{ "apiGroups": [""], "resources": ["nodes"], "verbs": ["get"] }]);
    assert_eq!(wide, [nodes.clone(), nodes]);
}

/// An agent may read only the Secrets that the values name, in every mode.
#[test]
fn agents_may_read_only_the_configured_secrets() {
    for watched in ["", "shop"] {
        let objects = render(&json!({
            "settings": { "watchNamespace": watched },
            "registry": { "deploy": { "enabled": true }, "stateSecret": "zarf/zarf-state" },
            "agent": { "enabled": true, "secretNamespaces": ["team-a"] },
        }));
        let mut read = BTreeSet::new();
        for role in &objects {
            let is_role = matches!(role["kind"].as_str(), Some("Role" | "ClusterRole"));
            if !is_role || !role["metadata"]["name"].as_str().unwrap().starts_with("shop-agent") {
                continue;
            }
            for rule in role["rules"].as_array().unwrap() {
                if rule["resources"].as_array().unwrap().contains(&json!("secrets")) {
                    assert_eq!((&role["kind"], &rule["verbs"]), (&json!("Role"), &json!(["get"])));
                    read.insert((
                        role["metadata"]["namespace"].to_string(),
                        rule["resourceNames"].to_string(),
                    ));
                }
            }
        }
        let expected = [
            ("\"home\"", "[\"shop-registry-ca\",\"shop-registry-login\"]"),
            ("\"team-a\"", "null"),
            ("\"zarf\"", "[\"zarf-state\"]"),
        ];
        let expected = expected.map(|(namespace, names)| (namespace.to_owned(), names.to_owned()));
        assert_eq!(read, BTreeSet::from(expected));
    }
}

/// Values of the agent, the node paths that they mount, and the agent's variables for its engines.
type AgentMounts = (Value, Vec<&'static str>, &'static [(&'static str, &'static str)]);

/// What an agent mounts of its node: only the engines that it reads, and nothing writable.
#[test]
fn an_agent_mounts_only_the_engines_that_it_reads() {
    let (overlay, socket) = (
        ["/var/lib/docker/image/overlay2", "/var/lib/docker/overlay2"],
        "/var/run/docker.sock",
    );
    let content = "/var/lib/containerd/io.containerd.content.v1.content";
    let k3s = "/var/lib/rancher/k3s/agent/containerd/io.containerd.content.v1.content";
    let cases: [AgentMounts; 6] = [
        (
            json!({}),
            vec![overlay[0], overlay[1], socket],
            &[
                ("DOCKER_HOST", "unix:///node/var/run/docker.sock"),
                ("JACKAL_DOCKER_ROOT", "/node/var/lib/docker"),
            ],
        ),
        (
            json!({ "docker": { "store": "none" } }),
            vec![socket],
            &[("DOCKER_HOST", "unix:///node/var/run/docker.sock")],
        ),
        (
            json!({ "docker": { "store": "containerd", "root": "/d" } }),
            vec!["/d/containerd/daemon/io.containerd.content.v1.content", socket],
            &[
                ("DOCKER_HOST", "unix:///node/var/run/docker.sock"),
                ("JACKAL_DOCKER_ROOT", "/node/d"),
            ],
        ),
        (
            json!({ "docker": { "store": "system-containerd", "socketMount": "Directory" } }),
            vec![content, "/var/run"],
            &[
                ("DOCKER_HOST", "unix:///node/var/run/docker.sock"),
                ("JACKAL_CONTAINERD_ROOT", "/node/var/lib/containerd"),
                ("JACKAL_DOCKER_ROOT", "/node/var/lib/docker"),
            ],
        ),
        (
            json!({ "docker": { "enabled": false }, "containerd": {
                "enabled": true, "socket": "/run/k3s/containerd/containerd.sock", "root": "/var/lib/rancher/k3s/agent/containerd",
            } }),
            vec!["/run/k3s/containerd", k3s],
            &[
                ("CONTAINERD_ADDRESS", "unix:///node/run/k3s/containerd/containerd.sock"),
                ("CONTAINERD_NAMESPACE", "k8s.io"),
                ("JACKAL_CONTAINERD_ROOT", "/node/var/lib/rancher/k3s/agent/containerd"),
            ],
        ),
        (
            json!({ "docker": { "enabled": false }, "containerd": { "enabled": true, "readContent": false } }),
            vec!["/run/containerd"],
            &[
                ("CONTAINERD_ADDRESS", "unix:///node/run/containerd/containerd.sock"),
                ("CONTAINERD_NAMESPACE", "k8s.io"),
            ],
        ),
    ];
    for (mut agent, paths, registry_variables) in cases {
        let message = agent.to_string();
        agent["enabled"] = json!(true);
        let objects = render(&json!({ "agent": agent }));
        let workload = find(&objects, "DaemonSet", "shop-agent");
        let pod = &workload["spec"]["template"]["spec"];
        let container = &pod["containers"][0];
        let volumes = pod["volumes"].as_array().unwrap();
        let request: Vec<&str> = volumes
            .iter()
            .map(|volume| volume["hostPath"]["path"].as_str().unwrap())
            .collect();
        assert_eq!(request, paths, "{message}");
        for (mount, volume) in container["volumeMounts"].as_array().unwrap().iter().zip(volumes) {
            assert_eq!(mount["name"], volume["name"], "{message}");
            let path = volume["hostPath"]["path"].as_str().unwrap();
            assert_eq!(mount["mountPath"], format!("/node{path}"), "{message}");
            assert_eq!(mount["readOnly"], true, "{message}");
            // Otherwise a missing path would be created on the node.
            assert!(!volume["hostPath"]["type"].as_str().unwrap().is_empty(), "{message}");
        }
        let of_engines = |name: &str| name.contains("DOCKER") || name.contains("CONTAINERD");
        let variables: Vec<_> = environment(workload)
            .into_iter()
            .filter(|(name, _)| of_engines(name))
            .collect();
        let mut sorted: Vec<(&str, &str)> = variables
            .iter()
            .map(|(name, value)| (name.as_str(), value.as_str()))
            .collect();
        sorted.sort_unstable();
        assert_eq!(sorted, registry_variables, "{message}");
        let reads = paths
            .iter()
            .any(|path| path.contains("/lib/") || path.starts_with("/d/"));
        let capabilities = &container["securityContext"]["capabilities"];
        assert_eq!(
            capabilities["add"] == json!(["DAC_READ_SEARCH"]),
            reads,
            "{message}: {capabilities}"
        );
    }
}

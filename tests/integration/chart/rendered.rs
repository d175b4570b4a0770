//! The rendered templates.

use std::collections::BTreeSet;

use serde_json::{Value, json};

use super::{CHART, Values, all, environment, everything, find, helm, render, try_render, variable};
use crate::support::cluster::Cluster;
use crate::support::process::{output, run};
use crate::support::program;
use crate::support::wait::{SOON, eventually};

#[test]
fn helm_lint_passes() {
    for values in [json!({}), everything()] {
        let values = Values::of(&values);
        helm(&["lint", "--strict", CHART, "--values", &values.file()]).unwrap_or_else(|message| panic!("{message}"));
    }
}

#[test]
fn meaningless_values_are_rejected() {
    let refused = [
        (json!({ "replicas": 3 }), "additional properties 'replicas' not allowed"),
        (
            json!({ "controller": { "replica": 3 } }),
            "additional properties 'replica' not allowed",
        ),
        (json!({ "controller": { "replicas": "3" } }), "/controller/replicas"),
        (
            json!({ "controller": { "terminationGracePeriodSeconds": 5 } }),
            "/controller/terminationGracePeriodSeconds",
        ),
        (
            json!({ "controller": { "sbom": { "memory": "1GB" } } }),
            "/controller/sbom/memory",
        ),
        (json!({ "settings": { "interval": "1 hour" } }), "/settings/interval"),
        (
            json!({ "settings": { "sourceHosts": ["https://ghcr.io"] } }),
            "/settings/sourceHosts/0",
        ),
        (json!({ "image": { "digest": "abc" } }), "/image/digest"),
        (json!({ "agent": { "admit": ["team-a"] } }), "/agent/admit/0"),
        (
            json!({ "agent": { "docker": { "store": "overlayfs" } } }),
            "/agent/docker/store",
        ),
        (
            json!({ "registry": { "address": "http://r:5000" } }),
            "/registry/address",
        ),
        (
            json!({ "registry": { "deploy": { "nodePort": 80 } } }),
            "/registry/deploy/nodePort",
        ),
        (
            json!({ "registry": { "prefix": "a" } }),
            "require registry.address: set it too",
        ),
        (
            json!({ "agent": { "enabled": true, "docker": { "enabled": false } } }),
            "agent.enabled needs an engine",
        ),
        (
            json!({ "caBundle": { "configMapName": "a", "secretName": "b" } }),
            "are mutually exclusive: set one of them",
        ),
        (
            json!({ "registry": { "deploy": { "enabled": true, "auth": { "existingSecret": "x" } } } }),
            "set it to the Secret with the credentials",
        ),
        (
            json!({ "registry": { "deploy": { "enabled": true, "auth": { "pull": { "username": "jackal-push" } } } } }),
            "registry.deploy.auth.pull.username must differ",
        ),
        (
            json!({ "registry": { "deploy": { "auth": { "password": "x" } } } }),
            "additional properties 'password' not allowed",
        ),
        (
            json!({ "agent": { "enabled": true, "serviceAccountName": "shop" } }),
            "agents would get the permissions of the controller",
        ),
        (
            json!({ "agent": { "secretNamespaces": ["a/b"] } }),
            "/agent/secretNamespaces/0",
        ),
    ];
    for (values, words) in refused {
        let message = try_render(&values).expect_err(&values.to_string());
        assert!(message.contains(words), "{values}: {message}");
    }
}

/// The schema contains exactly the values: a value that is only in the schema would not be documented.
#[test]
fn the_schema_matches_the_values() {
    let read = |name: &str| std::fs::read_to_string(format!("{CHART}/{name}")).unwrap();
    let values: Value = serde_saphyr::from_str(&read("values.yaml")).unwrap();
    let schema: Value = serde_json::from_str(&read("values.schema.json")).unwrap();
    fn compare(path: &str, schema: &Value, value: &Value) {
        let Some(properties) = schema["properties"].as_object() else {
            return;
        };
        if path.ends_with("/resources") {
            return;
        }
        assert_eq!(schema["additionalProperties"], false, "{path}");
        let known: BTreeSet<&String> = properties.keys().filter(|key| *key != "global").collect();
        let there: BTreeSet<&String> = value.as_object().unwrap().keys().collect();
        assert_eq!(known, there, "{path}");
        for key in known {
            compare(&format!("{path}/{key}"), &properties[key], &value[key]);
        }
    }
    compare("", &schema, &values);
}

#[test]
fn the_documented_table_of_values_is_current() {
    let arguments = ["--chart-search-root", CHART, "--dry-run", "--log-level", "warning"];
    let made = run(program("JACKAL_BIN_HELM_DOCS"), &arguments);
    let existing = std::fs::read_to_string(format!("{CHART}/README.md")).unwrap();
    assert!(
        made.trim() == existing.trim(),
        "charts/jackal-operator/README.md is stale: run `make chart-docs`"
    );
}

/// The definitions of the release equal those in crds/, except for helm's annotations.
#[test]
fn the_definitions_are_complete_and_kept() {
    for (crds, kept) in [(json!({}), true), (json!({ "keep": false }), false)] {
        let objects = render(&json!({ "crds": crds }));
        let definitions = all(&objects, "CustomResourceDefinition");
        assert_eq!(definitions.len(), 2);
        for definition in definitions {
            let name = definition["metadata"]["name"].as_str().unwrap();
            let file = format!("{}/crds/{name}.yaml", env!("CARGO_MANIFEST_DIR"));
            let plain: Value = serde_saphyr::from_str(&std::fs::read_to_string(file).unwrap()).unwrap();
            assert_eq!(definition["spec"], plain["spec"], "{name}");
            let policy = &definition["metadata"]["annotations"]["helm.sh/resource-policy"];
            assert_eq!(policy == "keep", kept, "{name}: {policy}");
        }
    }
    let none = render(&json!({ "crds": { "install": false } }));
    assert!(all(&none, "CustomResourceDefinition").is_empty());
}

#[test]
fn an_image_is_referenced_by_tag_or_digest() {
    let version = env!("CARGO_PKG_VERSION");
    let digest = format!("sha256:{}", "0".repeat(64));
    for (image, name) in [
        (json!({}), format!("ghcr.io/jackal-dev/jackal-operator:{version}")),
        (json!({ "repository": "r:5000/a", "tag": "b" }), "r:5000/a:b".to_owned()),
        (
            json!({ "tag": "b", "digest": digest }),
            format!("ghcr.io/jackal-dev/jackal-operator@{digest}"),
        ),
    ] {
        let objects = render(&json!({ "image": image, "agent": { "enabled": true } }));
        for (kind, workload) in [("Deployment", "shop"), ("DaemonSet", "shop-agent")] {
            let pod = &find(&objects, kind, workload)["spec"]["template"]["spec"];
            assert_eq!(pod["containers"][0]["image"], name.as_str());
        }
    }
}

#[test]
fn disabled_features_render_no_objects() {
    let objects = render(&json!({}));
    let kinds: BTreeSet<&str> = objects.iter().filter_map(|object| object["kind"].as_str()).collect();
    let expected = [
        "ClusterRole",
        "ClusterRoleBinding",
        "CustomResourceDefinition",
        "Deployment",
        "NetworkPolicy",
        "Pod",
        "PodDisruptionBudget",
        "Role",
        "RoleBinding",
        "Service",
        "ServiceAccount",
    ];
    assert_eq!(kinds, BTreeSet::from(expected));
    let off = json!({ "podDisruptionBudget": { "enabled": false }, "networkPolicy": { "enabled": false } });
    let objects = render(&off);
    assert!(all(&objects, "PodDisruptionBudget").is_empty() && all(&objects, "NetworkPolicy").is_empty());
}

/// With cert-manager enabled, it issues the registry's certificate, by the chart's authority or another issuer.
#[test]
fn cert_manager_issues_the_certificate_when_enabled() {
    for (tls, issuer, authority) in [
        (json!({}), "shop-registry", Some("shop-registry-ca".to_owned())),
        (
            json!({ "issuerRef": { "name": "company", "kind": "ClusterIssuer" } }),
            "company",
            None,
        ),
    ] {
        let values = Values::of(&json!({ "registry": { "deploy": { "enabled": true, "tls": tls } } }));
        let arguments = [
            "template",
            "shop",
            CHART,
            "--namespace=home",
            "--api-versions=cert-manager.io/v1",
        ];
        let rendered = helm(&[&arguments[..], &["--values", &values.file()]].concat()).unwrap();
        let objects: Vec<Value> = serde_saphyr::from_multiple(&rendered).unwrap();
        let certificate = &find(&objects, "Certificate", "shop-registry")["spec"];
        assert_eq!(certificate["issuerRef"]["name"], issuer);
        let names = certificate["dnsNames"].as_array().unwrap();
        assert!(names.contains(&json!("shop-registry.home.svc")) && names.contains(&json!("localhost")));
        let volumes = &find(&objects, "StatefulSet", "shop-registry")["spec"]["template"]["spec"]["volumes"];
        let tls = volumes
            .as_array()
            .unwrap()
            .iter()
            .find(|volume| volume["name"] == "tls")
            .unwrap();
        assert_eq!(tls["secret"]["secretName"], certificate["secretName"]);
        let controller = find(&objects, "Deployment", "shop");
        assert_eq!(variable(controller, "JACKAL_REGISTRY_CERT_SECRET"), authority);
        // Only cert-manager has the key.
        let own = objects
            .iter()
            .any(|object| object["metadata"]["name"] == "shop-registry-tls");
        assert!(!own);
    }
}

#[test]
fn syft_has_a_scratch_volume_when_sboms_are_enabled() {
    for (sbom, made) in [(json!({}), true), (json!({ "enabled": false }), false)] {
        let objects = render(&json!({ "controller": { "sbom": sbom } }));
        let controller = find(&objects, "Deployment", "shop");
        assert_eq!(variable(controller, "JACKAL_SYFT"), made.then(|| "/syft".to_owned()));
        let isolation = variable(controller, "JACKAL_SBOM_ISOLATION");
        assert_eq!(isolation, made.then(|| "landlock".to_owned()));
        let scratch = variable(controller, "JACKAL_SBOM_SCRATCH");
        let mounts = &controller["spec"]["template"]["spec"]["containers"][0]["volumeMounts"];
        let mounted = mounts
            .as_array()
            .map(|mounts| mounts[0]["mountPath"].as_str().unwrap().to_owned());
        assert_eq!(mounted, scratch);
        assert_eq!(scratch.is_some(), made);
    }
}

#[test]
fn a_ca_bundle_is_mounted_into_controller_and_agents() {
    let items = json!([{ "key": "bundle.pem", "path": "ca.crt" }]);
    for (named, volume) in [
        (
            json!({ "configMapName": "ca" }),
            json!({ "configMap": { "name": "ca", "items": items } }),
        ),
        (
            json!({ "secretName": "ca" }),
            json!({ "secret": { "secretName": "ca", "items": items } }),
        ),
        (json!({}), Value::Null),
    ] {
        let mut bundle = named.clone();
        bundle["key"] = "bundle.pem".into();
        let sbom = json!({ "sbom": { "enabled": false } });
        let objects = render(&json!({ "caBundle": bundle, "controller": sbom, "agent": { "enabled": true } }));
        for (kind, name) in [("Deployment", "shop"), ("DaemonSet", "shop-agent")] {
            let workload = find(&objects, kind, name);
            let pod = &workload["spec"]["template"]["spec"];
            let called = |list: &Value| {
                let list = list.as_array().into_iter().flatten();
                list.filter(|one| one["name"] == "ca-bundle")
                    .cloned()
                    .collect::<Vec<_>>()
            };
            let (mounts, volumes) = (called(&pod["containers"][0]["volumeMounts"]), called(&pod["volumes"]));
            let file = variable(workload, "JACKAL_CA_FILE");
            if volume.is_null() {
                assert_eq!((mounts.len(), volumes.len(), file), (0, 0, None), "{kind}");
                continue;
            }
            let mut expected = volume.clone();
            expected["name"] = "ca-bundle".into();
            assert_eq!(volumes, [expected], "{kind}");
            assert_eq!(mounts[0]["mountPath"], "/etc/jackal-ca", "{kind}");
            assert_eq!(file.as_deref(), Some("/etc/jackal-ca/ca.crt"), "{kind}");
        }
    }
}

#[test]
fn the_controller_gets_the_registrys_flags() {
    let names = ["ADDRESS", "ENDPOINT", "SECRET", "INSECURE", "PREFIX", "CERT_SECRET"];
    let service = "shop-registry.home.svc:5000";
    let deploy = json!({ "enabled": true });
    let cases: [(Value, [&str; 6]); 6] = [
        (json!({}), ["", "", "", "", "", ""]),
        (json!({ "endpoint": "e:1" }), ["", "e:1", "", "", "", ""]),
        (
            json!({ "address": "a", "endpoint": "e:1", "secretName": "s", "insecure": true, "prefix": "p/q", "certSecretName": "c" }),
            ["a", "e:1", "s", "true", "p/q", "c"],
        ),
        (
            json!({ "deploy": deploy }),
            [
                "127.0.0.1:31999",
                service,
                "shop-registry-login",
                "",
                "",
                "shop-registry-ca",
            ],
        ),
        (
            json!({ "deploy": { "enabled": true, "tls": { "enabled": false } } }),
            ["127.0.0.1:31999", service, "shop-registry-login", "true", "", ""],
        ),
        (
            json!({ "address": "r.example.com", "endpoint": "tls:443", "deploy": { "enabled": true, "nodePort": 32000 } }),
            ["r.example.com", "tls:443", "shop-registry-login", "", "", ""],
        ),
    ];
    for (values, expected) in cases {
        let objects = render(&json!({ "registry": values, "agent": { "enabled": true } }));
        for (kind, workload) in [("Deployment", "shop"), ("DaemonSet", "shop-agent")] {
            let workload = find(&objects, kind, workload);
            let registry_variables =
                names.map(|name| variable(workload, &format!("JACKAL_REGISTRY_{name}")).unwrap_or_default());
            assert_eq!(registry_variables, expected, "{values}");
        }
    }
}

/// Every variable is known to the command, and the command starts with all of them.
#[tokio::test]
async fn the_rendered_environment_is_accepted() {
    let objects = render(&everything());
    let cluster = Cluster::new().await;
    for (command, kind, name) in [
        ("controller", "Deployment", "shop"),
        ("agent", "DaemonSet", "shop-agent"),
    ] {
        let workload = find(&objects, kind, name);
        assert_eq!(
            workload["spec"]["template"]["spec"]["containers"][0]["args"],
            json!([command])
        );
        let help = output(env!("CARGO_BIN_EXE_jackal-operator").as_ref(), &[command, "--help"]);
        let help = String::from_utf8(help.stdout).unwrap();
        let variables = environment(workload);
        let mut variables: Vec<(&str, &str)> = variables
            .iter()
            .map(|(name, value)| (name.as_str(), value.as_str()))
            // Read by Rustls, not by the command; and the folder exists only in a pod.
            .filter(|(name, _)| *name != "SSL_CERT_DIR")
            .collect();
        for (name, _) in &variables {
            assert!(help.contains(&format!("[env: {name}=")), "{command} knows no {name}");
        }
        // Several processes of one machine cannot share a port.
        variables.retain(|(name, _)| *name != "JACKAL_LISTEN");
        let (operator, says) = match command {
            "controller" => (cluster.controller_with(&[], &variables), "leading"),
            _ => (
                cluster.agent_with("chart-node", "unix:///nowhere", &[], &variables),
                "registered",
            ),
        };
        eventually(SOON, &format!("the {command} says `{says}`"), async || {
            let log = operator.log();
            if log.contains(says) { Ok(()) } else { Err(log) }
        })
        .await;
    }
}

#[test]
fn a_service_monitor_selects_every_pod_with_metrics() {
    let objects = render(&everything());
    let monitor = &find(&objects, "ServiceMonitor", "shop")["spec"];
    let has = |labels: &Value, wanted: &Value| {
        let mut wanted = wanted.as_object().unwrap().iter();
        wanted.all(|(key, value)| labels[key] == *value)
    };
    let chosen = |labels: &Value| {
        let expression = &monitor["selector"]["matchExpressions"][0];
        assert_eq!(expression["operator"], "In");
        let value = &labels[expression["key"].as_str().unwrap()];
        has(labels, &monitor["selector"]["matchLabels"]) && expression["values"].as_array().unwrap().contains(value)
    };
    let services = all(&objects, "Service");
    let services = services.iter().filter(|service| chosen(&service["metadata"]["labels"]));
    let mut found = Vec::new();
    for service in services {
        assert_eq!(service["spec"]["ports"][0]["name"], monitor["endpoints"][0]["port"]);
        for workload in &objects {
            let pod = &workload["spec"]["template"];
            if pod.is_object() && has(&pod["metadata"]["labels"], &service["spec"]["selector"]) {
                let port = &pod["spec"]["containers"][0]["ports"][0];
                assert_eq!(port["name"], service["spec"]["ports"][0]["targetPort"]);
                found.push(workload["metadata"]["name"].as_str().unwrap());
            }
        }
    }
    found.sort_unstable();
    assert_eq!(found, ["shop", "shop-agent"]);
}

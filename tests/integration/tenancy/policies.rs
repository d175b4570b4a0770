//! The chart's ValidatingAdmissionPolicies in a real API server.

use serde_json::{Value, json};

use super::{EXCLUSIVE, chart};
use crate::support::cluster::Cluster;
use crate::support::wait::{SOON, eventually};

fn image(spec: Value) -> String {
    let name = json!({ "name": "x" });
    json!({ "apiVersion": "jackal.dev/v1alpha1", "kind": "JackalImage", "metadata": name, "spec": spec }).to_string()
}

fn package(image: Value, registry: Value) -> String {
    let components = json!([{ "name": "empty" }, { "name": "main", "images": [{ "image": "ghcr.io/a/b" }, image] }]);
    let spec = json!({ "version": "1", "components": components, "registry": registry });
    let name = json!({ "name": "x" });
    json!({ "apiVersion": "jackal.dev/v1alpha1", "kind": "JackalPackage", "metadata": name, "spec": spec }).to_string()
}

#[tokio::test]
async fn objects_denied_by_policy_are_rejected_by_the_api_server() {
    let _guard = EXCLUSIVE.lock().await;
    let tenant = Cluster::exclusive().await;
    let trusted = tenant.another_namespace().await;
    // Created before the policies.
    let old = image(json!({ "image": "evil.io/a/b:1", "source": "Docker" }));
    tenant.apply(&old);
    tenant.kubectl(&[
        "patch",
        "jkimg/x",
        "--type=merge",
        "-p",
        r#"{"metadata":{"finalizers":["a/b"]}}"#,
    ]);

    let engines = format!("admissionPolicies.engineNamespaces=[\"{}\"]", trusted.namespace);
    let values = [
        engines.as_str(),
        r#"admissionPolicies.registries=["127.0.0.1:31999","registry.svc:5000"]"#,
        r#"admissionPolicies.sourceHosts=["ghcr.io","docker.io","*.example.com","*.test.org:5000"]"#,
    ];
    let rendered = chart(&tenant, &format!("door-{}", tenant.namespace), &values);
    // Each object names its namespace.
    tenant.apply_anywhere(&rendered);
    let host = "are not allowed; allowed registries: ghcr.io, docker.io, *.example.com, *.test.org:5000";
    let engine = format!(
        "may not read images from the engines of nodes (source: Docker or Containerd); allowed namespaces: {}",
        trusted.namespace
    );
    let named = "registry names inner:1; allowed registries: 127.0.0.1:31999, registry.svc:5000";
    let here = json!({ "address": "127.0.0.1:31999", "endpoint": "registry.svc:5000" });
    let refused = [
        (json!({ "image": "evil.io/a/b:1" }), json!({}), host),
        (json!({ "image": "oci://evil.io/a/b" }), json!({}), host),
        (json!({ "image": "localhost/a" }), json!({}), host),
        (json!({ "image": "example.com/a" }), json!({}), host),
        (json!({ "image": "ghcr.io:5000/a" }), json!({}), host),
        (json!({ "image": "x.test.org/a" }), json!({}), host),
        (
            json!({ "image": "evil.io/a:1", "source": "Docker" }),
            json!({}),
            &engine,
        ),
        (
            json!({ "image": "evil.io/a:1", "source": "Containerd" }),
            json!({}),
            &engine,
        ),
        (json!({ "image": "ghcr.io/a" }), json!({ "address": "inner:1" }), named),
        (
            json!({ "image": "ghcr.io/a" }),
            json!({ "address": "127.0.0.1:31999", "endpoint": "inner:1" }),
            named,
        ),
    ];
    // An API server takes a while to apply a policy.
    eventually(SOON, "every policy is in force", async || {
        for (image_spec, registry, _) in [&refused[0], &refused[6], &refused[8]] {
            let output = dry_run(&tenant, &package(image_spec.clone(), registry.clone()));
            if !output.contains("is forbidden: ValidatingAdmissionPolicy") {
                return Err(output);
            }
        }
        Ok(())
    })
    .await;
    for (spec, registry, words) in &refused {
        let mut alone = spec.clone();
        alone["registry"] = registry.clone();
        for written in [package(spec.clone(), registry.clone()), image(alone)] {
            let output = dry_run(&tenant, &written);
            assert!(output.contains(words), "{written}: {output}");
        }
    }
    // A package or an image from an archive is read from the registry of the archive, whatever its images' names are.
    let archived = |host: &str| {
        let oci = format!("{host}/shop@sha256:{}", "0".repeat(64));
        let digest = format!("sha256:{}", "0".repeat(64));
        let mut whole: Value = serde_json::from_str(&package(json!({}), json!({}))).unwrap();
        whole["spec"] = json!({ "from": { "archive": { "oci": oci } } });
        let from = json!({ "archive": { "oci": oci, "digest": digest } });
        [
            whole.to_string(),
            image(json!({ "image": "evil.io/a/b:1", "from": from })),
        ]
    };
    for written in archived("evil.io") {
        let output = dry_run(&tenant, &written);
        assert!(output.contains(host), "{written}: {output}");
    }
    for written in archived("ghcr.io") {
        let output = dry_run(&tenant, &written.replace("\"x\"", "\"y\""));
        assert!(output.contains("serverside-applied"), "{written}: {output}");
    }
    let engine = json!({ "image": "evil.io/a/b:1", "source": "Docker" });
    for (cluster, spec) in [
        (&tenant, json!({ "image": "nginx" })),
        (&tenant, json!({ "image": "GHCR.io/a/b@sha256:0" })),
        (&tenant, json!({ "image": "a.b.example.com/c/d:1" })),
        (&tenant, json!({ "image": "x.test.org:5000/a" })),
        (&trusted, engine.clone()),
    ] {
        let output = dry_run(cluster, &package(spec.clone(), here.clone()));
        assert!(output.contains("serverside-applied"), "{spec}: {output}");
    }
    // Existing objects may be deleted, and changed outside their specs; their specs may only become compliant.
    tenant.kubectl(&["annotate", "jkimg/x", "jackal.dev/requestedAt=1"]);
    let output = dry_run(&tenant, &old.replace("a/b:1", "a/b:2"));
    assert!(output.contains("may not read images"), "{output}");
    tenant.kubectl(&[
        "patch",
        "jkimg/x",
        "--type=merge",
        "-p",
        r#"{"metadata":{"finalizers":null}}"#,
    ]);
    tenant.kubectl(&["delete", "jkimg/x", "--timeout=30s"]);
    let name = format!("door-{}", tenant.namespace);
    for policy in ["engines", "registries", "source-hosts"] {
        for kind in ["validatingadmissionpolicybinding", "validatingadmissionpolicy"] {
            tenant.kubectl(&["delete", kind, &format!("{name}-{policy}")]);
        }
    }
    // Nothing is installed that was not enabled.
    assert!(!chart(&tenant, "x", &[]).contains("ValidatingAdmission"));
}

/// The output of kubectl for a dry run of applying `object`.
fn dry_run(cluster: &Cluster, object: &str) -> String {
    match cluster.try_apply_with(object, &["--dry-run=server"]) {
        Ok(output) | Err(output) => output,
    }
}

//! The validation rules in the definitions, which the API server applies, and their messages.

use serde_json::{Value, json};

use super::specs::{of, package};
use crate::support::cluster::Cluster;

fn merge(into: &mut Value, from: &Value) {
    match (into, from) {
        (Value::Object(into), Value::Object(from)) => {
            for (key, value) in from {
                merge(into.entry(key).or_insert(Value::Null), value);
            }
        }
        (into, from) => *into = from.clone(),
    }
}

#[tokio::test]
async fn the_api_server_rejects_contradictory_fields() {
    let cluster = Cluster::new().await;
    let node = json!({ "image": "a/b:1", "source": "Docker", "nodeName": "n1" });
    let both = json!({ "image": "a/b:1", "source": "Docker", "nodeName": "n1", "nodeSelector": { "a": "b" } });
    let idle = json!({ "image": "a/b:1", "nodeName": "n1" });
    let labelled = json!({ "image": "a/b:1", "source": "Registry", "nodeSelector": { "a": "b" } });
    let (choose, none) = (
        "are mutually exclusive: set one of them",
        "set source: Docker or Containerd, or remove them",
    );
    let (address, endpoint) = (
        "registry.address is host[:port] without",
        "registry.endpoint is host[:port] without",
    );
    let registry = |fields: Value| json!({ "registry": fields });
    let refused = [
        (json!({ "version": "1.0.0+build" }), "registries do not allow '+'"),
        (json!({ "version": "-1" }), "version is the tag of the artifact"),
        (
            json!({ "interval": "tomorrow" }),
            "numbers with the units w, d, h, m, s and ms",
        ),
        (json!({ "stallTimeout": "-5m" }), "such as 90s, 1h30m or 1d"),
        (registry(json!({ "address": "http://r:5000" })), address),
        (registry(json!({ "address": "r:5000/path" })), address),
        (
            registry(json!({ "address": "r:5000", "endpoint": "https://r" })),
            endpoint,
        ),
        (
            registry(json!({ "endpoint": "r:5000" })),
            "another address of the registry in registry.address: set address too",
        ),
        (
            registry(json!({ "address": "r", "insecure": true, "certSecretRef": { "name": "ca" } })),
            "set either insecure or certSecretRef",
        ),
    ];
    for (change, words) in &refused {
        let mut spec = json!({ "components": of(node.clone()), "registry": {}, "version": "1" });
        merge(&mut spec, change);
        let rejection = cluster.try_apply(&package("bad", "", spec.clone())).unwrap_err();
        assert!(rejection.contains(words), "{spec}: {rejection}");
        if let Some(registry) = change.get("registry") {
            let rejection = cluster.try_apply(&standalone_image(&node, registry)).unwrap_err();
            assert!(rejection.contains(words), "JackalImage {registry}: {rejection}");
        }
    }
    for (image, words) in [(&both, choose), (&idle, none), (&labelled, none)] {
        // In a package the operator finds it: rules cannot see a field that may be a string.
        let rejection = cluster.try_apply(&standalone_image(image, &json!({}))).unwrap_err();
        assert!(rejection.contains(words), "JackalImage {image}: {rejection}");
    }
    let followed = |policy: Value| json!({ "image": "a/b", "policy": policy });
    let twice = json!({ "components": [{ "name": "web" }, { "name": "web" }], "registry": {} });
    let rejection = cluster.try_apply(&package("bad", "", twice)).unwrap_err();
    assert!(
        rejection.contains(r#"duplicate entries for key [name="web"]"#),
        "{rejection}"
    );
    let following = followed(json!({ "semver": { "range": "1.x" } }));
    let spec = json!({ "components": of(following.clone()), "registry": {}, "versionFrom": { "image": "a/b" } });
    let one = "set exactly one of version and versionFrom";
    let rejection = cluster.try_apply(&package("bad", "", spec.clone())).unwrap_err();
    assert!(rejection.contains(one), "{rejection}");
    let mut without: Value = serde_json::from_str(&package("bad", "", spec)).unwrap();
    without["spec"].as_object_mut().unwrap().remove("version");
    let mut neither = without.clone();
    neither["spec"].as_object_mut().unwrap().remove("versionFrom");
    let rejection = cluster.try_apply(&neither.to_string()).unwrap_err();
    assert!(rejection.contains(one), "{rejection}");
    without["metadata"]["name"] = json!("follows");
    cluster.apply(&without.to_string());
    // The same in a valid form.
    let spec = json!({ "components": of(node.clone()), "registry": { "address": "r:5000", "endpoint": "r" } });
    cluster.apply(&package("good", "", spec));
    cluster.apply(&standalone_image(
        &node,
        &json!({ "address": "r", "insecure": false, "certSecretRef": { "name": "ca" } }),
    ));
}

fn standalone_image(image: &Value, registry: &Value) -> String {
    let mut spec = image.clone();
    spec["registry"] = registry.clone();
    json!({ "apiVersion": "jackal.dev/v1alpha1", "kind": "JackalImage", "metadata": { "name": "lone" }, "spec": spec })
        .to_string()
}

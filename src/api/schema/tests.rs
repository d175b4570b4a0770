use serde_json::json;

use super::*;
use crate::api::v1alpha1::JackalPackage;

fn schema() -> Value {
    crate::api::v1alpha1::schema::<JackalPackage>()
}

fn found(spec: Value) -> Vec<String> {
    let violations = violations(&json!({ "spec": spec }), &schema());
    violations.iter().map(Violation::to_string).collect()
}

fn of_image(image: Value) -> Vec<String> {
    found(json!({ "version": "1", "components": [{ "name": "web", "images": [image] }] }))
}

#[test]
fn a_valid_object_has_no_violations() {
    let image =
        json!({ "image": "a", "source": "Docker", "nodeSelector": { "any.thing/goes": "here" }, "platforms": null });
    assert_eq!(of_image(image), Vec::<String>::new());
}

#[test]
fn unknown_fields_have_a_path_and_a_suggestion() {
    let field = |name: &str| of_image(json!({ "image": "a", name: "b" })).join("\n");
    let path = "spec.components[0].images[0]";
    for (name, meant) in [
        ("platfroms", "; did you mean platforms?"),
        ("Source", "; did you mean source?"),
        ("node_selector", "; did you mean nodeSelector?"),
        ("repositoryPrefix", "; repositoryPrefix is a field of spec.registry"),
        ("name", "; name is a field of spec.components[]"),
    ] {
        let expected = format!("{path}.{name}: unknown field{meant}");
        assert_eq!(field(name), expected);
    }
    let unknown = field("colour");
    assert!(unknown.contains("; known fields: image, "), "{unknown}");
    let all = found(json!({ "compnents": [], "versoin": "1", "components": [{ "name": "web" }] }));
    assert_eq!(all.len(), 2, "{all:?}");
    let many: serde_json::Map<String, Value> = (0..50).map(|number| (format!("x{number}"), json!(1))).collect();
    assert_eq!(found(Value::Object(many)).len(), VIOLATION_LIMIT);
    let long = field(&format!("a\u{1b}{}", "b".repeat(100)));
    assert!(!long.contains('\u{1b}') && long.contains('…'), "{long}");
}

#[test]
fn enumerations_and_types_are_checked() {
    let source = |value: Value| of_image(json!({ "image": "a", "source": value })).join("\n");
    let path = "spec.components[0].images[0].source";
    assert_eq!(
        source(json!("docker")),
        format!("{path}: docker is not one of Registry, Docker, Containerd; did you mean Docker?")
    );
    assert_eq!(
        source(json!("podman")),
        format!("{path}: podman is not one of Registry, Docker, Containerd")
    );
    assert_eq!(
        source(json!(false)),
        format!("{path}: false is not one of Registry, Docker, Containerd")
    );
    let whole = |spec: Value| found(spec).join("\n");
    let components = json!([{ "name": "web" }]);
    assert_eq!(
        whole(json!({ "components": components, "suspend": "yes" })),
        "spec.suspend: found the string `yes`, expected true or false"
    );
    assert_eq!(
        whole(json!({ "components": components, "suspend": "true" })),
        "spec.suspend: found the string `true`, expected true or false; write it without quotes"
    );
    let registry = whole(json!({ "components": components, "registry": "localhost:5000" }));
    assert!(
        registry.contains("expected an object with fields; known fields: address, "),
        "{registry}"
    );
    assert_eq!(
        whole(json!({ "components": { "name": "web" } })),
        "spec.components: found an object with fields, expected a list; write each item on a line that begins with `- `"
    );
    let labels = json!({ "image": "a", "nodeSelector": { "gpu": true } });
    assert!(of_image(labels)[0].contains("nodeSelector.gpu: found true, expected a string; put it in quotes"));
}

#[test]
fn missing_fields_are_reported() {
    assert_eq!(
        of_image(json!({})),
        ["spec.components[0].images[0]: the field image is missing"]
    );
    assert_eq!(of_image(json!({ "image": null })).len(), 1);
    let empty = found(json!({ "components": [null] })).join("\n");
    assert!(empty.starts_with("spec.components[0] is empty"), "{empty}");
    let nothing = violations(&json!({}), &schema());
    assert_eq!(nothing[0].to_string(), "spec is missing");
    let misspelt = violations(&json!({ "Spec": {} }), &schema());
    assert_eq!(misspelt[0].to_string(), "Spec: unknown field; did you mean spec?");
}

#[test]
fn alternatives_of_string_and_object_are_checked() {
    let either = json!({ "properties": { "spec": { "type": "object", "properties": { "images": { "type": "array", "items": {
        "x-kubernetes-preserve-unknown-fields": true,
        "anyOf": [{ "type": "string" }, { "type": "object", "required": ["image"], "properties": { "image": { "type": "string" } } }],
    } } } } } });
    let found = |item: Value| {
        let object = json!({ "spec": { "images": [item] } });
        let found = violations(&object, &either);
        found.iter().map(Violation::to_string).collect::<Vec<_>>().join("\n")
    };
    assert_eq!(found(json!("a:1")), "");
    assert_eq!(found(json!({ "image": "a:1" })), "");
    assert!(found(json!({ "imgae": "a:1" })).contains("images[0].imgae: unknown field; did you mean image?"));
    assert!(found(json!(1)).contains("expected a string or an object with fields"));
}

#[test]
fn nulls_of_known_fields_are_dropped() {
    let schema = schema();
    let mut object = json!({ "spec": {
        "version": null,
        "components": [{ "name": "web", "images": null, "charts": [{ "name": "c", "values": { "nodeSelector": null } }] }],
    } });
    drop_nulls(&mut object, &schema);
    let component = &object["spec"]["components"][0];
    assert!(
        object["spec"].get("version").is_none() && component.get("images").is_none(),
        "{object}"
    );
    assert!(
        component["charts"][0]["values"].get("nodeSelector").is_some(),
        "{object}"
    );
}

#[test]
fn apiversion_kind_and_metadata_are_checked() {
    let found = |field: &str, value: Value| {
        let mut object =
            json!({ "metadata": { "name": "shop" }, "spec": { "version": "1", "components": [{ "name": "web" }] } });
        object[field] = value;
        let violations = violations(&object, &schema());
        violations
            .iter()
            .map(Violation::to_string)
            .collect::<Vec<_>>()
            .join("\n")
    };
    let metadata = |value: Value| found("metadata", value);
    assert_eq!(
        metadata(json!({ "name": "shop", "nmaespace": "a" })),
        "metadata.nmaespace: unknown field; did you mean namespace?"
    );
    assert_eq!(
        metadata(json!({ "name": "shop", "labels": { "tier": 1 } })),
        "metadata.labels.tier: found the number 1, expected a string; put it in quotes"
    );
    let stored = json!({
        "name": "shop", "uid": "x", "generation": 3, "creationTimestamp": "2026-01-01T00:00:00Z", "finalizers": ["a/b"],
        "managedFields": [{ "manager": "a", "fieldsV1": { "f:spec": {} }, "time": "2026-01-01T00:00:00Z" }],
    });
    assert_eq!(metadata(stored), "", "as kubectl get -o yaml prints it");
    assert_eq!(found("status", json!({ "of": "an earlier version" })), "");
    assert_eq!(
        found("version", json!("1")),
        "version: unknown field; version is a field of spec"
    );
    assert_eq!(
        found("kind", json!(1)),
        "kind: found the number 1, expected a string; put it in quotes"
    );
}

#[test]
fn violated_limits_are_reported_as_text() {
    let with = |field: &str, value: Value| {
        let mut spec = json!({ "version": "1", "components": [{ "name": "web" }] });
        spec[field] = value;
        found(spec).join("\n")
    };
    let units = "not a duration: write numbers with the units w, d, h, m, s and ms, such as 90s, 1h30m or 1d";
    for text in ["1y", "90", "-1h", "PT1H", "1 h", "1H", "1,5h"] {
        assert_eq!(
            with("interval", json!(text)),
            format!("spec.interval: found the string `{text}`; {units}")
        );
    }
    for text in ["1d", "1w", "1h30m", "1.5h", "500ms"] {
        assert_eq!(with("interval", json!(text)), "");
    }
    assert_eq!(
        with("interval", json!(90)),
        format!("spec.interval: found the number 90, expected a string; {units}")
    );
    let version = with("version", json!("1.4.0+build"));
    assert!(
        version.starts_with("spec.version: found the string `1.4.0+build`; version is the tag"),
        "{version}"
    );
    assert_eq!(with("version", json!("")), "spec.version: it is empty");
    assert_eq!(
        with("architecture", json!("AMD64")),
        "spec.architecture: found the string `AMD64`; it does not match ^[a-z0-9]+$"
    );
    assert_eq!(
        with("retention", json!({ "revisions": 0 })),
        "spec.retention.revisions: found the number 0; it must be at least 1"
    );
    assert_eq!(
        with("retention", json!({ "revisions": 1000 })),
        "spec.retention.revisions: found the number 1000; it must be at most 100"
    );
    assert_eq!(with("components", json!([])), "spec.components: it is empty");
    let long = with("description", json!("a".repeat(5000)));
    assert!(
        long.ends_with("…`; it has 5000 characters; at most 4096 are allowed"),
        "{long}"
    );
    assert_eq!(of_image(json!("")), ["spec.components[0].images[0]: it is empty"]);
}

#[test]
fn cel_rules_are_evaluated() {
    let with = |field: &str, value: Value| {
        let mut spec = json!({ "version": "1", "components": [{ "name": "web" }] });
        spec[field] = value;
        found(spec).join("\n")
    };
    let key = json!({ "inline": "PEM" });
    for (field, value, words) in [
        (
            "versionFrom",
            json!({ "image": "a" }),
            "spec: set exactly one of version and versionFrom",
        ),
        (
            "sbom",
            json!({ "enabled": false, "required": true }),
            "spec.sbom: sbom.required needs SBOMs",
        ),
        (
            "verify",
            json!([{ "images": ["a"] }]),
            "spec.verify[0]: set publicKeys or identities",
        ),
        (
            "verify",
            json!([{ "publicKeys": [{}] }]),
            "spec.verify[0].publicKeys[0]: set exactly one of inline",
        ),
        (
            "registry",
            json!({ "address": "http://r" }),
            "spec.registry: registry.address is host[:port]",
        ),
        ("registry", json!({ "endpoint": "r" }), "set address too"),
        (
            "sourceRegistries",
            json!([{ "host": "https://r", "certSecretRef": { "name": "ca" } }]),
            "spec.sourceRegistries[0]: sourceRegistries[].host is host[:port]",
        ),
        (
            "components",
            json!([{ "name": "web", "files": [{ "target": "/a", "url": "https://a.example" }] }]),
            "spec.components[0].files[0]: sha256 is the checksum of a downloaded file",
        ),
    ] {
        let said = with(field, value);
        assert!(said.contains(words), "{words}: {said}");
    }
    for (field, value) in [
        ("versionFrom", Value::Null),
        ("sbom", json!({})),
        ("sbom", json!({ "required": true })),
        (
            "verify",
            json!([{ "images": null, "publicKeys": [key], "identities": null, "trustRootRef": null }]),
        ),
        (
            "registry",
            json!({ "address": "r", "endpoint": null, "insecure": true, "certSecretRef": null }),
        ),
        ("retention", json!({ "revisions": 5 })),
    ] {
        assert_eq!(with(field, value.clone()), "", "{field}: {value}");
    }
}

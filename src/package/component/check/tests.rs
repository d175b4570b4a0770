use serde_json::json;

use super::*;

const SHA: &str = "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa";
const POD: &str = "apiVersion: v1\nkind: Pod\n";

fn component(content: Value) -> ComponentSpec {
    let mut whole = json!({"name": "app"});
    whole
        .as_object_mut()
        .unwrap()
        .extend(content.as_object().unwrap().clone());
    serde_json::from_value(whole).unwrap()
}

fn why(content: Value) -> String {
    let fault = check(&component(content)).unwrap_err();
    assert_eq!(fault.disposition, crate::fault::Disposition::Stalled, "{fault}");
    fault.message
}

fn chart(fields: Value) -> Value {
    let mut whole =
        json!({"name": "podinfo", "version": "6.4.0", "namespace": "web", "url": "oci://r.io/charts/podinfo"});
    whole
        .as_object_mut()
        .unwrap()
        .extend(fields.as_object().unwrap().clone());
    json!({"charts": [whole]})
}

fn file(fields: Value) -> Value {
    let mut whole = json!({"target": "/usr/local/bin/x", "url": "https://h/x", "sha256": SHA});
    whole
        .as_object_mut()
        .unwrap()
        .extend(fields.as_object().unwrap().clone());
    json!({"files": [whole]})
}

#[test]
fn a_valid_component_passes() {
    for content in [
        json!({}),
        chart(json!({})),
        chart(json!({"url": "https://h/charts", "version": "1.0.0+build.1"})),
        chart(json!({"name": "Cert.Manager", "releaseName": "cert-manager"})),
        file(json!({})),
        json!({"files": [{"target": "relative/x y", "inline": ""}]}),
        json!({"files": [{"target": "###ZARF_TEMP###/x", "inline": "x"}]}),
        json!({"manifests": [{"name": "a", "inline": POD}, {"name": "b", "configMapRef": {"name": "c"}}]}),
    ] {
        check(&component(content.clone())).unwrap_or_else(|fault| panic!("{content}: {fault}"));
    }
}

#[test]
fn invalid_targets_are_refused() {
    for bad in [
        "", "/", "..", "../x", "/a/../b", "a/..", "a/", "a//b", "./a", "a/.", "a\\b", "a\nb", "//a",
    ] {
        let why = why(file(json!({"target": bad})));
        assert!(why.starts_with("component `app`: file `"), "{bad}: {why}");
        assert!(why.contains("its target"), "{bad}: {why}");
    }
}

#[test]
fn a_file_with_a_url_needs_a_digest() {
    assert!(why(file(json!({"sha256": null}))).contains("it has no sha256"));
    assert!(why(file(json!({"sha256": "abc"}))).contains("64 hexadecimal digits"));
    assert_eq!(digest_of_sha256(&SHA.to_uppercase()), digest_of_sha256(SHA));
    assert!(why(file(json!({"inline": "x"}))).contains("exactly one of url and inline"));
    assert!(why(file(json!({"url": null, "inline": "x"}))).contains("remove it"));
    assert!(why(file(json!({"url": "https://me:secret@h/x"}))).contains("a name or a password"));
    assert!(!why(file(json!({"url": "https://me:secret@h/x"}))).contains("secret"));
    for bad in ["ftp://h/x", "https://", "file:///etc/passwd", "h/x"] {
        let why = why(file(json!({"url": bad})));
        assert!(why.contains("address"), "{bad}: {why}");
    }
}

#[test]
fn invalid_charts_are_refused() {
    for (fields, part) in [
        (json!({"version": "6.x/../y"}), "not a chart's version"),
        (json!({"version": ""}), "not a chart's version"),
        (json!({"version": ">=6"}), "not a chart's version"),
        (json!({"namespace": "Web"}), "not a namespace"),
        (json!({"name": "../x"}), "not the name of a chart"),
        (json!({"name": "x".repeat(41)}), "not the name of a chart"),
        (json!({"name": "Cert.Manager"}), "set releaseName"),
        (json!({"url": "oci://r.io"}), "names a registry but no chart"),
        (json!({"url": "oci://r.io/x:1"}), "remove it"),
        (json!({"url": "oci://r.io/X Y"}), "not an image reference"),
        (json!({"url": "oci://r/x"}), "its domain or port"),
        (json!({"url": "git@h/x.git"}), "not the address of a chart"),
        (json!({"url": "https://me:secret@h/charts"}), "a name or a password"),
    ] {
        let why = why(chart(fields.clone()));
        assert!(why.contains(part), "{fields}: {why}");
    }
}

#[test]
fn a_charts_version_is_its_tag() {
    let reference = |fields: Value| {
        let component = component(chart(fields));
        oci_reference(&component.charts[0]).unwrap().to_string()
    };
    assert_eq!(reference(json!({"version": "1.0.0+a"})), "r.io/charts/podinfo:1.0.0_a");
    assert_eq!(reference(json!({"url": "oci://r:5000/x/"})), "r:5000/x:6.4.0");
    let digest = format!("oci://r.io/x@sha256:{SHA}");
    assert_eq!(reference(json!({"url": digest})), digest.trim_start_matches("oci://"));
}

#[test]
fn repeated_names_are_refused() {
    let pod = |name: &str| json!({"name": name, "inline": POD});
    assert!(why(json!({"manifests": [pod("a"), pod("a")]})).contains("two entries have the name `a`"));
    let one = |name: &str, version: &str| chart(json!({"name": name, "version": version}))["charts"][0].clone();
    assert!(why(json!({"charts": [one("a", "1"), one("a", "2")]})).contains("two entries have the name `a`"));
    // `a-1` 0 and `a` 1-0 would be one file.
    assert!(why(json!({"charts": [one("a-1", "0"), one("a", "1-0")]})).contains("`a-1-0`"));
}

#[test]
fn manifests_must_be_kubernetes_objects() {
    for (text, part) in [
        ("a: [", "is not YAML"),
        ("", "contains no manifest"),
        ("---\n---\n", "contains no manifest"),
        ("just words", "without apiVersion or kind, number 1"),
        ("apiVersion: v1\nkind: Pod\n---\nkind: Pod\n", "number 2"),
    ] {
        let why = why(json!({"manifests": [{"name": "a", "inline": text}]}));
        assert!(why.contains(part) && !why.contains('\n'), "{text}: {why}");
    }
    let both = json!({"manifests": [{"name": "a", "inline": POD, "configMapRef": {"name": "c"}}]});
    assert!(why(both).contains("exactly one of inline and configMapRef"));
    assert!(why(json!({"manifests": [{"name": "a"}]})).contains("exactly one of"));
    assert_eq!(manifests_of(&format!("---\n{POD}---\n{POD}---\n")).unwrap().len(), 2);
}

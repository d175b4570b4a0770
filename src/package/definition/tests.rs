use serde::Deserialize;

use super::*;

fn spec(text: &str) -> JackalPackageSpec {
    serde_json::from_str(text).unwrap()
}

fn definition(name: &str, spec: &JackalPackageSpec) -> Result<Definition, Fault> {
    let plan = Plan::of(spec, "127.0.0.1:31999", "").unwrap();
    Definition::of(name, spec, &plan)
}

const PODINFO: &str = r#"{"version":"1.2.3","naming":"Zarf","description":"A page","components":[
    {"name":"web","required":true,"images":[{"image":"nginx"},{"image":"oci://ghcr.io/x/y:1"}]},
    {"name":"base","description":"Nothing yet"}]}"#;

#[test]
fn the_definition_is_as_zarf_reads_it() {
    let complete = definition("podinfo", &spec(PODINFO))
        .unwrap()
        .with_checksum("abc", true);
    let expected = "\
kind: 'ZarfPackageConfig'
metadata:
  name: 'podinfo'
  description: 'A page'
  version: '1.2.3'
  architecture: 'amd64'
  aggregateChecksum: 'abc'
build:
  terminal: 'jackal-operator'
  user: 'jackal-operator'
  architecture: 'amd64'
  timestamp: 'Thu, 01 Jan 1970 00:00:00 +0000'
  version: 'v1.0.0'
  versionRequirements:
  - version: 'v0.77.0'
    reason: 'The package holds images of several platforms.'
components:
- name: 'web'
  required: true
  images:
  - 'docker.io/library/nginx:latest'
  - 'ghcr.io/x/y:1'
- name: 'base'
  description: 'Nothing yet'
  required: false
";
    assert_eq!(std::str::from_utf8(&complete.yaml().unwrap()).unwrap(), expected);
    let json: serde_json::Value = serde_json::from_slice(&complete.json().unwrap()).unwrap();
    let yaml: serde_json::Value = serde_saphyr::from_str(expected).unwrap();
    assert_eq!(json, yaml);
}

#[test]
fn the_naming_determines_the_dialect() {
    for (naming, kind, file) in [
        ("Jackal", "JackalPackageConfig", "jackal.yaml"),
        ("Zarf", "ZarfPackageConfig", "zarf.yaml"),
        ("Plain", "ZarfPackageConfig", "zarf.yaml"),
    ] {
        let spec = spec(&PODINFO.replace("Zarf", naming));
        let definition = definition("podinfo", &spec).unwrap();
        assert_eq!((definition.kind, definition.dialect.file), (kind, file));
        assert!([media_type::ZARF_CONFIG, media_type::JACKAL_CONFIG].contains(&definition.dialect.config));
    }
    let jackal = definition("podinfo", &spec(&PODINFO.replace("Zarf", "Jackal"))).unwrap();
    assert!(jackal.with_checksum("abc", true).build.version_requirements.is_empty());
}

#[test]
fn yaml_preserves_every_string() {
    #[derive(Deserialize)]
    struct Read {
        metadata: ReadMetadata,
    }
    #[derive(Deserialize)]
    struct ReadMetadata {
        description: String,
    }
    for text in [
        "yes",
        "no",
        "on",
        "~",
        "null",
        "true",
        "1.0",
        "1e3",
        "0o7",
        "0x1f",
        "12:30:45",
        "2024-01-01",
        ".inf",
        "a: b",
        "- a",
        "# a",
        "a #b",
        "&a",
        "*a",
        "!a",
        "@a",
        "%a",
        "`a",
        "{a",
        "[a]",
        "'",
        "\"",
        "'a' \"b\"",
        "\\n",
        " a ",
        "a\nb",
        "a\n\n  b\n",
        "\n",
        "\r\n",
        "a\tb",
        "\t",
        "ä€😀",
        "\u{85}",
        "\u{2028}",
        "\u{feff}a",
        "\u{7f}",
        "\u{1}",
        "---",
        "...",
        "? a",
        "| a",
        "> a",
        "=",
        "<<",
        "###ZARF_VAR_X###",
    ] {
        let mut spec = spec(PODINFO);
        spec.description = Some(text.to_owned());
        let yaml = definition("podinfo", &spec).unwrap().yaml().unwrap();
        let yaml = std::str::from_utf8(&yaml).unwrap();
        let read: Read = serde_saphyr::from_str(yaml).unwrap_or_else(|error| panic!("{text:?}: {error}\n{yaml}"));
        assert_eq!(read.metadata.description, text, "{yaml}");
    }
    let long = "long words ".repeat(300);
    let mut spec = spec(PODINFO);
    spec.description = Some(long.clone());
    let yaml = definition("podinfo", &spec).unwrap().yaml().unwrap();
    let read: Read = serde_saphyr::from_str(std::str::from_utf8(&yaml).unwrap()).unwrap();
    assert_eq!(read.metadata.description, long);
}

#[test]
fn names_that_are_not_a_repository_or_tag_are_refused() {
    let podinfo = spec(PODINFO);
    for name in ["a", "a-b", "a--b", "a.b", "a__b", "1"] {
        assert!(definition(name, &podinfo).is_ok(), "{name}");
    }
    for name in [
        "",
        ".",
        "..",
        "a/b",
        "a\\b",
        "A",
        "a-",
        "-a",
        "a..b",
        "a.-b",
        "a___b",
        "ä",
        &"a".repeat(254),
    ] {
        let fault = definition(name, &podinfo).unwrap_err();
        assert!(fault.message.contains("is not a package's name"), "{fault}");
    }
    for version in ["", "1+2", ".1", "-1", "a/b", &"1".repeat(129)] {
        let mut spec = spec(PODINFO);
        spec.version = Some(version.to_owned());
        let fault = definition("a", &spec).unwrap_err();
        assert!(fault.message.contains("is not a version"), "{fault}");
    }
    let mut spec = spec(PODINFO);
    spec.architecture = Some("../x".to_owned());
    assert!(definition("a", &spec).is_err());
}

#[test]
fn a_signed_definition_lists_its_signature_only_for_zarf() {
    let zarf = definition("podinfo", &spec(PODINFO)).unwrap().signed();
    assert_eq!(zarf.signature_path(), Some("zarf.bundle.sig"));
    let json: serde_json::Value = serde_json::from_slice(&zarf.with_checksum("abc", true).json().unwrap()).unwrap();
    assert_eq!(json["build"]["signed"], true);
    assert_eq!(json["build"]["provenanceFiles"], serde_json::json!(["zarf.bundle.sig"]));
    let versions: Vec<&str> = json["build"]["versionRequirements"]
        .as_array()
        .unwrap()
        .iter()
        .map(|requirement| requirement["version"].as_str().unwrap())
        .collect();
    assert_eq!(versions, ["v0.71.0", "v0.77.0"]);
    let unsigned = definition("podinfo", &spec(PODINFO)).unwrap();
    assert_eq!(unsigned.signature_path(), None);
    let jackal = spec(&PODINFO.replace("Zarf", "Jackal"));
    let jackal = definition("podinfo", &jackal).unwrap();
    assert_eq!(jackal.clone().signed(), jackal);
}

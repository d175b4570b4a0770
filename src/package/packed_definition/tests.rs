use super::*;

const DEFINITION: &str = "\
apiVersion: zarf.dev/v1beta1
kind: ZarfPackageConfig
metadata: {name: other}
---
apiVersion: zarf.dev/v1alpha1
kind: ZarfPackageConfig
metadata:
  name: shop
  description: A shop
  version: 1.0.0
  vendor: Example
  annotations:
    org.opencontainers.image.vendor: Other
    team: web
  aggregateChecksum: CHECKSUM
build:
  architecture: amd64
  timestamp: Mon, 27 Oct 2025 12:30:00 +0200
  version: v0.84.0
  signed: true
  provenanceFiles: [zarf.future.sig]
components:
- name: web
";

fn parse(text: &str) -> Result<PackedDefinition, Fault> {
    PackedDefinition::parse("zarf.yaml", text.as_bytes())
}

#[test]
fn the_elder_of_two_versions_is_read() {
    let packed = parse(DEFINITION).unwrap();
    let config = String::from_utf8(packed.config().to_vec()).unwrap();
    assert!(
        config
            .starts_with(r#"{"apiVersion":"zarf.dev/v1alpha1","kind":"ZarfPackageConfig","metadata":{"name":"shop","#)
    );
    let alone =
        parse("apiVersion: zarf.dev/v1beta1\nmetadata: {name: shop}\nbuild: {aggregateChecksum: abc}\n").unwrap();
    assert_eq!(alone.aggregate_checksum, "abc");
}

#[test]
fn the_manifest_is_that_of_package_publish() {
    let packed = parse(DEFINITION).unwrap();
    let files = [("zarf.yaml", "b"), ("components/web.tar", "a"), ("checksums.txt", "c")];
    let files = files.map(|(path, content)| (path.to_owned(), Digest::of(content.as_bytes()), 1));
    let document = packed.manifest(files.clone()).unwrap();
    let manifest = document.manifest().unwrap();
    assert!(document.is_package());
    let expected = [
        ("org.opencontainers.image.created", "2025-10-27T10:30:00Z"),
        ("org.opencontainers.image.description", "A shop"),
        ("org.opencontainers.image.title", "shop"),
        ("org.opencontainers.image.vendor", "Other"),
        ("team", "web"),
    ];
    let annotations: Vec<(&str, &str)> = manifest
        .annotations
        .iter()
        .map(|(name, value)| (&**name, &**value))
        .collect();
    assert_eq!(annotations, expected);
    assert_eq!(manifest.layers[0].annotations[TITLE], "zarf.yaml");
    assert!(manifest.layers[1].digest < manifest.layers[2].digest);
    assert!(
        manifest
            .layers
            .iter()
            .all(|layer| layer.media_type == "application/vnd.zarf.layer.v1.blob")
    );
    let undated = DEFINITION.replace("Mon, 27", "Someday, 27");
    let undated = parse(&undated).unwrap().manifest(files).unwrap();
    let created = &undated.manifest().unwrap().annotations["org.opencontainers.image.created"];
    assert_eq!(created, NO_TIME);
}

#[test]
fn signatures_need_not_be_listed() {
    let packed = parse(DEFINITION).unwrap();
    for path in [
        "zarf.yaml",
        "checksums.txt",
        "zarf.yaml.sig",
        "zarf.bundle.sig",
        "zarf.future.sig",
    ] {
        assert!(packed.is_unlisted(path), "{path}");
    }
    assert!(!packed.is_unlisted("other.sig") && !packed.is_unlisted("jackal.yaml"));
    // What an unsigned definition says of its files anybody may have written.
    let unsigned = parse(&DEFINITION.replace("signed: true", "signed: false")).unwrap();
    assert!(!unsigned.is_unlisted("zarf.future.sig"));
}

#[test]
fn what_is_no_definition_is_refused() {
    for (text, expected) in [
        ("", "zarf.yaml is empty"),
        ("a: [", "zarf.yaml is not YAML"),
        ("a: 1", "zarf.yaml cannot be read: missing field `metadata`"),
        (
            "metadata: {version: '1'}",
            "zarf.yaml cannot be read: metadata: missing field `name`",
        ),
    ] {
        let fault = parse(text).unwrap_err();
        assert!(
            fault.is_stalled() && fault.message.contains(expected),
            "{expected}: {fault}"
        );
    }
    assert!(PackedDefinition::parse("other.yaml", b"").is_err());
}

#[test]
fn checksums_are_those_that_the_definition_names() {
    let sum = Digest::of(b"content");
    let good = format!("{} a\n{} b/c\n", sum.hex(), sum.hex());
    let of = |checksums: &str| {
        let text = DEFINITION.replace("CHECKSUM", Digest::of(checksums.as_bytes()).hex());
        parse(&text).unwrap().checksums(checksums.as_bytes())
    };
    let listed = of(&good).unwrap();
    assert_eq!(listed.keys().collect::<Vec<_>>(), ["a", "b/c"]);
    assert!(of("\n").unwrap().is_empty());
    let fault = parse(DEFINITION).unwrap().checksums(good.as_bytes()).unwrap_err();
    assert_eq!(fault.reason, Reason::DigestMismatch);
    for line in [
        "a",
        "abc a",
        &format!("{} a b", sum.hex()),
        &format!("{0} a\n{0} a", sum.hex()),
        &format!("{} ", sum.hex()),
    ] {
        let fault = of(line).unwrap_err();
        assert!(fault.message.starts_with("checksums.txt has the line"), "{fault}");
    }
}

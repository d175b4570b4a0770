use std::collections::BTreeMap;

use serde_json::json;

use super::*;

struct Folder(BTreeMap<&'static str, Vec<u8>>);

impl Files for Folder {
    fn read(&self, path: &str, limit: usize) -> Result<Vec<u8>, String> {
        match self.0.get(path.trim_start_matches("./")) {
            Some(content) if content.len() > limit => Err("is too long".to_owned()),
            Some(content) => Ok(content.clone()),
            None => Err("is not there".to_owned()),
        }
    }
}

fn folder() -> Folder {
    let pod = "apiVersion: v1\nkind: Pod\nmetadata: {name: a}\n";
    Folder(BTreeMap::from([
        ("pod.yaml", pod.into()),
        ("two.yaml", format!("---\n{pod}").into()),
        ("var.yaml", format!("{pod}# ###ZARF_VAR_DOMAIN###\n").into()),
        ("template.yaml", "a: {{ .Values.b }}\n".into()),
        ("values.yaml", "image: {tag: 1}\nreplicas: 2\n".into()),
        ("more.yaml", "image: {tag: 2, pull: null}\non: yes\n".into()),
        ("config.txt", "hello\n".into()),
        ("logo.png", vec![0xff, 0xfe]),
        ("huge.txt", vec![b'x'; INLINE_LIMIT + 1]),
    ]))
}

fn converted(text: &str) -> Converted {
    convert(text, &folder(), &ConvertOptions::default()).unwrap()
}

fn omitted_paths(converted: &Converted) -> Vec<String> {
    converted.left_out.iter().map(|part| part.path.clone()).collect()
}

fn spec(converted: &Converted) -> Value {
    let document: Value = serde_saphyr::from_str(&converted.yaml).unwrap();
    document["spec"].clone()
}

#[test]
fn supported_fields_are_converted() {
    let converted = converted(
        "
kind: ZarfPackageConfig
metadata: {name: shop, version: 1.4.0, description: all of it, architecture: arm64, uncompressed: true}
build: {terminal: x}
components:
- name: web
  description: what visitors see
  required: true
  images: [ghcr.io/x/app:1, 'ghcr.io/x/###ZARF_COMPONENT_NAME###:###ZARF_PKG_ARCH###']
  manifests: [{name: web, namespace: web, files: [pod.yaml, ./two.yaml, pod.yaml]}]
  charts:
  - {name: podinfo, version: 6.4.0, namespace: web, url: 'oci://ghcr.io/x/charts/podinfo', releaseName: pod}
  - {name: mine, repoName: theirs, version: 1.0.0, namespace: web, url: 'https://h/charts', valuesFiles: [values.yaml]}
  files:
  - {source: 'https://h/x', shasum: AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA, target: /usr/local/bin/x, executable: true}
  - {source: config.txt, target: /etc/x}
",
    );
    assert_eq!(converted.left_out, []);
    assert!(
        converted
            .yaml
            .starts_with("apiVersion: jackal.dev/v1alpha1\nkind: JackalPackage\n"),
        "{}",
        converted.yaml
    );
    let pod = "apiVersion: v1\nkind: Pod\nmetadata: {name: a}\n";
    assert_eq!(
        spec(&converted),
        json!({
            "version": "1.4.0", "description": "all of it", "architecture": "arm64", "naming": "Zarf",
            "components": [{
                "name": "web", "description": "what visitors see", "required": true,
                "images": ["ghcr.io/x/app:1", "ghcr.io/x/web:arm64"],
                "manifests": [{"name": "web", "namespace": "web", "inline": format!("{pod}---\n{pod}---\n{pod}")}],
                "charts": [
                    {"name": "podinfo", "version": "6.4.0", "namespace": "web", "releaseName": "pod",
                     "url": "oci://ghcr.io/x/charts/podinfo"},
                    {"name": "theirs", "version": "1.0.0", "namespace": "web", "releaseName": "mine",
                     "url": "https://h/charts", "values": {"image": {"tag": 1}, "replicas": 2}},
                ],
                "files": [
                    {"target": "/usr/local/bin/x", "url": "https://h/x", "sha256": "a".repeat(64), "executable": true},
                    {"target": "/etc/x", "inline": "hello\n"},
                ],
            }],
        })
    );
}

/// A definition with fields that a JackalPackage does not support.
const UNSUPPORTED: &str = "
kind: JackalPackageConfig
apiVersion: jackal.dev/v1alpha1
metadata: {name: big, version: 1.0.0+build, url: https://x, yolo: false}
constants: [{name: A, value: b}]
variables: [{name: DOMAIN}]
values: {files: [v.yaml]}
documentation: {}
components:
- name: a
  default: true
  only: {localOS: linux, cluster: {architecture: amd64, distros: [k3s]}}
  import: {path: ../b}
  repos: [https://h/x.git]
  actions: {onDeploy: {after: [{cmd: ls}]}}
  dataInjections: []
  images: ['###ZARF_PKG_TMPL_IMAGE###', 'not an image']
  manifests:
  - {name: m, files: [var.yaml, 'https://h/x.yaml', template.yaml, gone.yaml], kustomizations: [k], noWait: true}
  - {name: n, kustomizations: [k]}
  charts:
  - {name: local, localPath: chart, namespace: x}
  - {name: git, url: 'https://h/x.git', gitPath: chart, version: 1.0.0, namespace: x}
  - {name: c, url: 'oci://h.io/c', version: 1.0.0, namespace: x, valuesFiles: [values.yaml, more.yaml, 'https://h/v.yaml'], variables: [{name: A, path: b}]}
  files:
  - {source: 'https://h/x', target: /x}
  - {source: logo.png, target: /x}
  - {source: huge.txt, target: /x}
  - {source: config.txt, target: /x/../y}
  - {source: config.txt, target: /x, shasum: abc}
  - {source: 'https://h/x.tgz', shasum: abc, target: /x, extractPath: x}
  - {source: config.txt, target: /x, symlinks: [/y]}
- {name: b, only: {flavor: upstream}, images: [x]}
- {name: c, only: {cluster: {architecture: arm64}}, images: [x]}
";

#[test]
fn unsupported_fields_are_reported() {
    let converted = converted(UNSUPPORTED);
    assert_eq!(
        omitted_paths(&converted),
        [
            "metadata.version",
            "metadata.url",
            "components[a].only.cluster.distros",
            "components[a].only.localOS",
            "components[a].images[0]",
            "components[a].images[1]",
            "components[a].manifests[0].files[0]",
            "components[a].manifests[0].files[1]",
            "components[a].manifests[0].files[2]",
            "components[a].manifests[0].files[3]",
            "components[a].manifests[0].kustomizations",
            "components[a].manifests[0].noWait",
            "components[a].manifests[1].kustomizations",
            "components[a].charts[0]",
            "components[a].charts[git]",
            "components[a].charts[c].valuesFiles[2]",
            "components[a].charts[c].variables",
            "components[a].files[0].source",
            "components[a].files[1].source",
            "components[a].files[2].source",
            "components[a].files[3]",
            "components[a].files[4].source",
            "components[a].files[5]",
            "components[a].files[6].symlinks",
            "components[a].actions",
            "components[a].default",
            "components[a].import",
            "components[a].repos",
            "components[b].only",
            "components[c].only",
            "constants",
            "values",
            "variables",
        ]
    );
    let spec = spec(&converted);
    assert_eq!(
        (&spec["version"], &spec["naming"]),
        (&json!("1.0.0_build"), &json!("Jackal"))
    );
    let a = &spec["components"][0];
    assert_eq!(spec["components"].as_array().unwrap().len(), 1);
    assert_eq!(a["images"], Value::Null);
    assert_eq!(a["manifests"].as_array().unwrap().len(), 1);
    assert_eq!(
        a["charts"][0]["values"],
        json!({"image": {"tag": 2, "pull": null}, "on": true, "replicas": 2})
    );
    assert_eq!(a["files"].as_array().unwrap().len(), 1);
    // Each is also in the file, in one line.
    let comments = converted.yaml.lines().take_while(|line| line.starts_with('#')).count();
    assert_eq!(comments, converted.left_out.len() + 1);
    let variable = converted
        .left_out
        .iter()
        .find(|part| part.path.ends_with("[0].files[0]"))
        .unwrap();
    assert!(variable.why.contains("###ZARF_VAR_DOMAIN###"), "{variable}");
}

#[test]
fn components_of_other_flavours_are_omitted() {
    let text = "
kind: ZarfPackageConfig
metadata: {name: a, version: '1'}
components:
- {name: x, only: {flavor: upstream}, images: [a:1]}
- {name: x, only: {flavor: hardened}, images: [a:2]}
- {name: y, images: [b:1]}
";
    let options = ConvertOptions {
        flavor: "hardened".to_owned(),
    };
    let converted = convert(text, &folder(), &options).unwrap();
    assert_eq!(omitted_paths(&converted), ["components[x].only"]);
    let spec = spec(&converted);
    assert_eq!(spec["components"][0], json!({"name": "x", "images": ["a:2"]}));
}

#[test]
fn an_invalid_definition_is_refused() {
    let why = |text: &str| convert(text, &folder(), &ConvertOptions::default()).unwrap_err();
    assert!(why("a: [").starts_with("is not YAML"));
    assert!(why("").ends_with("but nothing"));
    assert!(why("kind: ZarfInitConfig").ends_with("but ZarfInitConfig"));
    assert!(
        why("kind: ZarfPackageConfig\napiVersion: zarf.dev/v1beta1").ends_with("ZarfPackageConfig of zarf.dev/v1beta1")
    );
    assert_eq!(why("kind: ZarfPackageConfig"), "has no metadata");
    assert_eq!(
        why("kind: ZarfPackageConfig\nmetadata: {version: '1'}"),
        "has no metadata.name"
    );
    let empty = "kind: ZarfPackageConfig\nmetadata: {name: a}\ncomponents: []";
    assert_eq!(why(empty), "has no component that could be converted");
    let twice = "kind: ZarfPackageConfig\nmetadata: {name: a}\ncomponents: [{name: b}, {name: b}]";
    assert!(why(twice).contains("two components are called `b`"));
    let spaced = "kind: ZarfPackageConfig\nmetadata: {name: a, version: 'one two'}\ncomponents: [{name: b}]";
    assert!(why(spaced).contains("`one two` is not a version"));
}

#[test]
fn every_field_is_converted_or_reported() {
    // Every field of Zarf's schema with a value is either converted or reported.
    let text = "
kind: ZarfPackageConfig
metadata: {name: a, version: '1', url: u, image: i, authors: x, documentation: d, source: s, vendor: v, yolo: true, annotations: {a: b}, allowNamespaceOverride: true}
constants: [{name: A, value: b}]
variables: [{name: A}]
values: {files: [a]}
documentation: {a: b}
components:
- name: a
  default: true
  only: {localOS: linux, cluster: {distros: [k3s]}}
  group: g
  import: {path: x}
  dataInjections: [{source: x}]
  imageArchives: [{path: x}]
  repos: [r]
  scripts: {before: [x]}
  actions: {onCreate: {before: [{cmd: x}]}}
  healthChecks: [{kind: Pod}]
  stateAccess: [gitCredentials]
  manifests: [{name: m, files: [pod.yaml], kustomizeAllowAnyDirectory: true, kustomizations: [k], enableKustomizePlugins: true, noWait: true, serverSideApply: 'true', template: true}]
  charts: [{name: c, url: 'oci://h.io/c', version: '1', namespace: n, gitPath: g, localPath: l, noWait: true, templatedValuesFiles: [t], variables: [{name: A}], values: [{sourcePath: .a}], schemaValidation: true, serverSideApply: auto}]
  files: [{source: config.txt, target: /x, symlinks: [/y], template: true}]
  future: {field: 1}
";
    let known: Value = serde_saphyr::from_str(text).unwrap();
    let omitted = omitted_paths(&converted(text));
    let reported = |path: &str| omitted.iter().any(|one| one == path);
    for key in known["metadata"]
        .as_object()
        .unwrap()
        .keys()
        .filter(|key| !["name", "version"].contains(&key.as_str()))
    {
        assert!(reported(&format!("metadata.{key}")), "{key}");
    }
    let supported = ["name", "only", "manifests", "charts", "files"];
    for key in known["components"][0]
        .as_object()
        .unwrap()
        .keys()
        .filter(|key| !supported.contains(&key.as_str()))
    {
        assert!(reported(&format!("components[a].{key}")), "{key}");
    }
    let supported = ["name", "files", "url", "version", "namespace", "source", "target"];
    for (list, at) in [
        ("manifests", "manifests[0]"),
        ("charts", "charts[c]"),
        ("files", "files[0]"),
    ] {
        for key in known["components"][0][list][0].as_object().unwrap().keys() {
            assert!(
                supported.contains(&key.as_str()) || reported(&format!("components[a].{at}.{key}")),
                "{list} {key}"
            );
        }
    }
}

/// The files of a golden definition.
struct Golden(std::path::PathBuf);

impl Files for Golden {
    fn read(&self, path: &str, _: usize) -> Result<Vec<u8>, String> {
        std::fs::read(self.0.join(path)).map_err(|error| error.to_string())
    }
}

/// `JACKAL_BLESS=1` overwrites the expected packages.
#[test]
fn golden_definitions_have_the_expected_packages() {
    let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/convert");
    let cases = [
        ("shop", "jackal.yaml", ""),
        ("agent", "zarf.yaml", ""),
        ("flavours", "zarf.yaml", "upstream"),
    ];
    for (case, file, flavor) in cases {
        let folder = folder.join(case);
        let definition = std::fs::read_to_string(folder.join(file)).unwrap();
        let options = ConvertOptions {
            flavor: flavor.to_owned(),
        };
        let converted = convert(&definition, &Golden(folder.clone()), &options).unwrap();
        let expected = folder.join("expected.yaml");
        if std::env::var_os("JACKAL_BLESS").is_some() {
            std::fs::write(&expected, &converted.yaml).unwrap();
        }
        assert_eq!(
            converted.yaml,
            std::fs::read_to_string(&expected).unwrap_or_default(),
            "{case}"
        );
        assert_equivalent(&serde_saphyr::from_str(&definition).unwrap(), &converted);
    }
}

/// Everything that was not reported as omitted is in the definition of the artifact.
fn assert_equivalent(original: &Value, converted: &Converted) {
    let spec = &converted.package.spec;
    let plan = Plan::of(spec, "r.io", "").unwrap();
    let found: Vec<crate::package::component::ComponentContent> = spec
        .components
        .iter()
        .map(|component| {
            let chart = |chart: &crate::api::v1alpha1::ChartSpec| crate::package::component::ChartContent {
                digest: crate::oci::Digest::of(b""),
                origin: std::sync::Arc::new(bytes::Bytes::new()),
                values: chart.values.iter().map(|_| bytes::Bytes::new()).collect(),
                images: Vec::new(),
            };
            crate::package::component::ComponentContent {
                manifests: component.manifests.iter().map(|_| vec![bytes::Bytes::new()]).collect(),
                charts: component.charts.iter().map(chart).collect(),
                files: Vec::new(),
            }
        })
        .collect();
    let ours = crate::package::Definition::of("x", spec, &plan)
        .unwrap()
        .with_contents(spec, &found);
    let ours = serde_json::to_value(&ours).unwrap();
    assert_eq!(ours["kind"], original["kind"]);
    let is_omitted = |path: &str| converted.left_out.iter().any(|part| part.path.starts_with(path));
    for theirs in original["components"].as_array().unwrap() {
        let name = theirs["name"].as_str().unwrap();
        let at = |list: &str| format!("components[{name}].{list}");
        let Some(ours) = ours["components"]
            .as_array()
            .unwrap()
            .iter()
            .find(|one| one["name"] == name)
        else {
            panic!("{name} is missing");
        };
        assert_eq!(
            ours["required"].as_bool().unwrap(),
            theirs["required"].as_bool().unwrap_or_default()
        );
        for list in ["manifests", "charts", "files", "images"] {
            let count = |value: &Value| value[list].as_array().map_or(0, Vec::len);
            assert!(
                count(ours) == count(theirs) || is_omitted(&at(list)) || is_omitted(&at("only")),
                "{name} {list}"
            );
        }
        for (mine, other) in ours["files"]
            .as_array()
            .into_iter()
            .flatten()
            .zip(theirs["files"].as_array().into_iter().flatten())
        {
            if !is_omitted(&at("files")) {
                assert_eq!(
                    mine["executable"].as_bool().unwrap_or_default(),
                    other["executable"].as_bool().unwrap_or_default()
                );
            }
        }
        for mine in ours["charts"].as_array().into_iter().flatten() {
            let other = theirs["charts"]
                .as_array()
                .unwrap()
                .iter()
                .find(|one| one["url"] == mine["url"])
                .unwrap();
            assert_eq!(
                (&mine["version"], &mine["namespace"]),
                (&other["version"], &other["namespace"])
            );
            let release = |one: &Value| one["releaseName"].as_str().or(one["name"].as_str()).unwrap().to_owned();
            assert_eq!(release(mine), release(other));
        }
    }
}

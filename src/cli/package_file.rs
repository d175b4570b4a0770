//! Reads JackalPackages and JackalImages from a file, validated as by an API server, and the ConfigMaps and Secrets in it.

mod document;
mod object;
mod text;

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use async_trait::async_trait;
use k8s_openapi::api::core::v1::Secret;
use kube::ResourceExt as _;
use serde_json::Value;

use self::document::Document;
use super::UsageError;
use crate::fault::{Fault, Reason};
use crate::package::EntryReader;
use crate::suggestion::{did_you_mean, nearest};

pub(super) use object::{Kind, Object};
pub(super) use text::{name_of, read as text};

/// The content of a file for `build`.
#[derive(Debug)]
pub(super) struct File {
    /// The objects to build, in the order of the file: at least one, each once.
    pub objects: Vec<Object>,
    /// The ConfigMaps and Secrets.
    pub given: FileObjects,
    /// Messages about documents that are skipped.
    pub skipped: Vec<String>,
}

/// The ConfigMaps and Secrets of a file, which its objects may name.
#[derive(Debug, Default)]
pub(super) struct FileObjects {
    /// The data of the ConfigMaps, by name.
    pub config_maps: BTreeMap<String, BTreeMap<String, String>>,
    /// The data of the Secrets, by name.
    secrets: BTreeMap<String, BTreeMap<String, Vec<u8>>>,
}

/// The objects in the YAML or JSON file `path`, or on standard input for `-`.
pub(super) fn read(path: &Path) -> Result<File, UsageError> {
    parse(&name_of(path), &text(path, "build")?)
}

impl FileObjects {
    /// Whether the file has a Secret of this name.
    pub(super) fn has_secret(&self, name: &str) -> bool {
        self.secrets.contains_key(name)
    }

    /// An entry of a Secret.
    pub(super) fn secret(&self, name: &str, key: &str) -> Option<&[u8]> {
        self.secrets.get(name)?.get(key).map(Vec::as_slice)
    }
}

#[async_trait]
impl EntryReader for FileObjects {
    async fn of_secret(&self, name: &str, key: &str) -> Result<Vec<u8>, Fault> {
        let found = self.secret(name, key).map(<[u8]>::to_vec);
        found.ok_or_else(|| missing(Reason::SecretUnavailable, "Secret", name, key))
    }

    async fn of_config_map(&self, name: &str, key: &str) -> Result<Vec<u8>, Fault> {
        let found = self.config_maps.get(name).and_then(|data| data.get(key));
        let found = found.map(|text| text.clone().into_bytes());
        found.ok_or_else(|| missing(Reason::ConfigMapUnavailable, "ConfigMap", name, key))
    }
}

fn missing(reason: Reason, kind: &str, name: &str, key: &str) -> Fault {
    Fault::stalled(
        reason,
        format!(
            "the file has no {kind} {name} with an entry {key}: without a cluster it must be in the same file as the package"
        ),
    )
}

fn parse(name: &str, text: &str) -> Result<File, UsageError> {
    let unusable = |message: String| UsageError(format!("{name}{message}"));
    let documents = document::documents(text).map_err(|error| unusable(format!(" is not YAML: {error}")))?;
    if documents.is_empty() {
        return Err(unusable(
            " is empty: it must contain a JackalPackage or a JackalImage".to_owned(),
        ));
    }
    let mut file = File {
        objects: Vec::new(),
        given: FileObjects::default(),
        skipped: Vec::new(),
    };
    // Errors of objects: all objects are read, so that all errors are reported.
    let mut errors = Vec::new();
    for document in &documents {
        read_document(name, document, &mut file, &mut errors)?;
    }
    if !errors.is_empty() {
        return Err(UsageError(errors.join("\n")));
    }
    if file.objects.is_empty() {
        let kinds: Vec<&str> = documents
            .iter()
            .filter_map(|document| document.value["kind"].as_str())
            .collect();
        return Err(unusable(format!(
            " must contain a JackalPackage or a JackalImage; it contains {}",
            kinds.join(", ")
        )));
    }
    let mut seen = BTreeSet::new();
    match file
        .objects
        .iter()
        .find(|object| !seen.insert((object.kind, &object.namespace, &object.name)))
    {
        Some(twice) => Err(unusable(format!(
            " contains {} {} twice; rename or remove one of them",
            twice.kind, twice.name
        ))),
        None => Ok(file),
    }
}

/// Adds a document to `file`, or its errors to `errors`. An error that concerns the whole file is returned.
fn read_document(name: &str, document: &Document, file: &mut File, errors: &mut Vec<String>) -> Result<(), UsageError> {
    let unusable = |message: String| UsageError(format!("{name}{message}"));
    let line = document.line;
    match document.value["kind"].as_str() {
        Some(kind @ ("JackalPackage" | "JackalImage")) => {
            let kind = match kind {
                "JackalPackage" => Kind::Package,
                _ => Kind::Image,
            };
            match object::read(name, document, kind) {
                Ok(object) => file.objects.push(object),
                Err(UsageError(why)) => errors.push(why),
            }
        }
        Some("ConfigMap") => file.given.config_maps.extend(config_map(&document.value)),
        Some("Secret") => {
            let read = secret(&document.value);
            let read = read.map_err(|error| unusable(format!(" has an invalid Secret: {error}")))?;
            file.given.secrets.extend([read]);
        }
        Some(kind @ ("ZarfPackageConfig" | "JackalPackageConfig")) => {
            return Err(unusable(format!(
                " contains a {kind}: convert it with `jackal-operator convert {}`",
                match name {
                    "standard input" => "-",
                    name => name,
                }
            )));
        }
        Some(kind) => match nearest(kind, ["JackalPackage", "JackalImage"]) {
            Some(meant) => errors.push(format!("{name}:{line}: unknown kind {kind}; did you mean {meant}?")),
            None if is_ours(document) => errors.push(format!(
                "{name}:{line}: unknown kind {kind}; the kinds of jackal.dev are JackalPackage and JackalImage"
            )),
            None => file.skipped.push(format!(
                "{name}:{line}: {} is skipped: build reads JackalPackages, JackalImages, ConfigMaps and Secrets",
                called(document)
            )),
        },
        None => {
            let fields = document.value.as_object().into_iter().flatten();
            let meant = fields
                .map(|(field, _)| did_you_mean(field, ["kind"]))
                .find(|meant| !meant.is_empty());
            return Err(unusable(format!(
                ":{line}: the document has no kind: write apiVersion: jackal.dev/v1alpha1 and kind: JackalPackage{}",
                meant.unwrap_or_default()
            )));
        }
    }
    Ok(())
}

/// Whether the document has the API group jackal.dev.
fn is_ours(document: &Document) -> bool {
    let version = document.value["apiVersion"].as_str();
    version.is_some_and(|version| version.starts_with("jackal.dev/"))
}

/// The kind and name of a document.
fn called(document: &Document) -> String {
    let text = |value: &Value| value.as_str().unwrap_or_default().chars().take(100).collect::<String>();
    let (kind, name) = (text(&document.value["kind"]), text(&document.value["metadata"]["name"]));
    format!("{kind} {name}").trim_end().to_owned()
}

/// The name and data of a ConfigMap; values that are not strings are invalid and ignored.
fn config_map(object: &Value) -> Option<(String, BTreeMap<String, String>)> {
    let data = object["data"].as_object().into_iter().flatten();
    let texts = data.filter_map(|(key, value)| Some((key.clone(), value.as_str()?.to_owned())));
    Some((object["metadata"]["name"].as_str()?.to_owned(), texts.collect()))
}

/// The name and data of a Secret, including `stringData`.
fn secret(object: &Value) -> Result<(String, BTreeMap<String, Vec<u8>>), serde_json::Error> {
    let read: Secret = serde_json::from_value(object.clone())?;
    let name = read.name_any();
    let data = read.data.into_iter().flatten().map(|(key, content)| (key, content.0));
    let texts = read.string_data.into_iter().flatten();
    let texts = texts.map(|(key, text)| (key, text.into_bytes()));
    Ok((name, data.chain(texts).collect()))
}

#[cfg(test)]
mod tests {
    use super::*;

    const PACKAGE: &str = "apiVersion: jackal.dev/v1alpha1
kind: JackalPackage
metadata: {name: shop}
spec:
  version: 1.4.0
  components: [{name: web, images: [{image: a, source: Docker, nodeSelector: {any.thing/goes: here}}]}]
";
    const IMAGE: &str = "apiVersion: jackal.dev/v1alpha1
kind: JackalImage
metadata: {name: one}
spec: {image: 'a:1', platforms: [linux/amd64], plainTag: false, naming: Zarf}
";

    fn refused(text: &str) -> String {
        parse("p.yaml", text).unwrap_err().to_string()
    }

    fn names(file: &File) -> Vec<String> {
        let objects = file.objects.iter();
        objects
            .map(|object| format!("{} {}", object.kind, object.name))
            .collect()
    }

    #[test]
    fn all_objects_are_read() {
        let text = format!("{PACKAGE}---\n{IMAGE}---\n{}---\n", PACKAGE.replace("shop", "other"));
        let file = parse("p.yaml", &text).unwrap();
        assert_eq!(
            names(&file),
            ["JackalPackage shop", "JackalImage one", "JackalPackage other"]
        );
        assert!(file.skipped.is_empty());
        let text = format!("{PACKAGE}---\nkind: ConfigMap\nmetadata: {{name: a}}\ndata: {{k: v}}\n");
        let config_maps = parse("p.yaml", &text).unwrap().given.config_maps;
        assert_eq!(config_maps["a"], [("k".to_owned(), "v".to_owned())].into());
        let list = format!(
            "apiVersion: v1\nkind: List\nitems:\n- {}",
            PACKAGE.replace('\n', "\n  ")
        );
        assert_eq!(
            names(&parse("p.yaml", list.trim_end()).unwrap()),
            ["JackalPackage shop"]
        );
        let text = format!("kind: Namespace\nmetadata: {{name: web}}\n---\n{PACKAGE}");
        let skipped = parse("p.yaml", &text).unwrap().skipped;
        assert!(
            skipped[0].starts_with("p.yaml:1: Namespace web is skipped"),
            "{skipped:?}"
        );
    }

    #[test]
    fn files_without_objects_are_refused() {
        assert!(
            refused("kind: Pod").ends_with("p.yaml must contain a JackalPackage or a JackalImage; it contains Pod")
        );
        for empty in ["", "\n", "# a comment\n", "---\n---\n# another\n", "null"] {
            assert!(
                refused(empty).starts_with("p.yaml is empty: it must contain a JackalPackage"),
                "{empty}"
            );
        }
        assert!(refused("a: [").starts_with("p.yaml is not YAML: "));
        let zarf = refused("kind: ZarfPackageConfig\nmetadata: {name: a}\n");
        assert!(zarf.contains("`jackal-operator convert p.yaml`"), "{zarf}");
        let misspelt = refused(&PACKAGE.replace("JackalPackage", "JackalPakage"));
        assert_eq!(
            misspelt,
            "p.yaml:1: unknown kind JackalPakage; did you mean JackalPackage?"
        );
        let none = refused(&format!("{PACKAGE}---\nspec: {{}}\n"));
        assert!(none.starts_with("p.yaml:8: the document has no kind"), "{none}");
        assert!(refused(&PACKAGE.replace("kind:", "Kind:")).ends_with("; did you mean kind?"));
        let twice = refused(&format!("{PACKAGE}---\n{PACKAGE}"));
        assert_eq!(
            twice,
            "p.yaml contains JackalPackage shop twice; rename or remove one of them"
        );
    }

    #[test]
    fn invalid_objects_are_refused() {
        let with = |from: &str, to: &str| refused(&PACKAGE.replace(from, to));
        let misspelt = with("source:", "sauce:");
        assert_eq!(
            misspelt,
            "p.yaml:6: spec.components[0].images[0].sauce: unknown field; did you mean source?"
        );
        let value = with("Docker", "docker");
        assert!(value.ends_with("did you mean Docker?"), "{value}");
        let number = with("1.4.0", "1.4");
        assert!(number.contains("p.yaml:5: spec.version: "), "{number}");
        assert!(number.ends_with("expected a string; put it in quotes"), "{number}");
        assert!(with("{name: shop}", "{}").ends_with("metadata.name is missing"));
        assert!(with("{name: shop}", "{name: 1}").ends_with("put it in quotes"));
        assert!(
            with("v1alpha1", "v9").ends_with("unsupported apiVersion jackal.dev/v9; it must be jackal.dev/v1alpha1")
        );
        let version = with("apiVersion", "apiversion");
        assert!(
            version.contains("p.yaml:1: apiversion: unknown field; did you mean apiVersion?"),
            "{version}"
        );
        assert!(
            version.ends_with("apiVersion is missing: write apiVersion: jackal.dev/v1alpha1"),
            "{version}"
        );
        let name = with("name: shop", "nmae: shop");
        assert!(
            name.contains("p.yaml:3: metadata.nmae: unknown field; did you mean name?"),
            "{name}"
        );
        assert!(with("metadata: {name: shop}\n", "").ends_with("metadata.name is missing"));
        assert_eq!(
            with("version: 1.4.0", "version: 1.4.0\n  interval: 9999999h"),
            "p.yaml:6: spec.interval: the duration `9999999h` is longer than ten years: write a shorter one"
        );
        let image = refused(&IMAGE.replace("platforms", "platfroms"));
        assert!(
            image.ends_with("spec.platfroms: unknown field; did you mean platforms?"),
            "{image}"
        );
        let other = refused(&IMAGE.replace("JackalImage", "Bundle"));
        assert_eq!(
            other,
            "p.yaml:1: unknown kind Bundle; the kinds of jackal.dev are JackalPackage and JackalImage"
        );
        let both = PACKAGE.replace("source:", "sauce:") + "---\n" + &IMAGE.replace("platforms", "platfroms");
        let both = refused(&both);
        assert!(
            both.contains("p.yaml:6: ") && both.contains("p.yaml:11: spec.platfroms"),
            "{both}"
        );
        let two = with("{image: a, source:", "{imgae: a, sauce:");
        assert_eq!(two.matches("did you mean").count(), 2, "{two}");
    }

    #[test]
    fn an_image_becomes_a_package_with_one_image() {
        let file = parse("p.yaml", IMAGE).unwrap();
        let object = &file.objects[0];
        assert_eq!(object.spec.components.len(), 1);
        let image = object.spec.components[0].images[0].spec().unwrap();
        assert_eq!(
            (image.image.as_str(), image.platforms.len(), object.plain_tag),
            ("a:1", 1, false)
        );
    }
}

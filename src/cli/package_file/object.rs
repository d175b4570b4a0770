//! An object of a file that is built.

use std::fmt;
use std::sync::LazyLock;

use kube::ResourceExt;
use serde::de::DeserializeOwned;
use serde_json::{Map, Value, json};

use super::document::Document;
use crate::api::schema::{drop_nulls, violations};
use crate::api::v1alpha1::{self, JackalImage, JackalPackage, JackalPackageSpec};
use crate::cli::Unusable;

/// The component that a single image is put in, for the plan.
const ALONE: &str = "image";

/// Which resource an object is of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(in crate::cli) enum Kind {
    Package,
    Image,
}

impl fmt::Display for Kind {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Self::Package => "JackalPackage",
            Self::Image => "JackalImage",
        })
    }
}

/// A JackalPackage, or a JackalImage as the one image of a package without an artifact.
#[derive(Debug)]
pub(in crate::cli) struct Object {
    pub kind: Kind,
    pub namespace: Option<String>,
    pub name: String,
    pub spec: JackalPackageSpec,
    /// Whether images get their plain tag beside the one with a checksum.
    pub plain_tag: bool,
}

impl Object {
    /// Its kind and name, with the namespace where it says one, for people.
    pub fn shown(&self) -> String {
        let namespace = self.namespace.as_ref().map(|namespace| format!("{namespace}/"));
        format!("the {} {}{}", self.kind, namespace.unwrap_or_default(), self.name)
    }
}

/// The OpenAPI schema of a kind.
fn schema(kind: Kind) -> &'static Value {
    static SCHEMAS: LazyLock<[Value; 2]> =
        LazyLock::new(|| [v1alpha1::schema::<JackalPackage>(), v1alpha1::schema::<JackalImage>()]);
    match kind {
        Kind::Package => &SCHEMAS[0],
        Kind::Image => &SCHEMAS[1],
    }
}

/// The object of the kind `kind` in `document` of the file `file`.
pub(super) fn read(file: &str, document: &Document, kind: Kind) -> Result<Object, Unusable> {
    let line = document.line;
    let unusable = |message: String| Unusable(format!("{file}:{line}: {message}"));
    let value = &document.value;
    if value["apiVersion"] != "jackal.dev/v1alpha1" {
        let found = value["apiVersion"].as_str().unwrap_or("missing");
        return Err(unusable(format!("apiVersion is {found}, not jackal.dev/v1alpha1")));
    }
    // What is misspelt would silently count as absent.
    let schema = schema(kind);
    let found: Vec<String> = violations(value, schema, &kind.to_string())
        .iter()
        .map(|violation| format!("{file}:{}: {violation}", document.line_of(&violation.path)))
        .collect();
    if !found.is_empty() {
        return Err(Unusable(found.join("\n")));
    }
    let mut value = value.clone();
    drop_nulls(&mut value, schema);
    match kind {
        Kind::Package => {
            let package: JackalPackage = decode(value, kind).map_err(unusable)?;
            named(kind, &package, package.spec.clone(), true).map_err(unusable)
        }
        Kind::Image => {
            let image: JackalImage = decode(value.clone(), kind).map_err(unusable)?;
            let package: JackalPackage = decode(package_of(value), kind).map_err(unusable)?;
            named(kind, &image, package.spec, image.spec.plain_tag).map_err(unusable)
        }
    }
}

fn decode<K: DeserializeOwned>(value: Value, kind: Kind) -> Result<K, String> {
    serde_json::from_value(value).map_err(|error| {
        let advice = match error.to_string().ends_with("expected a string") {
            true => "; put it in quotes",
            false => "",
        };
        format!("it is no {kind}: {error}{advice}")
    })
}

fn named<K: ResourceExt>(kind: Kind, object: &K, spec: JackalPackageSpec, plain_tag: bool) -> Result<Object, String> {
    let name = object.name_any();
    if name.is_empty() {
        return Err("metadata.name is missing".to_owned());
    }
    Ok(Object {
        kind,
        namespace: object.namespace(),
        name,
        spec,
        plain_tag,
    })
}

/// The package that asks for the one image of the JackalImage `value`: what both kinds have in common stays, and what an
/// image of a component has too becomes that of the one component's.
fn package_of(mut value: Value) -> Value {
    let mut image = Map::new();
    if let Some(spec) = value["spec"].as_object_mut() {
        for field in ["image", "source", "nodeName", "nodeSelector", "platforms", "policy"] {
            image.extend(spec.remove(field).map(|value| (field.to_owned(), value)));
        }
        spec.insert("components".to_owned(), json!([{ "name": ALONE, "images": [image] }]));
    }
    value
}

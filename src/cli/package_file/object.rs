//! An object to build.

use std::fmt;
use std::sync::LazyLock;

use kube::ResourceExt;
use serde::de::DeserializeOwned;
use serde_json::{Map, Value, json};
use serde_path_to_error::Segment;

use super::document::Document;
use crate::api::schema::{Path, Step, drop_nulls, violations};
use crate::api::v1alpha1::{self, JackalImage, JackalPackage, JackalPackageSpec};
use crate::cli::UsageError;

/// The version of both resources.
const API_VERSION: &str = "jackal.dev/v1alpha1";
/// The name of the component of a JackalImage in the plan.
const IMAGE_COMPONENT: &str = "image";

/// The kind of an object.
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
    /// Whether images get a plain tag in addition to the tag with a checksum.
    pub plain_tag: bool,
}

impl Object {
    /// Its kind and name for messages, with the namespace if it has one.
    pub fn shown(&self) -> String {
        let namespace = self.namespace.as_ref().map(|namespace| format!("{namespace}/"));
        format!("the {} {}{}", self.kind, namespace.unwrap_or_default(), self.name)
    }
}

impl fmt::Display for Object {
    /// Kind and name: `JackalPackage/shop`.
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}/{}", self.kind, self.name)
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
pub(super) fn read(file: &str, document: &Document, kind: Kind) -> Result<Object, UsageError> {
    let at = |path: &Path, message: String| format!("{file}:{}: {message}", document.line_of(path));
    let value = &document.value;
    let version = value["apiVersion"].as_str();
    if let Some(other) = version.filter(|version| *version != API_VERSION) {
        let message = format!("unsupported apiVersion {other}; it must be {API_VERSION}");
        return Err(UsageError(at(&field("apiVersion"), message)));
    }
    // A misspelt field would otherwise be ignored.
    let schema = schema(kind);
    let mut found: Vec<String> = violations(value, schema)
        .iter()
        .map(|violation| at(&violation.path, violation.to_string()))
        .collect();
    if value["apiVersion"].is_null() {
        let message = format!("apiVersion is missing: write apiVersion: {API_VERSION}");
        found.push(at(&Path::default(), message));
    }
    let name = &value["metadata"]["name"];
    if name.is_null() || name == "" {
        found.push(at(&field("metadata"), "metadata.name is missing".to_owned()));
    }
    if !found.is_empty() {
        return Err(UsageError(found.join("\n")));
    }
    let unusable = |(path, message): (Path, String)| UsageError(at(&path, message));
    if !value["spec"]["from"].is_null() {
        let message = "spec.from: only the controller reads archives; use `jackal-operator load` without a cluster";
        let path = Path(vec![Step::Field("spec".to_owned()), Step::Field("from".to_owned())]);
        return Err(unusable((path, message.to_owned())));
    }
    let mut value = value.clone();
    drop_nulls(&mut value, schema);
    match kind {
        Kind::Package => {
            let package: JackalPackage = decode(value, kind).map_err(unusable)?;
            Ok(named(kind, &package, package.spec.clone(), true))
        }
        Kind::Image => {
            let image: JackalImage = decode(value.clone(), kind).map_err(unusable)?;
            let package: JackalPackage = decode(package_of(value), kind).map_err(unusable)?;
            Ok(named(kind, &image, package.spec, image.spec.plain_tag))
        }
    }
}

fn field(name: &str) -> Path {
    Path(vec![Step::Field(name.to_owned())])
}

/// Decodes an object that matches the schema. It may still be invalid, such as a duration of a century.
fn decode<K: DeserializeOwned>(value: Value, kind: Kind) -> Result<K, (Path, String)> {
    serde_path_to_error::deserialize(value).map_err(|error| {
        let path = path(error.path());
        let error = error.into_inner();
        let message = match path.0.is_empty() {
            true => format!("not a valid {kind}: {error}"),
            false => format!("{path}: {error}"),
        };
        (path, message)
    })
}

/// The path at which decoding failed, as far as it is known.
fn path(path: &serde_path_to_error::Path) -> Path {
    let steps = path.iter().map_while(|segment| match segment {
        Segment::Map { key } => Some(Step::Field(key.clone())),
        Segment::Seq { index } => Some(Step::Item(*index)),
        Segment::Enum { .. } | Segment::Unknown => None,
    });
    Path(steps.collect())
}

fn named<K: ResourceExt>(kind: Kind, object: &K, spec: JackalPackageSpec, plain_tag: bool) -> Object {
    Object {
        kind,
        namespace: object.namespace(),
        name: object.name_any(),
        spec,
        plain_tag,
    }
}

/// The package with the image of the JackalImage `value`: fields of both kinds are kept, and fields of an image are moved to
/// the image of the only component.
fn package_of(mut value: Value) -> Value {
    let mut image = Map::new();
    if let Some(spec) = value["spec"].as_object_mut() {
        for field in ["image", "source", "nodeName", "nodeSelector", "platforms", "policy"] {
            image.extend(spec.remove(field).map(|value| (field.to_owned(), value)));
        }
        spec.insert(
            "components".to_owned(),
            json!([{ "name": IMAGE_COMPONENT, "images": [image] }]),
        );
    }
    value
}

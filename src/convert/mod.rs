//! Converts a package definition of Jackal's or Zarf's commands to a JackalPackage, and reports what cannot be
//! converted. No IO, except for the local files that the definition names, which the caller reads.
//!
//! The definition is consumed field by field. The fields that remain at the end are reported.

mod component;
mod fields;
mod node;

use serde_json::Value;

use self::fields::Fields;
use self::node::Node;
use crate::api::v1alpha1::JackalPackage;
use crate::package::{Definition, Plan};

/// The most bytes of local files in a JackalPackage; the API server's limit for an object is a little higher.
const INLINE_LIMIT: usize = 1_000_000;

/// Options of a conversion.
#[derive(Clone, Debug, Default)]
pub struct ConvertOptions {
    /// The flavour of the package: components of other flavours are omitted, as by `package create --flavor`.
    pub flavor: String,
}

/// A converted package.
#[derive(Clone, Debug)]
pub struct Converted {
    /// The JackalPackage as YAML, preceded by comments with the omissions.
    pub yaml: String,
    /// The same, parsed.
    pub package: JackalPackage,
    /// What could not be converted, in the order of the definition.
    pub left_out: Vec<Omission>,
}

/// A part of a definition that could not be converted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Omission {
    /// Its path: `components[web].actions`.
    pub path: String,
    /// Why, and what to do instead.
    pub why: String,
}

impl std::fmt::Display for Omission {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(formatter, "{}: {}", self.path, self.why)
    }
}

/// The local files of a definition.
pub trait Files {
    /// The content of a file of at most `limit` bytes, by its path in the definition. The error completes a sentence about the
    /// file, such as `is too long`.
    fn read(&self, path: &str, limit: usize) -> Result<Vec<u8>, String>;
}

/// The state of a conversion.
struct Conversion<'a> {
    files: &'a dyn Files,
    options: &'a ConvertOptions,
    architecture: Option<String>,
    left_out: Vec<Omission>,
    inlined: usize,
}

impl Conversion<'_> {
    fn omit(&mut self, path: impl Into<String>, why: impl Into<String>) {
        self.left_out.push(Omission {
            path: path.into(),
            why: why.into(),
        });
    }

    /// The text of a local file, or `None` if it is omitted.
    fn text(&mut self, at: &str, path: &str) -> Option<String> {
        let left = INLINE_LIMIT.saturating_sub(self.inlined);
        let read = self.files.read(path, left).and_then(|content| {
            String::from_utf8(content).map_err(|_| {
                "is not text, and a JackalPackage can only contain text: give it a url and sha256".to_owned()
            })
        });
        match read {
            Ok(text) => {
                self.inlined += text.len();
                Some(text)
            }
            Err(why) => {
                self.omit(at, format!("{path} {why}"));
                None
            }
        }
    }
}

/// Converts `definition`, the text of a `jackal.yaml` or `zarf.yaml`. The error completes a sentence about the definition, such
/// as `has no metadata`.
pub fn convert(definition: &str, files: &dyn Files, options: &ConvertOptions) -> Result<Converted, String> {
    // The commands read an unquoted `yes` or `n` as a text.
    let yaml_options = serde_saphyr::options! {
        strict_booleans: true,
        duplicate_keys: serde_saphyr::DuplicateKeyPolicy::LastWins,
    };
    let documents: Vec<Value> = serde_saphyr::from_multiple_with_options(definition, yaml_options)
        .map_err(|error| format!("is not YAML: {error}"))?;
    let (whole, naming) = select(documents)?;
    let mut conversion = Conversion {
        files,
        options,
        architecture: None,
        left_out: Vec::new(),
        inlined: 0,
    };
    let mut whole = Fields::of(whole, "", &mut conversion).ok_or("is not a package definition")?;
    for known in ["apiVersion", "kind", "build"] {
        whole.drop(known);
    }
    let mut metadata = whole.inner("metadata", &mut conversion).ok_or("has no metadata")?;
    let name = metadata.text("name", &mut conversion).ok_or("has no metadata.name")?;
    let version = version(&mut metadata, &mut conversion);
    let description = metadata.text("description", &mut conversion);
    let architecture = metadata.text("architecture", &mut conversion);
    conversion.architecture = architecture.clone();
    // The commands compute it.
    metadata.drop("aggregateChecksum");
    // It only applies to packages in files.
    metadata.drop("uncompressed");
    metadata.omit_rest(&mut conversion);
    let components = whole.list("components", &mut conversion);
    let mut converted = Vec::new();
    for component in components {
        converted.extend(component::convert(component, &mut conversion));
    }
    whole.omit_rest(&mut conversion);
    if converted.is_empty() {
        return Err("has no component that could be converted".to_owned());
    }
    let spec = Node::fields([
        ("version", Some(Node::text(version))),
        ("description", description.map(Node::text)),
        ("architecture", architecture.map(Node::text)),
        ("naming", Some(Node::text(naming))),
        ("components", Some(Node::List(converted))),
    ]);
    let package = Node::fields([
        ("apiVersion", Some(Node::text("jackal.dev/v1alpha1"))),
        ("kind", Some(Node::text("JackalPackage"))),
        ("metadata", Some(Node::fields([("name", Some(Node::text(name)))]))),
        ("spec", Some(spec)),
    ]);
    finish(&package, conversion.left_out)
}

/// Selects the definition among the documents of a file, and the naming of its images. Of two API versions of a definition
/// the older is used.
fn select(documents: Vec<Value>) -> Result<(Value, &'static str), String> {
    let mut kinds = Vec::new();
    for document in documents {
        let kind = document["kind"]
            .as_str()
            .unwrap_or("something without a kind")
            .to_owned();
        let version = document["apiVersion"].as_str().unwrap_or_default().to_owned();
        match kind.as_str() {
            _ if !version.is_empty() && !version.ends_with("/v1alpha1") => kinds.push(format!("{kind} of {version}")),
            "ZarfPackageConfig" => return Ok((document, "Zarf")),
            "JackalPackageConfig" => return Ok((document, "Jackal")),
            _ => kinds.push(kind),
        }
    }
    Err(format!(
        "contains no JackalPackageConfig and no ZarfPackageConfig of v1alpha1, but {}",
        match kinds.is_empty() {
            true => "nothing".to_owned(),
            false => kinds.join(", "),
        }
    ))
}

/// The version as a valid tag.
fn version(metadata: &mut Fields, conversion: &mut Conversion<'_>) -> String {
    let Some(version) = metadata.text("version", conversion) else {
        conversion.omit(
            "metadata.version",
            "it is missing, but a JackalPackage needs one: it is set to 0.0.1, correct it",
        );
        return "0.0.1".to_owned();
    };
    let tag = version.replace('+', "_");
    if tag != version {
        conversion.omit(
            "metadata.version",
            format!("`{version}` has a '+', which registries refuse in a tag: it is changed to `{tag}`"),
        );
    }
    tag
}

fn finish(package: &Node, left_out: Vec<Omission>) -> Result<Converted, String> {
    let mut body = String::new();
    serde_saphyr::to_fmt_writer(&mut body, package).map_err(|error| format!("cannot be written as YAML: {error}"))?;
    let value = serde_json::to_value(package).map_err(|error| error.to_string())?;
    let package: JackalPackage =
        serde_json::from_value(value).map_err(|error| format!("does not become a JackalPackage: {error}"))?;
    // The result must be valid.
    let name = package.metadata.name.clone().unwrap_or_default();
    Plan::of_package(&name, &package.spec, "127.0.0.1:31999", "")
        .and_then(|plan| Definition::of(&name, &package.spec, &plan))
        .map_err(|fault| format!("does not become a JackalPackage: {}", fault.message))?;
    let mut yaml = String::new();
    if !left_out.is_empty() {
        yaml.push_str("# Not converted:\n");
        for part in &left_out {
            let line: String = part.to_string().split_whitespace().collect::<Vec<_>>().join(" ");
            yaml.push_str(&format!("# - {line}\n"));
        }
    }
    yaml.push_str(&body);
    Ok(Converted {
        yaml,
        package,
        left_out,
    })
}

#[cfg(test)]
mod tests;

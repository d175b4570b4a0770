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

/// The most bytes that a JackalPackage takes of the texts of local files: an API server takes some more of an object.
const INLINE_LIMIT: usize = 1_000_000;

/// What is asked for beside the definition.
#[derive(Clone, Debug, Default)]
pub struct ConvertOptions {
    /// The flavour of the package: components of other flavours are left out, as `package create --flavor` does.
    pub flavor: String,
}

/// A package that was converted.
#[derive(Clone, Debug)]
pub struct Converted {
    /// The JackalPackage as YAML, with what it lacks as comments before it.
    pub yaml: String,
    /// The same, read.
    pub package: JackalPackage,
    /// What could not be carried over, in the order of the definition.
    pub left_out: Vec<Omission>,
}

/// A part of a definition that could not be carried over.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Omission {
    /// Where it stands: `components[web].actions`.
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
    /// The content of a file of at most `limit` bytes, by its path as the definition writes it. The error says what is
    /// wrong with the file.
    fn read(&self, path: &str, limit: usize) -> Result<Vec<u8>, String>;
}

/// What is noted on the way through a definition.
struct Notes<'a> {
    files: &'a dyn Files,
    wanted: &'a ConvertOptions,
    architecture: Option<String>,
    left_out: Vec<Omission>,
    inlined: usize,
}

impl Notes<'_> {
    fn leave(&mut self, path: impl Into<String>, why: impl Into<String>) {
        self.left_out.push(Omission {
            path: path.into(),
            why: why.into(),
        });
    }

    /// The text of a local file, or nothing when it was left out.
    fn text(&mut self, at: &str, path: &str) -> Option<String> {
        let left = INLINE_LIMIT.saturating_sub(self.inlined);
        let read = self.files.read(path, left).and_then(|content| {
            String::from_utf8(content).map_err(|_| {
                "is no text, and only text can stand in a JackalPackage: give it a url and sha256".to_owned()
            })
        });
        match read {
            Ok(text) => {
                self.inlined += text.len();
                Some(text)
            }
            Err(why) => {
                self.leave(at, format!("{path} {why}"));
                None
            }
        }
    }
}

/// Converts `definition`, the text of a `jackal.yaml` or `zarf.yaml`. The error says why nothing of it can be.
pub fn convert(definition: &str, files: &dyn Files, wanted: &ConvertOptions) -> Result<Converted, String> {
    // The commands take a bare `yes` or `n` for a text.
    let options = serde_saphyr::options! {
        strict_booleans: true,
        duplicate_keys: serde_saphyr::DuplicateKeyPolicy::LastWins,
    };
    let documents: Vec<Value> = serde_saphyr::from_multiple_with_options(definition, options)
        .map_err(|error| format!("is not YAML: {error}"))?;
    let (whole, naming) = choose(documents)?;
    let mut notes = Notes {
        files,
        wanted,
        architecture: None,
        left_out: Vec::new(),
        inlined: 0,
    };
    let mut whole = Fields::of(whole, "", &mut notes).ok_or("is no package definition")?;
    for known in ["apiVersion", "kind", "build"] {
        whole.drop(known);
    }
    let mut metadata = whole.inner("metadata", &mut notes).ok_or("has no metadata")?;
    let name = metadata.text("name", &mut notes).ok_or("has no metadata.name")?;
    let version = version(&mut metadata, &mut notes);
    let description = metadata.text("description", &mut notes);
    let architecture = metadata.text("architecture", &mut notes);
    notes.architecture = architecture.clone();
    // The commands compute it.
    metadata.drop("aggregateChecksum");
    // An artifact in a registry is no file that could be compressed.
    metadata.drop("uncompressed");
    metadata.leave_rest(&mut notes);
    let components = whole.list("components", &mut notes);
    let mut converted = Vec::new();
    for component in components {
        converted.extend(component::convert(component, &mut notes));
    }
    whole.leave_rest(&mut notes);
    if converted.is_empty() {
        return Err("has no component that could be carried over".to_owned());
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
    written(&package, notes.left_out)
}

/// The definition among the documents of a file, and the naming of its images. Of two versions of one definition the
/// elder is read.
fn choose(documents: Vec<Value>) -> Result<(Value, &'static str), String> {
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
        "holds no JackalPackageConfig and no ZarfPackageConfig of v1alpha1, but {}",
        match kinds.is_empty() {
            true => "nothing".to_owned(),
            false => kinds.join(", "),
        }
    ))
}

/// The version, which is a tag here.
fn version(metadata: &mut Fields, notes: &mut Notes<'_>) -> String {
    let Some(version) = metadata.text("version", notes) else {
        notes.leave(
            "metadata.version",
            "it is missing, and a JackalPackage has one: 0.0.1 stands there, correct it",
        );
        return "0.0.1".to_owned();
    };
    let tag = version.replace('+', "_");
    if tag != version {
        notes.leave(
            "metadata.version",
            format!("`{version}` has a '+', which no registry takes in a tag: it is `{tag}`"),
        );
    }
    tag
}

fn written(package: &Node, left_out: Vec<Omission>) -> Result<Converted, String> {
    let mut body = String::new();
    serde_saphyr::to_fmt_writer(&mut body, package).map_err(|error| format!("cannot be written as YAML: {error}"))?;
    let value = serde_json::to_value(package).map_err(|error| error.to_string())?;
    let package: JackalPackage =
        serde_json::from_value(value).map_err(|error| format!("does not become a JackalPackage: {error}"))?;
    // What comes out can be applied, or nothing does.
    let name = package.metadata.name.clone().unwrap_or_default();
    Plan::of_package(&name, &package.spec, "127.0.0.1:31999", "")
        .and_then(|plan| Definition::of(&name, &package.spec, &plan))
        .map_err(|fault| format!("does not become a JackalPackage: {}", fault.message))?;
    let mut yaml = String::new();
    if !left_out.is_empty() {
        yaml.push_str("# Not carried over:\n");
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

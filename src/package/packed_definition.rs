//! The definition of a package that `package create` of Jackal or Zarf packed into a file, and the manifest that its artifact has in
//! a registry. No IO.

mod differential;

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use jiff::Timestamp;
use jiff::fmt::rfc2822::DateTimeParser;
use serde::Deserialize;

use super::artifact::{Layer, TITLE, manifest};
use super::definition::{DIALECTS, Dialect};
use crate::decode::{self, Ordered, ordered_yaml_documents};
use crate::fault::{Fault, Reason};
use crate::oci::{Digest, Document};

/// The file with the digests of all other files.
pub const CHECKSUMS: &str = "checksums.txt";
/// Files that no `checksums.txt` lists (Zarf, `validatePackageIntegrity`).
const UNLISTED: [&str; 3] = [CHECKSUMS, "zarf.yaml.sig", "zarf.bundle.sig"];
/// The creation time of a package that has none: Go's zero time.
const NO_TIME: &str = "0001-01-01T00:00:00Z";

/// The definition of a packed package.
#[derive(Clone, Debug)]
pub struct PackedDefinition {
    dialect: Dialect,
    config: Bytes,
    annotations: BTreeMap<String, String>,
    aggregate_checksum: String,
    unlisted: BTreeSet<String>,
}

/// The fields that are read.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Fields {
    metadata: Metadata,
    #[serde(default)]
    build: Build,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Metadata {
    name: String,
    #[serde(default)]
    description: String,
    #[serde(default)]
    url: String,
    #[serde(default)]
    authors: String,
    #[serde(default)]
    documentation: String,
    #[serde(default)]
    source: String,
    #[serde(default)]
    vendor: String,
    #[serde(default)]
    annotations: BTreeMap<String, String>,
    #[serde(default)]
    aggregate_checksum: String,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Build {
    timestamp: String,
    signed: bool,
    provenance_files: Vec<String>,
    aggregate_checksum: String,
}

impl PackedDefinition {
    /// The names that the file of a definition has.
    pub fn files() -> impl Iterator<Item = &'static str> {
        DIALECTS.iter().map(|dialect| dialect.file)
    }

    /// Reads `text`, the content of the file `file`. Of two versions of one definition the elder is read.
    ///
    /// # Errors
    /// A stalled fault that says what is wrong.
    pub fn parse(file: &str, text: &[u8]) -> Result<Self, Fault> {
        let invalid = |what: String| Fault::stalled(Reason::SourceFailed, format!("{file} {what}"));
        let dialect = DIALECTS.into_iter().find(|dialect| dialect.file == file);
        let dialect = dialect.ok_or_else(|| invalid("is not a package definition".to_owned()))?;
        let text = std::str::from_utf8(text).map_err(|error| invalid(format!("is not text: {error}")))?;
        let documents = ordered_yaml_documents(text).map_err(|error| invalid(format!("is not YAML: {error}")))?;
        let document = elder(documents).ok_or_else(|| invalid("is empty".to_owned()))?;
        let config = serde_json::to_vec(&document).map_err(|error| invalid(format!("is not like JSON: {error}")))?;
        let Fields { metadata, build } =
            decode::json(&config).map_err(|error| invalid(format!("cannot be read: {error}")))?;
        let unlisted = std::iter::once(dialect.file).chain(UNLISTED).map(str::to_owned);
        let signed = build.provenance_files.into_iter().filter(|_| build.signed);
        let checksum = match metadata.aggregate_checksum.is_empty() {
            true => build.aggregate_checksum,
            false => metadata.aggregate_checksum.clone(),
        };
        Ok(Self {
            dialect,
            config: config.into(),
            annotations: annotations(metadata, &build.timestamp),
            aggregate_checksum: checksum,
            unlisted: unlisted.chain(signed).collect(),
        })
    }

    /// The content of the manifest's config.
    pub fn config(&self) -> &Bytes {
        &self.config
    }

    /// Whether the file `path` need not be in the checksums.
    pub fn is_unlisted(&self, path: &str) -> bool {
        self.unlisted.contains(path)
    }

    /// The digests of the files by their paths, as `checksums` says, the content of [`CHECKSUMS`].
    ///
    /// # Errors
    /// A stalled fault, where it is not the content that the definition names, or cannot be read.
    pub fn checksums(&self, checksums: &[u8]) -> Result<BTreeMap<String, Digest>, Fault> {
        let found = Digest::of(checksums);
        if found.hex() != self.aggregate_checksum {
            let message = format!(
                "{CHECKSUMS} has the digest {found}, and {} names {:?}; copy the package again",
                self.dialect.file,
                self.aggregate_checksum.chars().take(80).collect::<String>()
            );
            return Err(Fault::stalled(Reason::DigestMismatch, message));
        }
        let invalid = |line: &str| {
            let line: String = line.chars().take(100).collect();
            Fault::stalled(Reason::SourceFailed, format!("{CHECKSUMS} has the line {line:?}"))
        };
        let text = std::str::from_utf8(checksums).map_err(|_| invalid("(no text)"))?;
        let mut files = BTreeMap::new();
        for line in text.split('\n').filter(|line| !line.is_empty()) {
            let (sum, path) = line.split_once(' ').ok_or_else(|| invalid(line))?;
            let digest = format!("sha256:{sum}").parse().map_err(|_| invalid(line))?;
            if path.is_empty() || path.contains(' ') || files.insert(path.to_owned(), digest).is_some() {
                return Err(invalid(line));
            }
        }
        Ok(files)
    }

    /// The manifest of the artifact with `files`: path, digest and length in bytes of each. Layers, media types and annotations are
    /// those of `package publish`; the definition is the first layer, as in our own artifacts.
    ///
    /// # Errors
    /// A stalled fault, where there are too many files.
    pub fn manifest(&self, files: impl IntoIterator<Item = (String, Digest, u64)>) -> Result<Document, Fault> {
        let layers = files.into_iter().map(|(path, digest, size)| Layer {
            path,
            digest,
            size,
            inputs: None,
        });
        let layers: Vec<Layer> = layers.collect();
        manifest(self.dialect, self.annotations.clone(), &layers, &self.config)
    }
}

/// The document of v1alpha1, or else the first.
fn elder(mut documents: Vec<Ordered>) -> Option<Ordered> {
    let is_elder = |document: &Ordered| {
        let Ordered::Fields(fields) = document else {
            return false;
        };
        let version = fields.iter().find(|(name, _)| name == "apiVersion");
        match version.map(|(_, value)| value) {
            Some(Ordered::Scalar(version)) => version.as_str().is_some_and(|version| version.ends_with("/v1alpha1")),
            _ => true,
        }
    };
    let elder = documents.iter().position(is_elder).unwrap_or_default();
    (elder < documents.len()).then(|| documents.swap_remove(elder))
}

/// The annotations of the manifest (Zarf, `AnnotationsFromMetadata`).
fn annotations(metadata: Metadata, timestamp: &str) -> BTreeMap<String, String> {
    let created = DateTimeParser::new().parse_timestamp(timestamp).ok();
    let created = created.and_then(|created| Timestamp::from_second(created.as_second()).ok());
    let always = [
        (TITLE, metadata.name),
        ("org.opencontainers.image.description", metadata.description),
    ];
    let optional = [
        ("org.opencontainers.image.url", metadata.url),
        ("org.opencontainers.image.authors", metadata.authors),
        ("org.opencontainers.image.documentation", metadata.documentation),
        ("org.opencontainers.image.source", metadata.source),
        ("org.opencontainers.image.vendor", metadata.vendor),
    ];
    let optional = optional.into_iter().filter(|(_, value)| !value.is_empty());
    let named = always.into_iter().chain(optional);
    let mut annotations: BTreeMap<String, String> = named.map(|(name, value)| (name.to_owned(), value)).collect();
    annotations.extend(metadata.annotations);
    annotations.insert(
        "org.opencontainers.image.created".to_owned(),
        created.map_or_else(|| NO_TIME.to_owned(), |created| created.to_string()),
    );
    annotations
}

#[cfg(test)]
mod tests;

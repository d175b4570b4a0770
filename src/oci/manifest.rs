//! Parsed manifests and indexes, with their raw bytes, which are copied unchanged.

use std::collections::{BTreeMap, HashSet};

use bytes::Bytes;
use serde::de::IgnoredAny;
use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::decode::{self, DecodeError};

use super::unknown_fields::with_unknown_fields;
use super::{Compression, Descriptor, Digest, UnknownFields, media_type};

/// Maximum size of a manifest or index in bytes: the limit of registries (distribution: 4 MiB).
pub const MANIFEST_LIMIT: usize = 4 * 1024 * 1024;
/// Maximum number of JSON values in a manifest or index. A layer with digest, size, media type and two annotations has
/// six, so all realistic documents of 4 MiB are accepted.
pub const MAX_JSON_VALUES: usize = 200_000;

/// An image manifest (OCI image specification, "Image Manifest"; docker's schema 2 has the same shape).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(remote = "Self", rename_all = "camelCase")]
pub struct Manifest {
    /// 2, which is also the default.
    #[serde(default = "schema_version")]
    pub schema_version: u64,
    /// The media type; absent in old OCI manifests.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub media_type: Option<String>,
    /// The artifact type, if it is not an image.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub artifact_type: Option<String>,
    /// The configuration of the image.
    pub config: Descriptor,
    /// The layers, lowest first.
    #[serde(default)]
    pub layers: Vec<Descriptor>,
    /// The manifest that this one refers to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub subject: Option<Descriptor>,
    /// Annotations.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub annotations: BTreeMap<String, String>,
    /// All other fields.
    #[serde(flatten, skip_deserializing)]
    pub unknown: UnknownFields,
}

with_unknown_fields!(Manifest, Index);

impl Manifest {
    /// An OCI manifest of an image, or of an artifact whose type is the media type of its config.
    pub fn new(config: Descriptor, layers: Vec<Descriptor>) -> Self {
        Self {
            schema_version: 2,
            media_type: Some(media_type::OCI_MANIFEST.to_owned()),
            artifact_type: None,
            config,
            layers,
            subject: None,
            annotations: BTreeMap::new(),
            unknown: UnknownFields::default(),
        }
    }

    /// The manifest that is generated for an image of an engine: from its configuration `image_id`, of `size` bytes,
    /// and its layers, lowest first. It contains nothing else, so the same image always has the same digest.
    pub fn for_image(image_id: Digest, size: u64, layers: Vec<Descriptor>) -> Self {
        Self::new(Descriptor::new(media_type::OCI_CONFIG, image_id, size), layers)
    }

    /// The path of the first blob without a size, which is needed to verify its transfer.
    fn first_blob_without_size(&self) -> Option<String> {
        let has_no_size = |blob: &Descriptor| blob.size == 0 && blob.inline_content().is_none();
        if has_no_size(&self.config) {
            return Some("config".to_owned());
        }
        let layer = self.layers.iter().position(has_no_size)?;
        Some(format!("layers[{layer}]"))
    }

    /// The blobs that must exist in a registry before it accepts this manifest: config and layers, each once. Foreign
    /// layers, which need not exist there, are [`Manifest::foreign_layers`].
    pub fn blobs(&self) -> Vec<&Descriptor> {
        let mut seen = HashSet::with_capacity(self.layers.len() + 1);
        std::iter::once(&self.config)
            .chain(&self.layers)
            .filter(|blob| !media_type::is_foreign_layer(&blob.media_type) && seen.insert(&blob.digest))
            .collect()
    }
}

impl Manifest {
    /// The distinct foreign layers (`urls`), which may be available only from their publisher, in the formats of docker
    /// and OCI. A registry has them only if someone pushed them.
    pub fn foreign_layers(&self) -> Vec<&Descriptor> {
        let mut seen = HashSet::new();
        let foreign = self
            .layers
            .iter()
            .filter(|layer| media_type::is_foreign_layer(&layer.media_type));
        foreign.filter(|layer| seen.insert(&layer.digest)).collect()
    }
}

/// An index: a list of manifests, one per platform (OCI image specification, "Image Index").
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(remote = "Self", rename_all = "camelCase")]
pub struct Index {
    /// 2, which is also the default.
    #[serde(default = "schema_version")]
    pub schema_version: u64,
    /// The media type; absent in old OCI indexes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub media_type: Option<String>,
    /// The artifact type, if it is not an image.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub artifact_type: Option<String>,
    /// The entries.
    #[serde(default)]
    pub manifests: Vec<Descriptor>,
    /// The manifest that this index refers to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub subject: Option<Descriptor>,
    /// Annotations.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub annotations: BTreeMap<String, String>,
    /// All other fields.
    #[serde(flatten, skip_deserializing)]
    pub unknown: UnknownFields,
}

impl Index {
    /// An OCI index of `manifests`.
    pub fn new(manifests: Vec<Descriptor>) -> Self {
        Self {
            schema_version: 2,
            media_type: Some(media_type::OCI_INDEX.to_owned()),
            artifact_type: None,
            manifests,
            subject: None,
            annotations: BTreeMap::new(),
            unknown: UnknownFields::default(),
        }
    }

    /// The entries that are not manifests.
    pub fn blobs(&self) -> Vec<&Descriptor> {
        self.manifests
            .iter()
            .filter(|entry| !entry.is_manifest_or_untyped())
            .collect()
    }
}

fn schema_version() -> u64 {
    2
}

/// A manifest or index with its raw bytes, which determine the digest and are copied unchanged.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Document {
    /// Media type, digest and length of `raw`.
    pub descriptor: Descriptor,
    /// The raw bytes.
    pub raw: Bytes,
    /// The parsed content.
    pub content: Content,
}

/// The content of a document.
// Few exist at a time, and each is as large as its JSON anyway.
#[allow(clippy::large_enum_variant)]
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Content {
    /// An image or an artifact.
    Manifest(Manifest),
    /// A list of images.
    Index(Index),
}

/// Why bytes cannot be copied as a manifest.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub enum DocumentError {
    /// Longer than [`MANIFEST_LIMIT`].
    #[error("the manifest has {0} bytes, more than the {MANIFEST_LIMIT} that registries accept")]
    TooLarge(usize),
    /// More values than [`MAX_JSON_VALUES`].
    #[error("the manifest has {0} JSON values, more than the limit of {MAX_JSON_VALUES}")]
    TooManyValues(usize),
    /// Docker's schema 1, which has no configuration.
    #[error(
        "the manifest has docker's schema 1, which current registries and engines do not support; pull the image with an old docker and push it again with a current one"
    )]
    Schema1,
    /// A media type of neither a manifest nor an index.
    #[error(
        "the manifest has the media type `{0}`, which is neither an OCI nor a docker schema 2 manifest; push the image again with a current tool"
    )]
    MediaType(String),
    /// Invalid JSON for the media type.
    #[error("the manifest cannot be read as {media_type}: {reason}")]
    Malformed {
        /// The expected media type.
        media_type: String,
        /// The error of the parser.
        reason: String,
    },
}

impl Document {
    /// Parses `raw`. `declared` is the media type from the transport or the descriptor. Without it, the `mediaType` of
    /// the document decides, and without that, or if that is impossible, its fields.
    pub fn parse(declared: Option<&str>, raw: Bytes) -> Result<Self, DocumentError> {
        if raw.len() > MANIFEST_LIMIT {
            return Err(DocumentError::TooLarge(raw.len()));
        }
        let values = decode::json_values(&raw);
        if values > MAX_JSON_VALUES {
            return Err(DocumentError::TooManyValues(values));
        }
        let malformed = |media_type: &str| {
            let media_type = media_type.to_owned();
            move |error: DecodeError| DocumentError::Malformed {
                media_type,
                reason: error.to_string(),
            }
        };
        let shape: Shape = decode::json(&raw).map_err(malformed("a manifest"))?;
        let kind = shape.kind(declared)?;
        let content = match media_type::is_index(&kind) {
            true => Content::Index(decode::json(&raw).map_err(malformed(&kind))?),
            false => {
                let manifest: Manifest = decode::json(&raw).map_err(malformed(&kind))?;
                if let Some(path) = manifest.first_blob_without_size() {
                    return Err(DocumentError::Malformed {
                        media_type: kind,
                        reason: format!("{path}: missing field `size`"),
                    });
                }
                Content::Manifest(manifest)
            }
        };
        let descriptor = Descriptor::new(kind, Digest::of(&raw), raw.len() as u64);
        Ok(Self {
            descriptor,
            raw,
            content,
        })
    }

    /// Replaces the digest by another verified digest of the same bytes: registries and stores may identify content by
    /// SHA-512.
    pub fn with_digest(mut self, digest: Digest) -> Self {
        self.descriptor.digest = digest;
        self
    }

    /// Serializes a manifest: compact JSON in field order, so the same content has the same digest.
    pub fn of_manifest(manifest: Manifest) -> Result<Self, DocumentError> {
        let media_type = manifest
            .media_type
            .clone()
            .unwrap_or_else(|| media_type::OCI_MANIFEST.to_owned());
        let raw = serialize_document(&manifest, &media_type)?;
        let descriptor = Descriptor::new(media_type, Digest::of(&raw), raw.len() as u64);
        Ok(Self {
            descriptor,
            raw,
            content: Content::Manifest(manifest),
        })
    }

    /// Like [`Document::of_manifest`], for an index.
    pub fn of_index(index: Index) -> Result<Self, DocumentError> {
        let media_type = index
            .media_type
            .clone()
            .unwrap_or_else(|| media_type::OCI_INDEX.to_owned());
        let raw = serialize_document(&index, &media_type)?;
        let descriptor = Descriptor::new(media_type, Digest::of(&raw), raw.len() as u64);
        Ok(Self {
            descriptor,
            raw,
            content: Content::Index(index),
        })
    }

    /// The manifest, if it has exactly the bytes that [`Manifest::for_image`] generates for its configuration and
    /// layers, and its layers are stored with `compression`.
    pub fn generated_manifest(&self, compression: Compression) -> Option<&Manifest> {
        let manifest = self.manifest()?;
        if !manifest.layers.iter().all(|layer| compression.has_encoded(layer)) {
            return None;
        }
        let (config, layers) = (&manifest.config, manifest.layers.clone());
        let ours = Self::of_manifest(Manifest::for_image(config.digest.clone(), config.size, layers));
        ours.is_ok_and(|ours| ours.raw == self.raw).then_some(manifest)
    }

    /// Whether this is a manifest in docker's form (schema 2), which `docker push` makes of a classic store's image.
    pub fn is_docker(&self) -> bool {
        self.descriptor.media_type == media_type::DOCKER_MANIFEST
    }

    /// The document's digest.
    pub fn digest(&self) -> &Digest {
        &self.descriptor.digest
    }

    /// The manifest, if this is one.
    pub fn manifest(&self) -> Option<&Manifest> {
        match &self.content {
            Content::Manifest(manifest) => Some(manifest),
            Content::Index(_) => None,
        }
    }

    /// The index, if this is one.
    pub fn index(&self) -> Option<&Index> {
        match &self.content {
            Content::Index(index) => Some(index),
            Content::Manifest(_) => None,
        }
    }
}

/// The fields that distinguish a manifest from an index.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Shape {
    schema_version: Option<u64>,
    media_type: Option<String>,
    manifests: Option<IgnoredAny>,
    config: Option<IgnoredAny>,
    layers: Option<IgnoredAny>,
    fs_layers: Option<IgnoredAny>,
}

impl Shape {
    /// The media type of the document. `declared` is the one of its transport.
    fn kind(&self, declared: Option<&str>) -> Result<String, DocumentError> {
        if self.fs_layers.is_some() && self.default_type().is_none() {
            return Err(DocumentError::Schema1);
        }
        let possible = |text: &str| media_type::manifest_type(text).filter(|known| self.is_possible(known));
        let own = self.media_type.as_deref().filter(|text| !text.is_empty());
        let kind = match (declared.and_then(possible), own.and_then(possible)) {
            // A registry that serves all manifests with one type still stores the original bytes.
            (Some(declared), Some(own)) if media_type::is_index(own) != media_type::is_index(declared) => own,
            (Some(declared), _) => declared,
            (None, Some(own)) => own,
            (None, None) => match (own, self.default_type()) {
                (Some(other), _) if !media_type::is_manifest(other) => {
                    return Err(DocumentError::MediaType(other.to_owned()));
                }
                (_, Some(default_type)) => default_type,
                (_, None) if self.schema_version == Some(1) => return Err(DocumentError::Schema1),
                (_, None) => {
                    let unknown_type = own.or(declared).unwrap_or("unknown");
                    return Err(DocumentError::MediaType(unknown_type.to_owned()));
                }
            },
        };
        Ok(kind.to_owned())
    }

    fn is_possible(&self, media_type: &str) -> bool {
        let default_type = self.default_type();
        default_type.is_none_or(|default_type| media_type::is_index(default_type) == media_type::is_index(media_type))
    }

    /// The OCI media type of a document with these fields.
    fn default_type(&self) -> Option<&'static str> {
        let image = self.config.is_some() || self.layers.is_some();
        match (&self.manifests, image) {
            (Some(_), false) => Some(media_type::OCI_INDEX),
            (None, true) => Some(media_type::OCI_MANIFEST),
            // An empty index, as written by Go.
            (None, false) if self.schema_version == Some(2) && self.fs_layers.is_none() => Some(media_type::OCI_INDEX),
            _ => None,
        }
    }
}

/// The distinct blobs that `documents` refer to, without foreign layers. An index entry that is neither a manifest nor
/// one of `documents` is a blob, as in the index of a BuildKit cache.
pub fn distinct_blobs(documents: &[Document]) -> Vec<&Descriptor> {
    let known: HashSet<&Digest> = documents.iter().map(Document::digest).collect();
    let mut seen = HashSet::new();
    let blobs = documents.iter().flat_map(|document| match &document.content {
        Content::Manifest(manifest) => manifest.blobs(),
        Content::Index(index) => index.blobs(),
    });
    blobs
        .filter(|blob| !known.contains(&blob.digest) && seen.insert(&blob.digest))
        .collect()
}

/// The bytes of all `blobs`, as their descriptors say, which may be anything.
pub fn total_size<'d>(blobs: impl IntoIterator<Item = &'d Descriptor>) -> u64 {
    let sizes = blobs.into_iter().map(|blob| blob.size);
    sizes.fold(0, u64::saturating_add)
}

/// The distinct foreign layers that `documents` refer to.
pub fn distinct_foreign_layers(documents: &[Document]) -> Vec<&Descriptor> {
    let mut seen = HashSet::new();
    let layers = documents
        .iter()
        .filter_map(Document::manifest)
        .flat_map(Manifest::foreign_layers);
    layers.filter(|layer| seen.insert(&layer.digest)).collect()
}

fn serialize_document<T: Serialize>(value: &T, media_type: &str) -> Result<Bytes, DocumentError> {
    serde_json::to_vec(value)
        .map(Bytes::from)
        .map_err(|error| DocumentError::Malformed {
            media_type: media_type.to_owned(),
            reason: error.to_string(),
        })
}

#[cfg(test)]
mod tests;

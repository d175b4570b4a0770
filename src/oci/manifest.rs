//! Manifests and indexes: what is read of them, beside the raw bytes that are carried unchanged.

use std::collections::{BTreeMap, HashSet};

use bytes::Bytes;
use serde::de::IgnoredAny;
use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::decode::{self, DecodeError};

use super::unknown_fields::with_unknown_fields;
use super::{Compression, Descriptor, Digest, UnknownFields, media_type};

/// The largest manifest or index in bytes that is read: the limit that registries set (distribution: 4 MiB).
pub const MANIFEST_LIMIT: usize = 4 * 1024 * 1024;
/// The most JSON values that a manifest or index may have. A layer with a digest, a size, a media type and two annotations has
/// six, so that one of 4 MiB has room for all of its own.
pub const MANIFEST_VALUES: usize = 200_000;

/// An image manifest (OCI image specification, "Image Manifest"; docker's schema 2 has the same shape).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(remote = "Self", rename_all = "camelCase")]
pub struct Manifest {
    /// 2, also where nothing is said.
    #[serde(default = "schema_version")]
    pub schema_version: u64,
    /// The manifest's own media type; old OCI manifests leave it out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub media_type: Option<String>,
    /// The type of an artifact that is no image.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub artifact_type: Option<String>,
    /// The image's configuration.
    pub config: Descriptor,
    /// The layers, lowest first.
    #[serde(default)]
    pub layers: Vec<Descriptor>,
    /// The manifest that this one refers to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub subject: Option<Descriptor>,
    /// Free text by key.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub annotations: BTreeMap<String, String>,
    /// All other fields.
    #[serde(flatten, skip_deserializing)]
    pub unknown: UnknownFields,
}

with_unknown_fields!(Manifest, Index);

impl Manifest {
    /// An OCI manifest of an image or of an artifact whose type is its config's.
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

    /// The manifest that we make of an engine's image: of its configuration `image_id`, `size` bytes long, and
    /// its layers, lowest first. Nothing else enters it, so the same image gives the same digest.
    pub fn of_image(image_id: Digest, size: u64, layers: Vec<Descriptor>) -> Self {
        Self::new(Descriptor::new(media_type::OCI_CONFIG, image_id, size), layers)
    }

    /// The path of the first blob whose size is not said: without it nobody knows when it has arrived.
    fn without_size(&self) -> Option<String> {
        let lacks = |blob: &Descriptor| blob.size == 0 && blob.known_content().is_none();
        if lacks(&self.config) {
            return Some("config".to_owned());
        }
        let layer = self.layers.iter().position(lacks)?;
        Some(format!("layers[{layer}]"))
    }

    /// The blobs that must stand in a registry before it takes this manifest: config and layers, each once. Foreign
    /// layers, which need not stand there, are [`Manifest::foreign_layers`].
    pub fn blobs(&self) -> Vec<&Descriptor> {
        let mut seen = HashSet::with_capacity(self.layers.len() + 1);
        std::iter::once(&self.config)
            .chain(&self.layers)
            .filter(|blob| !media_type::is_foreign_layer(&blob.media_type) && seen.insert(&blob.digest))
            .collect()
    }
}

impl Manifest {
    /// The layers, each once, that may lie with their publisher only (`urls`): those that are not distributed, in docker's
    /// and in OCI's form. A registry has them where somebody pushed them there.
    pub fn foreign_layers(&self) -> Vec<&Descriptor> {
        let mut seen = HashSet::new();
        let foreign = self
            .layers
            .iter()
            .filter(|layer| media_type::is_foreign_layer(&layer.media_type));
        foreign.filter(|layer| seen.insert(&layer.digest)).collect()
    }
}

/// A list of manifests, one a platform (OCI image specification, "Image Index").
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(remote = "Self", rename_all = "camelCase")]
pub struct Index {
    /// 2, also where nothing is said.
    #[serde(default = "schema_version")]
    pub schema_version: u64,
    /// The index's own media type; old OCI indexes leave it out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub media_type: Option<String>,
    /// The type of an artifact that is no image.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub artifact_type: Option<String>,
    /// The entries.
    #[serde(default)]
    pub manifests: Vec<Descriptor>,
    /// The manifest that this index refers to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub subject: Option<Descriptor>,
    /// Free text by key.
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

    /// The entries that do not say that they are manifests.
    pub fn blobs(&self) -> Vec<&Descriptor> {
        self.manifests
            .iter()
            .filter(|entry| !entry.is_typed_as_manifest())
            .collect()
    }
}

fn schema_version() -> u64 {
    2
}

/// A manifest or index as it came: the raw bytes decide the digest, so they are what is sent on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Document {
    /// Media type, digest and length of `raw`.
    pub descriptor: Descriptor,
    /// The bytes as they came.
    pub raw: Bytes,
    /// What they say.
    pub content: Content,
}

/// What a document is.
// Few of them live at once, and each is as large as its JSON besides.
#[allow(clippy::large_enum_variant)]
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Content {
    /// One image, or an artifact.
    Manifest(Manifest),
    /// A list of images.
    Index(Index),
}

/// Why bytes are not a manifest that we can carry.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub enum DocumentError {
    /// Longer than [`MANIFEST_LIMIT`].
    #[error("the manifest has {0} bytes, more than the {MANIFEST_LIMIT} that a registry takes")]
    TooLarge(usize),
    /// More values than [`MANIFEST_VALUES`].
    #[error("the manifest has {0} JSON values, more than the {MANIFEST_VALUES} that are read")]
    TooManyValues(usize),
    /// Docker's schema 1, which has no configuration.
    #[error(
        "the manifest is of docker's schema 1, which registries and engines of today do not take; pull the image with an elder docker and push it again with one of today"
    )]
    Schema1,
    /// A media type that is neither a manifest's nor an index's.
    #[error(
        "the manifest has the media type `{0}`, which is neither an OCI nor a docker schema 2 manifest; push the image again with a tool of today"
    )]
    MediaType(String),
    /// Not the JSON that the media type promises.
    #[error("the manifest cannot be read as {media_type}: {reason}")]
    Malformed {
        /// What it should be.
        media_type: String,
        /// What the parser says.
        reason: String,
    },
}

impl Document {
    /// Reads `raw`. `declared` is the media type that the transport or the descriptor gave; without one the
    /// document's own `mediaType` decides, and without that, or against one that cannot be, its shape.
    pub fn parse(declared: Option<&str>, raw: Bytes) -> Result<Self, DocumentError> {
        if raw.len() > MANIFEST_LIMIT {
            return Err(DocumentError::TooLarge(raw.len()));
        }
        let values = decode::json_values(&raw);
        if values > MANIFEST_VALUES {
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
                if let Some(path) = manifest.without_size() {
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

    /// This document as it is known under `digest`, which its bytes were found to have: a registry or a store may know
    /// content by SHA-512.
    pub fn known_by(mut self, digest: Digest) -> Self {
        self.descriptor.digest = digest;
        self
    }

    /// A document of our own making: compact JSON in the order of the fields, so the same content gives the
    /// same digest.
    pub fn of_manifest(manifest: Manifest) -> Result<Self, DocumentError> {
        let media_type = manifest
            .media_type
            .clone()
            .unwrap_or_else(|| media_type::OCI_MANIFEST.to_owned());
        let raw = serialise(&manifest, &media_type)?;
        let descriptor = Descriptor::new(media_type, Digest::of(&raw), raw.len() as u64);
        Ok(Self {
            descriptor,
            raw,
            content: Content::Manifest(manifest),
        })
    }

    /// As [`Document::of_manifest`], for an index.
    pub fn of_index(index: Index) -> Result<Self, DocumentError> {
        let media_type = index
            .media_type
            .clone()
            .unwrap_or_else(|| media_type::OCI_INDEX.to_owned());
        let raw = serialise(&index, &media_type)?;
        let descriptor = Descriptor::new(media_type, Digest::of(&raw), raw.len() as u64);
        Ok(Self {
            descriptor,
            raw,
            content: Content::Index(index),
        })
    }

    /// The manifest, if it is to the byte what [`Manifest::of_image`] makes of its configuration and layers, and
    /// the layers are such as we store them in the form `compression`.
    pub fn made_of_image(&self, compression: Compression) -> Option<&Manifest> {
        let manifest = self.manifest()?;
        if !manifest.layers.iter().all(|layer| compression.made(layer)) {
            return None;
        }
        let (config, layers) = (&manifest.config, manifest.layers.clone());
        let ours = Self::of_manifest(Manifest::of_image(config.digest.clone(), config.size, layers));
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

/// What tells a manifest from an index.
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
    /// The media type of the document, of which `declared` is what its transport says.
    fn kind(&self, declared: Option<&str>) -> Result<String, DocumentError> {
        if self.fs_layers.is_some() && self.usual().is_none() {
            return Err(DocumentError::Schema1);
        }
        let possible = |text: &str| media_type::manifest_type(text).filter(|known| self.may_be(known));
        let own = self.media_type.as_deref().filter(|text| !text.is_empty());
        let kind = match (declared.and_then(possible), own.and_then(possible)) {
            // Who serves every manifest as one type still stores what it was given.
            (Some(declared), Some(own)) if media_type::is_index(own) != media_type::is_index(declared) => own,
            (Some(declared), _) => declared,
            (None, Some(own)) => own,
            (None, None) => match (own, self.usual()) {
                (Some(other), _) if !media_type::is_manifest(other) => {
                    return Err(DocumentError::MediaType(other.to_owned()));
                }
                (_, Some(usual)) => usual,
                (_, None) if self.schema_version == Some(1) => return Err(DocumentError::Schema1),
                (_, None) => {
                    let said = own.or(declared).unwrap_or("unknown");
                    return Err(DocumentError::MediaType(said.to_owned()));
                }
            },
        };
        Ok(kind.to_owned())
    }

    fn may_be(&self, media_type: &str) -> bool {
        let usual = self.usual();
        usual.is_none_or(|usual| media_type::is_index(usual) == media_type::is_index(media_type))
    }

    /// The OCI type of a document of this shape.
    fn usual(&self) -> Option<&'static str> {
        let image = self.config.is_some() || self.layers.is_some();
        match (&self.manifests, image) {
            (Some(_), false) => Some(media_type::OCI_INDEX),
            (None, true) => Some(media_type::OCI_MANIFEST),
            // An index without entries, as Go writes it.
            (None, false) if self.schema_version == Some(2) && self.fs_layers.is_none() => Some(media_type::OCI_INDEX),
            _ => None,
        }
    }
}

/// The blobs that `documents` refer to, each once, foreign layers left out. What an index lists and is neither a manifest
/// nor one of `documents` is a blob, as in the indexes of BuildKit's cache.
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

/// The foreign layers that `documents` refer to, each once.
pub fn distinct_foreign_layers(documents: &[Document]) -> Vec<&Descriptor> {
    let mut seen = HashSet::new();
    let layers = documents
        .iter()
        .filter_map(Document::manifest)
        .flat_map(Manifest::foreign_layers);
    layers.filter(|layer| seen.insert(&layer.digest)).collect()
}

fn serialise<T: Serialize>(value: &T, media_type: &str) -> Result<Bytes, DocumentError> {
    serde_json::to_vec(value)
        .map(Bytes::from)
        .map_err(|error| DocumentError::Malformed {
            media_type: media_type.to_owned(),
            reason: error.to_string(),
        })
}

#[cfg(test)]
mod tests;

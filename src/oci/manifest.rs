//! Manifests and indexes: what is read of them, beside the raw bytes that are carried unchanged.

use std::collections::{BTreeMap, HashSet};

use bytes::Bytes;
use serde::de::IgnoredAny;
use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::decode::{self, DecodeError};

use super::{Compression, Descriptor, Digest, UnknownFields, media_type};

/// The largest manifest or index in bytes that is read: the limit that registries set (distribution: 4 MiB).
pub const MANIFEST_LIMIT: usize = 4 * 1024 * 1024;

/// An image manifest (OCI image specification, "Image Manifest"; docker's schema 2 has the same shape).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
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
    #[serde(flatten)]
    pub unknown: UnknownFields,
}

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

    /// The blobs that must stand in a registry before it takes this manifest: config and layers, each once. Foreign
    /// layers, which need not stand there, are [`Manifest::foreign_layers`].
    pub fn blobs(&self) -> Vec<&Descriptor> {
        let mut blobs: Vec<&Descriptor> = Vec::with_capacity(self.layers.len() + 1);
        for blob in std::iter::once(&self.config).chain(&self.layers) {
            let seen = blobs.iter().any(|known| known.digest == blob.digest);
            if !seen && !media_type::is_foreign_layer(&blob.media_type) {
                blobs.push(blob);
            }
        }
        blobs
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
#[serde(rename_all = "camelCase")]
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
    #[serde(flatten)]
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
    /// A media type that is neither a manifest's nor an index's, such as docker's schema 1.
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
        let malformed = |media_type: &str| {
            let media_type = media_type.to_owned();
            move |error: DecodeError| DocumentError::Malformed {
                media_type,
                reason: error.to_string(),
            }
        };
        let shape: Shape = decode::json(&raw).map_err(malformed("a manifest"))?;
        let kind = shape.kind(declared);
        let content = if media_type::is_index(&kind) {
            Content::Index(decode::json(&raw).map_err(malformed(&kind))?)
        } else if media_type::is_manifest(&kind) {
            Content::Manifest(decode::json(&raw).map_err(malformed(&kind))?)
        } else {
            return Err(DocumentError::MediaType(kind));
        };
        let descriptor = Descriptor::new(kind, Digest::of(&raw), raw.len() as u64);
        Ok(Self {
            descriptor,
            raw,
            content,
        })
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
    fn kind(&self, declared: Option<&str>) -> String {
        // A `Content-Type` may carry parameters.
        let declared = declared.map(|text| text.split(';').next().unwrap_or(text).trim().to_ascii_lowercase());
        let declared = declared.filter(|text| media_type::is_manifest(text));
        let own = self.media_type.clone().filter(|text| !text.is_empty());
        match (declared, own) {
            (Some(declared), own) if self.may_be(&declared) => match own {
                // Who serves every manifest as one type still stores what it was given.
                Some(own) if media_type::is_manifest(&own) && self.may_be(&own) => {
                    if media_type::is_index(&own) == media_type::is_index(&declared) {
                        declared
                    } else {
                        own
                    }
                }
                _ => declared,
            },
            (_, Some(own)) => own,
            (_, None) => self.usual().unwrap_or("unknown").to_owned(),
        }
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
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn blob(content: &[u8], kind: &str) -> Descriptor {
        Descriptor::new(kind, Digest::of(content), content.len() as u64)
    }

    #[test]
    fn what_we_make_we_read() {
        let manifest = Manifest::new(
            blob(b"{}", media_type::OCI_CONFIG),
            vec![blob(b"x", media_type::OCI_LAYER)],
        );
        let made = Document::of_manifest(manifest).unwrap();
        let read = Document::parse(
            Some("application/vnd.oci.image.manifest.v1+json; charset=utf-8"),
            made.raw.clone(),
        )
        .unwrap();
        assert_eq!(read, made);
        let index = Document::of_index(Index::new(vec![made.descriptor.clone()])).unwrap();
        assert_eq!(Document::parse(None, index.raw.clone()).unwrap(), index);
    }

    #[test]
    fn blobs_come_once_and_without_foreign_layers() {
        let layer = blob(b"x", media_type::OCI_LAYER);
        let foreign = blob(b"w", "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip");
        let manifest = Manifest::new(
            blob(b"{}", media_type::OCI_CONFIG),
            vec![layer.clone(), foreign.clone(), layer.clone(), foreign.clone()],
        );
        assert_eq!(manifest.blobs(), vec![&manifest.config, &layer]);
        assert_eq!(manifest.foreign_layers(), vec![&foreign]);
    }

    #[test]
    fn an_index_may_list_blobs() {
        let cache = blob(b"cache", "application/vnd.buildkit.cacheconfig.v0");
        let manifest = Document::of_manifest(Manifest::new(
            blob(b"{}", media_type::OCI_CONFIG),
            vec![blob(b"x", media_type::OCI_LAYER)],
        ));
        let manifest = manifest.unwrap();
        let mut odd = manifest.descriptor.clone();
        odd.media_type = "application/vnd.example".to_owned();
        let index = Index::new(vec![
            blob(b"x", media_type::OCI_LAYER),
            odd,
            cache.clone(),
            manifest.descriptor.clone(),
        ]);
        let documents = [manifest, Document::of_index(index).unwrap()];
        let digests: Vec<_> = distinct_blobs(&documents).iter().map(|blob| &blob.digest).collect();
        assert_eq!(digests, [&Digest::of(b"{}"), &Digest::of(b"x"), &cache.digest]);
    }

    #[test]
    fn only_what_we_made_of_an_image_is_ours() {
        let made = |layers: Vec<Descriptor>| {
            let config = Digest::of(b"{}");
            Document::of_manifest(Manifest::of_image(config, 2, layers)).unwrap()
        };
        let layer = |compression: Compression| compression.layer(Digest::of(b"x"), 1);
        let all = [Compression::None, Compression::Gzip, Compression::Zstd];
        for one in all {
            let document = made(vec![layer(one), layer(one)]);
            for other in all {
                assert_eq!(
                    document.made_of_image(other).is_some(),
                    one == other,
                    "{one:?} {other:?}"
                );
            }
            let left = made(vec![layer(one), one.left(Digest::of(b"x"), 1)]);
            assert!(left.made_of_image(one).is_some());
            let next = all[(one as usize + 1) % 3];
            for foreign in [layer(next), next.left(Digest::of(b"x"), 1)] {
                let mixed = made(vec![layer(one), foreign]);
                assert_eq!(mixed.made_of_image(one), None);
            }
            let spaced = [&document.raw[..], b" "].concat();
            let spaced = Document::parse(None, spaced.into()).unwrap();
            assert_eq!(spaced.made_of_image(one), None);
        }
        // As other tools write it: the same bytes but for who compressed it.
        let foreign = made(vec![blob(b"x", media_type::OCI_LAYER_GZIP)]);
        assert_eq!(foreign.made_of_image(Compression::Gzip), None);
    }

    #[test]
    fn shape_decides_when_nothing_is_declared() {
        let digest = Digest::of(b"");
        let raw =
            format!(r#"{{"schemaVersion":2,"config":{{"mediaType":"m","digest":"{digest}","size":0}},"layers":[]}}"#);
        assert!(
            Document::parse(Some("application/json"), Bytes::from(raw))
                .unwrap()
                .manifest()
                .is_some()
        );
        let raw = Bytes::from_static(br#"{"schemaVersion":2,"manifests":[]}"#);
        assert!(Document::parse(None, raw).unwrap().index().is_some());
    }

    #[test]
    fn shape_decides_against_a_type_that_cannot_be() {
        let digest = Digest::of(b"");
        let config = format!(r#""config":{{"digest":"{digest}","size":0}}"#);
        let manifest = format!(r#"{{"schemaVersion":2,{config},"layers":null}}"#);
        let index = r#"{"schemaVersion":2,"manifests":[]}"#.to_owned();
        let own = format!(r#"{{"mediaType":"{}","manifests":null}}"#, media_type::DOCKER_LIST);
        for (raw, declared, kind) in [
            (&manifest, Some(media_type::OCI_INDEX), media_type::OCI_MANIFEST),
            (
                &manifest,
                Some("APPLICATION/VND.OCI.image.manifest.v1+json"),
                media_type::OCI_MANIFEST,
            ),
            (&index, Some(media_type::DOCKER_MANIFEST), media_type::OCI_INDEX),
            (&own, Some(media_type::DOCKER_MANIFEST), media_type::DOCKER_LIST),
            (&own, None, media_type::DOCKER_LIST),
            (
                &r#"{"schemaVersion":2,"manifests":null}"#.to_owned(),
                None,
                media_type::OCI_INDEX,
            ),
        ] {
            let read = Document::parse(declared, Bytes::from(raw.clone())).unwrap();
            assert_eq!(read.descriptor.media_type, kind, "{raw} {declared:?}");
        }
    }

    #[test]
    fn fields_as_go_programs_write_them() {
        let digest = Digest::of(b"");
        let upper = digest.as_str().to_uppercase().replace("SHA256", "sha256");
        let raw = format!(
            "\u{feff}{{\"schemaVersion\":2,\"config\":{{\"digest\":\"{upper}\",\"size\":0,\"urls\":null}},\"layers\":null,\"annotations\":null,\"subject\":null}}\n"
        );
        let read = Document::parse(None, raw.clone().into()).unwrap();
        assert_eq!(read.digest(), &Digest::of(raw.as_bytes()));
        let manifest = read.manifest().unwrap();
        assert_eq!(
            (&manifest.config.digest, manifest.config.media_type.as_str()),
            (&digest, "")
        );
        let raw = format!(
            r#"{{"manifests":[null,{{"digest":"{digest}","size":1e3,"platform":{{}},"annotations":null,"data":"e30="}}]}}"#
        );
        let read = Document::parse(None, raw.into()).unwrap();
        let entry = &read.index().unwrap().manifests[0];
        assert_eq!(entry.size, 1000);
        assert!(!entry.platform.as_ref().unwrap().is_said());
        let written = Document::of_index(read.index().unwrap().clone()).unwrap();
        let expected = format!(
            r#"{{"schemaVersion":2,"manifests":[{{"digest":"{digest}","size":1000,"platform":{{}},"data":"e30="}}]}}"#
        );
        assert_eq!(written.raw, expected);
    }

    #[test]
    fn what_lacks_is_named_with_its_path() {
        let missing = |raw: &str| {
            Document::parse(None, Bytes::from(raw.to_owned()))
                .unwrap_err()
                .to_string()
        };
        assert!(missing(r#"{"config":{"size":1}}"#).ends_with("config: missing field `digest`"));
        assert!(missing(r#"{"manifests":[{"digest":"sha256:0"}]}"#).contains("manifests[0].digest: `sha256:0`"));
        let layer = format!(
            r#"{{"config":{{"digest":"{0}","size":1}},"layers":[{{"digest":"{0}"}}]}}"#,
            Digest::of(b"")
        );
        assert!(missing(&layer).ends_with("layers[0]: missing field `size`"));
    }

    #[test]
    fn refuses_what_it_cannot_carry() {
        let schema1 = Bytes::from_static(br#"{"schemaVersion":1,"name":"x"}"#);
        assert!(matches!(
            Document::parse(None, schema1),
            Err(DocumentError::MediaType(_))
        ));
        assert!(matches!(
            Document::parse(None, Bytes::from_static(b"<html>")),
            Err(DocumentError::Malformed { .. })
        ));
        assert!(matches!(
            Document::parse(None, vec![b' '; MANIFEST_LIMIT + 1].into()),
            Err(DocumentError::TooLarge(_))
        ));
        let negative =
            Bytes::from_static(br#"{"schemaVersion":2,"config":{"mediaType":"m","digest":"sha256:0","size":-1}}"#);
        assert!(Document::parse(Some(media_type::OCI_MANIFEST), negative).is_err());
    }

    proptest! {
        #[test]
        fn never_panics(raw in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = Document::parse(None, raw.into());
        }
    }
}

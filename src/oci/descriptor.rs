//! Content descriptors (OCI image specification, "Descriptors").

use std::collections::BTreeMap;

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use bytes::Bytes;
use serde::{Deserialize, Serialize};

use super::unknown_fields::with_unknown_fields;
use super::{Digest, Hasher, Platform, UnknownFields, media_type};

/// A reference to content in a manifest or index.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(remote = "Self", rename_all = "camelCase")]
pub struct Descriptor {
    /// The media type of the content; empty if absent.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub media_type: String,
    /// The digest of the content.
    pub digest: Digest,
    /// The size of the content in bytes; 0 if absent, as in some index entries.
    #[serde(default)]
    pub size: u64,
    /// Alternative locations of the content; only foreign layers have them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub urls: Vec<String>,
    /// Annotations.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub annotations: BTreeMap<String, String>,
    /// The platform of an index entry.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub platform: Option<Platform>,
    /// The artifact type, if the content is not an image.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub artifact_type: Option<String>,
    /// All other fields, such as `data`.
    #[serde(flatten, skip_deserializing)]
    pub unknown: UnknownFields,
}

with_unknown_fields!(Descriptor);

impl Descriptor {
    /// A descriptor without annotations or platform.
    pub fn new(media_type: impl Into<String>, digest: Digest, size: u64) -> Self {
        Self {
            media_type: media_type.into(),
            digest,
            size,
            urls: Vec::new(),
            annotations: BTreeMap::new(),
            platform: None,
            artifact_type: None,
            unknown: UnknownFields::default(),
        }
    }

    /// The descriptor of `{}` (OCI image specification, "Guidance for an Empty Descriptor").
    pub fn empty() -> Self {
        Self::new(media_type::OCI_EMPTY, Digest::of(b"{}"), 2)
    }

    /// The content, if it does not have to be fetched: because the descriptor embeds it (OCI image specification,
    /// "Embedded Content"), or because it is empty or `{}`, which some registries do not store.
    pub fn inline_content(&self) -> Option<Bytes> {
        let embedded: Option<String> = self.unknown.get("data");
        let embedded = embedded.and_then(|text| BASE64_STANDARD.decode(text.trim()).ok());
        let candidates = embedded.map(Bytes::from).into_iter();
        let mut candidates = candidates.chain([b"".as_slice(), b"{}"].map(Bytes::from_static));
        candidates.find(|content| {
            let mut hasher = Hasher::like(&self.digest);
            hasher.update(content);
            content.len() as u64 == self.size && hasher.finish() == self.digest
        })
    }

    /// Whether this index entry contains attestations of another entry, in BuildKit's format. Such an entry has the
    /// platform `unknown/unknown` and never matches a requested platform.
    pub fn is_attestation(&self) -> bool {
        self.annotations
            .get("vnd.docker.reference.type")
            .is_some_and(|kind| kind == "attestation-manifest")
    }

    /// Whether this index entry is an image or an index of images. Attestations are not, and neither are blobs, which
    /// BuildKit lists in its cache index.
    pub fn may_be_image(&self) -> bool {
        !self.is_attestation() && self.is_manifest_or_untyped()
    }

    /// Whether this index entry has the media type of a manifest or index, or none.
    pub fn is_manifest_or_untyped(&self) -> bool {
        self.media_type.is_empty() || media_type::is_manifest(&self.media_type)
    }

    /// Whether the platform of this index entry is known. The platform of an image without it is in its configuration;
    /// an index has none.
    pub fn has_platform(&self) -> bool {
        let platform = self.platform.as_ref();
        platform.is_some_and(|platform| !platform.architecture.is_empty()) || media_type::is_index(&self.media_type)
    }

    /// The digest of the entry that this attestation belongs to.
    pub fn attested_digest(&self) -> Option<Digest> {
        self.annotations.get("vnd.docker.reference.digest")?.parse().ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn embedded_and_empty_content_is_verified_and_returned() {
        let described = |content: &[u8], data: &str| {
            let (digest, size) = (Digest::of(content), content.len());
            let json = format!(r#"{{"mediaType":"m","digest":"{digest}","size":{size}{data}}}"#);
            serde_json::from_str::<Descriptor>(&json).unwrap()
        };
        for (content, data) in [
            (&b"hello"[..], r#","data":"aGVsbG8=""#),
            (b"{}", ""),
            (b"{}", r#","data":"aGVsbG8=""#),
            (b"", r#","data":null"#),
        ] {
            assert_eq!(
                described(content, data).inline_content().as_deref(),
                Some(content),
                "{data}"
            );
        }
        for data in ["", r#","data":"e30=""#, r#","data":"not base64""#, r#","data":7"#] {
            assert_eq!(described(b"hello", data).inline_content(), None, "{data}");
        }
        let mut wrong = described(b"hello", r#","data":"aGVsbG8=""#);
        wrong.size = 4;
        assert_eq!(wrong.inline_content(), None);
    }

    #[test]
    fn absent_fields_are_not_serialized() {
        let descriptor = Descriptor::new("a/b", Digest::of(b""), 0);
        let json = serde_json::to_value(&descriptor).unwrap();
        assert_eq!(json.as_object().unwrap().len(), 3);
        assert_eq!(serde_json::from_value::<Descriptor>(json).unwrap(), descriptor);
    }
}

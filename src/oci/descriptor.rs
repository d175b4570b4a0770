//! Descriptors, after the OCI image specification.

use std::collections::BTreeMap;

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use bytes::Bytes;
use serde::{Deserialize, Serialize};

use super::unknown_fields::with_unknown_fields;
use super::{Digest, Hasher, Platform, UnknownFields, media_type};

/// What a manifest or an index says of content that it refers to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(remote = "Self", rename_all = "camelCase")]
pub struct Descriptor {
    /// The content's media type. Empty where it is not said.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub media_type: String,
    /// The content's digest.
    pub digest: Digest,
    /// The content's length in bytes; 0 also where it is not said, as of entries of an index.
    #[serde(default)]
    pub size: u64,
    /// Where else the content lies; only foreign layers have it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub urls: Vec<String>,
    /// Free text by key.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub annotations: BTreeMap<String, String>,
    /// For an entry of an index: what the image runs on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub platform: Option<Platform>,
    /// The type of the artifact that is referred to, when it is no image.
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

    /// The content where it need not be asked for: because the descriptor has it itself (OCI image specification,
    /// "Embedded Content"), or because it is empty or the empty object, which some registries do not keep.
    pub fn known_content(&self) -> Option<Bytes> {
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

    /// Whether this entry of an index holds attestations of another entry, as BuildKit writes them. Such an
    /// entry has the platform `unknown/unknown`, and nobody means it when choosing a platform.
    pub fn is_attestation(&self) -> bool {
        self.annotations
            .get("vnd.docker.reference.type")
            .is_some_and(|kind| kind == "attestation-manifest")
    }

    /// Whether this entry of an index is an image or an index of images. Attestations are not, nor are blobs, as
    /// BuildKit lists them for its cache.
    pub fn may_be_image(&self) -> bool {
        !self.is_attestation() && self.is_typed_as_manifest()
    }

    /// Whether this entry of an index says that it is a manifest or an index, or does not say what it is.
    pub fn is_typed_as_manifest(&self) -> bool {
        self.media_type.is_empty() || media_type::is_manifest(&self.media_type)
    }

    /// Whether this entry of an index says what it runs on. Where an image does not, its configuration does; an index
    /// has none.
    pub fn names_platform(&self) -> bool {
        let platform = self.platform.as_ref();
        platform.is_some_and(|platform| !platform.architecture.is_empty()) || media_type::is_index(&self.media_type)
    }

    /// The digest of the entry that this attestation is about.
    pub fn attests(&self) -> Option<Digest> {
        self.annotations.get("vnd.docker.reference.digest")?.parse().ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn content_is_known_where_the_descriptor_proves_it() {
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
                described(content, data).known_content().as_deref(),
                Some(content),
                "{data}"
            );
        }
        for data in ["", r#","data":"e30=""#, r#","data":"not base64""#, r#","data":7"#] {
            assert_eq!(described(b"hello", data).known_content(), None, "{data}");
        }
        let mut wrong = described(b"hello", r#","data":"aGVsbG8=""#);
        wrong.size = 4;
        assert_eq!(wrong.known_content(), None);
    }

    #[test]
    fn descriptor_leaves_out_what_it_has_not() {
        let descriptor = Descriptor::new("a/b", Digest::of(b""), 0);
        let json = serde_json::to_value(&descriptor).unwrap();
        assert_eq!(json.as_object().unwrap().len(), 3);
        assert_eq!(serde_json::from_value::<Descriptor>(json).unwrap(), descriptor);
    }
}

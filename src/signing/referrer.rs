//! A bundle as a referrer of an image.

use std::collections::BTreeMap;

use bytes::Bytes;

use super::bundle::{BUNDLE, Bundle};
use crate::oci::{Descriptor, Digest, Document, DocumentError, Manifest};

/// cosign's annotation with the format of a bundle's content.
const CONTENT: &str = "dev.sigstore.bundle.content";
/// cosign's annotation with the type of a bundle's statement.
pub const PREDICATE_ANNOTATION: &str = "dev.sigstore.bundle.predicateType";

/// A manifest that refers to the signed content, and its blobs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Referrer {
    /// The manifest; its `subject` is the signed content.
    pub document: Document,
    /// The blobs that the repository must contain before the manifest, by digest.
    pub blobs: BTreeMap<Digest, Bytes>,
}

impl Referrer {
    /// The manifest that attaches `bundle`, a statement of the type `predicate`, to `subject`, in the format of cosign 3 (OCI
    /// image specification, "Guidelines for Artifact Usage") but without the time, so that the same bundle gives the same
    /// digest.
    pub fn of(subject: &Descriptor, predicate: &str, bundle: &Bundle) -> Result<Self, DocumentError> {
        let (config, layer) = (Bytes::from_static(b"{}"), bundle.json());
        let layer_descriptor = Descriptor::new(BUNDLE, Digest::of(&layer), layer.len() as u64);
        let mut manifest = Manifest::new(Descriptor::empty(), vec![layer_descriptor]);
        manifest.artifact_type = Some(BUNDLE.to_owned());
        manifest.subject = Some(Descriptor::new(
            subject.media_type.clone(),
            subject.digest.clone(),
            subject.size,
        ));
        manifest.annotations = [(CONTENT, "dsse-envelope"), (PREDICATE_ANNOTATION, predicate)]
            .map(|(key, value)| (key.to_owned(), value.to_owned()))
            .into();
        let blobs = [config, layer].map(|content| (Digest::of(&content), content));
        Ok(Self {
            document: Document::of_manifest(manifest)?,
            blobs: blobs.into(),
        })
    }
}

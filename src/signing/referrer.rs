//! A bundle as something that a registry keeps of an image.

use std::collections::BTreeMap;

use bytes::Bytes;

use super::bundle::{BUNDLE, Bundle};
use crate::oci::{Descriptor, Digest, Document, DocumentError, Manifest};

/// The annotation by which cosign says what form a bundle's content has.
const CONTENT: &str = "dev.sigstore.bundle.content";
/// The annotation by which cosign says what type of statement a bundle has.
pub const PREDICATE_ANNOTATION: &str = "dev.sigstore.bundle.predicateType";

/// A manifest that refers to what was signed, and the blobs that it needs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Referrer {
    /// The manifest; its `subject` is what was signed.
    pub document: Document,
    /// What has to stand in the repository before it, by digest.
    pub blobs: BTreeMap<Digest, Bytes>,
}

impl Referrer {
    /// The manifest by which `bundle`, a statement of the type `predicate`, belongs to `subject`, as cosign 3 writes
    /// it (OCI image specification, "Guidelines for Artifact Usage"). cosign adds the time; here the same bundle gives
    /// the same digest.
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

//! Where images go: one repository of a registry, or of an OCI layout in a directory.

use std::path::Path;

use async_trait::async_trait;
use bytes::Bytes;
use futures::stream::{self, StreamExt as _};

use crate::fault::Fault;
use crate::oci::{Descriptor, Digest, Document};
use crate::source::{ByteStream, PushTarget};

/// The manifests of a listing of referrers that are read.
const READ_REFERRERS: usize = 256;

/// A blob on its way in.
pub struct Upload<'a> {
    /// The digest that the content must have. Without one the content is committed under the one it has.
    pub digest: Option<Digest>,
    /// The length that the content must have in bytes, when it is known.
    pub size: Option<u64>,
    /// The content.
    pub bytes: ByteStream<'a>,
}

/// One repository that takes blobs and manifests.
#[async_trait]
pub trait Destination: Send + Sync {
    /// `host/repository` or `oci:directory`, for messages.
    fn name(&self) -> String;

    /// The repository within the registry.
    fn repository(&self) -> &str;

    /// The digest that stands under a tag or digest, by HEAD.
    async fn digest_of(&self, identifier: &str) -> Result<Option<Digest>, Fault>;

    /// The manifest or index that stands under a tag or digest.
    async fn document(&self, identifier: &str) -> Result<Option<Document>, Fault>;

    /// Whether a package stands under `tag`. What cannot be read as a manifest is none.
    async fn holds_package(&self, tag: &str) -> Result<bool, Fault> {
        Ok(self.document(tag).await?.is_some_and(|document| document.is_package()))
    }

    /// The content of a small blob, at most `limit` bytes long; its digest is verified.
    async fn blob(&self, digest: &Digest, limit: usize) -> Result<Option<Bytes>, Fault>;

    /// The content of a blob of any size, if this repository holds it. Whoever takes it verifies it.
    async fn read(&self, blob: &Descriptor) -> Result<Option<ByteStream<'_>>, Fault>;

    /// The size in bytes of a blob, if this repository holds it.
    async fn holds(&self, digest: &Digest) -> Result<Option<u64>, Fault>;

    /// Makes a blob of another repository of the same registry stand in this one too, without moving bytes.
    /// False when the registry would not.
    async fn mount(&self, blob: &Descriptor, from: &str) -> Result<bool, Fault>;

    /// Stores a blob and returns the digest and size in bytes of what was stored. It becomes visible only
    /// when whole and verified.
    async fn upload(&self, blob: Upload<'_>) -> Result<(Digest, u64), Fault>;

    /// Bytes of all uploads so far that earlier attempts had sent, so that these were not sent.
    fn resumed(&self) -> u64 {
        0
    }

    /// Stores `content`, whose digest is `digest`, unless it stands here; gives the bytes that were sent.
    async fn keep(&self, digest: &Digest, content: Bytes) -> Result<u64, Fault> {
        if self.holds(digest).await?.is_some() {
            return Ok(0);
        }
        let stored = self.upload(Upload {
            digest: Some(digest.clone()),
            size: Some(content.len() as u64),
            bytes: stream::once(async move { Ok(content) }).boxed(),
        });
        Ok(stored.await?.1)
    }

    /// Stores a manifest or index, under `tag` if one is given, else under its digest only.
    async fn publish(&self, document: &Document, tag: Option<&str>) -> Result<(), Fault>;

    /// The manifests that name `subject` as their subject (OCI distribution specification 1.1, "Listing Referrers"):
    /// descriptors, mostly with the artifact's type and annotations. Empty when there are none. What is listed need
    /// not be what it says: whoever reads it looks at its own subject.
    async fn referrers(&self, subject: &Digest) -> Result<Vec<Descriptor>, Fault>;

    /// What the manifests of `listed`, entries of [`Destination::referrers`] of `subject`, say of themselves, as far as they
    /// are here and refer to it. A bounded number is read, the first ones.
    async fn read_referrers(&self, subject: &Digest, listed: &[Descriptor]) -> Result<Vec<Descriptor>, Fault> {
        let mut read = Vec::new();
        for entry in listed.iter().take(READ_REFERRERS) {
            let document = self.document(entry.digest.as_str()).await?;
            let about = |document: &Document| document.subject().is_some_and(|own| own.digest == *subject);
            read.extend(document.filter(about).and_then(|document| document.as_referrer()));
        }
        Ok(read)
    }

    /// Stores a manifest that has a subject, under its digest, so that [`Destination::referrers`] and other tools find
    /// it by its subject. Its blobs are there already; its subject may come later. Of what is found already nothing is
    /// written: that costs a small GET, and without the registry's referrers API a HEAD. Others' referrers stay.
    async fn attach(&self, referrer: &Document) -> Result<(), Fault>;

    /// The folder of an OCI layout, where this is one.
    fn directory(&self) -> Option<&Path> {
        None
    }

    /// Where an engine may push an image under `tag` by itself; `None` where only this process writes.
    fn push_target(&self, tag: &str) -> Option<PushTarget> {
        let _ = tag;
        None
    }
}

//! Destinations of images: a repository in a registry, or in an OCI layout in a directory.

use std::path::Path;

use async_trait::async_trait;
use bytes::Bytes;
use futures::stream::{self, StreamExt as _};

use crate::fault::Fault;
use crate::oci::{Descriptor, Digest, Document};
use crate::source::{ByteStream, PushTarget, RepositoryReader};

/// The most manifests of a listing of referrers that are read.
const READ_REFERRERS: usize = 256;

/// A blob to upload.
pub struct Upload<'a> {
    /// The digest that the content must have. If `None`, the content is stored under its own digest.
    pub digest: Option<Digest>,
    /// The length in bytes that the content must have, if known.
    pub size: Option<u64>,
    /// The content.
    pub bytes: ByteStream<'a>,
}

/// A repository to which blobs and manifests are written.
#[async_trait]
pub trait Destination: RepositoryReader {
    /// The repository within the registry.
    fn repository(&self) -> &str;

    /// Whether `tag` names a package. Something that is not a valid manifest is not a package.
    async fn holds_package(&self, tag: &str) -> Result<bool, Fault> {
        Ok(self.document(tag).await?.is_some_and(|document| document.is_package()))
    }

    /// The content of a blob of any size, if this repository contains it. The caller verifies it.
    async fn read(&self, blob: &Descriptor) -> Result<Option<ByteStream<'_>>, Fault>;

    /// The size in bytes of a blob, if this repository contains it.
    async fn holds(&self, digest: &Digest) -> Result<Option<u64>, Fault>;

    /// Mounts a blob from another repository of the same registry, without moving bytes. False if the registry refuses.
    async fn mount(&self, blob: &Descriptor, from: &str) -> Result<bool, Fault>;

    /// Stores a blob and returns its digest and its size in bytes. It becomes visible only when it is complete and verified.
    async fn upload(&self, blob: Upload<'_>) -> Result<(Digest, u64), Fault>;

    /// Bytes of all uploads so far that earlier attempts had sent, so that these were not sent.
    fn resumed(&self) -> u64 {
        0
    }

    /// Stores `content`, whose digest is `digest`, unless it exists. Returns the number of bytes that were sent.
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

    /// Stores a manifest or index, under `tag` if there is one, else only under its digest.
    async fn publish(&self, document: &Document, tag: Option<&str>) -> Result<(), Fault>;

    /// Reads the manifests of `listed`, entries of [`RepositoryReader::referrers`] of `subject`, and returns the descriptors of
    /// those that exist and refer to `subject`. Only the first ones are read, up to a limit.
    async fn read_referrers(&self, subject: &Digest, listed: &[Descriptor]) -> Result<Vec<Descriptor>, Fault> {
        let mut read = Vec::new();
        for entry in listed.iter().take(READ_REFERRERS) {
            let document = self.document(entry.digest.as_str()).await?;
            let refers = |document: &Document| document.subject().is_some_and(|own| own.digest == *subject);
            read.extend(document.filter(refers).and_then(|document| document.as_referrer()));
        }
        Ok(read)
    }

    /// Stores a manifest that has a subject, under its digest, so that [`RepositoryReader::referrers`] and other tools find
    /// it by its subject. Its blobs must exist; its subject may be stored later. Nothing is written if it is listed already:
    /// that costs a small GET request, and a HEAD request if the registry has no referrers API. Other referrers are kept.
    async fn attach(&self, referrer: &Document) -> Result<(), Fault>;

    /// The directory of an OCI layout; `None` for a registry.
    fn directory(&self) -> Option<&Path> {
        None
    }

    /// The target to which an engine may push an image under `tag`; `None` if only this process may write.
    fn push_target(&self, tag: &str) -> Option<PushTarget> {
        let _ = tag;
        None
    }
}

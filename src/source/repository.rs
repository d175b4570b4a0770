//! What can be read of one repository, in a registry or in an OCI layout.

use async_trait::async_trait;
use bytes::Bytes;

use crate::fault::Fault;
use crate::oci::{Descriptor, Digest, Document};
use crate::registry::{Kind, Repository};

/// Reads manifests, small blobs and referrers of one repository.
#[async_trait]
pub trait RepositoryReader: Send + Sync {
    /// `host/repository` or `oci:directory`, for messages and to distinguish repositories.
    fn name(&self) -> String;

    /// The digest of the manifest that has the tag or digest `identifier`, by a HEAD request. It need not be true.
    async fn digest_of(&self, identifier: &str) -> Result<Option<Digest>, Fault>;

    /// The manifest or index that has the tag or digest `identifier`.
    async fn document(&self, identifier: &str) -> Result<Option<Document>, Fault>;

    /// The same for the digest of a manifest that a listing names. What cannot be read as a manifest counts as absent: anybody
    /// who may push can have it listed.
    async fn listed_document(&self, digest: &Digest) -> Result<Option<Document>, Fault> {
        self.document(digest.as_str()).await
    }

    /// The content of a blob of at most `limit` bytes; its digest is verified. A longer one is an error of a destination and
    /// `None` of a source.
    async fn blob(&self, digest: &Digest, limit: usize) -> Result<Option<Bytes>, Fault>;

    /// The manifests that name `subject` as their subject (OCI distribution specification 1.1, "Listing Referrers"):
    /// descriptors, mostly with the artifact's type and annotations. Empty when there are none. The listing need not be
    /// true: a caller that reads a listed manifest compares its subject.
    async fn referrers(&self, subject: &Digest) -> Result<Vec<Descriptor>, Fault>;
}

/// A repository that images are read from. A refusal to read a tag counts as absent only where [`Repository::absent_if_refused`] says so.
#[async_trait]
impl RepositoryReader for Repository {
    fn name(&self) -> String {
        format!("{}/{}", self.registry().host(), Repository::name(self))
    }

    async fn digest_of(&self, identifier: &str) -> Result<Option<Digest>, Fault> {
        let head = self.head_manifest(identifier).await;
        let head = match identifier.parse::<Digest>() {
            Ok(_) => head,
            Err(_) => self.absent_if_refused(identifier, head).await,
        };
        let found = head.map_err(|error| error.into_read_fault(&RepositoryReader::name(self)))?;
        Ok(found.map(|descriptor| descriptor.digest))
    }

    async fn document(&self, identifier: &str) -> Result<Option<Document>, Fault> {
        let read = self.manifest(identifier).await;
        let read = match identifier.parse::<Digest>() {
            Ok(_) => read,
            Err(_) => self.absent_if_refused(identifier, read).await,
        };
        read.map_err(|error| error.into_read_fault(&RepositoryReader::name(self)))
    }

    async fn listed_document(&self, digest: &Digest) -> Result<Option<Document>, Fault> {
        match self.manifest(digest.as_str()).await {
            Err(error) if matches!(error.kind(), Kind::Unsupported | Kind::Protocol | Kind::TooLarge) => Ok(None),
            read => read.map_err(|error| error.into_read_fault(&RepositoryReader::name(self))),
        }
    }

    async fn blob(&self, digest: &Digest, limit: usize) -> Result<Option<Bytes>, Fault> {
        match self.small_blob(digest, limit).await {
            Err(error) if error.kind() == &Kind::TooLarge => Ok(None),
            read => read.map_err(|error| error.into_read_fault(&RepositoryReader::name(self))),
        }
    }

    async fn referrers(&self, subject: &Digest) -> Result<Vec<Descriptor>, Fault> {
        let listed = Repository::referrers(self, subject).await;
        listed.map_err(|error| error.into_read_fault(&RepositoryReader::name(self)))
    }
}

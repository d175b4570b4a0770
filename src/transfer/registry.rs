//! A repository in a registry as a destination.

use std::num::NonZeroUsize;
use std::sync::{Arc, Mutex, PoisonError};

use async_trait::async_trait;
use bytes::Bytes;
use futures::{StreamExt as _, TryStreamExt as _};
use lru::LruCache;

use super::{Destination, Upload};
use crate::fault::Fault;
use crate::oci::{Descriptor, Digest, Document};
use crate::registry::{Error, Kind, MountResult, PendingUpload, Repository, UploadError, UploadRecords};
use crate::source::{ByteStream, PushTarget, RepositoryReader};

/// The most uploads that are kept after refused mounts.
const PENDING: NonZeroUsize = NonZeroUsize::new(16).unwrap();

/// Pushes to one repository.
#[derive(Clone)]
pub struct RegistryDestination {
    repository: Repository,
    name: String,
    /// Uploads that the registry began when it refused to mount a blob.
    pending: Arc<Mutex<LruCache<Digest, PendingUpload>>>,
    records: Option<Arc<UploadRecords>>,
    /// Whether nothing is written.
    reads_only: bool,
}

impl RegistryDestination {
    /// Pushes to `repository`.
    pub fn new(repository: Repository) -> Self {
        let name = format!("{}/{}", repository.registry().host(), repository.name());
        Self {
            repository,
            name,
            pending: Arc::new(Mutex::new(LruCache::new(PENDING))),
            records: None,
            reads_only: false,
        }
    }

    /// Reads from `repository` alone, as messages say.
    pub fn for_reading(repository: Repository) -> Self {
        Self {
            reads_only: true,
            ..Self::new(repository)
        }
    }

    /// The same, with records of the uploads of long blobs, by which another attempt or process continues them.
    pub fn with_records(mut self, records: Arc<UploadRecords>) -> Self {
        self.records = Some(records);
        self
    }

    /// The fault of a read request.
    fn read_fault(&self, error: Error) -> Fault {
        match self.reads_only {
            true => error.into_read_fault(&self.name),
            false => error.into_push_fault(&self.name),
        }
    }

    /// The result of a read request. A refusal may mean that the object does not exist, because some registries do not tell
    /// everybody. Then it is treated as absent, and the following upload succeeds or fails with its own error.
    fn absent_if_refused<T>(&self, result: Result<Option<T>, Error>) -> Result<Option<T>, Fault> {
        match result {
            Err(error) if error.may_mean_absent() => {
                tracing::debug!(%error, "treated as absent");
                Ok(None)
            }
            result => result.map_err(|error| self.read_fault(error)),
        }
    }

    fn keep_pending(&self, digest: &Digest, upload: PendingUpload) {
        let mut all = self.pending.lock().unwrap_or_else(PoisonError::into_inner);
        all.put(digest.clone(), upload);
    }

    fn take_pending(&self, digest: &Digest) -> Option<PendingUpload> {
        let mut all = self.pending.lock().unwrap_or_else(PoisonError::into_inner);
        all.pop(digest)
    }
}

/// Whether the content cannot be read as a manifest.
fn is_not_a_manifest(error: &Error) -> bool {
    matches!(error.kind(), Kind::Unsupported | Kind::Protocol | Kind::TooLarge)
}

#[async_trait]
impl RepositoryReader for RegistryDestination {
    fn name(&self) -> String {
        self.name.clone()
    }

    async fn digest_of(&self, identifier: &str) -> Result<Option<Digest>, Fault> {
        let head = self.absent_if_refused(self.repository.head_manifest(identifier).await)?;
        Ok(head.map(|descriptor| descriptor.digest))
    }

    async fn document(&self, identifier: &str) -> Result<Option<Document>, Fault> {
        self.absent_if_refused(self.repository.manifest(identifier).await)
    }

    async fn listed_document(&self, digest: &Digest) -> Result<Option<Document>, Fault> {
        match self.repository.manifest(digest.as_str()).await {
            Err(error) if is_not_a_manifest(&error) => Ok(None),
            read => self.absent_if_refused(read),
        }
    }

    async fn blob(&self, digest: &Digest, limit: usize) -> Result<Option<Bytes>, Fault> {
        self.absent_if_refused(self.repository.small_blob(digest, limit).await)
    }

    async fn referrers(&self, subject: &Digest) -> Result<Vec<Descriptor>, Fault> {
        let listed = self.repository.referrers(subject).await;
        listed.map_err(|error| self.read_fault(error))
    }
}

#[async_trait]
impl Destination for RegistryDestination {
    fn repository(&self) -> &str {
        self.repository.name()
    }

    async fn holds_package(&self, tag: &str) -> Result<bool, Fault> {
        match self.repository.manifest(tag).await {
            // A manifest of docker's schema 1, or an invalid one: an image may replace it.
            Err(error) if is_not_a_manifest(&error) => Ok(false),
            read => Ok(self
                .absent_if_refused(read)?
                .is_some_and(|document| document.is_package())),
        }
    }

    async fn read(&self, blob: &Descriptor) -> Result<Option<ByteStream<'_>>, Fault> {
        if self.holds(&blob.digest).await?.is_none() {
            return Ok(None);
        }
        let content = self.repository.blob(&blob.digest, Some(blob.size)).into_stream();
        Ok(Some(content.map_err(|error| self.read_fault(error)).boxed()))
    }

    async fn holds(&self, digest: &Digest) -> Result<Option<u64>, Fault> {
        self.absent_if_refused(self.repository.head_blob(digest).await)
    }

    async fn mount(&self, blob: &Descriptor, from: &str) -> Result<bool, Fault> {
        let mounted = self.repository.mount(&blob.digest, from).await;
        match mounted.map_err(|error| error.into_push_fault(&self.name))? {
            MountResult::Mounted => Ok(true),
            MountResult::Refused(pending) => {
                // The following upload continues it.
                if let Some(pending) = pending {
                    self.keep_pending(&blob.digest, pending);
                }
                Ok(false)
            }
        }
    }

    async fn upload(&self, blob: Upload<'_>) -> Result<(Digest, u64), Fault> {
        let digest = blob.digest.as_ref();
        let pending = digest.and_then(|digest| self.take_pending(digest));
        let host = self.repository.registry().host();
        let records = self.records.as_ref().zip(digest);
        let record =
            records.and_then(|(records, digest)| records.open(host, self.repository.name(), digest, blob.size));
        let stored = self
            .repository
            .resume_upload(pending, record, digest, blob.size, blob.bytes);
        stored.await.map_err(|error| match error {
            UploadError::Source(fault) => fault,
            UploadError::Registry(error) => error.into_push_fault(&self.name),
            UploadError::Lost(error) => error.into_push_fault(&self.name).with_reread(),
        })
    }

    fn resumed(&self) -> u64 {
        self.records.as_ref().map_or(0, |records| records.resumed())
    }

    async fn publish(&self, document: &Document, tag: Option<&str>) -> Result<(), Fault> {
        let identifier = tag.unwrap_or(document.digest().as_str());
        let put = self.repository.put_manifest(document, identifier).await;
        put.map_err(|error| error.into_document_push_fault(&self.name, document))
    }

    async fn read_referrers(&self, subject: &Digest, listed: &[Descriptor]) -> Result<Vec<Descriptor>, Fault> {
        let read = self.repository.read_referrers(subject, listed).await;
        read.map_err(|error| self.read_fault(error))
    }

    async fn attach(&self, referrer: &Document) -> Result<(), Fault> {
        let attached = self.repository.attach(referrer).await;
        attached.map_err(|error| error.into_push_fault(&self.name))
    }

    fn push_target(&self, tag: &str) -> Option<PushTarget> {
        let registry = self.repository.registry();
        // An engine would follow any redirect of the registry.
        if registry.endpoint().restrictions.is_some() {
            return None;
        }
        Some(PushTarget {
            host: registry.host().to_owned(),
            repository: self.repository.name().to_owned(),
            tag: tag.to_owned(),
            credentials: registry.credentials().cloned(),
        })
    }
}

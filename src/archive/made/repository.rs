//! A repository of a package file that is made.

use std::sync::Arc;

use async_trait::async_trait;
use bytes::{Bytes, BytesMut};
use futures::StreamExt as _;

use super::store::MadeFile;
use crate::fault::{Fault, Reason};
use crate::oci::{Descriptor, Digest, Document};
use crate::source::{ByteStream, RepositoryReader};
use crate::transfer::{Destination, Upload};

/// One repository of a package file. All repositories of a file share their blobs.
pub struct MadeRepository {
    file: Arc<MadeFile>,
    repository: String,
}

impl MadeRepository {
    /// The repository `repository` of `file`.
    pub fn new(file: &Arc<MadeFile>, repository: &str) -> Self {
        Self {
            file: Arc::clone(file),
            repository: repository.to_owned(),
        }
    }
}

#[async_trait]
impl RepositoryReader for MadeRepository {
    fn name(&self) -> String {
        "the package file".to_owned()
    }

    async fn digest_of(&self, identifier: &str) -> Result<Option<Digest>, Fault> {
        Ok(self.file.find(&self.repository, identifier))
    }

    async fn document(&self, identifier: &str) -> Result<Option<Document>, Fault> {
        let found = self.file.find(&self.repository, identifier);
        Ok(found.and_then(|digest| self.file.document(&digest)))
    }

    async fn blob(&self, digest: &Digest, limit: usize) -> Result<Option<Bytes>, Fault> {
        if self.file.size(digest).is_some_and(|size| size > limit as u64) {
            let message = format!("{digest} is longer than {limit} bytes");
            return Err(Fault::stalled(Reason::PackageFailed, message));
        }
        let Some(mut content) = self.file.read(digest) else {
            return Ok(None);
        };
        let mut bytes = BytesMut::new();
        while let Some(chunk) = content.next().await.transpose()? {
            bytes.extend_from_slice(&chunk);
        }
        Ok(Some(bytes.freeze()))
    }

    async fn referrers(&self, _subject: &Digest) -> Result<Vec<Descriptor>, Fault> {
        // A package has none of its images: they are not files of it.
        Ok(Vec::new())
    }
}

#[async_trait]
impl Destination for MadeRepository {
    fn repository(&self) -> &str {
        &self.repository
    }

    async fn read(&self, blob: &Descriptor) -> Result<Option<ByteStream<'_>>, Fault> {
        Ok(self.file.read(&blob.digest))
    }

    async fn holds(&self, digest: &Digest) -> Result<Option<u64>, Fault> {
        Ok(self.file.size(digest))
    }

    async fn mount(&self, blob: &Descriptor, _from: &str) -> Result<bool, Fault> {
        Ok(self.file.size(&blob.digest) == Some(blob.size))
    }

    async fn upload(&self, blob: Upload<'_>) -> Result<(Digest, u64), Fault> {
        self.file.store(blob).await
    }

    async fn publish(&self, document: &Document, tag: Option<&str>) -> Result<(), Fault> {
        self.file.publish(&self.repository, document, tag);
        Ok(())
    }

    async fn attach(&self, referrer: &Document) -> Result<(), Fault> {
        self.file.publish(&self.repository, referrer, None);
        Ok(())
    }
}

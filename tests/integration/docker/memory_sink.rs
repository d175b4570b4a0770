//! A destination that stores blobs in memory and verifies them, as every destination must.

use std::collections::HashMap;
use std::sync::Mutex;

use async_trait::async_trait;
use bytes::{Bytes, BytesMut};
use futures::TryStreamExt;
use jackal_operator::fault::{Fault, Reason};
use jackal_operator::oci::{Descriptor, Digest, Hasher, media_type};
use jackal_operator::source::{Blob, BlobSink, Form, StoredBlob};

type Interruption = Box<dyn FnOnce() + Send>;

/// Stores layers uncompressed.
#[derive(Default)]
pub struct MemorySink {
    pub blobs: Mutex<HashMap<Digest, Bytes>>,
    /// The digests of delivered blobs, in order; without those that existed already.
    pub taken: Mutex<Vec<Digest>>,
    diffs: Mutex<HashMap<Digest, Descriptor>>,
    interruption: Mutex<Option<Interruption>>,
}

impl MemorySink {
    /// Adds an existing layer.
    pub fn hold_diff(&self, layer: &[u8]) {
        let digest = Digest::of(layer);
        let stored = Descriptor::new(media_type::OCI_LAYER, digest.clone(), layer.len() as u64);
        self.diffs.lock().unwrap().insert(digest, stored);
    }

    /// Runs `interruption` after the first bytes of the first blob of more than a megabyte.
    pub fn interrupt(&self, interruption: impl FnOnce() + Send + 'static) {
        *self.interruption.lock().unwrap() = Some(Box::new(interruption));
    }

    pub fn taken(&self) -> Vec<Digest> {
        std::mem::take(&mut self.taken.lock().unwrap())
    }
}

#[async_trait]
impl BlobSink for MemorySink {
    async fn existing_size(&self, digest: &Digest, _: Option<u64>) -> Result<Option<u64>, Fault> {
        Ok(self.blobs.lock().unwrap().get(digest).map(|blob| blob.len() as u64))
    }

    async fn existing_layer(&self, diff_id: &Digest) -> Result<Option<Descriptor>, Fault> {
        Ok(self.diffs.lock().unwrap().get(diff_id).cloned())
    }

    async fn store(&self, blob: Blob<'_>) -> Result<StoredBlob, Fault> {
        let mut bytes = blob.bytes;
        let mut content = BytesMut::new();
        // Like an HTTP client, which only knows that the body of its request ended.
        let ended = |_| Fault::retryable(Reason::PushFailed, "the content ended");
        while let Some(chunk) = bytes.try_next().await.map_err(ended)? {
            content.extend_from_slice(&chunk);
            if blob.size.is_some_and(|size| size > 1 << 20)
                && let Some(interruption) = self.interruption.lock().unwrap().take()
            {
                interruption();
            }
        }
        let mut hasher = blob.digest.as_ref().map_or_else(Hasher::sha256, Hasher::like);
        hasher.update(&content);
        let digest = hasher.finish();
        let whole = blob.size.is_none_or(|size| size == content.len() as u64);
        if !whole || blob.digest.as_ref().is_some_and(|expected| *expected != digest) {
            let message = format!("{digest} of {} bytes is not {:?}", content.len(), blob.digest);
            return Err(Fault::retryable(Reason::DigestMismatch, message));
        }
        let kind = match blob.form {
            Form::Exact => "application/octet-stream",
            Form::Diff => media_type::OCI_LAYER,
        };
        let stored = Descriptor::new(kind, digest.clone(), content.len() as u64);
        if blob.form == Form::Diff {
            self.diffs.lock().unwrap().insert(digest.clone(), stored.clone());
        }
        self.blobs.lock().unwrap().insert(digest.clone(), content.freeze());
        self.taken.lock().unwrap().push(digest.clone());
        Ok(StoredBlob {
            content_digest: digest,
            descriptor: stored,
        })
    }
}

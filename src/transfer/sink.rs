//! The sink of one transfer: asks the destination what it has, and takes the rest.

use std::collections::HashMap;
use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use async_trait::async_trait;
use bytes::Bytes;
use futures::StreamExt as _;

use super::compress::compress;
use super::destination::{Destination, Upload};
use super::progress::Progress;
use crate::fault::{Fault, Reason};
use crate::oci::{Compression, Descriptor, Digest, Hasher};
use crate::source::{Blob, BlobSink, ByteStream, Form, Landed};

/// Which repository of one registry holds a blob, as far as this process has seen: what a mount needs to be
/// asked for. Forgetting an entry costs an upload, a wrong one costs a refused mount.
#[derive(Debug, Default)]
pub struct KnownBlobs(Mutex<Places>);

#[derive(Debug, Default)]
struct Places {
    repository: HashMap<Digest, String>,
    order: VecDeque<Digest>,
}

impl KnownBlobs {
    /// Blobs that are remembered; about 200 bytes each.
    const LIMIT: usize = 20_000;

    fn saw(&self, digest: &Digest, repository: &str) {
        let mut places = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if places
            .repository
            .insert(digest.clone(), repository.to_owned())
            .is_none()
        {
            places.order.push_back(digest.clone());
            if places.order.len() > Self::LIMIT
                && let Some(oldest) = places.order.pop_front()
            {
                places.repository.remove(&oldest);
            }
        }
    }

    fn place(&self, digest: &Digest) -> Option<String> {
        self.0
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .repository
            .get(digest)
            .cloned()
    }
}

/// The [`BlobSink`] over a destination.
pub(super) struct DestinationSink {
    pub destination: Arc<dyn Destination>,
    pub compression: Compression,
    pub progress: Arc<Progress>,
    pub known: Arc<KnownBlobs>,
    pub moved_blobs: AtomicU64,
}

impl DestinationSink {
    async fn mounted(&self, digest: &Digest, size: Option<u64>) -> Result<Option<u64>, Fault> {
        let Some(from) = self
            .known
            .place(digest)
            .filter(|place| place != self.destination.repository())
        else {
            return Ok(None);
        };
        let blob = Descriptor::new("application/octet-stream", digest.clone(), size.unwrap_or_default());
        if !self.destination.mount(&blob, &from).await? {
            return Ok(None);
        }
        match size {
            Some(size) => Ok(Some(size)),
            None => self.destination.holds(digest).await,
        }
    }
}

#[async_trait]
impl BlobSink for DestinationSink {
    async fn holds(&self, digest: &Digest, size: Option<u64>) -> Result<Option<u64>, Fault> {
        let held = match self.destination.holds(digest).await? {
            Some(held) => Some(held),
            None => self.mounted(digest, size).await?,
        };
        if let Some(held) = held {
            self.known.saw(digest, self.destination.repository());
            self.progress.found(size.unwrap_or(held));
        }
        Ok(held)
    }

    async fn holds_diff(&self, diff_id: &Digest) -> Result<Option<Descriptor>, Fault> {
        // A compressed form has a digest that only compressing tells.
        if self.compression != Compression::None {
            return Ok(None);
        }
        let held = self.holds(diff_id, None).await?;
        Ok(held.map(|size| Descriptor::new(Compression::None.layer_type(), diff_id.clone(), size)))
    }

    async fn take(&self, blob: Blob<'_>) -> Result<Landed, Fault> {
        let compression = match blob.form {
            Form::Exact => Compression::None,
            Form::Diff => self.compression,
        };
        let content = Arc::new(Mutex::new(None));
        let complete = Arc::new(AtomicBool::new(false));
        let expected = Expected {
            // What is stored as it comes is hashed and verified by the destination, and once is enough.
            hash: (compression != Compression::None).then(|| blob.digest.clone()),
            size: blob.size,
        };
        let passing = observe(
            blob.bytes,
            expected,
            Arc::clone(&self.progress),
            Arc::clone(&content),
            Arc::clone(&complete),
        );
        let upload = match compression {
            Compression::None => Upload {
                digest: blob.digest,
                size: blob.size,
                bytes: passing,
            },
            _ => Upload {
                digest: None,
                size: None,
                bytes: compress(passing, compression),
            },
        };
        let (digest, size) = self.destination.upload(upload).await?;
        // A destination that stops reading before the end would commit a part as the whole.
        if !complete.load(Ordering::Acquire) {
            return Err(Fault::retryable(
                Reason::PushFailed,
                format!("{} took only a part of a blob", self.destination.name()),
            ));
        }
        let content = content.lock().unwrap_or_else(PoisonError::into_inner).take();
        let content = content.unwrap_or_else(|| digest.clone());
        self.known.saw(&digest, self.destination.repository());
        self.moved_blobs.fetch_add(1, Ordering::Relaxed);
        let media_type = match blob.form {
            Form::Exact => "application/octet-stream",
            Form::Diff => compression.layer_type(),
        };
        Ok(Landed {
            content,
            stored: Descriptor::new(media_type, digest, size),
        })
    }
}

struct Expected {
    /// The content is hashed here, and has this digest where that is known before.
    hash: Option<Option<Digest>>,
    size: Option<u64>,
}

/// Counts what passes, hashes it where nobody else does, and ends in a failure when it is not what was announced. The failure comes
/// before the stream's end, so that the destination never commits.
fn observe(
    bytes: ByteStream<'_>,
    expected: Expected,
    progress: Arc<Progress>,
    content: Arc<Mutex<Option<Digest>>>,
    complete: Arc<AtomicBool>,
) -> ByteStream<'_> {
    let hasher = expected.hash.as_ref();
    let hasher = hasher.map(|digest| digest.as_ref().map_or_else(Hasher::sha256, Hasher::like));
    let state = Some((bytes, hasher, 0u64));
    futures::stream::unfold(state, move |state| {
        let result = (Arc::clone(&progress), Arc::clone(&content), Arc::clone(&complete));
        let wanted = (expected.hash.clone().flatten(), expected.size);
        async move {
            let (mut bytes, mut hasher, mut length) = state?;
            let (progress, content, complete) = result;
            match bytes.next().await {
                Some(Ok(chunk)) => {
                    if let Some(hasher) = &mut hasher {
                        hasher.update(&chunk);
                    }
                    length += chunk.len() as u64;
                    progress.passed(chunk.len() as u64);
                    Some((Ok(chunk), Some((bytes, hasher, length))))
                }
                Some(Err(fault)) => Some((Err(fault), None)),
                None => {
                    let digest = hasher.map(Hasher::finish);
                    match verify(digest.as_ref(), length, wanted) {
                        Err(fault) => Some((Err::<Bytes, Fault>(fault), None)),
                        Ok(()) => {
                            *content.lock().unwrap_or_else(PoisonError::into_inner) = digest;
                            complete.store(true, Ordering::Release);
                            None
                        }
                    }
                }
            }
        }
    })
    .boxed()
}

fn verify(digest: Option<&Digest>, length: u64, wanted: (Option<Digest>, Option<u64>)) -> Result<(), Fault> {
    let (wanted_digest, wanted_size) = wanted;
    if let Some(size) = wanted_size.filter(|size| *size != length) {
        return Err(Fault::retryable(
            Reason::SourceFailed,
            format!("a blob of {size} bytes ended after {length}"),
        ));
    }
    match (wanted_digest, digest) {
        (Some(wanted), Some(digest)) if wanted != *digest => Err(Fault::retryable(
            Reason::DigestMismatch,
            format!("content that should be {wanted} is {digest}"),
        )),
        _ => Ok(()),
    }
}

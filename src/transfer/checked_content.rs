//! The content of a blob on its way to the destination.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use futures::StreamExt as _;
use tokio::sync::oneshot;

use super::progress::Progress;
use crate::fault::{Fault, Reason};
use crate::hashing::BackgroundHasher;
use crate::oci::Digest;
use crate::source::ByteStream;

/// Counts the bytes of a content and, if asked to, hashes it. Content that is not as announced ends in an error instead of the
/// stream's end, so that the destination never stores it.
pub(super) struct CheckedContent<'a> {
    bytes: ByteStream<'a>,
    length: u64,
    expected_size: Option<u64>,
    hasher: Option<BackgroundHasher>,
    expected_digest: Option<Digest>,
    progress: Arc<Progress>,
    sent: Arc<AtomicU64>,
}

/// What [`CheckedContent::into_stream`] reads next.
struct State<'a> {
    content: CheckedContent<'a>,
    /// Receives the content's digest, if it was hashed, after a verified end.
    end: oneshot::Sender<Option<Digest>>,
}

impl<'a> CheckedContent<'a> {
    /// Content that must have `size` bytes, if that is known. Its bytes are added to `progress` and `sent`.
    pub fn new(bytes: ByteStream<'a>, size: Option<u64>, progress: Arc<Progress>, sent: Arc<AtomicU64>) -> Self {
        Self {
            bytes,
            length: 0,
            expected_size: size,
            hasher: None,
            expected_digest: None,
            progress,
            sent,
        }
    }

    /// The same, hashed. It must have the digest `expected`, if that is known.
    pub fn hashed(self, expected: Option<&Digest>) -> Self {
        Self {
            hasher: Some(BackgroundHasher::new(expected)),
            expected_digest: expected.cloned(),
            ..self
        }
    }

    /// The content as a stream, and a channel that receives the digest, if the content is hashed, at its end. The channel is
    /// closed if the stream fails or is dropped before its end.
    pub fn into_stream(self) -> (ByteStream<'a>, oneshot::Receiver<Option<Digest>>) {
        let (end, ended) = oneshot::channel();
        let state = State { content: self, end };
        let stream = futures::stream::unfold(Some(state), |state| async move { state?.next().await });
        (stream.boxed(), ended)
    }

    /// Checks the whole content and returns its digest, if it was hashed.
    async fn finish(self) -> Result<Option<Digest>, Fault> {
        let digest =
            match self.hasher {
                Some(hasher) => Some(hasher.finish().await.map_err(|error| {
                    Fault::retryable(Reason::SourceFailed, format!("hashing was cancelled: {error}"))
                })?),
                None => None,
            };
        if let Some(size) = self.expected_size.filter(|size| *size != self.length) {
            let message = format!("a blob of {size} bytes ended after {}", self.length);
            return Err(Fault::retryable(Reason::SourceFailed, message));
        }
        match (self.expected_digest, &digest) {
            (Some(expected), Some(digest)) if expected != *digest => Err(Fault::retryable(
                Reason::DigestMismatch,
                format!("content that should have the digest {expected} has {digest}"),
            )),
            _ => Ok(digest),
        }
    }
}

impl<'a> State<'a> {
    async fn next(mut self) -> Option<(Result<Bytes, Fault>, Option<State<'a>>)> {
        let content = &mut self.content;
        match content.bytes.next().await {
            Some(Ok(chunk)) => {
                if let Some(hasher) = &mut content.hasher {
                    hasher.update(&chunk).await;
                }
                let length = chunk.len() as u64;
                content.length += length;
                content.progress.add_moved(length);
                content.sent.fetch_add(length, Ordering::Relaxed);
                Some((Ok(chunk), Some(self)))
            }
            Some(Err(fault)) => Some((Err(fault), None)),
            None => match self.content.finish().await {
                Ok(digest) => {
                    // Nobody waits for it if the upload was dropped.
                    let _ = self.end.send(digest);
                    None
                }
                Err(fault) => Some((Err(fault), None)),
            },
        }
    }
}

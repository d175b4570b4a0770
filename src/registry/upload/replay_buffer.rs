//! Content of an upload that is hashed while it is read, and can be replayed after a connection broke.

use bytes::Bytes;
use futures::future::{BoxFuture, FutureExt};
use futures::stream::{BoxStream, StreamExt};
use tokio::task::JoinError;

use super::error::UploadError;
use super::window::ReplayWindow;
use crate::hashing::BackgroundHasher;
use crate::oci::Digest;
use crate::registry::error::{Error, Kind};

/// Maximum size of a chunk in bytes.
const CHUNK_SIZE: usize = 1024 * 1024;

/// Content that is read once from its source, and can be replayed as far as its window reaches. The last chunk is held
/// back until digest and length are verified.
///
/// Its futures are cancel-safe.
pub(super) struct ReplayBuffer<'a, E> {
    content: BoxStream<'a, Result<Bytes, E>>,
    digest: Option<&'a Digest>,
    size: Option<u64>,
    /// The label of the request, for messages.
    label: String,
    /// Bytes read from the source.
    length: u64,
    /// Read but not hashed: the rest of a chunk, and the next part of it.
    chunk: Bytes,
    unhashed: Option<Bytes>,
    /// Hashed, and held back until the following chunk is known.
    held_back: Option<Bytes>,
    hash: HashState,
    window: ReplayWindow,
}

enum HashState {
    Running(BackgroundHasher),
    Ending(BoxFuture<'static, Result<Digest, JoinError>>),
    Ended(Digest),
}

impl<'a, E> ReplayBuffer<'a, E> {
    /// `digest` and `size` are the expected values, if known.
    pub fn new(
        digest: Option<&'a Digest>,
        size: Option<u64>,
        content: BoxStream<'a, Result<Bytes, E>>,
        label: String,
    ) -> Self {
        Self {
            content,
            digest,
            size,
            label,
            length: 0,
            chunk: Bytes::new(),
            unhashed: None,
            held_back: None,
            hash: HashState::Running(BackgroundHasher::new(digest)),
            window: ReplayWindow::new(),
        }
    }

    /// The offset of the next byte to send.
    pub fn offset(&self) -> u64 {
        self.window.offset()
    }

    /// Digest and length of the whole content, after both were verified at its end.
    pub fn verified(&self) -> Option<(&Digest, u64)> {
        match &self.hash {
            HashState::Ended(digest) => Some((digest, self.length)),
            HashState::Running(_) | HashState::Ending(_) => None,
        }
    }

    /// Moves to an offset. Returns false if its bytes are not kept any more.
    pub fn seek(&mut self, offset: u64) -> bool {
        self.window.seek(offset)
    }

    /// Reads up to `offset` without sending anything. Returns false if the content ends before.
    pub async fn skip_to(&mut self, offset: u64) -> Result<bool, UploadError<E>> {
        while self.offset() < offset {
            if self.next(offset - self.offset()).await?.is_none() {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Whether there are more bytes to send; waits for them, or for the end.
    pub async fn has_more(&mut self) -> Result<bool, UploadError<E>> {
        if self.window.is_at_end() {
            match self.read().await? {
                Some(chunk) => self.window.push(chunk),
                None => return Ok(false),
            }
        }
        Ok(true)
    }

    /// The next bytes, at most `max_length`; `None` at the end of the content.
    pub async fn next(&mut self, max_length: u64) -> Result<Option<Bytes>, UploadError<E>> {
        Ok(if self.has_more().await? {
            self.window.take(max_length)
        } else {
            None
        })
    }

    async fn read(&mut self) -> Result<Option<Bytes>, UploadError<E>> {
        loop {
            let hash = match &mut self.hash {
                HashState::Running(hash) => hash,
                HashState::Ending(ending) => {
                    let found = ending.await.map_err(|error| {
                        let detail = format!("hashing was aborted: {error}");
                        Error::new(Kind::Interrupted, &self.label, detail)
                    })?;
                    if let Some(digest) = self.digest.filter(|digest| found != **digest) {
                        return Err(self.mismatch(format!("expected {digest}, but the content has {found}")));
                    }
                    self.hash = HashState::Ended(found);
                    continue;
                }
                HashState::Ended(_) => return Ok(self.held_back.take()),
            };
            if let Some(chunk) = &self.unhashed {
                hash.update(chunk).await;
                let hashed = self.unhashed.take();
                match std::mem::replace(&mut self.held_back, hashed) {
                    None => continue,
                    before => return Ok(before),
                }
            }
            if !self.chunk.is_empty() {
                self.unhashed = Some(self.chunk.split_to(self.chunk.len().min(CHUNK_SIZE)));
                continue;
            }
            match self.content.next().await {
                Some(chunk) => {
                    self.chunk = chunk.map_err(UploadError::Source)?;
                    self.length += self.chunk.len() as u64;
                    if let Some(size) = self.size.filter(|size| self.length > *size) {
                        return Err(self.mismatch(format!("received more than the expected {size} bytes")));
                    }
                }
                None => {
                    let length = self.length;
                    if let Some(size) = self.size.filter(|size| length != *size) {
                        return Err(self.mismatch(format!("expected {size} bytes, but received {length}")));
                    }
                    let hash = std::mem::replace(hash, BackgroundHasher::new(None));
                    self.hash = HashState::Ending(hash.finish().boxed());
                }
            }
        }
    }

    fn mismatch(&self, detail: String) -> UploadError<E> {
        Error::new(Kind::DigestMismatch, &self.label, detail).into()
    }
}

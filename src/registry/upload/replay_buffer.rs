//! The content of a blob on its way out: hashed as it passes, and given again from where a connection lost it.

use bytes::Bytes;
use futures::future::{BoxFuture, FutureExt};
use futures::stream::{BoxStream, StreamExt};
use tokio::task::JoinError;

use super::UploadError;
use super::window::Window;
use crate::hashing::BackgroundHasher;
use crate::oci::Digest;
use crate::registry::error::{Error, Kind};

/// The largest piece in bytes that is handed on at once.
const PIECE: usize = 1024 * 1024;

/// Content that is read once and can be handed on more than once, as far as its window reaches. The last piece is
/// held back until digest and length were found right.
///
/// No future of it loses anything when it is dropped.
pub(super) struct ReplayBuffer<'a, E> {
    content: BoxStream<'a, Result<Bytes, E>>,
    digest: Option<&'a Digest>,
    size: Option<u64>,
    /// For messages.
    label: String,
    /// Bytes that came.
    length: u64,
    /// What came and is not hashed yet: a chunk, and the piece of it that is next.
    chunk: Bytes,
    piece: Option<Bytes>,
    /// Hashed, and not handed on before what follows is known.
    held: Option<Bytes>,
    hashing: Hash,
    window: Window,
}

enum Hash {
    Running(BackgroundHasher),
    Ending(BoxFuture<'static, Result<Digest, JoinError>>),
    Ended(Digest),
}

impl<'a, E> ReplayBuffer<'a, E> {
    /// `digest` and `size` are what the content must have, when known.
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
            piece: None,
            held: None,
            hashing: Hash::Running(BackgroundHasher::new(digest)),
            window: Window::new(),
        }
    }

    /// The offset of what is handed on next.
    pub fn at(&self) -> u64 {
        self.window.at()
    }

    /// Digest and length of the whole, once its end came and both were found right.
    pub fn verified(&self) -> Option<(&Digest, u64)> {
        match &self.hashing {
            Hash::Ended(digest) => Some((digest, self.length)),
            Hash::Running(_) | Hash::Ending(_) => None,
        }
    }

    /// Goes to an offset. False when what lies there is not kept any more.
    pub fn seek(&mut self, at: u64) -> bool {
        self.window.seek(at)
    }

    /// Whether something is left to hand on; waits for it, or for the end.
    pub async fn more(&mut self) -> Result<bool, UploadError<E>> {
        if self.window.is_at_end() {
            match self.read().await? {
                Some(piece) => self.window.push(piece),
                None => return Ok(false),
            }
        }
        Ok(true)
    }

    /// The next bytes, at most `most`; none at the end of the content.
    pub async fn next(&mut self, most: u64) -> Result<Option<Bytes>, UploadError<E>> {
        Ok(if self.more().await? {
            self.window.take(most)
        } else {
            None
        })
    }

    async fn read(&mut self) -> Result<Option<Bytes>, UploadError<E>> {
        loop {
            let hashing = match &mut self.hashing {
                Hash::Running(hashing) => hashing,
                Hash::Ending(ending) => {
                    let found = ending.await.map_err(|error| {
                        let detail = format!("hashing was given up: {error}");
                        Error::new(Kind::Interrupted, &self.label, detail)
                    })?;
                    if let Some(digest) = self.digest.filter(|digest| found != **digest) {
                        return Err(self.mismatch(format!("{digest} is expected, and the content has {found}")));
                    }
                    self.hashing = Hash::Ended(found);
                    continue;
                }
                Hash::Ended(_) => return Ok(self.held.take()),
            };
            if let Some(piece) = &self.piece {
                hashing.update(piece).await;
                let piece = self.piece.take();
                match std::mem::replace(&mut self.held, piece) {
                    None => continue,
                    before => return Ok(before),
                }
            }
            if !self.chunk.is_empty() {
                self.piece = Some(self.chunk.split_to(self.chunk.len().min(PIECE)));
                continue;
            }
            match self.content.next().await {
                Some(chunk) => {
                    self.chunk = chunk.map_err(UploadError::Source)?;
                    self.length += self.chunk.len() as u64;
                    if let Some(size) = self.size.filter(|size| self.length > *size) {
                        return Err(self.mismatch(format!("more than the {size} bytes that are expected arrive")));
                    }
                }
                None => {
                    let length = self.length;
                    if let Some(size) = self.size.filter(|size| length != *size) {
                        return Err(self.mismatch(format!("{size} bytes are expected, and {length} arrived")));
                    }
                    let hashing = std::mem::replace(hashing, BackgroundHasher::new(None));
                    self.hashing = Hash::Ending(hashing.finish().boxed());
                }
            }
        }
    }

    fn mismatch(&self, detail: String) -> UploadError<E> {
        Error::new(Kind::DigestMismatch, &self.label, detail).into()
    }
}

//! Digests of streamed content, computed outside the async threads.

use bytes::Bytes;
use tokio::sync::mpsc;
use tokio::task::{JoinError, JoinHandle};

use crate::oci::{Digest, Hasher};

/// Content up to this size in bytes is hashed inline: a thread would cost more.
const INLINE_LIMIT: usize = 256 * 1024;
/// Chunks that are queued for hashing. They are shared with the consumer, not copied.
const QUEUED_CHUNKS: usize = 2;

/// A digest in progress. Dropping it ends its thread.
#[derive(Debug)]
pub struct BackgroundHasher(State);

#[derive(Debug)]
enum State {
    Inline {
        hasher: Hasher,
        length: usize,
    },
    Background {
        chunks: mpsc::Sender<Bytes>,
        digest: JoinHandle<Digest>,
    },
}

impl From<Hasher> for BackgroundHasher {
    /// Continues `hasher`.
    fn from(hasher: Hasher) -> Self {
        Self(State::Inline { hasher, length: 0 })
    }
}

impl BackgroundHasher {
    /// Uses the algorithm of `expected`, or SHA-256 without it.
    pub fn new(expected: Option<&Digest>) -> Self {
        let hasher = expected.map_or_else(Hasher::sha256, Hasher::like);
        Self(State::Inline { hasher, length: 0 })
    }

    /// Adds the next bytes of the content. Waits while the thread is too far behind.
    pub async fn update(&mut self, chunk: &Bytes) {
        if let State::Inline { hasher, length } = &mut self.0 {
            if *length + chunk.len() <= INLINE_LIMIT {
                *length += chunk.len();
                hasher.update(chunk);
                return;
            }
            let hasher = std::mem::replace(hasher, Hasher::sha256());
            self.0 = start_thread(hasher);
        }
        if let State::Background { chunks, .. } = &self.0 {
            // `finish` reports a thread that ended early.
            let _ = chunks.send(chunk.clone()).await;
        }
    }

    /// The digest of all added bytes.
    ///
    /// # Errors
    /// If the runtime shuts down.
    pub async fn finish(self) -> Result<Digest, JoinError> {
        match self.0 {
            State::Inline { hasher, .. } => Ok(hasher.finish()),
            State::Background { chunks, digest } => {
                drop(chunks);
                digest.await
            }
        }
    }
}

fn start_thread(mut hasher: Hasher) -> State {
    let (chunks, mut receiver) = mpsc::channel::<Bytes>(QUEUED_CHUNKS);
    let digest = tokio::task::spawn_blocking(move || {
        while let Some(chunk) = receiver.blocking_recv() {
            hasher.update(&chunk);
        }
        hasher.finish()
    });
    State::Background { chunks, digest }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn small_and_large_content_is_hashed() {
        for length in [0, 1, INLINE_LIMIT, INLINE_LIMIT + 1, 3 * INLINE_LIMIT + 7] {
            let content: Vec<u8> = (0..length).map(|at| (at % 251) as u8).collect();
            for chunk in [1000, INLINE_LIMIT, 1024 * 1024] {
                let mut hasher = BackgroundHasher::new(None);
                for chunk in content.chunks(chunk) {
                    hasher.update(&Bytes::copy_from_slice(chunk)).await;
                }
                assert_eq!(hasher.finish().await.unwrap(), Digest::of(&content), "{length} {chunk}");
            }
        }
    }

    #[tokio::test]
    async fn the_expected_algorithm_is_used() {
        let expected: Digest = format!("sha512:{}", "0".repeat(128)).parse().unwrap();
        let mut hasher = BackgroundHasher::new(Some(&expected));
        hasher.update(&Bytes::from(vec![0; 2 * INLINE_LIMIT])).await;
        assert_eq!(hasher.finish().await.unwrap().algorithm(), "sha512");
    }
}

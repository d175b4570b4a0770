//! Digests of streamed content, computed outside the async threads.

use bytes::Bytes;
use tokio::sync::mpsc;
use tokio::task::{JoinError, JoinHandle};

use crate::oci::{Digest, Hasher};

/// Content up to so many bytes is hashed where it passes: handing it to another thread would cost more.
const SMALL: usize = 256 * 1024;
/// Pieces that wait to be hashed. They are shared with whoever sends them on, not copied.
const WAITING: usize = 2;

/// A digest in the making. Dropping it ends its thread.
#[derive(Debug)]
pub struct BackgroundHasher(State);

#[derive(Debug)]
enum State {
    Here {
        hasher: Hasher,
        length: usize,
    },
    Apart {
        pieces: mpsc::Sender<Bytes>,
        digest: JoinHandle<Digest>,
    },
}

impl BackgroundHasher {
    /// With the algorithm of `expected`; SHA-256 without one.
    pub fn new(expected: Option<&Digest>) -> Self {
        let hasher = expected.map_or_else(Hasher::sha256, Hasher::like);
        Self(State::Here { hasher, length: 0 })
    }

    /// Takes the next bytes of the content. Waits while the thread is more than some pieces behind.
    pub async fn update(&mut self, piece: &Bytes) {
        if let State::Here { hasher, length } = &mut self.0 {
            if *length + piece.len() <= SMALL {
                *length += piece.len();
                hasher.update(piece);
                return;
            }
            let hasher = std::mem::replace(hasher, Hasher::sha256());
            self.0 = apart(hasher);
        }
        if let State::Apart { pieces, .. } = &self.0 {
            // A thread that ended early is told by `finish`.
            let _ = pieces.send(piece.clone()).await;
        }
    }

    /// The digest of all bytes that were taken.
    ///
    /// # Errors
    /// When the process stops and its threads do too.
    pub async fn finish(self) -> Result<Digest, JoinError> {
        match self.0 {
            State::Here { hasher, .. } => Ok(hasher.finish()),
            State::Apart { pieces, digest } => {
                drop(pieces);
                digest.await
            }
        }
    }
}

fn apart(mut hasher: Hasher) -> State {
    let (pieces, mut waiting) = mpsc::channel::<Bytes>(WAITING);
    let digest = tokio::task::spawn_blocking(move || {
        while let Some(piece) = waiting.blocking_recv() {
            hasher.update(&piece);
        }
        hasher.finish()
    });
    State::Apart { pieces, digest }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn small_and_large_content_have_their_digests() {
        for length in [0, 1, SMALL, SMALL + 1, 3 * SMALL + 7] {
            let content: Vec<u8> = (0..length).map(|at| (at % 251) as u8).collect();
            for piece in [1000, SMALL, 1024 * 1024] {
                let mut hashing = BackgroundHasher::new(None);
                for piece in content.chunks(piece) {
                    hashing.update(&Bytes::copy_from_slice(piece)).await;
                }
                assert_eq!(
                    hashing.finish().await.unwrap(),
                    Digest::of(&content),
                    "{length} {piece}"
                );
            }
        }
    }

    #[tokio::test]
    async fn takes_the_algorithm_that_is_expected() {
        let expected: Digest = format!("sha512:{}", "0".repeat(128)).parse().unwrap();
        let mut hashing = BackgroundHasher::new(Some(&expected));
        hashing.update(&Bytes::from(vec![0; 2 * SMALL])).await;
        assert_eq!(hashing.finish().await.unwrap().algorithm(), "sha512");
    }
}

//! What this process knows of a registry's blobs: which repository holds them, under which digest a layer was stored, and
//! which are being sent.
//!
//! The first two are hints. The last prevents that a blob which several images share is sent several times at once.

use std::collections::HashMap;
use std::num::NonZeroUsize;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use lru::LruCache;
use tokio::sync::watch;

use crate::oci::{Compression, Descriptor, Digest};

/// The number of entries of each cache; one has about 200 bytes.
const LIMIT: NonZeroUsize = NonZeroUsize::new(20_000).unwrap();

/// What the transfers to one registry know of each other. A missing entry costs an upload, a wrong one a refused mount.
#[derive(Debug, Default)]
pub struct KnownBlobs(Mutex<State>);

#[derive(Debug)]
struct State {
    /// A repository that holds the blob.
    repositories: LruCache<Digest, String>,
    /// The stored form of uncompressed layers.
    stored: LruCache<Subject, Descriptor>,
    /// Closed when the sending ends.
    sending: HashMap<Subject, watch::Receiver<()>>,
}

impl Default for State {
    fn default() -> Self {
        Self {
            repositories: LruCache::sparse(LIMIT),
            stored: LruCache::sparse(LIMIT),
            sending: HashMap::new(),
        }
    }
}

/// What a transfer sends.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) enum Subject {
    /// A blob as it is.
    Blob(Digest),
    /// The compressed form of an uncompressed layer.
    Diff(Digest, Compression),
}

impl Subject {
    /// The stored form of the layer `diff_id`.
    pub fn diff(diff_id: Digest, compression: Compression) -> Self {
        match compression {
            // Its stored form is itself.
            Compression::None => Self::Blob(diff_id),
            _ => Self::Diff(diff_id, compression),
        }
    }
}

impl KnownBlobs {
    /// `repository` holds the blob.
    pub fn saw(&self, digest: &Digest, repository: &str) {
        self.state().repositories.put(digest.clone(), repository.to_owned());
    }

    /// `repository` does not hold the blob, or does not give it away.
    pub(super) fn missed(&self, digest: &Digest, repository: &str) {
        let repositories = &mut self.state().repositories;
        if repositories.peek(digest).is_some_and(|known| known == repository) {
            repositories.pop(digest);
        }
    }

    /// A repository that held the blob when last seen.
    pub(super) fn place(&self, digest: &Digest) -> Option<String> {
        self.state().repositories.get(digest).cloned()
    }

    /// What `subject` was stored as.
    pub(super) fn note_stored(&self, subject: &Subject, stored: &Descriptor) {
        if let Subject::Diff(..) = subject {
            self.state().stored.put(subject.clone(), stored.clone());
        }
    }

    /// What `subject` was stored as, in whichever repository.
    pub(super) fn stored(&self, subject: &Subject) -> Option<Descriptor> {
        self.state().stored.get(subject).cloned()
    }

    /// The right to send `subject`, or what is closed when the one who has it ends, however that comes.
    pub(super) fn reserve(self: &Arc<Self>, subject: &Subject) -> Result<SendReservation, watch::Receiver<()>> {
        let mut state = self.state();
        if let Some(ended) = state.sending.get(subject) {
            return Err(ended.clone());
        }
        let (ends, ended) = watch::channel(());
        state.sending.insert(subject.clone(), ended);
        Ok(SendReservation {
            known: Arc::clone(self),
            subject: subject.clone(),
            _ends: ends,
        })
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The right to send something that nobody else sends meanwhile. Whoever has one waits for no other's.
#[derive(Debug)]
pub(super) struct SendReservation {
    known: Arc<KnownBlobs>,
    subject: Subject,
    /// Wakes all who wait, after the entry is gone: fields are dropped after [`Drop::drop`].
    _ends: watch::Sender<()>,
}

impl Drop for SendReservation {
    fn drop(&mut self) {
        self.known.state().sending.remove(&self.subject);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn one_sends_and_the_others_are_woken_however_it_ends() {
        let known = Arc::<KnownBlobs>::default();
        let subject = Subject::diff(Digest::of(b"a"), Compression::None);
        assert_eq!(subject, Subject::Blob(Digest::of(b"a")));
        for panics in [false, true] {
            let first = known.reserve(&subject).unwrap();
            let mut waiting = [
                known.reserve(&subject).unwrap_err(),
                known.reserve(&subject).unwrap_err(),
            ];
            let other = known.reserve(&Subject::Diff(Digest::of(b"a"), Compression::Gzip));
            assert!(other.is_ok(), "another form is another blob");
            tokio::spawn(async move {
                let _first = first;
                assert!(!panics, "as one that breaks");
            });
            for waiting in &mut waiting {
                let ended = tokio::time::timeout(std::time::Duration::from_secs(60), waiting.changed());
                assert!(ended.await.expect("is woken").is_err());
            }
        }
        assert!(known.reserve(&subject).is_ok());
        assert!(known.state().sending.is_empty());
    }

    #[test]
    fn the_least_recently_used_and_missed_blobs_are_forgotten() {
        let known = KnownBlobs::default();
        let digest = |n: usize| Digest::of(&n.to_be_bytes());
        for n in 0..LIMIT.get() + 5 {
            known.saw(&digest(n), "a");
        }
        assert_eq!(known.state().repositories.len(), LIMIT.get());
        assert_eq!(known.place(&digest(4)), None);
        assert_eq!(known.place(&digest(5)).as_deref(), Some("a"));
        known.missed(&digest(5), "b");
        assert!(known.place(&digest(5)).is_some());
        known.missed(&digest(5), "a");
        assert_eq!(known.place(&digest(5)), None);
    }
}

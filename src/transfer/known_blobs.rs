//! The blobs of a registry that this process knows: in which repository they are, under which digest a layer was stored, and
//! which uploads are in progress.
//!
//! All of this is only a hint, except the uploads in progress: these prevent concurrent uploads of a blob that several images
//! share.

use std::collections::HashMap;
use std::num::NonZeroUsize;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use lru::LruCache;
use tokio::sync::watch;

use crate::oci::{Compression, Descriptor, Digest};

/// The most entries of each kind; each has about 200 bytes.
const LIMIT: NonZeroUsize = NonZeroUsize::new(20_000).unwrap();

/// The known blobs of one registry, shared by all transfers to it. A missing entry costs an upload, a wrong one a refused
/// mount.
#[derive(Debug, Default)]
pub struct KnownBlobs(Mutex<State>);

#[derive(Debug)]
struct State {
    /// A repository that contains the blob.
    repositories: LruCache<Digest, String>,
    /// The stored form of uncompressed layers.
    stored: LruCache<UploadKey, Descriptor>,
    /// Uploads in progress. Each channel is closed when its upload ends.
    sending: HashMap<UploadKey, watch::Receiver<()>>,
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

/// What a transfer uploads.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) enum UploadKey {
    /// An unchanged blob.
    Blob(Digest),
    /// The compressed form of an uncompressed layer.
    Layer(Digest, Compression),
}

impl UploadKey {
    /// The stored form of the layer `diff_id`.
    pub fn layer(diff_id: Digest, compression: Compression) -> Self {
        match compression {
            // It is stored unchanged.
            Compression::None => Self::Blob(diff_id),
            _ => Self::Layer(diff_id, compression),
        }
    }
}

impl KnownBlobs {
    /// Records that `repository` contains the blob.
    pub fn record(&self, digest: &Digest, repository: &str) {
        self.state().repositories.put(digest.clone(), repository.to_owned());
    }

    /// Records that `repository` does not contain the blob, or that it cannot be mounted from there.
    pub(super) fn forget(&self, digest: &Digest, repository: &str) {
        let repositories = &mut self.state().repositories;
        if repositories.peek(digest).is_some_and(|known| known == repository) {
            repositories.pop(digest);
        }
    }

    /// A repository that contained the blob when it was last read.
    pub(super) fn repository_of(&self, digest: &Digest) -> Option<String> {
        self.state().repositories.get(digest).cloned()
    }

    /// Records the stored form of `key`.
    pub(super) fn record_stored(&self, key: &UploadKey, stored: &Descriptor) {
        if let UploadKey::Layer(..) = key {
            self.state().stored.put(key.clone(), stored.clone());
        }
    }

    /// The stored form of `key`, in any repository.
    pub(super) fn stored(&self, key: &UploadKey) -> Option<Descriptor> {
        self.state().stored.get(key).cloned()
    }

    /// Reserves the upload of `key`. If another transfer uploads it, returns a channel that closes when that upload ends.
    pub(super) fn reserve(self: &Arc<Self>, key: &UploadKey) -> Result<SendReservation, watch::Receiver<()>> {
        let mut state = self.state();
        if let Some(ended) = state.sending.get(key) {
            return Err(ended.clone());
        }
        let (ends, ended) = watch::channel(());
        state.sending.insert(key.clone(), ended);
        Ok(SendReservation {
            known: Arc::clone(self),
            key: key.clone(),
            _ends: ends,
        })
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The exclusive right to upload something. A holder never waits for another reservation, so there is no deadlock.
#[derive(Debug)]
pub(super) struct SendReservation {
    known: Arc<KnownBlobs>,
    key: UploadKey,
    /// Closing it wakes all waiting transfers after the entry is removed: fields are dropped after [`Drop::drop`].
    _ends: watch::Sender<()>,
}

impl Drop for SendReservation {
    fn drop(&mut self) {
        self.known.state().sending.remove(&self.key);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn waiting_transfers_are_woken_however_an_upload_ends() {
        let known = Arc::<KnownBlobs>::default();
        let key = UploadKey::layer(Digest::of(b"a"), Compression::None);
        assert_eq!(key, UploadKey::Blob(Digest::of(b"a")));
        for panics in [false, true] {
            let first = known.reserve(&key).unwrap();
            let mut waiting = [known.reserve(&key).unwrap_err(), known.reserve(&key).unwrap_err()];
            let other = known.reserve(&UploadKey::Layer(Digest::of(b"a"), Compression::Gzip));
            assert!(other.is_ok(), "another compression is another upload");
            tokio::spawn(async move {
                let _first = first;
                assert!(!panics, "an upload that panics");
            });
            for waiting in &mut waiting {
                let ended = tokio::time::timeout(std::time::Duration::from_secs(60), waiting.changed());
                assert!(ended.await.expect("is woken").is_err());
            }
        }
        assert!(known.reserve(&key).is_ok());
        assert!(known.state().sending.is_empty());
    }

    #[test]
    fn the_least_recently_used_and_the_forgotten_entries_are_removed() {
        let known = KnownBlobs::default();
        let digest = |n: usize| Digest::of(&n.to_be_bytes());
        for n in 0..LIMIT.get() + 5 {
            known.record(&digest(n), "a");
        }
        assert_eq!(known.state().repositories.len(), LIMIT.get());
        assert_eq!(known.repository_of(&digest(4)), None);
        assert_eq!(known.repository_of(&digest(5)).as_deref(), Some("a"));
        known.forget(&digest(5), "b");
        assert!(known.repository_of(&digest(5)).is_some());
        known.forget(&digest(5), "a");
        assert_eq!(known.repository_of(&digest(5)), None);
    }
}

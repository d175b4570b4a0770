//! Cached results for charts, so that unchanged charts need few requests.

use std::num::NonZeroUsize;
use std::sync::{Mutex, PoisonError};

use lru::LruCache;
use tokio::sync::Semaphore;

use super::index::ChartEntry;
use crate::oci::Digest;

/// The most entries of each cache.
const LIMIT: NonZeroUsize = NonZeroUsize::new(512).unwrap();

/// A lookup in a chart repository.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct IndexKey {
    /// The address of the index.
    pub index: String,
    /// The trusted certificate authorities, so that objects with different ones do not share results.
    pub trust: Digest,
    /// The chart's name.
    pub chart: String,
    /// Its version.
    pub version: String,
}

/// The result of a lookup, and the server's ETag or date of the index.
#[derive(Clone)]
pub(super) struct CachedIndex {
    pub validator: String,
    pub entry: ChartEntry,
}

/// Cached results for charts. They are not needed after a restart.
pub struct ChartCache {
    /// Results of lookups in chart repositories.
    entries: Mutex<LruCache<IndexKey, CachedIndex>>,
    /// The images that a chart names, by the digests of the chart and its values.
    images: Mutex<LruCache<(Digest, Digest), Vec<String>>>,
    /// Only one chart is unpacked at a time, because it is in memory meanwhile.
    pub(super) unpacking: Semaphore,
}

impl Default for ChartCache {
    fn default() -> Self {
        Self {
            entries: Mutex::new(LruCache::sparse(LIMIT)),
            images: Mutex::new(LruCache::sparse(LIMIT)),
            unpacking: Semaphore::new(1),
        }
    }
}

impl ChartCache {
    pub(super) fn entry(&self, key: &IndexKey) -> Option<CachedIndex> {
        let mut entries = self.entries.lock().unwrap_or_else(PoisonError::into_inner);
        entries.get(key).cloned()
    }

    pub(super) fn insert_entry(&self, key: IndexKey, entry: CachedIndex) {
        let mut entries = self.entries.lock().unwrap_or_else(PoisonError::into_inner);
        entries.put(key, entry);
    }

    pub(super) fn images(&self, chart: &Digest, values: &Digest) -> Option<Vec<String>> {
        let mut images = self.images.lock().unwrap_or_else(PoisonError::into_inner);
        images.get(&(chart.clone(), values.clone())).cloned()
    }

    pub(super) fn insert_images(&self, chart: Digest, values: Digest, images: Vec<String>) {
        let mut cached = self.images.lock().unwrap_or_else(PoisonError::into_inner);
        cached.put((chart, values), images);
    }
}

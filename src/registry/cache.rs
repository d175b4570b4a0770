//! Bounded caches of one registry client.

use std::num::NonZeroUsize;

use lru::LruCache;

/// A cache of at most `capacity` entries. Unlike `LruCache::new`, it allocates memory only as it grows: there are many
/// registry clients, and most of them cache little.
pub(super) fn bounded_cache<K: std::hash::Hash + Eq, V>(capacity: NonZeroUsize) -> LruCache<K, V> {
    let mut cache = LruCache::unbounded();
    cache.resize(capacity);
    cache
}

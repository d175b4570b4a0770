//! What it means that a registry refuses to return a tag, cached per repository.

use std::collections::HashSet;
use std::num::NonZeroUsize;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use lru::LruCache;

use super::cache::bounded_cache;

/// How long a cached meaning is valid.
const CACHED_FOR: Duration = Duration::from_secs(60);
/// Repositories whose meaning is cached.
const CAPACITY: NonZeroUsize = NonZeroUsize::new(256).unwrap();

/// What the refusal of a tag means in one repository.
#[derive(Clone, Debug)]
pub(super) enum RefusalMeaning {
    /// The registry lists the tags: a refused tag that is not listed does not exist.
    Listed(Arc<HashSet<String>>),
    /// The tags cannot be listed, and a tag that cannot exist is refused too: a refused tag counts as absent.
    Absent,
    /// The tags cannot be listed, and a tag that cannot exist is not refused: a refused tag exists.
    Denied,
}

/// The meaning of refusals by repository.
#[derive(Debug)]
pub(super) struct Refusals(Mutex<LruCache<String, (Instant, RefusalMeaning)>>);

impl Default for Refusals {
    fn default() -> Self {
        Self(Mutex::new(bounded_cache(CAPACITY)))
    }
}

impl Refusals {
    /// The cached meaning, if it is recent.
    pub fn get(&self, repository: &str) -> Option<RefusalMeaning> {
        let mut cache = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let (since, meaning) = cache.get(repository)?;
        (since.elapsed() < CACHED_FOR).then(|| meaning.clone())
    }

    /// Caches a meaning.
    pub fn insert(&self, repository: &str, meaning: RefusalMeaning) {
        let mut cache = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        cache.put(repository.to_owned(), (Instant::now(), meaning));
    }
}

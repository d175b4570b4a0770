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
/// Tags of all these repositories that are cached.
const MAX_TAGS: usize = 100_000;

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

impl RefusalMeaning {
    fn tags(&self) -> usize {
        match self {
            Self::Listed(tags) => tags.len(),
            Self::Absent | Self::Denied => 0,
        }
    }
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
        let mut tags: usize = cache.iter().map(|(_, (_, meaning))| meaning.tags()).sum();
        while tags > MAX_TAGS
            && let Some((_, (_, oldest))) = cache.pop_lru()
        {
            tags -= oldest.tags();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_tags_of_all_repositories_are_bounded() {
        let refusals = Refusals::default();
        let listed = |count: usize| RefusalMeaning::Listed(Arc::new((0..count).map(|tag| tag.to_string()).collect()));
        for repository in ["a", "b", "c"] {
            refusals.insert(repository, listed(MAX_TAGS / 2));
        }
        assert!(refusals.get("a").is_none());
        assert!(refusals.get("b").is_some() && refusals.get("c").is_some());
    }
}

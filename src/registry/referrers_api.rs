//! Whether a registry supports the referrers API, and a cache of the referrers that were read from it.

use std::num::NonZeroUsize;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use lru::LruCache;

use super::cache::bounded_cache;
use crate::oci::{Descriptor, Digest};

/// Manifests of a registry that are cached.
const CAPACITY: NonZeroUsize = NonZeroUsize::new(2048).unwrap();
/// How long a registry counts as one without the API before it is queried again, because it may have been upgraded.
const ABSENT_FOR: Duration = Duration::from_secs(3600);

/// Support for the referrers API, and cached referrers.
#[derive(Debug)]
pub(super) struct ReferrersApi {
    support: Mutex<ApiSupport>,
    manifests: Mutex<LruCache<(String, Digest), CachedManifest>>,
}

/// Whether a registry supports the referrers API.
#[derive(Clone, Copy, Debug, Default)]
pub(super) enum ApiSupport {
    #[default]
    Unknown,
    Present,
    AbsentSince(Instant),
}

/// The content of a manifest that matters for referrers. A digest identifies it, so it never changes.
#[derive(Clone, Debug)]
pub(super) enum CachedManifest {
    Referrer(Box<ReferrerDescription>),
    WithoutSubject,
}

/// A manifest with a subject.
#[derive(Clone, Debug)]
pub(super) struct ReferrerDescription {
    pub subject: Digest,
    pub descriptor: Descriptor,
}

impl Default for ReferrersApi {
    fn default() -> Self {
        Self {
            support: Mutex::default(),
            manifests: Mutex::new(bounded_cache(CAPACITY)),
        }
    }
}

impl ReferrersApi {
    pub fn support(&self) -> ApiSupport {
        self.support_at(Instant::now())
    }

    fn support_at(&self, now: Instant) -> ApiSupport {
        match *lock(&self.support) {
            ApiSupport::AbsentSince(since) if now.saturating_duration_since(since) >= ABSENT_FOR => ApiSupport::Unknown,
            support => support,
        }
    }

    /// Records that the registry supports the API.
    pub fn record_present(&self) {
        *lock(&self.support) = ApiSupport::Present;
    }

    /// Records that the registry does not support the API.
    pub fn record_absent(&self) {
        *lock(&self.support) = ApiSupport::AbsentSince(Instant::now());
    }

    /// The cached manifest `digest` of `repository`.
    pub fn cached(&self, repository: &str, digest: &Digest) -> Option<CachedManifest> {
        lock(&self.manifests)
            .get(&(repository.to_owned(), digest.clone()))
            .cloned()
    }

    /// Caches the manifest `digest` of `repository`.
    pub fn cache(&self, repository: &str, digest: &Digest, manifest: CachedManifest) {
        lock(&self.manifests).put((repository.to_owned(), digest.clone()), manifest);
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_absent_api_is_queried_again_later() {
        let api = ReferrersApi::default();
        assert!(matches!(api.support(), ApiSupport::Unknown));
        api.record_absent();
        assert!(matches!(api.support(), ApiSupport::AbsentSince(_)));
        assert!(matches!(
            api.support_at(Instant::now() + ABSENT_FOR),
            ApiSupport::Unknown
        ));
        api.record_present();
        assert!(matches!(api.support(), ApiSupport::Present));
    }
}

//! What all clients of one registry share in a process, whoever asks and however long they wait: a registry counts requests by
//! where they come from, not by their credentials.

use std::collections::HashMap;
use std::num::NonZeroU32;
use std::sync::{Arc, LazyLock, Mutex, PoisonError, Weak};

use tokio::sync::Semaphore;

use super::endpoint::Endpoint;
use super::throttle::Throttle;
use crate::oci::canonical_host;

/// The limits of one registry.
#[derive(Debug)]
pub(super) struct HostLimits {
    // Two, so that a copy within one registry, which holds a writing request while it waits for a reading
    // one, always gets on.
    pub reads: Arc<Semaphore>,
    pub writes: Arc<Semaphore>,
    pub patience: Throttle,
}

/// A registry, and how much is asked of it: one for all clients of a process, but in its tests.
type Key = (String, usize, Option<NonZeroU32>);

static KNOWN: LazyLock<Mutex<HashMap<Key, Weak<HostLimits>>>> = LazyLock::new(Mutex::default);

impl HostLimits {
    /// Those of the registry at `endpoint`. They are forgotten with its last client.
    pub fn of(endpoint: &Endpoint) -> Arc<Self> {
        let connections = endpoint.connections.clamp(1, Semaphore::MAX_PERMITS);
        let key = (canonical_host(&endpoint.host), connections, endpoint.rate);
        let mut known = KNOWN.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(shared) = known.get(&key).and_then(Weak::upgrade) {
            return shared;
        }
        known.retain(|_, shared| shared.strong_count() > 0);
        let shared = Arc::new(Self {
            reads: Arc::new(Semaphore::new(connections)),
            writes: Arc::new(Semaphore::new(connections)),
            patience: Throttle::new(endpoint.rate),
        });
        known.insert(key, Arc::downgrade(&shared));
        shared
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::registry::Credentials;

    #[test]
    fn clients_of_one_registry_share_its_limits() {
        let one = Endpoint::new("shared.test:5000");
        let other = Endpoint {
            credentials: Some(Credentials::new("a", "b".to_owned())),
            idle: Duration::from_secs(7),
            ..Endpoint::new("Shared.test:5000")
        };
        let first = HostLimits::of(&one);
        assert!(Arc::ptr_eq(&first, &HostLimits::of(&other)));
        assert!(!Arc::ptr_eq(
            &first,
            &HostLimits::of(&Endpoint::new("shared.test:5001"))
        ));
        drop(first);
        assert_eq!(HostLimits::of(&one).writes.available_permits(), one.connections);
    }
}

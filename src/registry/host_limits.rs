//! Limits that all clients of one registry share in a process, whatever their credentials and timeouts: registries
//! count requests by client address, not by account.

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
    // Separate semaphores, so that a copy within one registry, which holds a write permit while it waits for a read
    // permit, cannot deadlock.
    pub reads: Arc<Semaphore>,
    pub writes: Arc<Semaphore>,
    pub throttle: Throttle,
}

/// Host, connections and rate. Only tests use several limits for one host.
type Key = (String, usize, Option<NonZeroU32>);

static HOSTS: LazyLock<Mutex<HashMap<Key, Weak<HostLimits>>>> = LazyLock::new(Mutex::default);

impl HostLimits {
    /// The limits of the registry at `endpoint`. They are dropped with its last client.
    pub fn of(endpoint: &Endpoint) -> Arc<Self> {
        let connections = endpoint.connections.clamp(1, Semaphore::MAX_PERMITS);
        let key = (canonical_host(&endpoint.host), connections, endpoint.rate);
        let mut hosts = HOSTS.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(limits) = hosts.get(&key).and_then(Weak::upgrade) {
            return limits;
        }
        hosts.retain(|_, limits| limits.strong_count() > 0);
        let limits = Arc::new(Self {
            reads: Arc::new(Semaphore::new(connections)),
            writes: Arc::new(Semaphore::new(connections)),
            throttle: Throttle::new(endpoint.rate),
        });
        hosts.insert(key, Arc::downgrade(&limits));
        limits
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

//! Limits of concurrent transfers: from one source, to one destination, of one namespace, and in total. A slow or
//! unavailable registry, or a namespace that uses one, therefore delays only its own images. The next permit goes to the
//! namespace with the fewest running transfers.

use std::collections::{HashMap, VecDeque};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::oneshot;

/// How many sources may use their whole limit at the same time.
const FULL_SOURCES: usize = 8;

/// The limits of one process. Of the waiting transfers that the limits allow, the next one is the first of the namespace
/// with the fewest running transfers.
#[derive(Debug)]
pub(super) struct ConcurrencyLimits {
    of_source: usize,
    of_destination: usize,
    of_namespace: usize,
    of_all: usize,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    sources: Counts,
    destinations: Counts,
    namespaces: Counts,
    running: usize,
    waiting: VecDeque<Waiting>,
}

#[derive(Debug)]
struct Waiting {
    route: Route,
    granted: oneshot::Sender<ConcurrencyPermit>,
}

/// The running transfers of each host or namespace. Changed only under the lock.
type Counts = HashMap<String, Arc<AtomicUsize>>;

#[derive(Clone, Debug)]
struct Route {
    source: Arc<AtomicUsize>,
    destination: Arc<AtomicUsize>,
    namespace: Arc<AtomicUsize>,
}

impl Route {
    fn counts(&self) -> [&AtomicUsize; 3] {
        [&self.source, &self.destination, &self.namespace]
    }
}

/// The permit to transfer one image, until it is dropped.
#[derive(Debug)]
pub(super) struct ConcurrencyPermit {
    limits: Arc<ConcurrencyLimits>,
    route: Route,
}

impl ConcurrencyLimits {
    /// Limits that allow at most `limit` concurrent transfers from one source.
    pub fn new(limit: usize) -> Arc<Self> {
        let of_source = limit.max(1);
        let of_all = of_source.saturating_mul(FULL_SOURCES);
        Arc::new(Self {
            of_source,
            of_destination: of_all / 2,
            of_namespace: of_all / 2,
            of_all,
            state: Mutex::default(),
        })
    }

    /// Waits for a permit to transfer an image of `namespace` from the host `source` to the host `destination`. The wait needs
    /// no timeout: it ends with a running transfer, whose idle time is limited. None when the process ends.
    pub async fn acquire(
        self: &Arc<Self>,
        namespace: &str,
        source: &str,
        destination: &str,
    ) -> Option<ConcurrencyPermit> {
        let granted = {
            let mut state = self.state();
            let route = Route {
                source: count_of(&mut state.sources, source),
                destination: count_of(&mut state.destinations, destination),
                namespace: count_of(&mut state.namespaces, namespace),
            };
            let (sender, granted) = oneshot::channel();
            state.waiting.push_back(Waiting { route, granted: sender });
            granted
        };
        self.grant();
        granted.await.ok()
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn allows(&self, route: &Route) -> bool {
        route.source.load(Ordering::Relaxed) < self.of_source
            && route.destination.load(Ordering::Relaxed) < self.of_destination
            && route.namespace.load(Ordering::Relaxed) < self.of_namespace
    }

    /// The index of the next waiting transfer that the limits allow.
    fn next(&self, state: &State) -> Option<usize> {
        let allowed = state
            .waiting
            .iter()
            .enumerate()
            .filter(|(_, waiting)| self.allows(&waiting.route));
        // Of several minima, `min_by_key` returns the first.
        allowed
            .min_by_key(|(_, waiting)| waiting.route.namespace.load(Ordering::Relaxed))
            .map(|(at, _)| at)
    }

    /// Grants permits to the waiting transfers that the limits allow.
    fn grant(self: &Arc<Self>) {
        // Permits whose waiter is gone are dropped without the lock, because their drop takes it.
        let mut unwanted = Vec::new();
        {
            let mut state = self.state();
            state.waiting.retain(|waiting| !waiting.granted.is_closed());
            while state.running < self.of_all
                && let Some(at) = self.next(&state)
                && let Some(Waiting { route, granted }) = state.waiting.remove(at)
            {
                state.running += 1;
                for count in route.counts() {
                    count.fetch_add(1, Ordering::Relaxed);
                }
                let limits = Arc::clone(self);
                unwanted.extend(granted.send(ConcurrencyPermit { limits, route }).err());
            }
        }
        drop(unwanted);
    }
}

impl Drop for ConcurrencyPermit {
    fn drop(&mut self) {
        {
            let mut state = self.limits.state();
            state.running -= 1;
            for count in self.route.counts() {
                count.fetch_sub(1, Ordering::Relaxed);
            }
            // Removes the counts of unused hosts; a waiting or running transfer holds its counts.
            if state.waiting.is_empty() {
                let used = |_: &String, count: &mut Arc<AtomicUsize>| Arc::strong_count(count) > 1;
                state.sources.retain(used);
                state.destinations.retain(used);
                state.namespaces.retain(used);
            }
        }
        self.limits.grant();
    }
}

fn count_of(counts: &mut Counts, key: &str) -> Arc<AtomicUsize> {
    match counts.get(key) {
        Some(count) => Arc::clone(count),
        None => Arc::clone(counts.entry(key.to_owned()).or_default()),
    }
}

#[cfg(test)]
mod tests {
    use futures::FutureExt as _;

    use super::*;

    fn now(limits: &Arc<ConcurrencyLimits>, source: &str, destination: &str) -> Option<ConcurrencyPermit> {
        limits.acquire(source, source, destination).now_or_never().flatten()
    }

    #[test]
    fn the_namespace_with_the_fewest_transfers_is_next() {
        let limits = ConcurrencyLimits::new(1);
        let of = |namespace: &str, at: usize| {
            limits
                .acquire(namespace, &format!("{namespace}{at}"), &format!("to{namespace}{at}"))
                .now_or_never()
                .flatten()
        };
        let greedy: Vec<_> = (0..8).filter_map(|at| of("greedy", at)).collect();
        assert_eq!(greedy.len(), 4, "half of all");
        let mut others: Vec<_> = (0..4).filter_map(|at| of(&format!("n{at}"), at)).collect();
        assert_eq!(others.len(), 4);
        let mut greedy_waits = Box::pin(limits.acquire("greedy", "a", "b"));
        assert!(greedy_waits.as_mut().now_or_never().is_none());
        let mut modest_waits = Box::pin(limits.acquire("modest", "c", "d"));
        assert!(modest_waits.as_mut().now_or_never().is_none());
        drop(others.pop());
        assert!(greedy_waits.as_mut().now_or_never().is_none());
        assert!(
            modest_waits.as_mut().now_or_never().flatten().is_some(),
            "it came later and has fewer running transfers"
        );
        drop((greedy, others));
        assert!(greedy_waits.as_mut().now_or_never().flatten().is_some());
    }

    #[test]
    fn an_unavailable_host_does_not_block_others() {
        let limits = ConcurrencyLimits::new(2);
        let dead: Vec<_> = (0..2).filter_map(|_| now(&limits, "dead", "in")).collect();
        assert_eq!(dead.len(), 2);
        assert!(now(&limits, "dead", "in").is_none());
        let good: Vec<_> = (0..2).filter_map(|_| now(&limits, "good", "in")).collect();
        assert_eq!(good.len(), 2);
        // A destination has half of all: 8 of 16.
        let more: Vec<_> = (0..9).filter_map(|at| now(&limits, &format!("s{at}"), "in")).collect();
        assert_eq!(more.len(), 4);
        let elsewhere: Vec<_> = (0..9).filter_map(|at| now(&limits, &format!("t{at}"), "out")).collect();
        assert_eq!(elsewhere.len(), 8);
        assert!(now(&limits, "u", "third").is_none(), "the total is reached");
        drop((good, more, elsewhere, dead));
        assert_eq!(limits.state().running, 0);
        assert!(limits.state().sources.len() <= 1, "{:?}", limits.state().sources);
    }

    #[test]
    fn permits_are_granted_in_order_and_skip_dropped_waiters() {
        let limits = ConcurrencyLimits::new(1);
        let first = now(&limits, "a", "in").unwrap();
        let mut second = Box::pin(limits.acquire("n", "a", "in"));
        assert!(second.as_mut().now_or_never().is_none());
        let mut third = Box::pin(limits.acquire("n", "a", "in"));
        assert!(third.as_mut().now_or_never().is_none());
        let mut fourth = Box::pin(limits.acquire("n", "a", "in"));
        assert!(fourth.as_mut().now_or_never().is_none());
        drop(second);
        drop(first);
        assert!(fourth.as_mut().now_or_never().is_none(), "it came last");
        // Granted to a waiter that is dropped.
        drop(third);
        assert!(fourth.as_mut().now_or_never().flatten().is_some());
    }
}

//! Which images move at once: so many out of one source, so many into one destination, so many of one namespace, so many in
//! all. A registry that is slow or dead then holds up its own images and leaves room for the others, and so does a namespace
//! whose registries are. Of the namespaces that wait the one is next of which the fewest images move.

use std::collections::{HashMap, VecDeque};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::oneshot;

/// How many sources may have all of their images moving at once.
const SOURCES: usize = 8;

/// The limits of one process. Of those that have room the next is one of the namespace that has the fewest; of several the one
/// who came first.
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
    sources: Hosts,
    destinations: Hosts,
    namespaces: Hosts,
    running: usize,
    waiting: VecDeque<Waiting>,
}

#[derive(Debug)]
struct Waiting {
    route: Route,
    granted: oneshot::Sender<ConcurrencyPermit>,
}

/// How many images of each host, or namespace, run. Changed under the lock only.
type Hosts = HashMap<String, Arc<AtomicUsize>>;

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

/// The right to move one image, until it is dropped.
#[derive(Debug)]
pub(super) struct ConcurrencyPermit {
    limits: Arc<ConcurrencyLimits>,
    route: Route,
}

impl ConcurrencyLimits {
    /// At most `limit` images out of one source at once, and others beside them.
    pub fn new(limit: usize) -> Arc<Self> {
        let of_source = limit.max(1);
        let of_all = of_source.saturating_mul(SOURCES);
        Arc::new(Self {
            of_source,
            of_destination: of_all / 2,
            of_namespace: of_all / 2,
            of_all,
            state: Mutex::default(),
        })
    }

    /// Waits for the right to move an image of `namespace` from the host `source` to the host `destination`. Waiting is no network
    /// wait: it ends with a running transfer, whose idleness is limited. None when the process ends.
    pub async fn acquire(
        self: &Arc<Self>,
        namespace: &str,
        source: &str,
        destination: &str,
    ) -> Option<ConcurrencyPermit> {
        let granted = {
            let mut state = self.state();
            let route = Route {
                source: counted(&mut state.sources, source),
                destination: counted(&mut state.destinations, destination),
                namespace: counted(&mut state.namespaces, namespace),
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

    fn has_room(&self, route: &Route) -> bool {
        route.source.load(Ordering::Relaxed) < self.of_source
            && route.destination.load(Ordering::Relaxed) < self.of_destination
            && route.namespace.load(Ordering::Relaxed) < self.of_namespace
    }

    /// The place of the one who is next, of those that still wait.
    fn next(&self, state: &State) -> Option<usize> {
        let with_room = state
            .waiting
            .iter()
            .enumerate()
            .filter(|(_, waiting)| self.has_room(&waiting.route));
        // Of several the first.
        with_room
            .min_by_key(|(_, waiting)| waiting.route.namespace.load(Ordering::Relaxed))
            .map(|(at, _)| at)
    }

    /// Gives limits to those that have room.
    fn grant(self: &Arc<Self>) {
        // Given back where nobody waits any more, and that takes the lock again.
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
            // Hosts come and go; who waits for one or runs holds its count.
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

fn counted(hosts: &mut Hosts, host: &str) -> Arc<AtomicUsize> {
    match hosts.get(host) {
        Some(count) => Arc::clone(count),
        None => Arc::clone(hosts.entry(host.to_owned()).or_default()),
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
    fn a_namespace_leaves_room_for_others_and_waits_for_those_that_have_less() {
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
            "it came later and has less"
        );
        drop((greedy, others));
        assert!(greedy_waits.as_mut().now_or_never().flatten().is_some());
    }

    #[test]
    fn a_host_that_stands_still_leaves_room_for_others() {
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
        assert!(now(&limits, "u", "third").is_none(), "all are taken");
        drop((good, more, elsewhere, dead));
        assert_eq!(limits.state().running, 0);
        assert!(limits.state().sources.len() <= 1, "{:?}", limits.state().sources);
    }

    #[test]
    fn turns_go_on_in_the_order_of_coming_and_past_those_who_left() {
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
        // Granted, and nobody takes it.
        drop(third);
        assert!(fourth.as_mut().now_or_never().flatten().is_some());
    }
}

//! Which images move at once: so many out of one source, so many into one destination, so many in all. A registry that
//! is slow or dead then holds up its own images and leaves room for the others.

use std::collections::{HashMap, VecDeque};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::oneshot;

/// How many sources may have all of their images moving at once.
const SOURCES: usize = 8;

/// The turns of one process. Whoever comes first of those that have room gets the next.
#[derive(Debug)]
pub(super) struct Turns {
    of_source: usize,
    of_destination: usize,
    of_all: usize,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    sources: Hosts,
    destinations: Hosts,
    running: usize,
    waiting: VecDeque<Waiting>,
}

#[derive(Debug)]
struct Waiting {
    route: Route,
    granted: oneshot::Sender<Turn>,
}

/// How many images of each host run. Changed under the lock only.
type Hosts = HashMap<String, Arc<AtomicUsize>>;

#[derive(Clone, Debug)]
struct Route {
    source: Arc<AtomicUsize>,
    destination: Arc<AtomicUsize>,
}

/// The right to move one image, until it is dropped.
#[derive(Debug)]
pub(super) struct Turn {
    turns: Arc<Turns>,
    route: Route,
}

impl Turns {
    /// At most `limit` images out of one source at once, and others beside them.
    pub fn new(limit: usize) -> Arc<Self> {
        let of_source = limit.max(1);
        let of_all = of_source.saturating_mul(SOURCES);
        Arc::new(Self {
            of_source,
            of_destination: of_all / 2,
            of_all,
            state: Mutex::default(),
        })
    }

    /// Waits for the right to move an image from the host `source` to the host `destination`. Waiting is no network
    /// wait: it ends with a running transfer, whose idleness is limited. None when the process ends.
    pub async fn turn(self: &Arc<Self>, source: &str, destination: &str) -> Option<Turn> {
        let granted = {
            let mut state = self.state();
            let route = Route {
                source: counted(&mut state.sources, source),
                destination: counted(&mut state.destinations, destination),
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
    }

    /// Gives turns to those that have room, the first first.
    fn grant(self: &Arc<Self>) {
        // Given back where nobody waits any more, and that takes the lock again.
        let mut unwanted = Vec::new();
        {
            let mut state = self.state();
            let mut at = 0;
            while state.running < self.of_all
                && let Some(waiting) = state.waiting.get(at)
            {
                if waiting.granted.is_closed() {
                    state.waiting.remove(at);
                } else if !self.has_room(&waiting.route) {
                    at += 1;
                } else if let Some(Waiting { route, granted }) = state.waiting.remove(at) {
                    state.running += 1;
                    route.source.fetch_add(1, Ordering::Relaxed);
                    route.destination.fetch_add(1, Ordering::Relaxed);
                    let turns = Arc::clone(self);
                    unwanted.extend(granted.send(Turn { turns, route }).err());
                }
            }
        }
        drop(unwanted);
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        {
            let mut state = self.turns.state();
            state.running -= 1;
            self.route.source.fetch_sub(1, Ordering::Relaxed);
            self.route.destination.fetch_sub(1, Ordering::Relaxed);
            // Hosts come and go; who waits for one or runs holds its count.
            if state.waiting.is_empty() {
                let used = |_: &String, count: &mut Arc<AtomicUsize>| Arc::strong_count(count) > 1;
                state.sources.retain(used);
                state.destinations.retain(used);
            }
        }
        self.turns.grant();
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

    fn now(turns: &Arc<Turns>, source: &str, destination: &str) -> Option<Turn> {
        turns.turn(source, destination).now_or_never().flatten()
    }

    #[test]
    fn a_host_that_stands_still_leaves_room_for_others() {
        let turns = Turns::new(2);
        let dead: Vec<_> = (0..2).filter_map(|_| now(&turns, "dead", "in")).collect();
        assert_eq!(dead.len(), 2);
        assert!(now(&turns, "dead", "in").is_none());
        let good: Vec<_> = (0..2).filter_map(|_| now(&turns, "good", "in")).collect();
        assert_eq!(good.len(), 2);
        // A destination has half of all: 8 of 16.
        let more: Vec<_> = (0..9).filter_map(|at| now(&turns, &format!("s{at}"), "in")).collect();
        assert_eq!(more.len(), 4);
        let elsewhere: Vec<_> = (0..9).filter_map(|at| now(&turns, &format!("t{at}"), "out")).collect();
        assert_eq!(elsewhere.len(), 8);
        assert!(now(&turns, "u", "third").is_none(), "all are taken");
        drop((good, more, elsewhere, dead));
        assert_eq!(turns.state().running, 0);
        assert!(turns.state().sources.len() <= 1, "{:?}", turns.state().sources);
    }

    #[test]
    fn turns_go_on_in_the_order_of_coming_and_past_those_who_left() {
        let turns = Turns::new(1);
        let first = now(&turns, "a", "in").unwrap();
        let mut second = Box::pin(turns.turn("a", "in"));
        assert!(second.as_mut().now_or_never().is_none());
        let mut third = Box::pin(turns.turn("a", "in"));
        assert!(third.as_mut().now_or_never().is_none());
        let mut fourth = Box::pin(turns.turn("a", "in"));
        assert!(fourth.as_mut().now_or_never().is_none());
        drop(second);
        drop(first);
        assert!(fourth.as_mut().now_or_never().is_none(), "it came last");
        // Granted, and nobody takes it.
        drop(third);
        assert!(fourth.as_mut().now_or_never().flatten().is_some());
    }
}

//! Readiness and liveness of a process. Each component registers a check and updates it.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use kube::runtime::watcher::{self, Event};

/// The checks of one process; clones share them.
#[derive(Clone, Debug, Default)]
pub struct Health(Arc<Mutex<Checks>>);

#[derive(Debug, Default)]
struct Checks {
    next: u64,
    /// The problem of each component that is not ready, in the order of registration.
    readiness: BTreeMap<u64, Option<String>>,
    heartbeats: BTreeMap<u64, HeartbeatState>,
}

#[derive(Debug)]
struct HeartbeatState {
    what: &'static str,
    limit: Duration,
    last: Instant,
}

impl Checks {
    fn next_number(&mut self) -> u64 {
        self.next += 1;
        self.next
    }
}

impl Health {
    fn checks(&self) -> MutexGuard<'_, Checks> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Ok if the process is ready; else one line for each problem.
    pub fn ready(&self) -> Result<(), String> {
        let checks = self.checks();
        if checks.readiness.is_empty() {
            return Err("it is starting".to_owned());
        }
        let problems: Vec<&str> = checks.readiness.values().filter_map(Option::as_deref).collect();
        match problems.is_empty() {
            true => Ok(()),
            false => Err(problems.join("\n")),
        }
    }

    /// Ok if all heartbeats are in time; else the first that is late.
    pub fn alive(&self) -> Result<(), String> {
        let checks = self.checks();
        let is_late = |beats: &&HeartbeatState| beats.last.elapsed() > beats.limit;
        match checks.heartbeats.values().find(is_late) {
            None => Ok(()),
            Some(HeartbeatState { what, limit, .. }) => {
                Err(format!("{what} has made no progress for more than {limit:?}"))
            }
        }
    }

    /// Registers a component that is not ready because of `problem`, or ready without one. It counts until it is dropped.
    pub fn check(&self, problem: Option<String>) -> ReadinessCheck {
        let mut checks = self.checks();
        let number = checks.next_number();
        checks.readiness.insert(number, problem);
        ReadinessCheck {
            health: self.clone(),
            number,
        }
    }

    /// Registers a watch of `what` that the process needs: it is not ready until all objects were listed.
    pub fn listing(&self, what: &'static str) -> Listing {
        let check = self.check(Some(format!("the {what} have not been listed yet")));
        Listing {
            check,
            what,
            listed: false,
        }
    }

    /// Registers a watch of `what` that starts later: it is ready unless listing fails.
    pub fn further_listing(&self, what: &'static str) -> Listing {
        Listing {
            check: self.check(None),
            what,
            listed: false,
        }
    }

    /// Registers a loop that must make progress: it beats at least once in `limit` until it is dropped.
    pub fn heartbeat(&self, what: &'static str, limit: Duration) -> Heartbeat {
        let mut checks = self.checks();
        let number = checks.next_number();
        let last = Instant::now();
        checks.heartbeats.insert(number, HeartbeatState { what, limit, last });
        Heartbeat {
            health: self.clone(),
            number,
        }
    }
}

/// The readiness of one component.
#[derive(Debug)]
pub struct ReadinessCheck {
    health: Health,
    number: u64,
}

impl ReadinessCheck {
    /// Sets the problem, or none.
    pub fn set(&self, problem: Option<String>) {
        self.health.checks().readiness.insert(self.number, problem);
    }
}

impl Drop for ReadinessCheck {
    fn drop(&mut self) {
        self.health.checks().readiness.remove(&self.number);
    }
}

/// The readiness of a watch. Errors after the first complete list are ignored, because the watch resumes.
#[derive(Debug)]
pub struct Listing {
    check: ReadinessCheck,
    what: &'static str,
    listed: bool,
}

impl Listing {
    /// Processes an event of the watch.
    pub fn note<K>(&mut self, event: &watcher::Result<Event<K>>) {
        match event {
            _ if self.listed => {}
            Ok(Event::InitDone) => {
                self.listed = true;
                self.check.set(None);
            }
            Ok(_) => {}
            Err(error) => self
                .check
                .set(Some(format!("the {} cannot be listed: {error}", self.what))),
        }
    }
}

/// The liveness of one loop.
#[derive(Debug)]
pub struct Heartbeat {
    health: Health,
    number: u64,
}

impl Heartbeat {
    /// Records progress.
    pub fn beat(&self) {
        if let Some(beats) = self.health.checks().heartbeats.get_mut(&self.number) {
            beats.last = Instant::now();
        }
    }
}

impl Drop for Heartbeat {
    fn drop(&mut self) {
        self.health.checks().heartbeats.remove(&self.number);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ready_when_no_component_has_a_problem() {
        let health = Health::default();
        assert_eq!(health.ready(), Err("it is starting".to_owned()));
        let engine = health.check(Some("no engine".to_owned()));
        let mut images = health.listing("images");
        assert_eq!(
            health.ready(),
            Err("no engine\nthe images have not been listed yet".to_owned())
        );
        engine.set(None);
        images.note::<()>(&Err(watcher::Error::NoResourceVersion));
        let problem = health.ready().unwrap_err();
        assert!(problem.starts_with("the images cannot be listed: "), "{problem}");
        images.note::<()>(&Ok(Event::InitDone));
        assert_eq!(health.ready(), Ok(()));
        images.note::<()>(&Err(watcher::Error::NoResourceVersion));
        assert_eq!(health.ready(), Ok(()), "the watch resumes");
        let mut further = health.further_listing("packages");
        assert_eq!(health.ready(), Ok(()));
        further.note::<()>(&Err(watcher::Error::NoResourceVersion));
        assert!(health.ready().is_err());
        drop(further);
        assert_eq!(health.ready(), Ok(()));
        drop((engine, images));
        assert!(health.ready().is_err());
    }

    #[test]
    fn alive_while_heartbeats_are_in_time() {
        let health = Health::default();
        assert_eq!(health.alive(), Ok(()));
        let fast = health.heartbeat("the renewal", Duration::ZERO);
        let _slow = health.heartbeat("another", Duration::from_secs(3600));
        let begun = Instant::now();
        while begun.elapsed().is_zero() {}
        let problem = health.alive().unwrap_err();
        assert!(problem.starts_with("the renewal has made no progress"), "{problem}");
        drop(fast);
        assert_eq!(health.alive(), Ok(()));
    }
}

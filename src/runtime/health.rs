//! Whether a process is able to work, for whoever asks: each part says of itself what it lacks.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use kube::runtime::watcher::{self, Event};

/// What the parts of one process say of themselves; clones speak of the same process.
#[derive(Clone, Debug, Default)]
pub struct Health(Arc<Mutex<Parts>>);

#[derive(Debug, Default)]
struct Parts {
    next: u64,
    /// What each part lacks, in the order in which they came.
    checks: BTreeMap<u64, Option<String>>,
    heartbeats: BTreeMap<u64, Beats>,
}

#[derive(Debug)]
struct Beats {
    what: &'static str,
    limit: Duration,
    last: Instant,
}

impl Parts {
    fn number(&mut self) -> u64 {
        self.next += 1;
        self.next
    }
}

impl Health {
    fn parts(&self) -> MutexGuard<'_, Parts> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// That the process can work; else what is lacking.
    pub fn ready(&self) -> Result<(), String> {
        let parts = self.parts();
        if parts.checks.is_empty() {
            return Err("it is starting".to_owned());
        }
        let lacking: Vec<&str> = parts.checks.values().filter_map(Option::as_deref).collect();
        match lacking.is_empty() {
            true => Ok(()),
            false => Err(lacking.join("\n")),
        }
    }

    /// That everything that has to go on goes on; else what stands still.
    pub fn alive(&self) -> Result<(), String> {
        let parts = self.parts();
        let still = |beats: &&Beats| beats.last.elapsed() > beats.limit;
        match parts.heartbeats.values().find(still) {
            None => Ok(()),
            Some(Beats { what, limit, .. }) => Err(format!("{what} has stood still for more than {limit:?}")),
        }
    }

    /// A part of the process, which lacks what `lacking` says until it says otherwise. It counts until it is dropped.
    pub fn check(&self, lacking: Option<String>) -> ReadinessCheck {
        let mut parts = self.parts();
        let number = parts.number();
        parts.checks.insert(number, lacking);
        ReadinessCheck {
            health: self.clone(),
            number,
        }
    }

    /// A watch of `what` without which the process cannot work: it lacks something until all objects were listed.
    pub fn listing(&self, what: &'static str) -> Listing {
        let check = self.check(Some(format!("the {what} have not been listed yet")));
        Listing {
            check,
            what,
            listed: false,
        }
    }

    /// A watch of `what` that begins while the process works already: it lacks something only when it cannot list.
    pub fn further_listing(&self, what: &'static str) -> Listing {
        Listing {
            check: self.check(None),
            what,
            listed: false,
        }
    }

    /// Something that has to go on: it beats at least once in `limit` until it is dropped.
    pub fn heartbeat(&self, what: &'static str, limit: Duration) -> Heartbeat {
        let mut parts = self.parts();
        let number = parts.number();
        let last = Instant::now();
        parts.heartbeats.insert(number, Beats { what, limit, last });
        Heartbeat {
            health: self.clone(),
            number,
        }
    }
}

/// A part of the process.
#[derive(Debug)]
pub struct ReadinessCheck {
    health: Health,
    number: u64,
}

impl ReadinessCheck {
    /// It lacks nothing, or what `lacking` says.
    pub fn set(&self, lacking: Option<String>) {
        self.health.parts().checks.insert(self.number, lacking);
    }
}

impl Drop for ReadinessCheck {
    fn drop(&mut self) {
        self.health.parts().checks.remove(&self.number);
    }
}

/// A watch of objects. Once all were listed, what it says later is its own affair: it goes on where it was.
#[derive(Debug)]
pub struct Listing {
    check: ReadinessCheck,
    what: &'static str,
    listed: bool,
}

impl Listing {
    /// Hears what the watch gives.
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

/// Something that has to go on.
#[derive(Debug)]
pub struct Heartbeat {
    health: Health,
    number: u64,
}

impl Heartbeat {
    /// It goes on.
    pub fn beat(&self) {
        if let Some(beats) = self.health.parts().heartbeats.get_mut(&self.number) {
            beats.last = Instant::now();
        }
    }
}

impl Drop for Heartbeat {
    fn drop(&mut self) {
        self.health.parts().heartbeats.remove(&self.number);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn is_ready_when_no_part_lacks_anything() {
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
        let said = health.ready().unwrap_err();
        assert!(said.starts_with("the images cannot be listed: "), "{said}");
        images.note::<()>(&Ok(Event::InitDone));
        assert_eq!(health.ready(), Ok(()));
        images.note::<()>(&Err(watcher::Error::NoResourceVersion));
        assert_eq!(health.ready(), Ok(()), "the watch goes on by itself");
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
    fn is_alive_while_what_must_go_on_goes_on() {
        let health = Health::default();
        assert_eq!(health.alive(), Ok(()));
        let fast = health.heartbeat("the renewal", Duration::ZERO);
        let _slow = health.heartbeat("another", Duration::from_secs(3600));
        let begun = Instant::now();
        while begun.elapsed().is_zero() {}
        let said = health.alive().unwrap_err();
        assert!(said.starts_with("the renewal has stood still"), "{said}");
        drop(fast);
        assert_eq!(health.alive(), Ok(()));
    }
}

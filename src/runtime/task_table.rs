//! What one process remembers of the images it may move: running tasks, the last result, others' claims.
//! Nothing here is needed for correctness; a restart only looks at everything once more.

use std::collections::{HashMap, HashSet};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio_util::sync::CancellationToken;

use super::claim::{self, ObservedClaim};
use crate::api::v1alpha1::Claim;
use crate::fault::Disposition;

/// What a task works on: when any of it changes, the task is cancelled and another begins.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TaskKey {
    /// The generation of the spec.
    pub generation: i64,
    /// The request for a reconciliation that it answers.
    pub requested_at: Option<String>,
    /// The image ID that the assigned node holds, or the tag that a policy chose.
    pub input: Option<String>,
    /// Who has a tag that the object would write.
    pub tag_owner: Option<String>,
}

/// How the delay between two tries grows.
#[derive(Clone, Copy, Debug)]
pub struct Backoff {
    /// Before the second try.
    pub first: Duration,
    /// At most.
    pub limit: Duration,
}

impl Backoff {
    /// The delay after `failures` tries in a row that failed, without jitter: doubled each time.
    pub fn after(&self, failures: u32) -> Duration {
        let doubled = 2u32
            .checked_pow(failures.saturating_sub(1))
            .and_then(|factor| self.first.checked_mul(factor));
        doubled.unwrap_or(self.limit).min(self.limit)
    }
}

/// What is to be done about an object now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Decision {
    /// Begin.
    Run,
    /// Look again after that time, or at the next change.
    Requeue(Duration),
    /// Nothing before the next change.
    AwaitChange,
}

impl Decision {
    /// For how long is to be waited, where time ends it.
    pub fn left(self) -> Option<Duration> {
        match self {
            Self::Requeue(left) => Some(left),
            Self::AwaitChange | Self::Run => None,
        }
    }
}

/// What the object's status says, as far as it matters for the decision.
#[derive(Clone, Copy, Debug)]
pub struct ObjectView<'a> {
    /// The status says Ready for this very key.
    pub ready: bool,
    /// The claim in the status.
    pub claim: Option<&'a Claim>,
    /// Whether this process looks again at what is ready.
    pub rechecks: bool,
    /// How often.
    pub interval: Duration,
}

/// The memory of one process.
#[derive(Debug)]
pub struct TaskTable {
    backoff: Backoff,
    holder: String,
    entries: Mutex<HashMap<String, Entry>>,
}

#[derive(Debug, Default)]
struct Entry {
    /// The object is gone: the entry goes with its task.
    gone: bool,
    running: Option<(TaskKey, CancellationToken)>,
    last: Option<Last>,
    claim: Option<ObservedClaim>,
}

#[derive(Debug)]
struct Last {
    key: TaskKey,
    at: Instant,
    failures: u32,
    wait: Option<Duration>,
}

impl TaskTable {
    /// An empty memory of the process that claims as `holder`.
    pub fn new(holder: impl Into<String>, backoff: Backoff) -> Self {
        Self {
            backoff,
            holder: holder.into(),
            entries: Mutex::default(),
        }
    }

    /// Decides about the object `uid`, whose work is described by `key`. A task for another key is cancelled.
    pub fn decide(&self, uid: &str, key: &TaskKey, view: ObjectView<'_>, now: Instant) -> Decision {
        let mut entries = self.entries();
        let entry = entries.entry(uid.to_owned()).or_default();
        if let Some((running, token)) = &entry.running {
            if running == key {
                return Decision::AwaitChange;
            }
            token.cancel();
            // Its end wakes the reconciler, which then begins the other.
            return Decision::AwaitChange;
        }
        let last = entry.last.as_ref().filter(|last| last.key == *key);
        let due = match last {
            None if view.ready && !view.rechecks => return Decision::AwaitChange,
            None => None,
            // Somebody took the success back: another node was assigned, or a condition was overwritten.
            Some(last) if last.failures == 0 && !view.ready => Some(last.at + self.backoff.first),
            Some(last) if last.failures == 0 && !view.rechecks => return Decision::AwaitChange,
            Some(last) if last.failures == 0 => Some(last.at + view.interval),
            Some(Last { wait: None, .. }) => return Decision::AwaitChange,
            Some(Last {
                wait: Some(wait), at, ..
            }) => Some(*at + *wait),
        };
        if let Some(left) = due
            .map(|due| due.saturating_duration_since(now))
            .filter(|left| !left.is_zero())
        {
            return Decision::Requeue(left);
        }
        match claim::remaining_hold(&mut entry.claim, view.claim, &self.holder, now) {
            Some(left) => Decision::Requeue(left),
            None => Decision::Run,
        }
    }

    /// Whether the last try of `key` failed and is to be waited for: for how long, or until something changes.
    pub fn postponed(&self, uid: &str, key: &TaskKey, now: Instant) -> Option<Decision> {
        let entries = self.entries();
        let last = entries
            .get(uid)?
            .last
            .as_ref()
            .filter(|last| last.key == *key && last.failures > 0)?;
        let Some(wait) = last.wait else {
            return Some(Decision::AwaitChange);
        };
        let left = (last.at + wait).saturating_duration_since(now);
        (!left.is_zero()).then_some(Decision::Requeue(left))
    }

    /// Notes that a task for `key` runs, and gives the token that cancels it.
    pub fn begin(&self, uid: &str, key: &TaskKey, parent: &CancellationToken) -> CancellationToken {
        let token = parent.child_token();
        self.entries().entry(uid.to_owned()).or_default().running = Some((key.clone(), token.clone()));
        token
    }

    /// Notes that the task for `key` succeeded.
    pub fn succeeded(&self, uid: &str, key: TaskKey, now: Instant) {
        self.end(
            uid,
            Some(Last {
                key,
                at: now,
                failures: 0,
                wait: None,
            }),
        );
    }

    /// Notes that the task for `key` failed. A stalled one is not tried again before the key changes.
    pub fn failed(&self, uid: &str, key: TaskKey, disposition: Disposition, now: Instant) {
        let before = {
            let entries = self.entries();
            let last = entries.get(uid).and_then(|entry| entry.last.as_ref());
            last.filter(|last| last.key == key).map_or(0, |last| last.failures)
        };
        let failures = before.saturating_add(1);
        let wait = match disposition {
            Disposition::Stalled => None,
            Disposition::Waiting { after } => Some(after.clamp(self.backoff.first, Duration::from_secs(3600))),
            // Jitter of a fifth, so that objects that failed together do not come back together.
            Disposition::Retryable | Disposition::Reread | Disposition::Blocked => {
                Some(self.backoff.after(failures).mul_f64(0.8 + 0.4 * fastrand::f64()))
            }
        };
        self.end(
            uid,
            Some(Last {
                key,
                at: now,
                failures,
                wait,
            }),
        );
    }

    /// Notes that the task ended without a result: it was cancelled, or another holds the claim.
    pub fn ended(&self, uid: &str) {
        self.end(uid, None);
    }

    /// Cancels what runs for the object.
    pub fn cancel(&self, uid: &str) {
        if let Some((_, token)) = self.entries().get(uid).and_then(|entry| entry.running.as_ref()) {
            token.cancel();
        }
    }

    /// Whether a task runs for the object.
    pub fn is_running(&self, uid: &str) -> bool {
        self.entries().get(uid).is_some_and(|entry| entry.running.is_some())
    }

    /// Forgets failures of the object, so that it is tried at once: something that it names was repaired.
    pub fn retry(&self, uid: &str) {
        if let Some(entry) = self.entries().get_mut(uid)
            && entry.last.as_ref().is_some_and(|last| last.failures > 0)
        {
            entry.last = None;
        }
    }

    /// Cancels and forgets an object that is gone.
    pub fn forget(&self, uid: &str) {
        let mut entries = self.entries();
        let Some(entry) = entries.get_mut(uid) else { return };
        match &entry.running {
            Some((_, token)) => {
                token.cancel();
                entry.gone = true;
            }
            None => {
                entries.remove(uid);
            }
        }
    }

    /// Cancels and forgets all but the objects of `uids`: the others went while nobody watched.
    pub fn retain(&self, uids: &HashSet<String>) {
        let gone: Vec<String> = self
            .entries()
            .keys()
            .filter(|uid| !uids.contains(*uid))
            .cloned()
            .collect();
        for uid in gone {
            self.forget(&uid);
        }
    }

    fn end(&self, uid: &str, last: Option<Last>) {
        let mut entries = self.entries();
        let Some(entry) = entries.get_mut(uid) else {
            entries.insert(
                uid.to_owned(),
                Entry {
                    last,
                    ..Entry::default()
                },
            );
            return;
        };
        if entry.gone {
            entries.remove(uid);
            return;
        }
        entry.running = None;
        if last.is_some() {
            entry.last = last;
        }
    }

    fn entries(&self) -> MutexGuard<'_, HashMap<String, Entry>> {
        self.entries.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn key(generation: i64) -> TaskKey {
        TaskKey {
            generation,
            requested_at: None,
            input: None,
            tag_owner: None,
        }
    }

    fn memory() -> TaskTable {
        TaskTable::new(
            "me",
            Backoff {
                first: SECOND,
                limit: SECOND * 4,
            },
        )
    }

    const OPEN: ObjectView<'_> = ObjectView {
        ready: false,
        claim: None,
        rechecks: true,
        interval: Duration::from_secs(60),
    };

    #[test]
    fn one_task_a_key_and_another_key_cancels() {
        let (memory, now) = (memory(), Instant::now());
        assert_eq!(memory.decide("a", &key(1), OPEN, now), Decision::Run);
        let token = memory.begin("a", &key(1), &CancellationToken::new());
        assert_eq!(memory.decide("a", &key(1), OPEN, now), Decision::AwaitChange);
        assert!(!token.is_cancelled());
        assert_eq!(memory.decide("a", &key(2), OPEN, now), Decision::AwaitChange);
        assert!(token.is_cancelled());
        memory.ended("a");
        assert_eq!(memory.decide("a", &key(2), OPEN, now), Decision::Run);
    }

    #[test]
    fn tries_again_later_each_time_and_never_when_stalled() {
        let (memory, now) = (memory(), Instant::now());
        memory.failed("a", key(1), Disposition::Retryable, now);
        let Decision::Requeue(left) = memory.decide("a", &key(1), OPEN, now) else {
            panic!("no wait")
        };
        assert!(left >= SECOND.mul_f64(0.8) && left <= SECOND.mul_f64(1.2));
        assert_eq!(memory.decide("a", &key(1), OPEN, now + SECOND * 2), Decision::Run);
        memory.failed("a", key(1), Disposition::Retryable, now);
        assert!(matches!(
            memory.decide("a", &key(1), OPEN, now + SECOND),
            Decision::Requeue(_)
        ));
        memory.failed("a", key(1), Disposition::Stalled, now);
        assert_eq!(
            memory.decide("a", &key(1), OPEN, now + SECOND * 1000),
            Decision::AwaitChange
        );
        assert_eq!(memory.decide("a", &key(2), OPEN, now), Decision::Run);
        memory.retry("a");
        assert_eq!(memory.decide("a", &key(1), OPEN, now), Decision::Run);
        let backoff = Backoff {
            first: SECOND,
            limit: SECOND * 4,
        };
        assert_eq!(memory.postponed("a", &key(1), now), None);
        memory.failed("a", key(1), Disposition::Stalled, now);
        assert_eq!(memory.postponed("a", &key(1), now), Some(Decision::AwaitChange));
        assert_eq!(memory.postponed("a", &key(2), now), None);
        assert_eq!([1, 2, 3, 4, 400].map(|n| backoff.after(n).as_secs()), [1, 2, 4, 4, 4]);
    }

    #[test]
    fn looks_again_only_where_it_is_its_duty() {
        let (memory, now) = (memory(), Instant::now());
        let view = ObjectView { ready: true, ..OPEN };
        assert_eq!(
            memory.decide(
                "a",
                &key(1),
                ObjectView {
                    rechecks: false,
                    ..view
                },
                now
            ),
            Decision::AwaitChange
        );
        assert_eq!(
            memory.decide("a", &key(1), view, now),
            Decision::Run,
            "unknown since the start"
        );
        memory.succeeded("a", key(1), now);
        assert_eq!(memory.decide("a", &key(1), view, now), Decision::Requeue(SECOND * 60));
        assert_eq!(memory.decide("a", &key(1), view, now + SECOND * 60), Decision::Run);
    }

    #[test]
    fn forgets_what_is_gone() {
        let (memory, now) = (memory(), Instant::now());
        let token = memory.begin("a", &key(1), &CancellationToken::new());
        memory.forget("a");
        assert!(token.is_cancelled() && memory.is_running("a"));
        memory.ended("a");
        memory.succeeded("b", key(1), now);
        memory.forget("b");
        assert!(memory.entries().is_empty());
        memory.succeeded("c", key(1), now);
        memory.succeeded("d", key(1), now);
        let token = memory.begin("e", &key(1), &CancellationToken::new());
        memory.retain(&HashSet::from(["d".to_owned()]));
        assert!(token.is_cancelled());
        memory.ended("e");
        let left: Vec<String> = memory.entries().keys().cloned().collect();
        assert_eq!(left, ["d"]);
    }

    #[test]
    fn respects_anothers_claim() {
        use k8s_openapi::apimachinery::pkg::apis::meta::v1::MicroTime;
        let (memory, now) = (memory(), Instant::now());
        let claim = Claim {
            holder: "other".to_owned(),
            renew_time: MicroTime(jiff::Timestamp::UNIX_EPOCH),
        };
        let view = ObjectView {
            claim: Some(&claim),
            ..OPEN
        };
        assert_eq!(
            memory.decide("a", &key(1), view, now),
            Decision::Requeue(claim::CLAIM_STALE_AFTER)
        );
        assert_eq!(
            memory.decide("a", &key(1), view, now + claim::CLAIM_STALE_AFTER),
            Decision::Run
        );
    }
}

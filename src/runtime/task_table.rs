//! The tasks of one process: for each object the running task, the last result, and the claim of another process. It is not
//! needed for correctness; after a restart, every object is checked once.

use std::collections::{HashMap, HashSet};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio_util::sync::CancellationToken;

use super::claim::{self, ObservedClaim};
use crate::api::v1alpha1::Claim;
use crate::fault::Disposition;

/// The inputs of a task: when any of them changes, the task is cancelled and another one starts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TaskKey {
    /// The generation of the spec.
    pub generation: i64,
    /// The requested reconciliation (`jackal.dev/requestedAt`).
    pub requested_at: Option<String>,
    /// The image ID on the assigned node, the tag that a policy selected, or the digest of a package's inputs.
    pub input: Option<String>,
    /// The object that owns a tag that this object would write.
    pub tag_owner: Option<String>,
}

/// The delay between two retries, doubled after each failure.
#[derive(Clone, Copy, Debug)]
pub struct Backoff {
    /// The delay after the first failure.
    pub first: Duration,
    /// The longest delay.
    pub limit: Duration,
}

impl Backoff {
    /// The delay after `failures` consecutive failures, without jitter.
    pub fn after(&self, failures: u32) -> Duration {
        let doubled = 2u32
            .checked_pow(failures.saturating_sub(1))
            .and_then(|factor| self.first.checked_mul(factor));
        doubled.unwrap_or(self.limit).min(self.limit)
    }
}

/// What to do with an object now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Decision {
    /// Start a task.
    Run,
    /// Reconcile again after this time or at the next change.
    Requeue(Duration),
    /// Do nothing before the next change.
    AwaitChange,
}

impl Decision {
    /// The time to wait, if the decision has one.
    pub fn delay(self) -> Option<Duration> {
        match self {
            Self::Requeue(left) => Some(left),
            Self::AwaitChange | Self::Run => None,
        }
    }
}

/// The parts of an object's status that matter for the decision.
#[derive(Clone, Copy, Debug)]
pub struct ObjectView<'a> {
    /// Whether the status is Ready for this key.
    pub ready: bool,
    /// The claim in the status.
    pub claim: Option<&'a Claim>,
    /// Whether this process checks ready objects again.
    pub rechecks: bool,
    /// How often it checks them.
    pub interval: Duration,
}

/// The tasks of one process, by the uid of their object.
#[derive(Debug)]
pub struct TaskTable {
    backoff: Backoff,
    holder: String,
    entries: Mutex<HashMap<String, Entry>>,
}

#[derive(Debug, Default)]
struct Entry {
    /// The object is gone; the entry is removed when its task ends.
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
    /// An empty table of the process whose claims name `holder`.
    pub fn new(holder: impl Into<String>, backoff: Backoff) -> Self {
        Self {
            backoff,
            holder: holder.into(),
            entries: Mutex::default(),
        }
    }

    /// Decides what to do with the object `uid` now that its inputs are `key`. A task for another key is cancelled.
    pub fn decide(&self, uid: &str, key: &TaskKey, view: ObjectView<'_>, now: Instant) -> Decision {
        let mut entries = self.entries();
        let entry = entries.entry(uid.to_owned()).or_default();
        if let Some((running, token)) = &entry.running {
            if running == key {
                return Decision::AwaitChange;
            }
            token.cancel();
            // Its end triggers a reconciliation, which then starts the next task.
            return Decision::AwaitChange;
        }
        let last = entry.last.as_ref().filter(|last| last.key == *key);
        let due = match last {
            None if view.ready && !view.rechecks => return Decision::AwaitChange,
            None => None,
            // The object was ready and is no longer: another node was assigned, or a condition was overwritten.
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

    /// The decision if the last task for `key` failed and its retry is not due; else none.
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

    /// Records that a task for `key` runs, and returns the token that cancels it.
    pub fn begin(&self, uid: &str, key: &TaskKey, parent: &CancellationToken) -> CancellationToken {
        let token = parent.child_token();
        self.entries().entry(uid.to_owned()).or_default().running = Some((key.clone(), token.clone()));
        token
    }

    /// Records that the task for `key` succeeded.
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

    /// Records that the task for `key` failed. A stalled failure is not retried before the key changes.
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
            // Jitter of 20%, so that objects that failed together are not retried together.
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

    /// Records that the task ended without a result: it was cancelled, or another process holds the claim.
    pub fn ended(&self, uid: &str) {
        self.end(uid, None);
    }

    /// Cancels the task of the object.
    pub fn cancel(&self, uid: &str) {
        if let Some((_, token)) = self.entries().get(uid).and_then(|entry| entry.running.as_ref()) {
            token.cancel();
        }
    }

    /// Whether a task runs for the object.
    pub fn is_running(&self, uid: &str) -> bool {
        self.entries().get(uid).is_some_and(|entry| entry.running.is_some())
    }

    /// Forgets the failures of the object, so that it is retried immediately: something that it names was corrected.
    pub fn retry(&self, uid: &str) {
        if let Some(entry) = self.entries().get_mut(uid)
            && entry.last.as_ref().is_some_and(|last| last.failures > 0)
        {
            entry.last = None;
        }
    }

    /// Cancels the task of an object that is gone, and removes it.
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

    /// Forgets all objects but `uids`: the others were deleted while the watch was interrupted.
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

    fn table() -> TaskTable {
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
        let (table, now) = (table(), Instant::now());
        assert_eq!(table.decide("a", &key(1), OPEN, now), Decision::Run);
        let token = table.begin("a", &key(1), &CancellationToken::new());
        assert_eq!(table.decide("a", &key(1), OPEN, now), Decision::AwaitChange);
        assert!(!token.is_cancelled());
        assert_eq!(table.decide("a", &key(2), OPEN, now), Decision::AwaitChange);
        assert!(token.is_cancelled());
        table.ended("a");
        assert_eq!(table.decide("a", &key(2), OPEN, now), Decision::Run);
    }

    #[test]
    fn tries_again_later_each_time_and_never_when_stalled() {
        let (table, now) = (table(), Instant::now());
        table.failed("a", key(1), Disposition::Retryable, now);
        let Decision::Requeue(left) = table.decide("a", &key(1), OPEN, now) else {
            panic!("no wait")
        };
        assert!(left >= SECOND.mul_f64(0.8) && left <= SECOND.mul_f64(1.2));
        assert_eq!(table.decide("a", &key(1), OPEN, now + SECOND * 2), Decision::Run);
        table.failed("a", key(1), Disposition::Retryable, now);
        assert!(matches!(
            table.decide("a", &key(1), OPEN, now + SECOND),
            Decision::Requeue(_)
        ));
        table.failed("a", key(1), Disposition::Stalled, now);
        assert_eq!(
            table.decide("a", &key(1), OPEN, now + SECOND * 1000),
            Decision::AwaitChange
        );
        assert_eq!(table.decide("a", &key(2), OPEN, now), Decision::Run);
        table.retry("a");
        assert_eq!(table.decide("a", &key(1), OPEN, now), Decision::Run);
        let backoff = Backoff {
            first: SECOND,
            limit: SECOND * 4,
        };
        assert_eq!(table.postponed("a", &key(1), now), None);
        table.failed("a", key(1), Disposition::Stalled, now);
        assert_eq!(table.postponed("a", &key(1), now), Some(Decision::AwaitChange));
        assert_eq!(table.postponed("a", &key(2), now), None);
        assert_eq!([1, 2, 3, 4, 400].map(|n| backoff.after(n).as_secs()), [1, 2, 4, 4, 4]);
    }

    #[test]
    fn looks_again_only_where_it_is_its_duty() {
        let (table, now) = (table(), Instant::now());
        let view = ObjectView { ready: true, ..OPEN };
        assert_eq!(
            table.decide(
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
            table.decide("a", &key(1), view, now),
            Decision::Run,
            "unknown since the start"
        );
        table.succeeded("a", key(1), now);
        assert_eq!(table.decide("a", &key(1), view, now), Decision::Requeue(SECOND * 60));
        assert_eq!(table.decide("a", &key(1), view, now + SECOND * 60), Decision::Run);
    }

    #[test]
    fn forgets_what_is_gone() {
        let (table, now) = (table(), Instant::now());
        let token = table.begin("a", &key(1), &CancellationToken::new());
        table.forget("a");
        assert!(token.is_cancelled() && table.is_running("a"));
        table.ended("a");
        table.succeeded("b", key(1), now);
        table.forget("b");
        assert!(table.entries().is_empty());
        table.succeeded("c", key(1), now);
        table.succeeded("d", key(1), now);
        let token = table.begin("e", &key(1), &CancellationToken::new());
        table.retain(&HashSet::from(["d".to_owned()]));
        assert!(token.is_cancelled());
        table.ended("e");
        let left: Vec<String> = table.entries().keys().cloned().collect();
        assert_eq!(left, ["d"]);
    }

    #[test]
    fn respects_anothers_claim() {
        use k8s_openapi::apimachinery::pkg::apis::meta::v1::MicroTime;
        let (table, now) = (table(), Instant::now());
        let claim = Claim {
            holder: "other".to_owned(),
            renew_time: MicroTime(jiff::Timestamp::UNIX_EPOCH),
        };
        let view = ObjectView {
            claim: Some(&claim),
            ..OPEN
        };
        assert_eq!(
            table.decide("a", &key(1), view, now),
            Decision::Requeue(claim::CLAIM_STALE_AFTER)
        );
        assert_eq!(
            table.decide("a", &key(1), view, now + claim::CLAIM_STALE_AFTER),
            Decision::Run
        );
    }
}

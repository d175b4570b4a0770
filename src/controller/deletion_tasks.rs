//! The tasks that delete content from registries. They run outside of reconciliations, so that a registry that does not answer
//! delays no other object.

use std::collections::HashSet;
use std::time::{Duration, Instant};

use tokio_util::sync::CancellationToken;

use super::lease::Leadership;
use crate::fault::{Disposition, Fault, Reason};
use crate::runtime::{Backoff, Decision, ObjectView, TaskKey, TaskTable, catch_panic};

/// The longest time of one attempt. The next one continues where it ended.
const ATTEMPT: Duration = Duration::from_secs(120);

/// The deletions of one process.
pub(super) struct DeletionTasks {
    tasks: TaskTable,
    stop: CancellationToken,
}

/// What to do about an object whose content is to be deleted.
pub(super) enum DeletionDecision {
    /// Begin. The token cancels the task.
    Begin(CancellationToken),
    /// Reconcile the object again after that time. Without one, the running task requests that at its end.
    Wait(Option<Duration>),
}

impl DeletionTasks {
    pub fn new(identity: &str, backoff: Backoff, stop: &CancellationToken) -> Self {
        Self {
            tasks: TaskTable::new(identity, backoff),
            stop: stop.clone(),
        }
    }

    /// Decides about the object `uid`. A failed deletion is retried after a growing delay.
    pub fn decide(&self, uid: &str) -> DeletionDecision {
        let view = ObjectView {
            ready: false,
            claim: None,
            rechecks: true,
            interval: Duration::ZERO,
        };
        match self.tasks.decide(uid, &key(), view, Instant::now()) {
            Decision::Run => DeletionDecision::Begin(self.tasks.begin(uid, &key(), &self.stop)),
            Decision::Requeue(left) => DeletionDecision::Wait(Some(left)),
            Decision::AwaitChange => DeletionDecision::Wait(None),
        }
    }

    /// Runs `work`, for which [`DeletionTasks::decide`] gave `token`. None where that was cancelled.
    pub async fn run<T>(
        &self,
        uid: &str,
        token: CancellationToken,
        work: impl Future<Output = Result<T, Fault>>,
    ) -> Option<Result<T, Fault>> {
        let within_time = async {
            tokio::time::timeout(ATTEMPT, catch_panic(work))
                .await
                .unwrap_or_else(|_| {
                    let message = format!(
                        "deleting takes longer than {} s; check the registry, or set deletionPolicy: Retain",
                        ATTEMPT.as_secs()
                    );
                    Err(Fault::retryable(Reason::TimedOut, message))
                })
        };
        let result = tokio::select! {
            biased;
            () = token.cancelled() => None,
            result = within_time => Some(result),
        };
        match &result {
            None => self.tasks.ended(uid),
            Some(Ok(_)) => self.tasks.succeeded(uid, key(), Instant::now()),
            // Also a stalled failure: the spec of an object that is being deleted cannot be corrected.
            Some(Err(_)) => self.tasks.failed(uid, key(), Disposition::Retryable, Instant::now()),
        }
        result
    }

    /// Whether content of the object is being deleted.
    pub fn runs(&self, uid: &str) -> bool {
        self.tasks.is_running(uid)
    }

    pub fn forget(&self, uid: &str) {
        self.tasks.forget(uid);
    }

    pub fn retain(&self, uids: &HashSet<String>) {
        self.tasks.retain(uids);
    }
}

/// Runs `work`, a deletion, as long as this process leads.
pub(super) async fn as_leader(
    leadership: &Leadership,
    work: impl Future<Output = Result<(), Fault>>,
) -> Result<(), Fault> {
    let lost = || {
        Err(Fault::retryable(
            Reason::PackageFailed,
            "the lease was lost during the deletion, which the next leader continues",
        ))
    };
    leadership.during(work).await.unwrap_or_else(lost)
}

/// The key of all deletions: they do not depend on the spec.
fn key() -> TaskKey {
    TaskKey {
        generation: 0,
        requested_at: None,
        input: None,
        tag_owner: None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn deletions() -> DeletionTasks {
        let backoff = Backoff {
            first: Duration::from_secs(1),
            limit: Duration::from_secs(4),
        };
        DeletionTasks::new("me", backoff, &CancellationToken::new())
    }

    fn begun(deletions: &DeletionTasks) -> CancellationToken {
        match deletions.decide("a") {
            DeletionDecision::Begin(token) => token,
            DeletionDecision::Wait(later) => panic!("later: {later:?}"),
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_registry_that_does_not_answer_times_out_and_is_retried() {
        let deletions = deletions();
        let token = begun(&deletions);
        assert!(deletions.runs("a"));
        assert!(matches!(deletions.decide("a"), DeletionDecision::Wait(None)));
        let result = deletions
            .run("a", token, std::future::pending::<Result<(), Fault>>())
            .await;
        assert_eq!(result.unwrap().unwrap_err().reason, Reason::TimedOut);
        assert!(matches!(deletions.decide("a"), DeletionDecision::Wait(Some(_))));
    }

    #[tokio::test]
    async fn a_stalled_failure_is_retried() {
        let deletions = deletions();
        let token = begun(&deletions);
        let refused = async { Err::<(), _>(Fault::stalled(Reason::PolicyDenied, "no")) };
        let result = deletions.run("a", token, refused).await;
        assert_eq!(result.unwrap().unwrap_err().disposition, Disposition::Stalled);
        assert!(matches!(deletions.decide("a"), DeletionDecision::Wait(Some(_))));
    }

    #[tokio::test]
    async fn a_panic_is_a_failure() {
        let deletions = deletions();
        let token = begun(&deletions);
        let result = deletions
            .run("a", token, async { panic!("on purpose") as Result<(), Fault> })
            .await;
        assert_eq!(result.unwrap().unwrap_err().reason, Reason::InternalError);
        assert!(!deletions.runs("a"));
    }
}

//! Deletions in registries, which run beside the reconcilers: a registry that does not answer holds up the object whose content
//! lies there, and no other.

use std::collections::HashSet;
use std::time::{Duration, Instant};

use tokio_util::sync::CancellationToken;

use super::lease::Leadership;
use crate::fault::{Disposition, Fault, Reason};
use crate::runtime::{Backoff, Decision, ObjectView, TaskKey, TaskTable, catch_panic};

/// The longest that one pass may take. The next goes on where it ended.
const PASS: Duration = Duration::from_secs(120);

/// The deletions of one process.
pub(super) struct DeletionTasks {
    tasks: TaskTable,
    stop: CancellationToken,
}

/// What is to be done about an object whose content is to be deleted.
pub(super) enum DeletionDecision {
    /// Begin: the token ends it.
    Begin(CancellationToken),
    /// Look again then; without a time, when the deletion that runs has ended.
    Wait(Option<Duration>),
}

impl DeletionTasks {
    pub fn new(identity: &str, backoff: Backoff, stop: &CancellationToken) -> Self {
        Self {
            tasks: TaskTable::new(identity, backoff),
            stop: stop.clone(),
        }
    }

    /// Decides about the object `uid`. What failed is tried again after a delay that grows.
    pub fn decide(&self, uid: &str) -> DeletionDecision {
        let view = ObjectView {
            ready: false,
            claim: None,
            rechecks: true,
            interval: Duration::ZERO,
        };
        match self.tasks.decide(uid, &key(), view, Instant::now()) {
            Decision::Run => DeletionDecision::Begin(self.tasks.begin(uid, &key(), &self.stop)),
            Decision::Wait(left) => DeletionDecision::Wait(Some(left)),
            Decision::Rest => DeletionDecision::Wait(None),
        }
    }

    /// Runs `work`, which [`DeletionTasks::decide`] had begun, within its time or until `token` ends it.
    pub async fn run<T>(
        &self,
        uid: &str,
        token: CancellationToken,
        work: impl Future<Output = Result<T, Fault>>,
    ) -> Option<Result<T, Fault>> {
        let within_time = async {
            tokio::time::timeout(PASS, catch_panic(work)).await.unwrap_or_else(|_| {
                let message = format!(
                    "deleting takes longer than {} s; check the registry, or set deletionPolicy: Retain",
                    PASS.as_secs()
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
            // An object must not hang for what its spec cannot change any more.
            Some(Err(_)) => self.tasks.failed(uid, key(), Disposition::Retryable, Instant::now()),
        }
        result
    }

    /// Whether something of the object is deleted just now.
    pub fn runs(&self, uid: &str) -> bool {
        self.tasks.runs(uid)
    }

    pub fn forget(&self, uid: &str) {
        self.tasks.forget(uid);
    }

    pub fn retain(&self, uids: &HashSet<String>) {
        self.tasks.keep(uids);
    }
}

/// `work`, a deletion, as long as this process leads.
pub(super) async fn as_leader(
    leadership: &Leadership,
    work: impl Future<Output = Result<(), Fault>>,
) -> Result<(), Fault> {
    let lost = || {
        Err(Fault::retryable(
            Reason::PackageFailed,
            "the lease was lost during the deletion, which the next leader goes on with",
        ))
    };
    leadership.during(work).await.unwrap_or_else(lost)
}

/// Deletions of an object are all of one kind.
fn key() -> TaskKey {
    TaskKey {
        generation: 0,
        requested_at: None,
        image_id: None,
        holder: None,
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
    async fn a_registry_that_does_not_answer_ends_a_pass_and_is_tried_again_later() {
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
    async fn what_is_stalled_is_looked_at_again_by_itself() {
        let deletions = deletions();
        let token = begun(&deletions);
        let refused = async { Err::<(), _>(Fault::stalled(Reason::PolicyDenied, "no")) };
        let result = deletions.run("a", token, refused).await;
        assert_eq!(result.unwrap().unwrap_err().disposition, Disposition::Stalled);
        assert!(matches!(deletions.decide("a"), DeletionDecision::Wait(Some(_))));
    }

    #[tokio::test]
    async fn what_panics_has_failed() {
        let deletions = deletions();
        let token = begun(&deletions);
        let result = deletions
            .run("a", token, async { panic!("on purpose") as Result<(), Fault> })
            .await;
        assert_eq!(result.unwrap().unwrap_err().reason, Reason::InternalError);
        assert!(!deletions.runs("a"));
    }
}

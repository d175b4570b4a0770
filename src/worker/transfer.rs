//! The transfer of one image: compares source and destination, takes the claim, copies, and renews the claim meanwhile.

use std::future::poll_fn;
use std::pin::pin;
use std::sync::Arc;
use std::task::Poll;
use std::time::{Duration, Instant};

use tracing::{debug, info};

use super::claim::{ClaimMode, ClaimState, ProgressSample, claim};
use super::context::Worker;
use super::prepare::prepare;
use crate::api::v1alpha1::JackalImage;
use crate::fault::Fault;
use crate::runtime::{CLAIM_RENEW_INTERVAL, CLAIM_STALE_AFTER, TaskKey, TransferTimer, WrittenImage, qualified_name};
use crate::transfer::{DestinationState, Outcome, Progress};

/// How soon the claim is renewed again if the API server did not answer.
const RENEW_RETRY_INTERVAL: Duration = Duration::from_secs(1);

/// How a transfer ended without a fault.
pub(super) enum Completion {
    /// The image is in its destination.
    Done(Box<Outcome>, Box<WrittenImage>),
    /// Another process transfers it, or the object no longer asks for it.
    Abandoned,
}

/// Copies the image to its destination if it is not there yet.
pub(super) async fn transfer(
    worker: &Worker,
    image: &JackalImage,
    key: &TaskKey,
    tag_owner: Option<&str>,
    timer: &mut TransferTimer,
) -> Result<Completion, Fault> {
    let (transfer, written) = prepare(worker, image, tag_owner).await?;
    let resolved = match transfer.check().await? {
        DestinationState::Current(outcome) => return Ok(Completion::Done(Box::new(outcome), Box::new(written))),
        DestinationState::Differs(resolved) => resolved,
    };
    let mut renewed = Instant::now();
    let mut rate = TransferRate::start(&transfer.progress, renewed);
    let progress = rate.sample(&transfer.progress, renewed);
    if claim(worker, image, key, progress, ClaimMode::Take).await? != ClaimState::Held {
        debug!(image = qualified_name(image), "another process transfers the image");
        return Ok(Completion::Abandoned);
    }
    info!(image = qualified_name(image), reference = %transfer.reference, to = written.name, "transferring");
    timer.transferring(Arc::clone(&transfer.progress));
    let copy = transfer.copy(&resolved);
    tokio::pin!(copy);
    let mut due = renewed + CLAIM_RENEW_INTERVAL;
    loop {
        tokio::select! {
            // The renewal comes first and is timed by the clock: a process that was suspended and wakes up checks its
            // claim before it takes another step.
            biased;
            () = reached(due) => {
                let now = Instant::now();
                let progress = rate.sample(&transfer.progress, now);
                match claim(worker, image, key, progress, ClaimMode::Renew).await? {
                    ClaimState::Held => (renewed, due) = (now, now + CLAIM_RENEW_INTERVAL),
                    ClaimState::Unknown => due = Instant::now() + RENEW_RETRY_INTERVAL,
                    ClaimState::Lost => {
                        info!(image = qualified_name(image), "another process transfers the image or has transferred it");
                        return Ok(Completion::Abandoned);
                    }
                }
            }
            // The copy pauses when another process may have taken the claim: it could restore an image that was
            // replaced meanwhile.
            outcome = &mut copy, if renewed.elapsed() + CLAIM_RENEW_INTERVAL < CLAIM_STALE_AFTER => {
                return outcome.map(|outcome| Completion::Done(Box::new(outcome), Box::new(written)));
            }
        }
    }
}

/// Measures how fast a transfer is between two samples.
struct TransferRate {
    at: Instant,
    moved: u64,
}

impl TransferRate {
    fn start(progress: &Progress, now: Instant) -> Self {
        Self {
            at: now,
            moved: progress.moved(),
        }
    }

    /// The progress at `now`. A sample less than a second after the previous one has no rate.
    fn sample(&mut self, progress: &Progress, now: Instant) -> ProgressSample {
        let (done, total, moved) = (progress.done(), progress.total(), progress.moved());
        let millis = now.saturating_duration_since(self.at).as_millis();
        let bytes = u128::from(moved.saturating_sub(self.moved));
        let rate = (millis >= 1000).then(|| u64::try_from(bytes * 1000 / millis).unwrap_or(u64::MAX));
        if rate.is_some() {
            *self = Self { at: now, moved };
        }
        ProgressSample {
            done,
            total,
            moved,
            rate,
        }
    }
}

/// Returns at `deadline`, checked against the clock at each poll: the runtime may not have processed its timers since
/// the process woke up.
async fn reached(deadline: Instant) {
    let mut timer = pin!(tokio::time::sleep_until(deadline.into()));
    poll_fn(|context| {
        if Instant::now() >= deadline {
            return Poll::Ready(());
        }
        timer.as_mut().poll(context)
    })
    .await;
}

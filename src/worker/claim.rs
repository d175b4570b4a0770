//! The claim of an image: taken before bytes move, renewed with the progress, released at the end.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::MicroTime;
use kube::ResourceExt as _;
use tracing::{debug, warn};

use super::context::{Worker, now};
use crate::api::v1alpha1::{Claim, Conditions, JackalImage, JackalImageStatus, TransferProgress};
use crate::fault::{Fault, Reason};
use crate::runtime::{
    CLAIM_STALE_AFTER, TaskKey, kube_fault, qualified_name, same_selection, update_status, with_short_timeout,
};

/// How far a transfer is, in bytes.
#[derive(Clone, Copy)]
pub(super) struct ProgressSample {
    pub done: u64,
    pub total: u64,
    pub moved: u64,
    /// Bytes per second since the previous sample; none for the first.
    pub rate: Option<u64>,
}

/// Whether a claim is taken or renewed.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum ClaimMode {
    /// Takes a claim that is free.
    Take,
    /// Renews a claim of this process. A claim that is gone was taken by another process, which may have finished.
    Renew,
}

/// Whether this process holds the claim.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum ClaimState {
    Held,
    /// Another process holds it, or the object no longer asks for what the task works on.
    Lost,
    /// The API server did not answer.
    Unknown,
}

/// Takes or renews the claim, and writes the progress.
pub(super) async fn claim(
    worker: &Worker,
    image: &JackalImage,
    key: &TaskKey,
    progress: ProgressSample,
    mode: ClaimMode,
) -> Result<ClaimState, Fault> {
    let (api, name, uid) = (worker.api_of(image), image.name_any(), image.uid().unwrap_or_default());
    let claimed = update_status(&api, &name, &uid, |current, status| {
        if !may_claim(worker, image, current, status, mode) || !is_same_work(worker, image, current, key) {
            return false;
        }
        status.claim = Some(Claim {
            holder: worker.holder.clone(),
            renew_time: MicroTime(jiff::Timestamp::now()),
        });
        status.progress = Some(TransferProgress::new(progress.done, progress.total, progress.rate));
        let generation = current.metadata.generation;
        let mut conditions = Conditions(std::mem::take(&mut status.conditions));
        // A retry keeps the conditions of the failure until bytes move. Otherwise a failure that repeats would be
        // written, and published as an event, at each retry.
        if progress.moved > 0 || !conditions.is_failing(generation) {
            conditions.progressing(generation, "Transferring", "the image is being transferred", now());
        }
        status.conditions = conditions.0;
        status.observed_generation = generation;
        true
    });
    match claimed.await {
        Ok(Some(_)) => Ok(ClaimState::Held),
        Ok(None) => Ok(ClaimState::Lost),
        // While the API server is unavailable, the transfer continues until the claim is stale: giving up would discard
        // what was transferred.
        Err(error) if is_temporary(&error) && progress.moved > 0 => {
            warn!(image = qualified_name(image), %error, "cannot renew the claim");
            Ok(ClaimState::Unknown)
        }
        Err(error) => Err(kube_fault(Reason::SourceFailed, "claiming the image", &error)),
    }
}

/// Whether the claim in `status` is this process's own, or may be taken.
fn may_claim(
    worker: &Worker,
    image: &JackalImage,
    current: &JackalImage,
    status: &JackalImageStatus,
    mode: ClaimMode,
) -> bool {
    if status.claim.as_ref().is_some_and(|claim| claim.holder == worker.holder) {
        return true;
    }
    // The task table found a stale claim before the task began; it is still stale if the object did not change.
    let is_free = status.claim.is_none() || current.resource_version() == image.resource_version();
    // Another process that wrote other digests since this task read the source saw newer content there.
    mode == ClaimMode::Take && is_free && digests(current) == digests(image)
}

fn digests(image: &JackalImage) -> (Option<&String>, Option<&String>) {
    let status = image.status.as_ref();
    (
        status.and_then(|status| status.digest.as_ref()),
        status.and_then(|status| status.source_digest.as_ref()),
    )
}

/// Whether `current` still asks this process for the work that `key` describes.
fn is_same_work(worker: &Worker, image: &JackalImage, current: &JackalImage, key: &TaskKey) -> bool {
    worker.role.may_transfer(current)
        && current.metadata.generation == Some(key.generation)
        && same_selection(current, image)
        && current.metadata.deletion_timestamp.is_none()
}

fn is_temporary(error: &kube::Error) -> bool {
    !matches!(error, kube::Error::Api(status) if status.code < 500)
}

/// Releases the claim, so that another process need not wait until it is stale.
pub(super) async fn release(worker: &Worker, image: &JackalImage) {
    let (api, name, uid) = (worker.api_of(image), image.name_any(), image.uid().unwrap_or_default());
    let released = update_status(&api, &name, &uid, |_, status| remove_claim(status, &worker.holder));
    if let Err(error) = with_short_timeout(released).await {
        debug!(image = qualified_name(image), %error, stale_after = ?CLAIM_STALE_AFTER, "cannot release the claim");
    }
}

/// Removes the claim of `holder` and its progress from a status. False if another process, or none, holds the claim.
pub(super) fn remove_claim(status: &mut JackalImageStatus, holder: &str) -> bool {
    let is_own = status.claim.as_ref().is_some_and(|claim| claim.holder == holder);
    if is_own {
        status.claim = None;
        status.progress = None;
    }
    is_own
}

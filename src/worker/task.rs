//! The task that transfers one image: waits for a permit, transfers, and records the result.

use std::sync::Arc;
use std::time::Instant;

use kube::ResourceExt as _;
use tokio_util::sync::CancellationToken;
use tracing::info;

use super::claim::release;
use super::context::Worker;
use super::prepare::hosts;
use super::record;
use super::transfer::{Completion, transfer};
use crate::api::v1alpha1::JackalImage;
use crate::fault::{Disposition, Fault, Reason};
use crate::runtime::{TaskKey, catch_panic, disposition_after_write, qualified_name};

/// Runs the task for `image` to its end, or until `token` is cancelled, and updates the task table. `tag_owner` names
/// the object that owns the plain tag, if it is another; it is an error if another object owns the image's name.
pub(super) async fn run(
    worker: Arc<Worker>,
    image: Arc<JackalImage>,
    key: TaskKey,
    tag_owner: Result<Option<String>, Fault>,
    token: CancellationToken,
) {
    let uid = image.uid().unwrap_or_default();
    let result = tokio::select! {
        biased;
        () = token.cancelled() => None,
        result = catch_panic(attempt(&worker, &image, &key, tag_owner)) => Some(result),
    };
    match result {
        None => {
            info!(image = qualified_name(&*image), "stopped");
            release(&worker, &image).await;
            worker.tasks.ended(&uid);
        }
        Some(Ok(Completion::Abandoned)) => worker.tasks.ended(&uid),
        Some(Ok(Completion::Done(outcome, written))) => {
            match record::succeeded(&worker, &image, &outcome, &written).await {
                Ok(()) => worker.tasks.succeeded(&uid, key, Instant::now()),
                unwritten => {
                    let disposition = disposition_after_write(&*image, unwritten, Disposition::Retryable);
                    worker.tasks.failed(&uid, key, disposition, Instant::now());
                }
            }
        }
        Some(Err(fault)) => {
            let written = record::failed(&worker, &image, key.generation, &fault).await;
            let disposition = disposition_after_write(&*image, written, fault.disposition);
            worker.tasks.failed(&uid, key, disposition, Instant::now());
        }
    }
    worker.wake(&image).await;
}

/// Transfers the image once it has a permit, and measures that.
async fn attempt(
    worker: &Worker,
    image: &JackalImage,
    key: &TaskKey,
    tag_owner: Result<Option<String>, Fault>,
) -> Result<Completion, Fault> {
    let tag_owner = tag_owner?;
    let (source, destination) = hosts(image);
    let namespace = image.namespace().unwrap_or_default();
    let permit = worker.limits.acquire(&namespace, &source, &destination).await;
    let _permit = permit.ok_or_else(|| Fault::retryable(Reason::TimedOut, "the operator is stopping"))?;
    let mut timer = worker.settings.metrics.start_transfer(image.spec.source);
    let result = transfer(worker, image, key, tag_owner.as_deref(), &mut timer).await;
    match &result {
        Ok(Completion::Done(outcome, ..)) => timer.succeeded(outcome.method, outcome.moved_bytes),
        Ok(Completion::Abandoned) => timer.abandoned(),
        Err(fault) => timer.failed(fault.reason),
    }
    result
}

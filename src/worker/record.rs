//! Recording the result of a transfer: in the object's status, as an event, and in the log.

use kube::ResourceExt as _;
use tracing::{info, warn};

use super::claim::remove_claim;
use super::context::{Worker, now};
use crate::api::v1alpha1::{Conditions, DeletionPolicy, JackalImage, JackalImageStatus, VERIFIED, requested_at};
use crate::fault::{Fault, Reason};
use crate::oci::Reference;
use crate::runtime::{
    Failure, Success, WrittenImage, qualified_name, record_success, requires_signatures, same_selection, update_status,
};
use crate::transfer::Outcome;

/// Writes a success into the status, and publishes it if it is news.
pub(super) async fn succeeded(
    worker: &Worker,
    image: &JackalImage,
    outcome: &Outcome,
    written: &WrittenImage,
) -> Result<(), kube::Error> {
    let mut success = Success::default();
    let updated = update_status(
        &worker.api_of(image),
        &image.name_any(),
        &image.uid().unwrap_or_default(),
        |current, status| {
            if !is_same_request(worker, image, current, image.metadata.generation) {
                return false;
            }
            success = record_success(image, current, status, written, outcome, now());
            true
        },
    )
    .await?;
    if updated.is_none() {
        return Ok(());
    }
    let Success { is_news, left } = success;
    if let Some(left) = left.filter(|_| image.spec.deletion_policy == DeletionPolicy::Delete) {
        let note = format!("{left} is kept: images in a former registry or repository are not deleted");
        worker.events.normal(image, "RegistryChanged", &note).await;
    }
    let former_name = name_outside_scope(worker, image, &written.name);
    if is_news || former_name.is_some() {
        let note = describe(outcome, &written.name, former_name);
        info!(image = qualified_name(image), "{note}");
        worker.events.normal(image, "Succeeded", &note).await;
    }
    Ok(())
}

/// The event note of a success.
fn describe(outcome: &Outcome, name: &str, former_name: Option<&str>) -> String {
    let mut note = format!(
        "{name} is {} ({} bytes by {}, {} in {} blobs sent)",
        outcome.digest, outcome.size, outcome.method, outcome.moved_bytes, outcome.moved_blobs
    );
    if let Some(omitted) = &outcome.omitted_tag {
        note = format!("{note}; {omitted}");
    }
    if let Some(former) = former_name {
        note = format!(
            "{note}; its former name {former} is outside of the repositories that --repository-policy namespace gives this namespace: change pods to the new name, or run the operator with --repository-policy any"
        );
    }
    note
}

/// The former name of the image, if it differs from `name` and is in the same registry but outside of the namespace's
/// repositories: it was written when every namespace could write anywhere.
fn name_outside_scope<'a>(worker: &Worker, image: &'a JackalImage, name: &str) -> Option<&'a str> {
    let defaults = &worker.settings.defaults;
    let prefix = defaults.registry.repository_prefix.as_deref();
    let scope = defaults
        .policy
        .repository_scope(prefix, &image.namespace().unwrap_or_default())?;
    let former = image
        .status
        .as_ref()?
        .name
        .as_deref()
        .filter(|former| *former != name)?;
    let (old, new) = (former.parse::<Reference>().ok()?, name.parse::<Reference>().ok()?);
    let is_outside = |reference: &Reference| scope.check(reference.repository(), "").is_err();
    (old.registry() == new.registry() && is_outside(&old) && !is_outside(&new)).then_some(former)
}

/// Writes a failure into the status, and publishes it if it is news.
pub(super) async fn failed(
    worker: &Worker,
    image: &JackalImage,
    generation: i64,
    fault: &Fault,
) -> Result<(), kube::Error> {
    let mut is_news = false;
    let updated = update_status(
        &worker.api_of(image),
        &image.name_any(),
        &image.uid().unwrap_or_default(),
        |current, status| {
            if !is_same_request(worker, image, current, Some(generation)) {
                return false;
            }
            is_news = record_failure(current, status, fault, &worker.holder);
            true
        },
    )
    .await?;
    if updated.is_some() && is_news {
        warn!(image = qualified_name(image), %fault);
        let reason = fault.reason.to_string();
        worker.events.warning(image, &reason, &fault.message).await;
    }
    Ok(())
}

/// Whether `current` still asks this process for what the task worked on. Where the image was assigned to another node
/// meanwhile, that node writes the status.
fn is_same_request(worker: &Worker, image: &JackalImage, current: &JackalImage, generation: Option<i64>) -> bool {
    current.metadata.generation == generation && same_selection(current, image) && worker.role.may_transfer(current)
}

/// Records a failure in an image's status. True if that is news.
fn record_failure(image: &JackalImage, status: &mut JackalImageStatus, fault: &Fault, holder: &str) -> bool {
    let generation = image.metadata.generation;
    let mut conditions = Conditions(std::mem::take(&mut status.conditions));
    let is_news = Failure(fault).record(&mut conditions, generation, now());
    if !requires_signatures(&image.spec) {
        conditions.clear(VERIFIED);
    } else if fault.reason == Reason::VerificationError {
        let explanation = (&*fault.reason.to_string(), &*fault.message);
        conditions.set(VERIFIED, Some(false), explanation, generation, now());
    }
    status.conditions = conditions.0;
    status.observed_generation = generation;
    status.last_handled_reconcile_at = requested_at(image.annotations()).map(str::to_owned);
    remove_claim(status, holder);
    is_news
}

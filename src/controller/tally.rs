//! What the images of a package come to. No IO.

use kube::ResourceExt as _;
use serde_json::json;

use crate::api::v1alpha1::{Counts, JackalImage, PackagedImage, READY, STALLED};
use crate::fault::{Disposition, Fault, Reason};
use crate::package::{Plan, Selection};
use crate::worker::is_ready;

/// Every image of the plan with its place and, once it is there, its digest.
pub(super) fn rows(plan: &Plan, images: &[JackalImage], selections: &[Selection]) -> Vec<PackagedImage> {
    let row = |(planned, image): (&crate::package::PlannedImage, &JackalImage)| {
        let selection = selections.iter().find(|selection| selection.made(&planned.spec));
        PackagedImage {
            image: selection.map_or_else(
                || planned.spec.image.clone(),
                |selection| selection.followed.image.clone(),
            ),
            name: planned.location.to_string(),
            digest: image.status.as_ref().and_then(|status| status.digest.clone()),
            resource: image.name_any(),
            selected: selection.map(|selection| selection.selected.clone()),
        }
    };
    plan.images.iter().zip(images).map(row).collect()
}

/// Name and digest of the images that their objects wrote.
pub(super) fn written(images: &[JackalImage]) -> Vec<(String, String)> {
    let statuses = images.iter().filter_map(|image| image.status.as_ref());
    statuses
        .filter(|status| !status.adopted)
        .filter_map(|status| Some((status.name.clone()?, status.digest.clone()?)))
        .collect()
}

/// How many there are, and how many of them are ready or failed.
pub(super) fn count(images: &[JackalImage]) -> Counts {
    let number = |count: usize| i32::try_from(count).unwrap_or(i32::MAX);
    Counts {
        total: number(images.len()),
        ready: number(images.iter().filter(|image| is_ready(image)).count()),
        failed: number(images.iter().filter(|image| failure(image).is_some()).count()),
    }
}

/// Reason and message of an image whose last try failed.
fn failure(image: &JackalImage) -> Option<(&str, &str, bool)> {
    let status = image.status.as_ref()?;
    let generation = image.metadata.generation;
    let ready = status
        .conditions
        .iter()
        .find(|c| c.type_ == READY && c.observed_generation == generation)?;
    let stalled = status
        .conditions
        .iter()
        .any(|c| c.type_ == STALLED && c.status == "True");
    (ready.status == "False" && !image.spec.suspend).then_some((&ready.reason, &ready.message, stalled))
}

/// The first image's failure as the package's, saying how many there are.
pub(super) fn first_failure(images: &[JackalImage], counts: &Counts) -> Option<Fault> {
    let (image, (reason, message, stalled)) = images.iter().find_map(|image| Some((image, failure(image)?)))?;
    let message = match counts.failed {
        1 => format!("{}: {message}", image.spec.image),
        failed => format!(
            "{failed} of {} images failed; {}: {message}",
            counts.total, image.spec.image
        ),
    };
    let reason = serde_json::from_value(json!(reason)).unwrap_or(Reason::PushFailed);
    let disposition = if stalled {
        Disposition::Stalled
    } else {
        Disposition::Retryable
    };
    Some(Fault {
        reason,
        disposition,
        message,
    })
}

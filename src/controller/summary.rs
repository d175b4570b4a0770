//! Rows, counts and messages of a package's status, by the statuses of its images. No IO.

use std::collections::HashSet;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use kube::ResourceExt as _;
use serde_json::json;

use crate::api::v1alpha1::{
    Conditions, Counts, ImageState, JackalImage, JackalPackageSpec, PackagedImage, READY, STALLED, VERIFIED, cut_to,
};
use crate::fault::{Disposition, Fault, Reason};
use crate::package::{Plan, Selection};
use crate::runtime::{is_ready, is_up_to_date};

/// The longest message of an image's row in bytes. All rows are in one object, which has at most 1.5 MB.
const ROW_MESSAGE: usize = 300;
/// Failed images that a package's message names; it says how many more there are.
const NAMED: usize = 5;
/// The longest message of each of them in bytes, where there are several: the whole has at most 1000.
const NAMED_LENGTH: usize = 180;

/// Every image of the plan with its name in the registry, its state and, once it is there, its digest.
pub(super) fn rows(plan: &Plan, images: &[JackalImage], selections: &[Selection]) -> Vec<PackagedImage> {
    let row = |(planned, image): (&crate::package::PlannedImage, &JackalImage)| {
        let selection = selections.iter().find(|selection| selection.is_of(&planned.spec));
        let (state, reason, message) = state(image);
        PackagedImage {
            image: selection.map_or_else(|| planned.spec.image.clone(), |selection| selection.image.image.clone()),
            name: planned.location.to_string(),
            digest: image.status.as_ref().and_then(|status| status.digest.clone()),
            resource: image.name_any(),
            state,
            reason: reason.to_owned(),
            message: message.map(|message| cut_to(message, ROW_MESSAGE)),
            selected: selection.map(|selection| selection.selected.clone()),
        }
    };
    plan.images.iter().zip(images).map(row).collect()
}

/// The state of an image, its reason, and the message of a failure.
fn state(image: &JackalImage) -> (ImageState, &str, Option<&str>) {
    if let Some(failure) = failure(image) {
        return (ImageState::Failed, failure.reason, Some(failure.message));
    }
    let claimed = image.status.as_ref().is_some_and(|status| status.claim.is_some());
    match image {
        ready if is_up_to_date(ready) => (ImageState::Ready, "Succeeded", None),
        suspended if suspended.spec.suspend => (ImageState::Waiting, "Suspended", None),
        _ if claimed => (ImageState::Transferring, "Transferring", None),
        _ => (ImageState::Waiting, "Pending", None),
    }
}

/// Name and digest of the images that their objects wrote.
pub(super) fn written_images(images: &[JackalImage]) -> Vec<(String, String)> {
    let statuses = images.iter().filter_map(|image| image.status.as_ref());
    statuses
        .filter(|status| !status.adopted)
        .filter_map(|status| Some((status.name.clone()?, status.digest.clone()?)))
        .collect()
}

/// The number of images, and how many of them are ready or failed.
pub(super) fn count(images: &[JackalImage]) -> Counts {
    Counts::new(
        images.len(),
        images.iter().filter(|image| is_ready(image)).count(),
        images.iter().filter(|image| failure(image).is_some()).count(),
    )
}

/// The message of a package whose images are transferred.
pub(super) fn transfer_message(counts: &Counts) -> String {
    match counts.total {
        0 => "the package has no images; its artifact is being built".to_owned(),
        total => format!("{} of {total} images are in the registry", counts.ready),
    }
}

/// The message of the package `url` that is published, and of the number of its images.
pub(super) fn ready_message(images: usize, url: &str) -> String {
    match images {
        0 => format!("the package {url} is in the registry"),
        1 => format!("1 image and the package {url} are in the registry"),
        images => format!("{images} images and the package {url} are in the registry"),
    }
}

/// The last attempt of an image, which failed.
struct Failure<'a> {
    image: &'a str,
    reason: &'a str,
    message: &'a str,
    stalled: bool,
}

fn failure(image: &JackalImage) -> Option<Failure<'_>> {
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
    (ready.status == "False" && !image.spec.suspend).then_some(Failure {
        image: &image.spec.image,
        reason: &ready.reason,
        message: &ready.message,
        stalled,
    })
}

/// The verification of the images of a package that `verify` selects.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Verification {
    /// None are selected.
    NotRequired,
    /// Not all of them were verified for their present specs.
    Unknown,
    /// The archive that the package comes from is verified.
    Archive,
    /// This number of images is verified.
    Satisfied(usize),
    /// Some are not; the message names them.
    Failed(String),
}

impl Verification {
    /// That of a package with these images.
    pub fn of_package(spec: &JackalPackageSpec, images: &[JackalImage]) -> Self {
        match spec.from {
            // Nothing of an archive is used before it is verified.
            Some(_) if !spec.verify.is_empty() => Self::Archive,
            _ => Self::of(images),
        }
    }

    pub fn of(images: &[JackalImage]) -> Self {
        let required: Vec<&JackalImage> = images.iter().filter(|image| !image.spec.verify.is_empty()).collect();
        if required.is_empty() {
            return Self::NotRequired;
        }
        let conditions = |image: &&JackalImage| {
            let conditions = &image.status.as_ref()?.conditions;
            let generation = image.metadata.generation;
            let current =
                |condition: &&Condition| condition.type_ == VERIFIED && condition.observed_generation == generation;
            conditions.iter().find(current).cloned()
        };
        let known: Vec<Option<Condition>> = required.iter().map(conditions).collect();
        let failed = required.iter().zip(&known).filter_map(|(image, known)| {
            let known = known.as_ref().filter(|known| known.status == "False")?;
            Some((image.spec.image.as_str(), known.message.as_str()))
        });
        let failed: Vec<(&str, &str)> = failed.collect();
        if !failed.is_empty() {
            return Self::Failed(named_failures(&failed, required.len()));
        }
        match known.iter().flatten().all(|known| known.status == "True") && known.iter().all(Option::is_some) {
            true => Self::Satisfied(required.len()),
            false => Self::Unknown,
        }
    }

    /// Sets the package's condition Verified. While it is unknown, the condition stays as it is.
    pub fn set(&self, conditions: &mut Conditions, generation: Option<i64>, now: Time) {
        match self {
            Self::NotRequired => conditions.clear(VERIFIED),
            Self::Unknown => {}
            Self::Archive => {
                let message = "the package has the signatures that verify asks for";
                conditions.set(VERIFIED, Some(true), ("Succeeded", message), generation, now);
            }
            Self::Satisfied(count) => {
                let message = format!("{count} images have the signatures that verify asks for");
                conditions.set(VERIFIED, Some(true), ("Succeeded", &message), generation, now);
            }
            Self::Failed(message) => {
                let reason = Reason::VerificationError.to_string();
                conditions.set(VERIFIED, Some(false), (&reason, message), generation, now);
            }
        }
    }
}

/// The failure of the package by those of its images: each failed image once, those first that are not retried.
pub(super) fn failures(images: &[JackalImage], counts: &Counts) -> Option<Fault> {
    let mut failures: Vec<Failure<'_>> = images.iter().filter_map(failure).collect();
    failures.sort_by_key(|failure| !failure.stalled);
    let mut seen = HashSet::new();
    failures.retain(|failure| seen.insert(failure.image));
    let first = failures.first()?;
    let messages: Vec<(&str, &str)> = failures
        .iter()
        .map(|failure| (failure.image, failure.message))
        .collect();
    let total = usize::try_from(counts.total).unwrap_or_default();
    let message = named_failures(&messages, total);
    let reason = serde_json::from_value(json!(first.reason)).unwrap_or(Reason::PushFailed);
    let disposition = if first.stalled {
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

/// The message of failed images, of `total`: it names the first of them, and the number of the others.
fn named_failures(failures: &[(&str, &str)], total: usize) -> String {
    let named = |(image, message): &(&str, &str)| match message.starts_with(image) {
        true => (*message).to_owned(),
        false => format!("{image}: {message}"),
    };
    if let [only] = failures {
        return named(only);
    }
    let first = failures.iter().take(NAMED);
    let mut parts: Vec<String> = first.map(|failure| cut_to(&named(failure), NAMED_LENGTH)).collect();
    if failures.len() > NAMED {
        parts.push(format!("and {} more", failures.len() - NAMED));
    }
    format!("{} of {total} images failed: {}", failures.len(), parts.join("; "))
}

#[cfg(test)]
mod tests;

//! What a package's status says of its artifact: before it is written, and once it exists. No IO.

use std::collections::BTreeSet;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::ResourceExt as _;

use super::super::retention::{self, RetentionContext};
use super::super::sbom_condition;
use super::super::summary::{Verification, ready_message};
use super::build_reason::{self, BuildReason, Change};
use crate::api::v1alpha1::{
    Artifact, Conditions, Counts, Differential, Garbage, HistoryEntry, JackalPackage, JackalPackageStatus,
    MissingImage, PackagedImage, PinnedChart, READY, SIGNED, WrittenRepository, mebibytes, requested_at,
};
use crate::package::SbomProgress;

/// An artifact that exists, and what was found while it was built.
pub(super) struct BuildRecord<'a> {
    /// The package that was built.
    pub package: &'a JackalPackage,
    /// `version@digest` of the artifact.
    pub revision: String,
    /// The digest of its manifest.
    pub digest: String,
    /// Its size in bytes.
    pub size: u64,
    /// Whether anything was written.
    pub changed: bool,
    /// Its address, as pods name it.
    pub url: String,
    /// Its repository, as pods name it.
    pub repository: String,
    /// Its repository, as the status records it.
    pub written_to: WrittenRepository,
    /// Its images.
    pub rows: &'a [PackagedImage],
    /// Name and digest of the images that their objects wrote.
    pub written_images: &'a [(String, String)],
    /// Its charts.
    pub charts: &'a [PinnedChart],
    /// Images that it names and lacks.
    pub missing: &'a [MissingImage],
    /// What was left out of it.
    pub differential: Option<&'a Differential>,
    /// What is known of the signatures that its images must have.
    pub verification: &'a Verification,
    /// How far its SBOMs are.
    pub sboms: &'a SbomProgress,
    /// What signed it.
    pub signature: Option<PackageSignature>,
    /// The images of the artifact before, where this process knows more than the status.
    pub previous_images: Option<Vec<PackagedImage>>,
    /// Digests of the repository that other packages name.
    pub claimed: BTreeSet<String>,
    /// When artifacts that are no longer kept are deleted.
    pub delete_after: Time,
}

/// The signature of an artifact.
pub(super) struct PackageSignature {
    /// The fingerprint of the key.
    pub key: String,
    /// The platforms in the index under the tag whose packages the key did not sign, so that the index is not signed.
    pub foreign: Option<String>,
}

/// What is new in a status, and recorded as events.
#[derive(Debug, Default, PartialEq)]
pub(super) struct RecordedChanges {
    /// Whether the package has become Ready, or its artifact is another one.
    pub is_news: bool,
    /// The images that the artifact names and lacks, where they changed.
    pub missing: Option<String>,
    /// The former repository, in which artifacts of the package stay.
    pub former_repository: Option<String>,
    /// What was added to the plan of deletions.
    pub planned: Vec<Garbage>,
}

/// Records that the artifact `revision` is about to be written to `written_to`: after a crash the status proves
/// that this package wrote it. Gives the former repository, in which artifacts of the package stay.
pub(super) fn record_start(
    status: &mut JackalPackageStatus,
    generation: Option<i64>,
    (revision, version): (&str, &str),
    written_to: &WrittenRepository,
    now: &Time,
) -> Option<String> {
    let former = retention::record_repository(status, written_to, generation, now);
    let mut conditions = Conditions(std::mem::take(&mut status.conditions));
    // Ready of this spec stays Ready, and a retry is no news before it succeeds.
    if !conditions.is_true(READY, generation) && !conditions.is_failing(generation) {
        let message = format!("building the artifact {version}");
        conditions.progressing(generation, "Transferring", &message, now.clone());
    }
    status.conditions = conditions.0;
    if status.publishing.as_deref() != Some(revision) {
        retention::record_interrupted(status, now);
        status.publishing = Some(revision.to_owned());
    }
    former
}

/// Records the artifact of `build` in `status`.
pub(super) fn record(
    status: &mut JackalPackageStatus,
    generation: Option<i64>,
    build: &BuildRecord<'_>,
    now: &Time,
) -> RecordedChanges {
    let package = build.package;
    // First, as it depends on the conditions of the artifact before.
    let former_repository = retention::record_repository(status, &build.written_to, generation, now);
    let was_ready = Conditions(status.conditions.clone()).is_true(READY, generation);
    let is_requested = !was_ready || status.last_handled_reconcile_at.as_deref() != requested_at(package.annotations());
    let sboms_added = record_conditions(status, generation, build, now);
    let is_new_artifact = record_artifact(status, build, sboms_added, now);
    let total = build.rows.len();
    status.counts = Some(Counts::new(total, total, 0));
    status.images = build.rows.to_vec();
    status.naming = package.spec.naming.explicit();
    status.differential = build.differential.cloned();
    status.charts = build.charts.to_vec();
    let missing = build_reason::missing_message(build.missing).filter(|_| status.missing_images != build.missing);
    status.missing_images = build.missing.to_vec();
    let planned = record_garbage(status, build, is_requested);
    status.last_handled_reconcile_at = requested_at(package.annotations()).map(str::to_owned);
    RecordedChanges {
        is_news: !was_ready || is_new_artifact,
        missing,
        former_repository,
        planned,
    }
}

/// Sets the conditions. True when the artifact has SBOMs and the one before had none.
fn record_conditions(
    status: &mut JackalPackageStatus,
    generation: Option<i64>,
    build: &BuildRecord<'_>,
    now: &Time,
) -> bool {
    let mut conditions = Conditions(std::mem::take(&mut status.conditions));
    let mut message = ready_message(build.rows.len(), &build.url);
    if let Some(missing) = build_reason::missing_message(build.missing) {
        message += &format!("; {missing}");
    }
    conditions.ready(generation, "Succeeded", &message, now.clone());
    let sboms_added = sbom_condition::is_added(build.sboms, &conditions);
    sbom_condition::set(&mut conditions, build.sboms, generation, now.clone());
    build.verification.set(&mut conditions, generation, now.clone());
    if let Some(PackageSignature { key, foreign }) = &build.signature {
        let mut message = format!("signed by the key {key}");
        if let Some(foreign) = foreign {
            message += &format!(
                "; not the index under the tag, which lists a package for {foreign} that this key has not signed"
            );
        }
        conditions.set(SIGNED, Some(true), ("Succeeded", &message), generation, now.clone());
    }
    status.conditions = conditions.0;
    sboms_added
}

/// Sets the artifact, and adds it to the history unless it is the one before. True where it was added.
fn record_artifact(status: &mut JackalPackageStatus, build: &BuildRecord<'_>, sboms_added: bool, now: &Time) -> bool {
    let revision = &build.revision;
    let announced = status.publishing.take_if(|publishing| publishing == revision).is_some();
    let adopted = !build.changed && !announced;
    retention::record_interrupted(status, now);
    let before = status.artifact.take();
    let known = status
        .history
        .iter()
        .find(|known| known.digest == build.digest && known.repository.is_none());
    let is_same = before.as_ref().is_some_and(|before| before.revision == *revision);
    // The same artifact in another repository, where the history does not hold it yet.
    let is_moved = is_same && known.is_none() && !status.history.is_empty();
    let is_new = !is_same || is_moved;
    if is_new {
        let reason = match is_moved {
            true => BuildReason::registry_changed(),
            false => build_reason::why(Change {
                before: before.as_ref(),
                version: build.package.spec.version(),
                history: &status.history,
                images: (build.previous_images.as_ref().unwrap_or(&status.images), build.rows),
                charts: (&status.charts, build.charts),
                sboms_added,
            }),
        };
        let entry = HistoryEntry {
            revision: revision.clone(),
            digest: build.digest.clone(),
            reason: reason.reason.to_owned(),
            message: reason.message,
            completed_at: now.clone(),
            // An artifact that this package wrote once stays its own, whatever was built in between.
            adopted: known.map_or(adopted, |known| known.adopted && adopted),
            repository: None,
        };
        status.history.insert(0, entry);
    }
    let before = before.filter(|_| is_same);
    status.artifact = Some(Artifact {
        last_update_time: before.map_or(now.clone(), |before| before.last_update_time),
        digest: build.digest.clone(),
        revision: revision.clone(),
        url: build.url.clone(),
        size: i64::try_from(build.size).unwrap_or(i64::MAX),
        display_size: mebibytes(build.size),
    });
    is_new
}

/// Makes the plan of deletions. Gives what was added to it.
fn record_garbage(status: &mut JackalPackageStatus, build: &BuildRecord<'_>, is_requested: bool) -> Vec<Garbage> {
    let spec = &build.package.spec;
    retention::trim(spec, status);
    let context = RetentionContext {
        repository: &build.repository,
        claimed: &build.claimed,
        images: build.written_images,
        after: build.delete_after.clone(),
        is_requested,
    };
    let garbage = retention::plan(spec, status, &context);
    let is_new =
        |entry: &&Garbage| entry.delete_after.is_some() && entry.kept.is_none() && !status.garbage.contains(entry);
    let planned = garbage.iter().filter(is_new).cloned().collect();
    status.garbage = garbage;
    planned
}

#[cfg(test)]
mod tests;

//! Which artifacts of a package are deleted, and why, decided by what its status records. No IO.
//!
//! Only artifacts that the package wrote are planned: not one that existed in the registry before it was built (`adopted`), nor
//! one that another package names, nor one in a former repository (`repository`), perhaps with other credentials.

use std::collections::BTreeSet;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

use crate::api::v1alpha1::{
    Conditions, DeletionPolicy, Garbage, HistoryEntry, JackalPackageSpec, JackalPackageStatus, READY, RetainedReason,
    Retention, WrittenRepository,
};

/// The artifacts that the history keeps without `retention`.
const HISTORY: usize = 10;
/// The artifacts in the history beyond those that are kept, until they are deleted.
const BACKLOG: usize = 100;
/// The most entries of a plan.
const ENTRIES: usize = 200;

/// The reason of an artifact that is the one before it with the SBOMs of its images, and of the deletion of that one.
pub(super) const SBOMS_ADDED: &str = "SBOMsAdded";

/// What a plan depends on beside the package's spec and status.
pub(super) struct RetentionContext<'a> {
    /// The artifacts' repository with its registry, as references name it.
    pub repository: &'a str,
    /// Digests of that repository that other packages name.
    pub claimed: &'a BTreeSet<String>,
    /// Name and digest of images that are deleted with the package.
    pub images: &'a [(String, String)],
    /// When new entries of the plan are deleted.
    pub after: Time,
    /// Whether a reconciliation was requested: artifacts that were retained are tried once more.
    pub is_requested: bool,
}

/// The artifacts of a package that are to be deleted: first, with a time, those that `retention` does not keep, the oldest
/// first; then those that are deleted with the package. Entries of the plan in the status keep their times.
pub(super) fn plan(
    spec: &JackalPackageSpec,
    status: &JackalPackageStatus,
    context: &RetentionContext<'_>,
) -> Vec<Garbage> {
    let mut entries: Vec<Garbage> = Vec::new();
    let mut take = |entry: Garbage| {
        if !entries.iter().any(|known| known.reference == entry.reference) {
            entries.push(entry);
        }
    };
    let (kept, superseded) = divide(spec, status);
    let is_deletable = |entry: &&HistoryEntry| is_own(entry) && !context.claimed.contains(&entry.digest);
    for entry in superseded.iter().rev().copied().filter(is_deletable) {
        let reference = reference(context.repository, entry);
        let planned = status.garbage.iter().find(|known| known.reference == reference);
        let planned = planned.filter(|known| known.delete_after.is_some() || known.kept.is_some());
        let completed = is_completed(entry, status);
        take(match planned {
            Some(known) if known.delete_after.is_some() || !context.is_requested => known.clone(),
            // Its reason stays, so that no second event is recorded for it.
            _ => Garbage {
                reference,
                digest: entry.digest.clone(),
                reason: if completed { SBOMS_ADDED } else { "RevisionLimit" }.to_owned(),
                message: match completed {
                    true => "the same with SBOMs has taken its place".to_owned(),
                    false => format!("it is older than the {} that retention keeps", revisions(kept.len())),
                },
                delete_after: Some(context.after.clone()),
                kept: planned.and_then(|known| known.kept.clone()),
            },
        });
    }
    if spec.deletion_policy == DeletionPolicy::Delete {
        let with_package = |reference: String, digest: &str| Garbage {
            reference,
            digest: digest.to_owned(),
            reason: "PackageDeletion".to_owned(),
            message: "it is deleted with the package (deletionPolicy: Delete)".to_owned(),
            delete_after: None,
            kept: None,
        };
        for entry in kept.into_iter().filter(is_deletable) {
            take(with_package(reference(context.repository, entry), &entry.digest));
        }
        for (name, digest) in context.images {
            take(with_package(name.clone(), digest));
        }
    }
    entries.truncate(ENTRIES);
    entries
}

/// Adds an artifact whose publication was started and not finished to the history, so that what exists of it is deleted like
/// others.
pub(super) fn record_interrupted(status: &mut JackalPackageStatus, now: &Time) {
    let Some(revision) = status.publishing.take() else {
        return;
    };
    let Some((_, digest)) = revision.split_once('@') else {
        return;
    };
    if status.history.iter().any(|known| known.revision == revision) {
        return;
    }
    let entry = HistoryEntry {
        digest: digest.to_owned(),
        revision,
        reason: "Interrupted".to_owned(),
        message: "its writing was interrupted".to_owned(),
        completed_at: now.clone(),
        adopted: false,
        repository: None,
    };
    status.history.insert(0, entry);
}

/// Records that the package's artifacts are written to `registry` from now on. Artifacts in another one are no longer its
/// own: the same digests may exist here too, written by others. Gives the name of the former repository, if any artifact of
/// this package stays there.
pub(super) fn record_repository(
    status: &mut JackalPackageStatus,
    registry: &WrittenRepository,
    generation: Option<i64>,
    now: &Time,
) -> Option<String> {
    let former = match &status.registry {
        Some(known) if known.is(registry) => return None,
        Some(known) => Some(known.apart_from(registry)),
        None => former_repository(status, registry, generation),
    };
    status.registry = Some(registry.clone());
    let former = former?;
    record_interrupted(status, now);
    let mut stays = false;
    for entry in status.history.iter_mut().filter(|entry| entry.repository.is_none()) {
        stays |= !entry.adopted;
        entry.repository = Some(former.clone());
    }
    stays.then_some(former)
}

/// The repository of artifacts of an earlier version of the operator, which did not record the registry; none where that is
/// `registry`, as it is while the package is Ready for the present spec.
fn former_repository(
    status: &JackalPackageStatus,
    registry: &WrittenRepository,
    generation: Option<i64>,
) -> Option<String> {
    let now = format!("{}/{}", registry.address, registry.repository);
    let url = status.artifact.as_ref().map(|artifact| artifact.url.as_str());
    let known = url.and_then(|url| Some(url.strip_prefix("oci://")?.rsplit_once(':')?.0));
    let ready = Conditions(status.conditions.clone()).is_true(READY, generation);
    match known {
        Some(known) if known == now && ready => None,
        Some(known) if known != now => Some(known.to_owned()),
        None if status.history.is_empty() && status.publishing.is_none() => None,
        _ => Some(format!("{now} or a former registry")),
    }
}

/// The entries of the history that `spec` keeps, and the others; both newest first.
fn divide<'a>(
    spec: &JackalPackageSpec,
    status: &'a JackalPackageStatus,
) -> (Vec<&'a HistoryEntry>, Vec<&'a HistoryEntry>) {
    let limit = spec.retention.as_ref().map(limit);
    let mut kept: Vec<&HistoryEntry> = Vec::new();
    let mut superseded = Vec::new();
    for entry in &status.history {
        let known = kept.iter().any(|other| other.digest == entry.digest);
        match limit {
            // An artifact that was built again counts once, as the newest.
            _ if known => {}
            // The same artifact without SBOMs does not count as a revision: it would displace one that users may want to return to.
            Some(_) if is_completed(entry, status) => superseded.push(entry),
            Some(limit) if kept.len() >= limit => superseded.push(entry),
            _ => kept.push(entry),
        }
    }
    (kept, superseded)
}

/// Whether the artifact that was built after `entry` is the same with the SBOMs of its images.
fn is_completed(entry: &HistoryEntry, status: &JackalPackageStatus) -> bool {
    let pairs = status.history.iter().zip(status.history.iter().skip(1));
    let mut successors = pairs.filter(|(_, older)| *older == entry);
    successors.any(|(newer, _)| newer.reason == SBOMS_ADDED)
}

/// The number of artifacts that are kept; at least one, even of an object that was not validated by the schema.
fn limit(retention: &Retention) -> usize {
    usize::try_from(retention.revisions)
        .unwrap_or_default()
        .clamp(1, BACKLOG)
}

/// Removes entries of the history that are neither kept nor to be deleted.
pub(super) fn trim(spec: &JackalPackageSpec, status: &mut JackalPackageStatus) {
    let Some(retention) = &spec.retention else {
        status.history.truncate(HISTORY);
        return;
    };
    let (_, superseded) = divide(spec, status);
    let others: BTreeSet<String> = superseded
        .iter()
        .filter(|entry| !is_own(entry))
        .map(|entry| entry.digest.clone())
        .collect();
    status.history.retain(|entry| !others.contains(&entry.digest));
    status.history.truncate(limit(retention) + BACKLOG);
}

/// The entries of the status' plan to delete now: those that are due and still planned, and with them those that were
/// retained before. None where none is due.
pub(super) fn due(
    spec: &JackalPackageSpec,
    status: &JackalPackageStatus,
    context: &RetentionContext<'_>,
    now: &Time,
) -> Vec<Garbage> {
    let is_due = |entry: &Garbage| entry.delete_after.as_ref().is_some_and(|after| after.0 <= now.0);
    if !status.garbage.iter().any(is_due) {
        return Vec::new();
    }
    plan(spec, status, context)
        .into_iter()
        .filter(|entry| status.garbage.contains(entry) && (is_due(entry) || entry.kept.is_some()))
        .collect()
}

/// When the first entry of the plan is due.
pub(super) fn next(status: &JackalPackageStatus) -> Option<&Time> {
    let times = status.garbage.iter().filter_map(|entry| entry.delete_after.as_ref());
    times.min_by_key(|time| time.0)
}

/// The result of the deletion of an entry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum DeletionResult {
    /// It was deleted, or did not exist.
    Deleted,
    /// It was kept, and why.
    Retained(RetainedReason),
}

/// Records the results of entries. True when one was retained for another reason than before.
pub(super) fn record_results(status: &mut JackalPackageStatus, results: &[(Garbage, DeletionResult)]) -> bool {
    let mut is_news = false;
    for (entry, result) in results {
        match result {
            DeletionResult::Deleted => {
                status.garbage.retain(|known| known.reference != entry.reference);
                let current = status.artifact.as_ref().map(|artifact| artifact.digest.as_str());
                if current != Some(&entry.digest) {
                    status.history.retain(|known| known.digest != entry.digest);
                }
            }
            DeletionResult::Retained(why) => {
                for known in &mut status.garbage {
                    if known.reference == entry.reference {
                        is_news |= known.kept.as_ref() != Some(why);
                        known.kept = Some(why.clone());
                        known.delete_after = None;
                    }
                }
            }
        }
    }
    is_news
}

/// Whether the package may delete the artifact.
fn is_own(entry: &HistoryEntry) -> bool {
    !entry.adopted && entry.repository.is_none()
}

/// `address/repository:version@digest`.
fn reference(repository: &str, entry: &HistoryEntry) -> String {
    format!("{repository}:{}", entry.revision)
}

fn revisions(count: usize) -> String {
    match count {
        1 => "newest revision".to_owned(),
        count => format!("{count} newest revisions"),
    }
}

#[cfg(test)]
mod tests;

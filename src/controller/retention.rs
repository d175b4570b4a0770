//! Which artifacts of a package go, and why: a pure decision over what its status records.
//!
//! Only what the package wrote is ever planned: an artifact that stood in the registry before it was built
//! (`adopted`) is not, nor one that another package names, nor one that stands where the package wrote earlier
//! (`repository`), perhaps by other credentials.

use std::collections::BTreeSet;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

use crate::api::v1alpha1::{
    Conditions, DeletionPolicy, Garbage, HistoryEntry, JackalPackageSpec, JackalPackageStatus, READY, RetainedReason,
    Retention, WrittenRepository,
};

/// Artifacts that the history keeps where nothing else is asked for.
const HISTORY: usize = 10;
/// Artifacts beyond those that are kept that the history remembers, until they are deleted.
const BACKLOG: usize = 100;
/// Entries of a plan.
const ENTRIES: usize = 200;

/// The reason of an artifact that is the one before it with the SBOMs of its images, and of the deletion of that one.
pub(super) const SBOMS_ADDED: &str = "SBOMsAdded";

/// What a plan depends on beside the package's spec and status.
pub(super) struct RetentionContext<'a> {
    /// The artifacts' repository with its registry, as references name it.
    pub repository: &'a str,
    /// Digests of that repository that other packages name.
    pub claimed: &'a BTreeSet<String>,
    /// Name and digest of images that the package's deletion takes back.
    pub images: &'a [(String, String)],
    /// When what is new in the plan may go.
    pub after: Time,
    /// Somebody asked anew, so that what was kept is looked at once more.
    pub anew: bool,
}

/// What is to be deleted of a package: first, with a time, what `retention` does not keep, the oldest first; then
/// what goes with the package itself. What stands in the status' plan already keeps its time.
pub(super) fn plan(
    spec: &JackalPackageSpec,
    status: &JackalPackageStatus,
    around: &RetentionContext<'_>,
) -> Vec<Garbage> {
    let mut entries: Vec<Garbage> = Vec::new();
    let mut take = |entry: Garbage| {
        if !entries.iter().any(|known| known.reference == entry.reference) {
            entries.push(entry);
        }
    };
    let (kept, superseded) = divide(spec, status);
    let ours = |entry: &&HistoryEntry| deletes(entry) && !around.claimed.contains(&entry.digest);
    for entry in superseded.iter().rev().copied().filter(ours) {
        let reference = reference(around.repository, entry);
        let standing = status.garbage.iter().find(|known| known.reference == reference);
        let standing = standing.filter(|known| known.delete_after.is_some() || known.kept.is_some());
        let completed = is_completed(entry, status);
        take(match standing {
            Some(known) if known.delete_after.is_some() || !around.anew => known.clone(),
            // Its reason stays, so that the same is not told again.
            _ => Garbage {
                reference,
                digest: entry.digest.clone(),
                reason: if completed { SBOMS_ADDED } else { "RevisionLimit" }.to_owned(),
                message: match completed {
                    true => "the same with SBOMs has taken its place".to_owned(),
                    false => format!("it is older than the {} that retention keeps", revisions(kept.len())),
                },
                delete_after: Some(around.after.clone()),
                kept: standing.and_then(|known| known.kept.clone()),
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
        for entry in kept.into_iter().filter(ours) {
            take(with_package(reference(around.repository, entry), &entry.digest));
        }
        for (name, digest) in around.images {
            take(with_package(name.clone(), digest));
        }
    }
    entries.truncate(ENTRIES);
    entries
}

/// Takes an artifact whose writing was begun and never seen to its end into the history, so that what there is of it is
/// deleted like the others.
pub(super) fn record_interrupted(status: &mut JackalPackageStatus) {
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
        completed_at: Time(jiff::Timestamp::now()),
        adopted: false,
        repository: None,
    };
    status.history.insert(0, entry);
}

/// Notes that the package's artifacts are written to `registry` from now on. Those that it wrote to another one are no more
/// its own: the same digests may stand here too, where others wrote them. Gives the former one's name, if anything that
/// this package wrote stays there.
pub(super) fn record_repository(
    status: &mut JackalPackageStatus,
    registry: &WrittenRepository,
    generation: Option<i64>,
) -> Option<String> {
    let former = match &status.registry {
        Some(known) if known.is(registry) => return None,
        Some(known) => Some(known.apart_from(registry)),
        None => former_of_artifact(status, registry, generation),
    };
    status.registry = Some(registry.clone());
    let former = former?;
    record_interrupted(status);
    let mut stays = false;
    for entry in status.history.iter_mut().filter(|entry| entry.repository.is_none()) {
        stays |= !entry.adopted;
        entry.repository = Some(former.clone());
    }
    stays.then_some(former)
}

/// Where an earlier version of the operator wrote the artifacts, which did not say which registry received them; none
/// where that is `registry`, as it is while the package is Ready for the spec that leads there.
fn former_of_artifact(
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

/// What the history holds that `spec` keeps, and the rest; both newest first.
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
            // What was built once more counts once, where it is newest.
            _ if known => {}
            // The same without SBOMs is no revision of its own: it would push out one that people would go back to.
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
    let mut followers = pairs.filter(|(_, elder)| *elder == entry);
    followers.any(|(newer, _)| newer.reason == SBOMS_ADDED)
}

/// How many artifacts stay; one at least, whatever an object says that came by without the schema.
fn limit(retention: &Retention) -> usize {
    usize::try_from(retention.revisions)
        .unwrap_or_default()
        .clamp(1, BACKLOG)
}

/// Leaves in the history what is of use: what is kept, and what is still to be deleted.
pub(super) fn trim(spec: &JackalPackageSpec, status: &mut JackalPackageStatus) {
    let Some(retention) = &spec.retention else {
        status.history.truncate(HISTORY);
        return;
    };
    let (_, superseded) = divide(spec, status);
    let others: BTreeSet<String> = superseded
        .iter()
        .filter(|entry| !deletes(entry))
        .map(|entry| entry.digest.clone())
        .collect();
    status.history.retain(|entry| !others.contains(&entry.digest));
    status.history.truncate(limit(retention) + BACKLOG);
}

/// What of the status' plan may go now: what is due and still planned, and with it what was kept before. Nothing
/// where nothing is due.
pub(super) fn due(
    spec: &JackalPackageSpec,
    status: &JackalPackageStatus,
    around: &RetentionContext<'_>,
    now: &Time,
) -> Vec<Garbage> {
    let is_due = |entry: &Garbage| entry.delete_after.as_ref().is_some_and(|after| after.0 <= now.0);
    if !status.garbage.iter().any(is_due) {
        return Vec::new();
    }
    plan(spec, status, around)
        .into_iter()
        .filter(|entry| status.garbage.contains(entry) && (is_due(entry) || entry.kept.is_some()))
        .collect()
}

/// When the first of the plan is due.
pub(super) fn next(status: &JackalPackageStatus) -> Option<&Time> {
    let times = status.garbage.iter().filter_map(|entry| entry.delete_after.as_ref());
    times.min_by_key(|time| time.0)
}

/// What came of an entry of a plan.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum DeletionResult {
    /// It was deleted, or did not exist.
    Deleted,
    /// It was kept, and why.
    Retained(RetainedReason),
}

/// Notes what came of entries. True when something was kept for another reason than before.
pub(super) fn record_results(status: &mut JackalPackageStatus, settled: &[(Garbage, DeletionResult)]) -> bool {
    let mut news = false;
    for (entry, end) in settled {
        match end {
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
                        news |= known.kept.as_ref() != Some(why);
                        known.kept = Some(why.clone());
                        known.delete_after = None;
                    }
                }
            }
        }
    }
    news
}

/// Whether the package may ever delete it.
fn deletes(entry: &HistoryEntry) -> bool {
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

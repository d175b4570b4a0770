//! Which artifacts of a package go, and why: a pure decision over what its status records.
//!
//! Only what the package wrote is ever planned: an artifact that stood in the registry before it was built
//! (`adopted`) is not, nor one that another package names, nor one that stands where the package wrote earlier
//! (`repository`), perhaps by other credentials.

use std::collections::BTreeSet;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

use crate::api::v1alpha1::{
    Conditions, DeletionPolicy, Garbage, HistoryEntry, JackalPackageSpec, JackalPackageStatus, Kept, READY, Retention,
    WrittenRepository,
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
pub(super) struct Surroundings<'a> {
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
pub(super) fn plan(spec: &JackalPackageSpec, status: &JackalPackageStatus, around: &Surroundings<'_>) -> Vec<Garbage> {
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
pub(super) fn interrupted(status: &mut JackalPackageStatus) {
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
pub(super) fn settle_in(
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
    interrupted(status);
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
    around: &Surroundings<'_>,
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
pub(super) enum Settled {
    /// It is gone.
    Gone,
    /// It was kept, and why.
    Kept(Kept),
}

/// Notes what came of entries. True when something was kept for another reason than before.
pub(super) fn settle(status: &mut JackalPackageStatus, settled: &[(Garbage, Settled)]) -> bool {
    let mut news = false;
    for (entry, end) in settled {
        match end {
            Settled::Gone => {
                status.garbage.retain(|known| known.reference != entry.reference);
                let current = status.artifact.as_ref().map(|artifact| artifact.digest.as_str());
                if current != Some(&entry.digest) {
                    status.history.retain(|known| known.digest != entry.digest);
                }
            }
            Settled::Kept(why) => {
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
mod tests {
    use serde_json::json;

    use super::*;

    fn time(second: i64) -> Time {
        Time(jiff::Timestamp::from_second(second).unwrap())
    }

    fn spec(more: serde_json::Value) -> JackalPackageSpec {
        let mut whole = json!({ "version": "1", "components": [{ "name": "a" }] });
        whole.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        serde_json::from_value(whole).unwrap()
    }

    /// Newest first; `!` before a digest: it stood there before.
    fn status(history: &[(&str, &str)]) -> JackalPackageStatus {
        let entries = history.iter().map(|(version, digest)| HistoryEntry {
            revision: format!("{version}@{}", digest.trim_start_matches('!')),
            digest: digest.trim_start_matches('!').to_owned(),
            reason: String::new(),
            message: String::new(),
            completed_at: time(0),
            adopted: digest.starts_with('!'),
            repository: digest.starts_with('/').then(String::new),
        });
        JackalPackageStatus {
            history: entries.collect(),
            ..JackalPackageStatus::default()
        }
    }

    fn around<'a>(claimed: &'a BTreeSet<String>, images: &'a [(String, String)], after: i64) -> Surroundings<'a> {
        Surroundings {
            repository: "r:1/app",
            claimed,
            images,
            after: time(after),
            anew: false,
        }
    }

    fn references(plan: &[Garbage]) -> Vec<&str> {
        plan.iter().map(|entry| entry.reference.as_str()).collect()
    }

    #[test]
    fn what_is_older_than_the_kept_revisions_goes_the_oldest_first() {
        let none = BTreeSet::new();
        let around = around(&none, &[], 5);
        let mut status = status(&[("4", "d"), ("3", "c"), ("2", "b"), ("1", "a")]);
        assert_eq!(plan(&spec(json!({})), &status, &around), []);
        let two = spec(json!({ "retention": { "revisions": 2 } }));
        status.garbage = plan(&two, &status, &around);
        assert_eq!(references(&status.garbage), ["r:1/app:1@a", "r:1/app:2@b"]);
        let first = &status.garbage[0];
        assert_eq!(first.reason, "RevisionLimit");
        assert_eq!((first.digest.as_str(), &first.delete_after), ("a", &Some(time(5))));
        assert_eq!(
            first.message,
            "it is older than the 2 newest revisions that retention keeps"
        );
        assert_eq!(next(&status), Some(&time(5)));
        // Nothing before its time, and nothing that the spec keeps by now.
        assert_eq!(due(&two, &status, &around, &time(4)), []);
        assert_eq!(
            references(&due(&two, &status, &around, &time(5))),
            ["r:1/app:1@a", "r:1/app:2@b"]
        );
        let three = spec(json!({ "retention": { "revisions": 3 } }));
        assert_eq!(references(&due(&three, &status, &around, &time(5))), ["r:1/app:1@a"]);
        assert_eq!(due(&spec(json!({})), &status, &around, &time(5)), []);
        // What was planned keeps its time; what comes later has its own.
        status
            .history
            .insert(0, super::tests::status(&[("5", "e")]).history.remove(0));
        let later = Surroundings {
            after: time(9),
            ..around
        };
        let times: Vec<_> = plan(&two, &status, &later)
            .into_iter()
            .map(|entry| entry.delete_after)
            .collect();
        assert_eq!(times, [Some(time(5)), Some(time(5)), Some(time(9))]);
    }

    #[test]
    fn what_the_package_did_not_write_or_another_names_stays() {
        let claimed = BTreeSet::from(["b".to_owned()]);
        let around = around(&claimed, &[], 5);
        let mut status = status(&[("4", "d"), ("3", "c"), ("2", "b"), ("1", "!a")]);
        let one = spec(json!({ "retention": { "revisions": 1 }, "deletionPolicy": "Delete" }));
        assert_eq!(
            references(&plan(&one, &status, &around)),
            ["r:1/app:3@c", "r:1/app:4@d"]
        );
        trim(&one, &mut status);
        let left: Vec<&str> = status.history.iter().map(|entry| entry.digest.as_str()).collect();
        assert_eq!(left, ["d", "c", "b"]);
    }

    #[test]
    fn what_was_built_once_more_counts_once() {
        let none = BTreeSet::new();
        let two = spec(json!({ "retention": { "revisions": 2 } }));
        let status = status(&[("1", "a"), ("2", "b"), ("1", "a"), ("0", "z")]);
        assert_eq!(
            references(&plan(&two, &status, &around(&none, &[], 5))),
            ["r:1/app:0@z"]
        );
    }

    #[test]
    fn what_got_its_sboms_later_counts_once() {
        let none = BTreeSet::new();
        let two = spec(json!({ "retention": { "revisions": 2 } }));
        let mut status = status(&[("2", "d"), ("2", "c"), ("1", "b"), ("1", "a")]);
        for with_sboms in [0, 2] {
            status.history[with_sboms].reason = SBOMS_ADDED.to_owned();
        }
        let planned = plan(&two, &status, &around(&none, &[], 5));
        assert_eq!(references(&planned), ["r:1/app:1@a", "r:1/app:2@c"]);
        assert_eq!(planned[1].reason, SBOMS_ADDED);
        assert_eq!(plan(&spec(json!({})), &status, &around(&none, &[], 5)), []);
    }

    #[test]
    fn a_deletion_is_shown_before_it_happens() {
        let none = BTreeSet::new();
        let images = [("r:1/x:1".to_owned(), "i".to_owned())];
        let status = status(&[("2", "b"), ("1", "a")]);
        let delete = spec(json!({ "deletionPolicy": "Delete" }));
        let shown = plan(&delete, &status, &around(&none, &images, 5));
        assert_eq!(references(&shown), ["r:1/app:2@b", "r:1/app:1@a", "r:1/x:1"]);
        assert!(shown.iter().all(|entry| entry.delete_after.is_none()));
        assert_eq!(plan(&spec(json!({})), &status, &around(&none, &images, 5)), []);
    }

    #[test]
    fn what_was_kept_waits_until_somebody_asks_or_something_else_goes() {
        let none = BTreeSet::new();
        let one = spec(json!({ "retention": { "revisions": 1 } }));
        let mut status = status(&[("3", "c"), ("2", "b"), ("1", "a")]);
        status.garbage = plan(&one, &status, &around(&none, &[], 5));
        let all = due(&one, &status, &around(&none, &[], 5), &time(5));
        let kept = Settled::Kept(Kept::new("SharedManifest", "the tag x names it too"));
        let settled = [(all[0].clone(), kept), (all[1].clone(), Settled::Gone)];
        assert!(settle(&mut status, &settled));
        assert!(!settle(&mut status, &settled[..1]), "no news");
        let left: Vec<&str> = status.history.iter().map(|entry| entry.digest.as_str()).collect();
        assert_eq!(left, ["c", "a"]);
        assert_eq!((next(&status), status.garbage.len()), (None, 1));
        assert_eq!(due(&one, &status, &around(&none, &[], 6), &time(9)), []);
        assert_eq!(plan(&one, &status, &around(&none, &[], 6)), status.garbage);
        let anew = Surroundings {
            anew: true,
            ..around(&none, &[], 6)
        };
        assert_eq!(plan(&one, &status, &anew)[0].delete_after, Some(time(6)));
        // With the next that goes, it is looked at too.
        status
            .history
            .insert(0, super::tests::status(&[("4", "d")]).history.remove(0));
        status.garbage = plan(&one, &status, &around(&none, &[], 6));
        let due = due(&one, &status, &around(&none, &[], 6), &time(6));
        assert_eq!(references(&due), ["r:1/app:1@a", "r:1/app:3@c"]);
    }

    fn written_at(endpoint: &str) -> WrittenRepository {
        WrittenRepository {
            address: "r:1".to_owned(),
            endpoint: endpoint.to_owned(),
            repository: "app".to_owned(),
        }
    }

    #[test]
    fn what_was_written_to_another_registry_is_not_deleted_in_this_one() {
        let none = BTreeSet::new();
        let delete = spec(json!({ "deletionPolicy": "Delete" }));
        let planned = |status: &JackalPackageStatus| plan(&delete, status, &around(&none, &[], 5)).len();
        let mut status = status(&[("2", "b"), ("1", "!a")]);
        status.registry = Some(written_at("evil"));
        status.publishing = Some("3@c".to_owned());
        assert_eq!(settle_in(&mut status, &written_at("evil"), None), None);
        assert_eq!(planned(&status), 1);
        // Pods call both the same; what was just being written went there too.
        let left = settle_in(&mut status, &written_at("r:1"), None);
        assert_eq!(left.as_deref(), Some("evil/app"));
        assert_eq!((status.history.len(), planned(&status)), (3, 0));
        assert_eq!(status.publishing, None);
        // To go back makes nobody its writer.
        assert_eq!(settle_in(&mut status, &written_at("evil"), None), None);
        assert_eq!(planned(&status), 0);
    }

    #[test]
    fn what_an_earlier_version_wrote_is_known_while_the_spec_is_the_same() {
        let earlier = |generation: i64| {
            let mut status = status(&[("1", "a")]);
            status.artifact = Some(
                serde_json::from_value(json!({
                    "digest": "a", "revision": "1@a", "url": "oci://r:1/app:1", "size": 1,
                    "lastUpdateTime": "2026-01-01T00:00:00Z",
                }))
                .unwrap(),
            );
            let mut conditions = Conditions(Vec::new());
            conditions.ready(Some(generation), "Succeeded", "", time(0));
            status.conditions = conditions.0;
            status
        };
        let now = written_at("somewhere");
        assert_eq!(settle_in(&mut earlier(2), &now, Some(2)), None);
        assert!(settle_in(&mut earlier(1), &now, Some(2)).is_some());
        assert_eq!(settle_in(&mut JackalPackageStatus::default(), &now, Some(1)), None);
        let other = WrittenRepository {
            repository: "team/app".to_owned(),
            ..now
        };
        assert_eq!(settle_in(&mut earlier(2), &other, Some(2)).as_deref(), Some("r:1/app"));
    }

    #[test]
    fn what_was_interrupted_is_deleted_like_the_rest() {
        let mut status = status(&[("1", "a")]);
        status.publishing = Some("2@b".to_owned());
        interrupted(&mut status);
        assert_eq!(status.publishing, None);
        let known: Vec<_> = status.history.iter().map(|entry| entry.digest.as_str()).collect();
        assert_eq!(known, ["b", "a"]);
        assert!(deletes(&status.history[0]));
        // It stands there already.
        status.publishing = Some("1@a".to_owned());
        interrupted(&mut status);
        assert_eq!(status.history.len(), 2);
    }
}

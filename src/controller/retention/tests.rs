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

fn around<'a>(claimed: &'a BTreeSet<String>, images: &'a [(String, String)], after: i64) -> RetentionContext<'a> {
    RetentionContext {
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
    let later = RetentionContext {
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
    let kept = DeletionResult::Retained(RetainedReason::new("SharedManifest", "the tag x names it too"));
    let settled = [(all[0].clone(), kept), (all[1].clone(), DeletionResult::Deleted)];
    assert!(record_results(&mut status, &settled));
    assert!(!record_results(&mut status, &settled[..1]), "no news");
    let left: Vec<&str> = status.history.iter().map(|entry| entry.digest.as_str()).collect();
    assert_eq!(left, ["c", "a"]);
    assert_eq!((next(&status), status.garbage.len()), (None, 1));
    assert_eq!(due(&one, &status, &around(&none, &[], 6), &time(9)), []);
    assert_eq!(plan(&one, &status, &around(&none, &[], 6)), status.garbage);
    let anew = RetentionContext {
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
        endpoint: (endpoint == "evil").then(|| endpoint.to_owned()),
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
    assert_eq!(record_repository(&mut status, &written_at("evil"), None), None);
    assert_eq!(planned(&status), 1);
    // Pods call both the same; what was just being written went there too.
    let left = record_repository(&mut status, &written_at("r:1"), None);
    assert_eq!(left.as_deref(), Some("evil/app"));
    assert_eq!((status.history.len(), planned(&status)), (3, 0));
    assert_eq!(status.publishing, None);
    // To go back makes nobody its writer.
    assert_eq!(record_repository(&mut status, &written_at("evil"), None), None);
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
    assert_eq!(record_repository(&mut earlier(2), &now, Some(2)), None);
    assert!(record_repository(&mut earlier(1), &now, Some(2)).is_some());
    assert_eq!(
        record_repository(&mut JackalPackageStatus::default(), &now, Some(1)),
        None
    );
    let other = WrittenRepository {
        repository: "team/app".to_owned(),
        ..now
    };
    assert_eq!(
        record_repository(&mut earlier(2), &other, Some(2)).as_deref(),
        Some("r:1/app")
    );
}

#[test]
fn what_was_interrupted_is_deleted_like_the_rest() {
    let mut status = status(&[("1", "a")]);
    status.publishing = Some("2@b".to_owned());
    record_interrupted(&mut status);
    assert_eq!(status.publishing, None);
    let known: Vec<_> = status.history.iter().map(|entry| entry.digest.as_str()).collect();
    assert_eq!(known, ["b", "a"]);
    assert!(deletes(&status.history[0]));
    // It stands there already.
    status.publishing = Some("1@a".to_owned());
    record_interrupted(&mut status);
    assert_eq!(status.history.len(), 2);
}

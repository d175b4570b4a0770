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

fn context<'a>(claimed: &'a BTreeSet<String>, images: &'a [(String, String)], after: i64) -> RetentionContext<'a> {
    RetentionContext {
        repository: "r:1/app",
        claimed,
        images,
        after: time(after),
        is_requested: false,
    }
}

fn references(plan: &[Garbage]) -> Vec<&str> {
    plan.iter().map(|entry| entry.reference.as_str()).collect()
}

#[test]
fn superseded_artifacts_are_planned_oldest_first() {
    let none = BTreeSet::new();
    let context = context(&none, &[], 5);
    let mut status = status(&[("4", "d"), ("3", "c"), ("2", "b"), ("1", "a")]);
    assert_eq!(plan(&spec(json!({})), &status, &context), []);
    let two = spec(json!({ "retention": { "revisions": 2 } }));
    status.garbage = plan(&two, &status, &context);
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
    assert_eq!(due(&two, &status, &context, &time(4)), []);
    assert_eq!(
        references(&due(&two, &status, &context, &time(5))),
        ["r:1/app:1@a", "r:1/app:2@b"]
    );
    let three = spec(json!({ "retention": { "revisions": 3 } }));
    assert_eq!(references(&due(&three, &status, &context, &time(5))), ["r:1/app:1@a"]);
    assert_eq!(due(&spec(json!({})), &status, &context, &time(5)), []);
    // What was planned keeps its time; what comes later has its own.
    status
        .history
        .insert(0, super::tests::status(&[("5", "e")]).history.remove(0));
    let later = RetentionContext {
        after: time(9),
        ..context
    };
    let times: Vec<_> = plan(&two, &status, &later)
        .into_iter()
        .map(|entry| entry.delete_after)
        .collect();
    assert_eq!(times, [Some(time(5)), Some(time(5)), Some(time(9))]);
}

#[test]
fn adopted_and_claimed_artifacts_are_not_planned() {
    let claimed = BTreeSet::from(["b".to_owned()]);
    let context = context(&claimed, &[], 5);
    let mut status = status(&[("4", "d"), ("3", "c"), ("2", "b"), ("1", "!a")]);
    let one = spec(json!({ "retention": { "revisions": 1 }, "deletionPolicy": "Delete" }));
    assert_eq!(
        references(&plan(&one, &status, &context)),
        ["r:1/app:3@c", "r:1/app:4@d"]
    );
    trim(&one, &mut status);
    let left: Vec<&str> = status.history.iter().map(|entry| entry.digest.as_str()).collect();
    assert_eq!(left, ["d", "c", "b"]);
}

#[test]
fn an_artifact_that_was_built_twice_counts_once() {
    let none = BTreeSet::new();
    let two = spec(json!({ "retention": { "revisions": 2 } }));
    let status = status(&[("1", "a"), ("2", "b"), ("1", "a"), ("0", "z")]);
    assert_eq!(
        references(&plan(&two, &status, &context(&none, &[], 5))),
        ["r:1/app:0@z"]
    );
}

#[test]
fn an_artifact_without_its_later_sboms_does_not_count() {
    let none = BTreeSet::new();
    let two = spec(json!({ "retention": { "revisions": 2 } }));
    let mut status = status(&[("2", "d"), ("2", "c"), ("1", "b"), ("1", "a")]);
    for with_sboms in [0, 2] {
        status.history[with_sboms].reason = SBOMS_ADDED.to_owned();
    }
    let planned = plan(&two, &status, &context(&none, &[], 5));
    assert_eq!(references(&planned), ["r:1/app:1@a", "r:1/app:2@c"]);
    assert_eq!(planned[1].reason, SBOMS_ADDED);
    assert_eq!(plan(&spec(json!({})), &status, &context(&none, &[], 5)), []);
}

#[test]
fn an_artifact_is_due_only_after_it_was_planned() {
    let none = BTreeSet::new();
    let images = [("r:1/x:1".to_owned(), "i".to_owned())];
    let status = status(&[("2", "b"), ("1", "a")]);
    let delete = spec(json!({ "deletionPolicy": "Delete" }));
    let shown = plan(&delete, &status, &context(&none, &images, 5));
    assert_eq!(references(&shown), ["r:1/app:2@b", "r:1/app:1@a", "r:1/x:1"]);
    assert!(shown.iter().all(|entry| entry.delete_after.is_none()));
    assert_eq!(plan(&spec(json!({})), &status, &context(&none, &images, 5)), []);
}

#[test]
fn a_retained_artifact_is_retried_on_request_or_with_another() {
    let none = BTreeSet::new();
    let one = spec(json!({ "retention": { "revisions": 1 } }));
    let mut status = status(&[("3", "c"), ("2", "b"), ("1", "a")]);
    status.garbage = plan(&one, &status, &context(&none, &[], 5));
    let all = due(&one, &status, &context(&none, &[], 5), &time(5));
    let kept = DeletionResult::Retained(RetainedReason::new("SharedManifest", "the tag x names it too"));
    let results = [(all[0].clone(), kept), (all[1].clone(), DeletionResult::Deleted)];
    assert!(record_results(&mut status, &results));
    assert!(!record_results(&mut status, &results[..1]), "no news");
    let left: Vec<&str> = status.history.iter().map(|entry| entry.digest.as_str()).collect();
    assert_eq!(left, ["c", "a"]);
    assert_eq!((next(&status), status.garbage.len()), (None, 1));
    assert_eq!(due(&one, &status, &context(&none, &[], 6), &time(9)), []);
    assert_eq!(plan(&one, &status, &context(&none, &[], 6)), status.garbage);
    let requested = RetentionContext {
        is_requested: true,
        ..context(&none, &[], 6)
    };
    assert_eq!(plan(&one, &status, &requested)[0].delete_after, Some(time(6)));
    // With the next that goes, it is looked at too.
    status
        .history
        .insert(0, super::tests::status(&[("4", "d")]).history.remove(0));
    status.garbage = plan(&one, &status, &context(&none, &[], 6));
    let due = due(&one, &status, &context(&none, &[], 6), &time(6));
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
fn artifacts_of_a_former_registry_are_not_planned() {
    let none = BTreeSet::new();
    let delete = spec(json!({ "deletionPolicy": "Delete" }));
    let planned = |status: &JackalPackageStatus| plan(&delete, status, &context(&none, &[], 5)).len();
    let mut status = status(&[("2", "b"), ("1", "!a")]);
    status.registry = Some(written_at("evil"));
    status.publishing = Some("3@c".to_owned());
    assert_eq!(
        record_repository(&mut status, &written_at("evil"), None, &time(0)),
        None
    );
    assert_eq!(planned(&status), 1);
    // Pods use the same name for both. The interrupted artifact was written there too.
    let left = record_repository(&mut status, &written_at("r:1"), None, &time(0));
    assert_eq!(left.as_deref(), Some("evil/app"));
    assert_eq!((status.history.len(), planned(&status)), (3, 0));
    assert_eq!(status.publishing, None);
    // After a return to the first registry its artifacts are still not own ones.
    assert_eq!(
        record_repository(&mut status, &written_at("evil"), None, &time(0)),
        None
    );
    assert_eq!(planned(&status), 0);
}

#[test]
fn artifacts_of_an_earlier_version_are_known_while_the_spec_is_unchanged() {
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
    assert_eq!(record_repository(&mut earlier(2), &now, Some(2), &time(0)), None);
    assert!(record_repository(&mut earlier(1), &now, Some(2), &time(0)).is_some());
    assert_eq!(
        record_repository(&mut JackalPackageStatus::default(), &now, Some(1), &time(0)),
        None
    );
    let other = WrittenRepository {
        repository: "team/app".to_owned(),
        ..now
    };
    assert_eq!(
        record_repository(&mut earlier(2), &other, Some(2), &time(0)).as_deref(),
        Some("r:1/app")
    );
}

#[test]
fn an_interrupted_artifact_is_planned_like_others() {
    let mut status = status(&[("1", "a")]);
    status.publishing = Some("2@b".to_owned());
    record_interrupted(&mut status, &time(0));
    assert_eq!(status.publishing, None);
    let known: Vec<_> = status.history.iter().map(|entry| entry.digest.as_str()).collect();
    assert_eq!(known, ["b", "a"]);
    assert!(is_own(&status.history[0]));
    // It stands there already.
    status.publishing = Some("1@a".to_owned());
    record_interrupted(&mut status, &time(0));
    assert_eq!(status.history.len(), 2);
}

use serde_json::json;

use super::*;

const DIGEST: &str = "sha256:aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa";
const OTHER: &str = "sha256:bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb";

fn time(second: i64) -> Time {
    Time(jiff::Timestamp::from_second(second).unwrap())
}

fn package(spec: serde_json::Value) -> JackalPackage {
    let mut whole = json!({ "version": "1", "components": [{ "name": "a" }] });
    whole.as_object_mut().unwrap().extend(spec.as_object().unwrap().clone());
    let mut package = JackalPackage::new("shop", serde_json::from_value(whole).unwrap());
    package.metadata.generation = Some(1);
    package
}

fn written_to(address: &str) -> WrittenRepository {
    serde_json::from_value(json!({ "address": address, "repository": "shop" })).unwrap()
}

/// The artifact `digest` of `package`, which has no images.
fn build<'a>(package: &'a JackalPackage, digest: &str) -> BuildRecord<'a> {
    BuildRecord {
        package,
        revision: format!("1@{digest}"),
        digest: digest.to_owned(),
        size: 2 << 20,
        changed: true,
        url: "oci://r/shop:1".to_owned(),
        repository: "r/shop".to_owned(),
        written_to: written_to("r"),
        rows: &[],
        written_images: &[],
        charts: &[],
        missing: &[],
        differential: None,
        verification: &Verification::NotRequired,
        sboms: &SbomProgress::NotRequested,
        signature: None,
        previous_images: None,
        claimed: BTreeSet::new(),
        delete_after: time(100),
    }
}

fn revisions(status: &JackalPackageStatus) -> Vec<&str> {
    status.history.iter().map(|entry| entry.revision.as_str()).collect()
}

fn recorded(status: &mut JackalPackageStatus, build: &BuildRecord<'_>, second: i64) -> RecordedChanges {
    record(status, Some(1), build, &time(second))
}

#[test]
fn the_first_artifact_makes_the_package_ready() {
    let package = package(json!({}));
    let mut status = JackalPackageStatus::default();
    let changes = recorded(&mut status, &build(&package, DIGEST), 1);
    assert!(changes.is_news && changes.planned.is_empty());
    let conditions = Conditions(status.conditions.clone());
    assert!(conditions.is_true(READY, Some(1)));
    assert_eq!(
        conditions.get(READY).unwrap().message,
        "the package oci://r/shop:1 is in the registry"
    );
    let artifact = status.artifact.as_ref().unwrap();
    assert_eq!((artifact.digest.as_str(), artifact.size), (DIGEST, 2 << 20));
    assert_eq!(status.registry, Some(written_to("r")));
    let entry = &status.history[0];
    assert_eq!((entry.reason.as_str(), entry.adopted), ("FirstBuild", false));
}

#[test]
fn the_same_artifact_is_no_news_and_keeps_its_time() {
    let package = package(json!({}));
    let mut status = JackalPackageStatus::default();
    recorded(&mut status, &build(&package, DIGEST), 1);
    let first = status.clone();
    let repeat = BuildRecord {
        changed: false,
        ..build(&package, DIGEST)
    };
    assert_eq!(recorded(&mut status, &repeat, 2), RecordedChanges::default());
    assert_eq!(status, first);
}

#[test]
fn recording_twice_is_recording_once() {
    let package = package(json!({ "retention": { "revisions": 1 } }));
    let mut once = JackalPackageStatus::default();
    recorded(&mut once, &build(&package, DIGEST), 1);
    recorded(&mut once, &build(&package, OTHER), 2);
    let mut twice = once.clone();
    let repeat = BuildRecord {
        changed: false,
        ..build(&package, OTHER)
    };
    assert!(!recorded(&mut twice, &repeat, 3).is_news);
    assert_eq!(once, twice);
}

#[test]
fn another_artifact_is_news_and_the_older_one_is_planned_to_be_deleted() {
    let package = package(json!({ "retention": { "revisions": 1 } }));
    let mut status = JackalPackageStatus::default();
    recorded(&mut status, &build(&package, DIGEST), 1);
    let changes = recorded(&mut status, &build(&package, OTHER), 2);
    assert!(changes.is_news);
    assert_eq!(revisions(&status), [format!("1@{OTHER}"), format!("1@{DIGEST}")]);
    assert_eq!(status.artifact.as_ref().unwrap().last_update_time, time(2));
    let planned: Vec<&str> = changes.planned.iter().map(|entry| entry.reference.as_str()).collect();
    assert_eq!(planned, [format!("r/shop:1@{DIGEST}")]);
    assert_eq!(changes.planned, status.garbage);
    assert_eq!(status.garbage[0].delete_after, Some(time(100)));
}

#[test]
fn an_artifact_that_existed_is_adopted_unless_this_package_announced_it() {
    let package = package(json!({}));
    let unchanged = || BuildRecord {
        changed: false,
        ..build(&package, DIGEST)
    };
    let mut found = JackalPackageStatus::default();
    recorded(&mut found, &unchanged(), 1);
    assert!(found.history[0].adopted);

    // A process that was killed between the push and its record had announced the artifact.
    let mut announced = JackalPackageStatus::default();
    let revision = format!("1@{DIGEST}");
    let former = record_start(&mut announced, Some(1), (&revision, "1"), &written_to("r"), &time(1));
    assert_eq!(former, None);
    assert_eq!(announced.publishing.as_deref(), Some(revision.as_str()));
    recorded(&mut announced, &unchanged(), 2);
    assert!(!announced.history[0].adopted);
    assert_eq!(announced.publishing, None);
}

#[test]
fn an_interrupted_artifact_enters_the_history_when_another_is_announced() {
    let mut status = JackalPackageStatus::default();
    let (first, second) = (format!("1@{DIGEST}"), format!("1@{OTHER}"));
    record_start(&mut status, Some(1), (&first, "1"), &written_to("r"), &time(1));
    record_start(&mut status, Some(1), (&second, "1"), &written_to("r"), &time(2));
    assert_eq!(revisions(&status), [first.as_str()]);
    assert_eq!(status.history[0].reason, "Interrupted");
    assert_eq!(status.publishing, Some(second));
}

#[test]
fn the_same_artifact_in_another_registry_is_recorded_again() {
    let package = package(json!({}));
    let mut status = JackalPackageStatus::default();
    recorded(&mut status, &build(&package, DIGEST), 1);
    let moved = BuildRecord {
        written_to: written_to("other"),
        ..build(&package, DIGEST)
    };
    let changes = recorded(&mut status, &moved, 2);
    assert!(changes.is_news && changes.former_repository.is_some());
    assert_eq!(status.history.len(), 2);
    assert_eq!(status.history[0].reason, "RegistryChanged");
    assert_eq!(status.history[1].repository, changes.former_repository);
}

#[test]
fn missing_images_and_the_signature_are_in_the_conditions() {
    let package = package(json!({}));
    let missing = [MissingImage {
        component: "a".to_owned(),
        image: "x:1".to_owned(),
        found_in: "chart c".to_owned(),
    }];
    let signed = || BuildRecord {
        missing: &missing,
        signature: Some(PackageSignature {
            key: "SHA256:k".to_owned(),
            foreign: Some("linux/arm64".to_owned()),
        }),
        ..build(&package, DIGEST)
    };
    let mut status = JackalPackageStatus::default();
    let changes = recorded(&mut status, &signed(), 1);
    let message = changes.missing.unwrap();
    let conditions = Conditions(status.conditions.clone());
    assert!(
        conditions
            .get(READY)
            .unwrap()
            .message
            .ends_with(&format!("; {message}"))
    );
    let signature = &conditions.get(SIGNED).unwrap().message;
    assert!(
        signature.starts_with("signed by the key SHA256:k; not the index") && signature.contains("linux/arm64"),
        "{signature}"
    );
    assert_eq!(recorded(&mut status, &signed(), 2).missing, None, "no news");
}

#[test]
fn a_retry_after_a_failure_keeps_its_condition_until_it_succeeds() {
    let mut status = JackalPackageStatus::default();
    let mut conditions = Conditions::default();
    conditions.failing(Some(1), "PushFailed", "no space left", time(1));
    status.conditions = conditions.0;
    record_start(&mut status, Some(1), ("1@x", "1"), &written_to("r"), &time(2));
    let ready = Conditions(status.conditions.clone());
    assert_eq!(ready.get(READY).unwrap().message, "no space left");
    let mut conditions = Conditions::default();
    conditions.ready(Some(0), "Succeeded", "of an older spec", time(1));
    status.conditions = conditions.0;
    record_start(&mut status, Some(1), ("1@x", "1"), &written_to("r"), &time(2));
    let ready = Conditions(status.conditions.clone());
    assert_eq!(ready.get(READY).unwrap().message, "building the artifact 1");
}

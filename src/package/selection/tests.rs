use serde_json::json;

use super::*;
use crate::fault::Disposition;

fn policy(value: serde_json::Value) -> PolicyImage {
    PolicyImage {
        image: "ghcr.io/x/app".to_owned(),
        policy: serde_json::from_value(value).unwrap(),
    }
}

fn tags(text: &str) -> Vec<String> {
    text.split(' ')
        .filter(|tag| !tag.is_empty())
        .map(str::to_owned)
        .collect()
}

#[track_caller]
fn selected(value: serde_json::Value, text: &str) -> (String, String) {
    let mut tags = tags(text);
    let one = policy(value.clone()).choose(&tags).unwrap().selected;
    tags.reverse();
    assert_eq!(one, policy(value).choose(&tags).unwrap().selected, "in any order");
    let camel_case = one.reason.starts_with(char::is_uppercase) && one.reason.chars().all(char::is_alphanumeric);
    assert!(camel_case, "{}", one.reason);
    (one.tag, one.message)
}

#[test]
fn the_newest_version_in_the_range_is_selected() {
    let (tag, reason) = selected(
        json!({ "semver": { "range": ">=6.0 <7" } }),
        "latest 5.9.0 6.0.1 6.10.0 6.9.3 6.11.0-rc.1 7.0.0 sha-abc 6",
    );
    assert_eq!((tag.as_str(), reason.as_str()), ("6.10.0", "the newest in >=6.0 <7"));
    let tag = |text| selected(json!({ "semver": { "range": "6.x" } }), text).0;
    assert_eq!(tag("6.1 6.1.0"), "6.1.0", "the complete one");
    assert_eq!(tag("v6.1.0 6.1.0"), "6.1.0");
    assert_eq!(tag("v6.1.0 6.1"), "v6.1.0");
    assert_eq!(tag("6.1 v6.1"), "6.1");
    assert_eq!(tag("6.1.1 v6.1.2"), "v6.1.2");
}

#[test]
fn the_last_match_of_a_pattern_is_selected() {
    let built = "main-9 main-10 main-2 main-x dev-11 main-010";
    let by_number = json!({ "pattern": r"^main-(\d+)$", "order": "Numerical" });
    let (tag, reason) = selected(by_number.clone(), built);
    assert_eq!(tag, "main-10");
    assert_eq!(reason, r"the highest by number that matches ^main-(\d+)$");
    assert_eq!(selected(json!({ "pattern": r"^main-(\d+)$" }), built).0, "main-9");
    assert_eq!(
        selected(json!({ "pattern": "^main-(.*)$", "order": "Numerical" }), built).0,
        "main-10"
    );
    let beyond = "main-99999999999999999999998 main-99999999999999999999999";
    assert_eq!(selected(by_number, beyond).0, "main-99999999999999999999999");
    let dates = "RELEASE.2026-01-02 RELEASE.2025-12-31 latest";
    assert_eq!(
        selected(json!({ "pattern": "^RELEASE" }), dates).0,
        "RELEASE.2026-01-02"
    );
    // Tags that are derived from the digest of a signed image are not images.
    let with_signature = format!("a sha256-{}.sig sha256-{}", "f".repeat(64), "e".repeat(64));
    assert_eq!(selected(json!({ "pattern": "" }), &with_signature).0, "a");
}

#[test]
fn no_matching_tag_is_a_retryable_fault_with_examples() {
    let fault = policy(json!({ "semver": { "range": ">=6.0 <7" } }))
        .choose(&tags("latest 1.0 5.1.0 5.2.0 4.0.0 3.0.0 2.0.0 7.0.0-rc.1"))
        .unwrap_err();
    assert_eq!(
        (fault.reason, fault.disposition),
        (Reason::SourceNotFound, Disposition::Retryable)
    );
    assert_eq!(
        fault.message,
        "no tag of ghcr.io/x/app is in >=6.0 <7: the newest are 7.0.0-rc.1, 5.2.0, 5.1.0, 4.0.0, 3.0.0; correct the policy, or push such a tag"
    );
    let fault = policy(json!({ "semver": { "range": "1.x" } }))
        .choose(&tags("latest"))
        .unwrap_err();
    assert!(fault.message.contains("no tag is a candidate"), "{fault}");
    let fault = policy(json!({ "pattern": "^main-", "order": "Numerical" }))
        .choose(&tags("main-a main-b"))
        .unwrap_err();
    assert!(fault.message.contains("are main-b, main-a;"), "{fault}");
}

#[test]
fn an_invalid_policy_stalls() {
    for (value, said) in [
        (
            json!({ "semver": { "range": "newest" } }),
            "`newest` is not a version range",
        ),
        (
            json!({ "pattern": "a(" }),
            "the pattern `a(` is not a regular expression (unclosed group)",
        ),
        (json!({ "pattern": r"\w{1000}{1000}" }), "is too large"),
        (json!({}), "one of semver and pattern"),
        (
            json!({ "semver": { "range": "1" }, "pattern": "1" }),
            "one of semver and pattern",
        ),
    ] {
        let fault = policy(value).choose(&tags("1.0")).unwrap_err();
        assert_eq!(fault.disposition, Disposition::Stalled, "{fault}");
        assert!(fault.message.contains(said), "{fault}");
    }
}

fn spec(more: serde_json::Value) -> JackalPackageSpec {
    let mut whole = json!({ "components": [
        { "name": "a", "images": [
            { "image": "r:5000/x/app", "policy": { "semver": { "range": "6.x" } } },
            { "image": "r:5000/x/app", "policy": { "semver": { "range": "5.x" } } },
            { "image": "r:5000/x/plain:1" },
        ] },
        { "name": "b", "images": [{ "image": "r:5000/x/app", "policy": { "semver": { "range": "6.x" } } }] },
    ] });
    whole.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    serde_json::from_value(whole).unwrap()
}

#[test]
fn selected_tags_complete_the_spec() {
    let spec = spec(json!({ "versionFrom": { "image": "r:5000/x/app" } }));
    assert!(has_policies(&spec));
    let followed = policy_images(&spec).unwrap();
    assert_eq!(followed.len(), 2);
    let tags = tags("5.1.0 6.0.1 6.1.0");
    let selections: Vec<Selection> = followed.iter().map(|one| one.choose(&tags).unwrap()).collect();
    let made = with_selected_tags(&spec, &selections).unwrap();
    assert!(!has_policies(&made));
    assert_eq!(made.version(), "6.1.0");
    let images: Vec<String> = made
        .components
        .iter()
        .flat_map(|one| &one.images)
        .map(|image| image.spec().unwrap().image.clone())
        .collect();
    assert_eq!(
        images,
        [
            "r:5000/x/app:6.1.0",
            "r:5000/x/app:5.1.0",
            "r:5000/x/plain:1",
            "r:5000/x/app:6.1.0"
        ]
    );
    assert!(selections[0].is_of(&made.components[1].images[0].spec().unwrap()));
    assert_eq!(with_selected_tags(&spec, &selections[..1]), None);
    // Without a policy there is nothing to select.
    let plain: JackalPackageSpec = serde_json::from_value(json!({ "version": "1", "components": [] })).unwrap();
    assert_eq!(
        (has_policies(&plain), with_selected_tags(&plain, &[])),
        (false, Some(plain))
    );
}

#[test]
fn invalid_policy_images_are_refused() {
    for (image, said) in [
        (
            json!({ "image": "x:1", "policy": { "semver": { "range": "1" } } }),
            "without tag and digest",
        ),
        (
            json!({ "image": format!("x@sha256:{}", "0".repeat(64)), "policy": { "semver": { "range": "1" } } }),
            "without tag and digest",
        ),
        (
            json!({ "image": "x", "source": "Docker", "policy": { "semver": { "range": "1" } } }),
            "set source: Registry",
        ),
        (
            json!({ "image": "X Y", "policy": { "semver": { "range": "1" } } }),
            "is not an image reference",
        ),
    ] {
        let spec: JackalPackageSpec =
            serde_json::from_value(json!({ "version": "1", "components": [{ "name": "a", "images": [image] }] }))
                .unwrap();
        let fault = policy_images(&spec).unwrap_err();
        assert!(fault.message.contains(said), "{fault}");
        assert_eq!(fault.disposition, Disposition::Stalled);
    }
    let fault = policy_images(&spec(json!({ "versionFrom": { "image": "r:5000/x/plain" } }))).unwrap_err();
    assert!(fault.message.contains("versionFrom names `r:5000/x/plain`"), "{fault}");
}

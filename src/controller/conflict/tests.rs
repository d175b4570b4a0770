use serde_json::json;

use super::*;
use crate::worker::{Policy, RepositoryPolicy};

fn package(namespace: &str, second: u32, spec: serde_json::Value) -> JackalPackage {
    let mut whole = json!({ "version": "1", "components": [{ "name": "a" }] });
    whole.as_object_mut().unwrap().extend(spec.as_object().unwrap().clone());
    serde_json::from_value(json!({
        "apiVersion": "jackal.dev/v1alpha1",
        "kind": "JackalPackage",
        "metadata": {
            "name": "app",
            "namespace": namespace,
            "uid": namespace,
            "creationTimestamp": format!("2026-01-01T00:00:{second:02}Z"),
        },
        "spec": whole,
    }))
    .unwrap()
}

fn verdict(mine: &JackalPackage, other: &JackalPackage, repositories: RepositoryPolicy) -> Option<String> {
    let defaults = Defaults {
        registry: serde_json::from_value(json!({ "address": "r:1" })).unwrap(),
        policy: Policy {
            repositories,
            ..Policy::default()
        },
        ..Defaults::default()
    };
    let place = Place {
        address: "r:1".to_owned(),
        prefix: String::new(),
        fence: None,
        endpoint: crate::registry::Endpoint::new("r:1"),
        naming: None,
    };
    let checked = check(mine, [mine, other], &defaults, &place);
    checked.err().map(|fault| fault.message)
}

#[test]
fn the_older_package_has_the_tag() {
    let any = RepositoryPolicy::Any;
    let (old, new) = (package("b", 1, json!({})), package("a", 2, json!({})));
    let said = verdict(&new, &old, any).unwrap();
    assert!(
        said.starts_with("r:1/app:1 belongs to the older package b/app:"),
        "{said}"
    );
    assert_eq!(verdict(&old, &new, any), None);
    assert_eq!(verdict(&new, &old, RepositoryPolicy::Namespace), None);
    // Of one second, the first by name.
    let twin = package("b", 2, json!({}));
    assert!(verdict(&twin, &new, any).is_some() && verdict(&new, &twin, any).is_none());
    let named = package("b", 1, json!({ "registry": { "address": "r:1" } }));
    assert!(verdict(&new, &named, any).is_some());
    for other in [
        json!({ "version": "2" }),
        json!({ "architecture": "arm64" }),
        json!({ "registry": { "repositoryPrefix": "b" } }),
        json!({ "registry": { "address": "r:2" } }),
    ] {
        assert_eq!(verdict(&new, &package("b", 1, other.clone()), any), None, "{other}");
    }
    let own = json!({ "registry": { "address": "own:1" } });
    let (old, new) = (package("b", 1, own.clone()), package("a", 2, own));
    assert!(
        verdict(&new, &old, RepositoryPolicy::Namespace).is_some(),
        "no fence there"
    );
}

#[test]
fn one_that_follows_an_image_holds_what_it_wrote_last() {
    let mut old = package("b", 1, json!({}));
    (old.spec.version, old.spec.version_from) = (None, serde_json::from_value(json!({ "image": "a" })).unwrap());
    let new = package("a", 2, json!({}));
    assert_eq!(verdict(&new, &old, RepositoryPolicy::Any), None, "nothing yet");
    let artifact = |version: &str| {
        serde_json::from_value(json!({ "artifact": {
            "digest": "d", "revision": format!("{version}@d"), "url": "u", "size": 1,
            "lastUpdateTime": "2026-01-01T00:00:00Z",
        } }))
        .unwrap()
    };
    old.status = artifact("2");
    assert_eq!(verdict(&new, &old, RepositoryPolicy::Any), None);
    old.status = artifact("1");
    assert!(verdict(&new, &old, RepositoryPolicy::Any).is_some());
}

#[test]
fn who_waits_is_told() {
    let mut waiting = package("a", 2, json!({}));
    let other = package("b", 1, json!({}));
    let waits =
        |waiting: &JackalPackage, other: &JackalPackage| waits(waiting, &other.name_any(), other.uid().as_deref());
    assert!(!waits(&waiting, &other));
    waiting.status = serde_json::from_value(json!({ "conditions": [{
        "type": "Stalled", "status": "True", "reason": "RepositoryConflict", "message": "",
        "lastTransitionTime": "2026-01-01T00:00:00Z",
    }] }))
    .unwrap();
    assert!(waits(&waiting, &other) && !waits(&waiting, &waiting));
}

fn image(name: &str, second: u32, spec: serde_json::Value) -> JackalImage {
    serde_json::from_value(json!({
        "apiVersion": "jackal.dev/v1alpha1",
        "kind": "JackalImage",
        "metadata": {
            "name": name,
            "namespace": "a",
            "uid": format!("image-{name}"),
            "creationTimestamp": format!("2026-01-01T00:00:{second:02}Z"),
        },
        "spec": spec,
    }))
    .unwrap()
}

fn known(packages: &[&JackalPackage], images: &[&JackalImage]) -> Known {
    Known {
        packages: packages
            .iter()
            .map(|one| Arc::new(DeserializeGuard(Ok((*one).clone()))))
            .collect(),
        images: images
            .iter()
            .map(|one| Arc::new(DeserializeGuard(Ok((*one).clone()))))
            .collect(),
    }
}

fn home() -> (Defaults, Home) {
    let defaults = Defaults {
        registry: serde_json::from_value(json!({ "address": "r:1" })).unwrap(),
        ..Defaults::default()
    };
    let home = Home {
        address: Some("r:1".to_owned()),
        naming: Some(crate::oci::Naming::Jackal),
        ..Home::default()
    };
    (defaults, home)
}

/// Who has the plain tag of `mine`, or why it cannot have its name.
fn plain(mine: &JackalImage, packages: &[&JackalPackage], images: &[&JackalImage]) -> Result<Option<String>, String> {
    let (known, (defaults, home)) = (known(packages, images), home());
    let checked = Older::than_image(mine, &known).check_image(mine, &defaults, &home);
    checked.map_err(|fault| {
        assert_eq!(fault.disposition, crate::fault::Disposition::Blocked);
        fault.message
    })
}

#[test]
fn an_image_leaves_its_plain_tag_to_an_older_object() {
    let old = package("b", 1, json!({}));
    let new = image("new", 2, json!({ "image": "ghcr.io/app:1" }));
    assert_eq!(
        plain(&new, &[&old], &[&new]),
        Ok(Some("the older package b/app".to_owned()))
    );
    let other = image("other", 1, json!({ "image": "quay.io/app:1" }));
    assert_eq!(
        plain(&new, &[], &[&new, &other]),
        Ok(Some("the older image a/other".to_owned()))
    );
    assert_eq!(plain(&other, &[], &[&new, &other]), Ok(None));
    assert_eq!(
        plain(&image("first", 0, json!({ "image": "ghcr.io/app:1" })), &[&old], &[]),
        Ok(None)
    );
    // Of one second, the first by name.
    let twin = image("zwin", 2, json!({ "image": "quay.io/app:1" }));
    assert!(plain(&twin, &[], &[&new]).unwrap().is_some() && plain(&new, &[], &[&twin]).unwrap().is_none());
    for spec in [
        json!({ "image": "ghcr.io/app:2" }),
        json!({ "image": "ghcr.io/x/app:1" }),
        json!({ "image": "ghcr.io/app:1", "plainTag": false }),
        json!({ "image": "ghcr.io/app:1", "registry": { "address": "r:2" } }),
        json!({ "image": "ghcr.io/app:1", "registry": { "repositoryPrefix": "x" } }),
        json!({ "image": format!("ghcr.io/app@{}", crate::oci::Digest::of(b"")) }),
    ] {
        let apart = image("apart", 2, spec.clone());
        assert_eq!(plain(&apart, &[&old], &[&other]), Ok(None), "{spec}");
    }
}

#[test]
fn an_image_does_not_get_the_name_that_an_older_object_has() {
    let holder = |spec: serde_json::Value| {
        let old = package("b", 1, json!({}));
        plain(&image("new", 2, spec), &[&old], &[]).unwrap_err()
    };
    for spec in [
        json!({ "image": "ghcr.io/app:1", "naming": "Plain" }),
        json!({ "image": "r:1/app:1", "source": "Docker" }),
        json!({ "image": "r:1/app:1", "platforms": ["linux/amd64"] }),
        json!({ "image": "ghcr.io/app:1", "naming": "Plain", "registry": { "address": "x:1", "endpoint": "R:1" } }),
    ] {
        let said = holder(spec.clone());
        assert!(
            said.contains("/app:1 belongs to the older package b/app: "),
            "{spec}: {said}"
        );
    }
    // It is read where it is to be.
    let old = package("b", 1, json!({}));
    let own = image("own", 2, json!({ "image": "r:1/app:1" }));
    assert_eq!(plain(&own, &[&old], &[]), Ok(None));
    let request = json!({ "image": "app:1", "source": "Docker", "nodeName": "n1" });
    let old = image("old", 1, request.clone());
    let same = image("same", 2, request);
    assert_eq!(plain(&same, &[], &[&old]), Ok(None), "they write the same");
    let another = |more: serde_json::Value| {
        let mut spec = json!({ "image": "docker.io/library/app:1", "source": "Docker" });
        spec.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        plain(&image("another", 2, spec), &[], &[&old])
    };
    for more in [
        json!({ "nodeName": "n2" }),
        json!({ "source": "Containerd", "nodeName": "n1" }),
        json!({ "nodeName": "n1", "compression": "Gzip" }),
        json!({ "nodeName": "n1", "platforms": ["linux/arm64"] }),
    ] {
        let said = another(more.clone()).unwrap_err();
        assert!(said.contains(" belongs to the older image a/old: "), "{more}: {said}");
    }
    assert_eq!(another(json!({ "nodeName": "n1" })), Ok(None));
}

#[test]
fn who_left_a_tag_to_another_keeps_nobody_from_it() {
    let plain_of = |source: &str| json!({ "image": format!("{source}/app:1"), "naming": "Plain" });
    let first = image("first", 1, plain_of("ghcr.io"));
    let second = image("second", 2, json!({ "image": "quay.io/app:1" }));
    let third = image("third", 3, plain_of("ghcr.io"));
    let fourth = image("fourth", 4, plain_of("quay.io"));
    let all = [&first, &second, &third, &fourth];
    assert_eq!(
        plain(&second, &[], &all),
        Ok(Some("the older image a/first".to_owned()))
    );
    assert_eq!(plain(&third, &[], &all), Ok(None), "it writes what the first writes");
    assert!(
        plain(&fourth, &[], &all)
            .unwrap_err()
            .contains("the older image a/first")
    );
    assert!(
        plain(&third, &[], &all[1..])
            .unwrap_err()
            .contains("the older image a/second")
    );
}

#[test]
fn images_of_one_package_and_those_that_go_are_no_rivals() {
    let owner = json!([{ "apiVersion": "x/v1", "kind": "X", "name": "x", "uid": "p", "controller": true }]);
    let owned = |name: &str, second: u32, spec: serde_json::Value| {
        let mut image = image(name, second, spec);
        image.metadata.owner_references = serde_json::from_value(owner.clone()).unwrap();
        image
    };
    let old = owned("old", 1, json!({ "image": "ghcr.io/app:1", "naming": "Plain" }));
    let spec = json!({ "image": "quay.io/app:1", "naming": "Plain" });
    assert_eq!(plain(&owned("new", 2, spec.clone()), &[], &[&old]), Ok(None));
    let new = image("new", 2, spec);
    assert!(plain(&new, &[], &[&old]).is_err());
    let mut going = old;
    going.metadata.deletion_timestamp = going.metadata.creation_timestamp.clone();
    assert_eq!(plain(&new, &[], &[&going]), Ok(None));
}

#[test]
fn a_package_does_not_get_the_tag_of_an_older_image() {
    let (defaults, home) = home();
    let verdict = |package: &JackalPackage, image: &JackalImage| {
        let known = known(&[], &[image]);
        let checked = Older::than_package(package, &known).check_package(package, &defaults, &home);
        checked.err().map(|fault| fault.message)
    };
    let (new, old) = (
        package("b", 2, json!({})),
        image("old", 1, json!({ "image": "ghcr.io/app:1" })),
    );
    let said = verdict(&new, &old).unwrap();
    assert!(
        said.starts_with("r:1/app:1 belongs to the older image a/old: give this one another name, version"),
        "{said}"
    );
    assert_eq!(verdict(&package("b", 0, json!({})), &old), None);
    assert_eq!(verdict(&package("b", 2, json!({ "version": "2" })), &old), None);
    let mut own = old;
    own.metadata.owner_references = serde_json::from_value(
        json!([{ "apiVersion": "x/v1", "kind": "X", "name": "x", "uid": new.uid(), "controller": true }]),
    )
    .unwrap();
    assert_eq!(verdict(&new, &own), None);
}

#[test]
fn what_is_to_have_a_place_claims_it() {
    let (defaults, home) = home();
    let site = defaults
        .site(&home, "a", &crate::api::v1alpha1::RegistrySpec::default())
        .unwrap();
    let image = image("one", 1, json!({ "image": "ghcr.io/x/app:1", "naming": "Plain" }));
    for (name, expected) in [("r:1/x/app:1", true), ("r:1/x/app:2", false), ("r:1/y/app:1", false)] {
        let name = name.parse().unwrap();
        assert_eq!(claims(&image, &site, &name, &defaults, &home), expected, "{name}");
    }
}

#[test]
fn what_a_policy_denies_keeps_nobody_from_a_tag() {
    let image = |namespace: &str, second: u32, spec: serde_json::Value| -> JackalImage {
        serde_json::from_value(json!({
            "apiVersion": "jackal.dev/v1alpha1",
            "kind": "JackalImage",
            "metadata": {
                "name": "app",
                "namespace": namespace,
                "uid": namespace,
                "creationTimestamp": format!("2026-01-01T00:00:{second:02}Z"),
            },
            "spec": spec,
        }))
        .unwrap()
    };
    let defaults = Defaults {
        registry: serde_json::from_value(json!({ "address": "r:1" })).unwrap(),
        policy: Policy {
            hosts: vec!["good.example".parse().unwrap()],
            ..Policy::default()
        },
        ..Defaults::default()
    };
    let home = Home {
        address: Some("r:1".to_owned()),
        ..Home::default()
    };
    let young = image("b", 2, json!({ "image": "good.example/app:1" }));
    let holds = |old: serde_json::Value| {
        let known = Known {
            packages: Vec::new(),
            images: vec![Arc::new(DeserializeGuard(Ok(image("a", 1, old))))],
        };
        Older::than_image(&young, &known)
            .check_image(&young, &defaults, &home)
            .is_err()
    };
    let registry = json!({ "address": "r:1", "endpoint": "evil.example" });
    assert!(!holds(json!({ "image": "evil.example/app:1" })));
    assert!(!holds(
        json!({ "image": "good.example/app:1", "source": "Docker", "registry": registry })
    ));
    assert!(!holds(json!({ "image": "app:2", "source": "Docker" })));
    assert!(holds(
        json!({ "image": "good.example/app:1", "platforms": ["linux/amd64"] })
    ));
}

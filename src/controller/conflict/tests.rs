use serde_json::json;

use super::*;
use crate::oci::Reference;
use crate::runtime::{Policy, RepositoryPolicy};

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
    let (mut defaults, home) = home();
    defaults.policy.repositories = repositories;
    let known = known(&[mine, other], &[]);
    let checked = OlderObjects::than(mine, &known).check_package(mine, &defaults, &home);
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
fn an_alias_of_the_registry_hides_no_package() {
    let any = RepositoryPolicy::Any;
    let new = package("a", 2, json!({}));
    for registry in [
        json!({ "address": "R:1" }),
        json!({ "address": "x:1", "endpoint": "r:1" }),
        json!({ "endpoint": "x:1" }),
    ] {
        let old = package("b", 1, json!({ "registry": registry }));
        let said = verdict(&new, &old, any).unwrap_or_else(|| panic!("{registry}"));
        assert!(
            said.starts_with("r:1/app:1 belongs to the older package b/app: "),
            "{said}"
        );
    }
    let behind = |address: &str| json!({ "registry": { "address": address, "endpoint": "registry.svc:5000" } });
    let (old, new) = (package("b", 1, behind("x:1")), package("a", 2, behind("y:1")));
    assert!(verdict(&new, &old, any).is_some());
    // Without the port of HTTPS.
    let at = |address: &str| json!({ "registry": { "address": address } });
    let (old, new) = (package("b", 1, at("x.example:443")), package("a", 2, at("X.example")));
    assert!(verdict(&new, &old, any).is_some());
}

#[test]
fn of_three_packages_the_one_without_the_tag_keeps_nobody_from_it() {
    let (defaults, home) = home();
    let named = |namespace: &str, second: u32, architecture: &str| {
        package(namespace, second, json!({ "architecture": architecture }))
    };
    let (first, second, third) = (named("a", 1, "amd64"), named("b", 2, "arm64"), named("c", 3, "arm64"));
    let known = known(&[&third, &second, &first], &[]);
    let holder = |package: &JackalPackage| {
        let checked = OlderObjects::than(package, &known).check_package(package, &defaults, &home);
        checked.err().map(|fault| fault.message)
    };
    assert_eq!((holder(&first), holder(&second)), (None, None), "they share an index");
    assert!(holder(&third).unwrap().contains("the older package b/app: "));
}

#[test]
fn what_changes_tags_is_news() {
    let with = |status: serde_json::Value| {
        let mut package = package("a", 1, json!({}));
        package.metadata.generation = Some(1);
        package.status = serde_json::from_value(status).unwrap();
        package
    };
    let conditions = |reason: &str| {
        json!({ "conditions": [{
            "type": "Stalled", "status": "True", "reason": reason, "message": "",
            "lastTransitionTime": "2026-01-01T00:00:00Z",
        }] })
    };
    let before = with(json!(null));
    let news = |now: &JackalPackage| is_news(Some(&before), Some(now));
    assert!(!news(&before) && !news(&with(conditions("PushFailed"))));
    assert!(news(&with(conditions("RepositoryConflict"))));
    assert!(is_news(None, Some(&before)) && is_news(Some(&before), None));
    let mut edited = before.clone();
    edited.metadata.generation = Some(2);
    assert!(news(&edited));

    let before = image("a", 1, json!({ "image": "ghcr.io/app", "policy": { "pattern": ".*" } }));
    let chosen = |status: serde_json::Value| {
        let mut image = before.clone();
        image.status = serde_json::from_value(status).unwrap();
        is_news(Some(&before), Some(&image))
    };
    assert!(!chosen(json!({ "digest": "sha256:0" })));
    assert!(chosen(json!({ "naming": "Zarf" })));
    assert!(chosen(
        json!({ "selected": { "tag": "1", "reason": "LastAlphabetical", "message": "" } })
    ));
}

#[test]
fn packages_of_one_name_are_concerned() {
    let (one, other) = (package("a", 2, json!({})), package("b", 1, json!({})));
    assert!(concerns(&one, "app", other.metadata.uid.as_deref()));
    assert!(!concerns(&one, "app", one.metadata.uid.as_deref()));
    assert!(!concerns(&one, "other", None));
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

fn known(packages: &[&JackalPackage], images: &[&JackalImage]) -> ObservedObjects {
    ObservedObjects {
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

fn home() -> (RegistryDefaults, OperatorRegistry) {
    let defaults = RegistryDefaults {
        registry: serde_json::from_value(json!({ "address": "r:1" })).unwrap(),
        policy: Policy {
            repositories: RepositoryPolicy::Any,
            ..Policy::default()
        },
        ..RegistryDefaults::default()
    };
    let home = OperatorRegistry {
        address: Some("r:1".to_owned()),
        naming: Some(crate::oci::Naming::Jackal),
        ..OperatorRegistry::default()
    };
    (defaults, home)
}

/// Who has the plain tag of `mine`, or why it cannot have its name.
fn plain(mine: &JackalImage, packages: &[&JackalPackage], images: &[&JackalImage]) -> Result<Option<String>, String> {
    let (known, (defaults, home)) = (known(packages, images), home());
    let checked = OlderObjects::than(mine, &known).check_image(mine, &defaults, &home);
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

/// `B` cannot have the tag that names it, which `A` has, and so nobody is kept by it from its plain one.
#[test]
fn who_writes_nothing_keeps_nobody_from_a_tag() {
    let named = format!("1-jackal-{}", crc32fast::hash(b"ghcr.io/app"));
    let a = image(
        "a",
        1,
        json!({ "image": format!("quay.io/app:{named}"), "naming": "Plain" }),
    );
    let b = image("b", 2, json!({ "image": "ghcr.io/app:1" }));
    let c = image("c", 3, json!({ "image": "quay.io/app:1", "naming": "Plain" }));
    let all = [&a, &b, &c];
    assert!(plain(&b, &[], &all).unwrap_err().contains("the older image a/a: "));
    assert_eq!(plain(&c, &[], &all), Ok(None));
    assert!(plain(&c, &[], &all[1..]).unwrap_err().contains("the older image a/b: "));
    // One that only lacks its plain tag has the other.
    let package = package("b", 0, json!({}));
    let d = image(
        "d",
        4,
        json!({ "image": format!("quay.io/app:{named}"), "naming": "Plain" }),
    );
    assert_eq!(
        plain(&b, &[&package], &all[1..]),
        Ok(Some("the older package b/app".to_owned()))
    );
    assert!(
        plain(&d, &[&package], &all[1..])
            .unwrap_err()
            .contains("the older image a/b: ")
    );
    // A package that an image keeps from its tag keeps no other image from it.
    let first = image("first", 1, json!({ "image": "quay.io/app:1", "naming": "Plain" }));
    let same = image("same", 3, json!({ "image": "quay.io/app:1" }));
    let late = super::tests::package("b", 2, json!({}));
    assert_eq!(plain(&same, &[&late], &[&first]), Ok(None));
}

#[test]
fn an_image_and_a_package_of_one_name_and_moment_are_not_both_the_older() {
    let (package, image) = (
        package("a", 1, json!({})),
        image("app", 1, json!({ "image": "ghcr.io/app:1", "naming": "Plain" })),
    );
    assert!(
        plain(&image, &[&package], &[])
            .unwrap_err()
            .contains("the older package a/app: ")
    );
    let (known, (defaults, home)) = (known(&[], &[&image]), home());
    let checked = OlderObjects::than(&package, &known).check_package(&package, &defaults, &home);
    assert!(checked.is_ok());
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
        let checked = OlderObjects::than(package, &known).check_package(package, &defaults, &home);
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
    assert!(verdict(&new, &own).is_some(), "an owner is of the same namespace");
    own.metadata.namespace = new.metadata.namespace.clone();
    assert_eq!(verdict(&new, &own), None);
}

#[test]
fn what_is_to_have_a_place_claims_it() {
    let (defaults, home) = home();
    let site = defaults
        .location(&home, "a", &crate::api::v1alpha1::RegistrySpec::default())
        .unwrap();
    let image = image("one", 1, json!({ "image": "ghcr.io/x/app:1", "naming": "Plain" }));
    let package = package("app", 1, json!({ "registry": { "repositoryPrefix": "x" } }));
    let digest = Digest::of(b"x");
    for (place, of_image, of_package) in [
        ("ghcr.io/x/app:1", true, true),
        ("ghcr.io/x/app:2", false, false),
        ("ghcr.io/y/app:1", false, false),
    ] {
        let place: Reference = place.parse().unwrap();
        let location = Location::new(&place, "r:1", "", crate::oci::Naming::Plain, true).unwrap();
        let wanted = ManifestQuery {
            site: &site,
            name: &location.to_string(),
            location: &location,
            digest: &digest,
        };
        assert_eq!(wanted.is_claimed_by(&image, &defaults, &home), of_image, "{place}");
        assert!(!wanted.is_named_by(&image, &defaults, &home));
        assert_eq!(wanted.is_of_package(&package, &defaults, &home), of_package, "{place}");
    }
}

#[test]
fn whoever_writes_anothers_package_as_owner_is_a_rival_all_the_same() {
    let own = image("one", 1, json!({ "image": "ghcr.io/x/app:1" }));
    let mut forged = image("two", 2, json!({ "image": "evil.io/x/app:1" }));
    let owner = json!([{ "apiVersion": "x/v1", "kind": "X", "name": "x", "uid": "u", "controller": true }]);
    let owned = |image: &JackalImage| {
        let mut image = image.clone();
        image.metadata.owner_references = serde_json::from_value(owner.clone()).unwrap();
        image
    };
    forged.metadata.namespace = own.metadata.namespace.clone();
    assert!(!are_rivals(&owned(&forged), &owned(&own)), "of one package");
    forged.metadata.namespace = Some("evil".to_owned());
    assert!(are_rivals(&owned(&forged), &owned(&own)));
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
    let defaults = RegistryDefaults {
        registry: serde_json::from_value(json!({ "address": "r:1" })).unwrap(),
        policy: Policy {
            hosts: vec!["good.example".parse().unwrap()],
            repositories: RepositoryPolicy::Any,
        },
        ..RegistryDefaults::default()
    };
    let home = OperatorRegistry {
        address: Some("r:1".to_owned()),
        ..OperatorRegistry::default()
    };
    let young = image("b", 2, json!({ "image": "good.example/app:1" }));
    let holds = |old: serde_json::Value| {
        let known = ObservedObjects {
            packages: Vec::new(),
            images: vec![Arc::new(DeserializeGuard(Ok(image("a", 1, old))))],
        };
        OlderObjects::than(&young, &known)
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

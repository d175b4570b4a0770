use serde_json::json;

use super::*;
use crate::oci::{Digest, Location, Reference};

/// Who has the plain tag of `mine`, or why it cannot have its name.
fn plain(mine: &JackalImage, packages: &[&JackalPackage], images: &[&JackalImage]) -> Result<Option<String>, String> {
    let (known, (defaults, operator_registry)) = (known(packages, images), operator_registry());
    let checked = OlderObjects::than(mine, &known).check_image(mine, &defaults, &operator_registry);
    checked.map_err(|fault| {
        assert_eq!(fault.disposition, crate::fault::Disposition::Blocked);
        fault.message
    })
}

#[test]
fn the_plain_tag_belongs_to_the_older_object() {
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
fn a_name_of_an_older_object_is_refused() {
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
        let message = holder(spec.clone());
        assert!(
            message.contains("/app:1 belongs to the older package b/app: "),
            "{spec}: {message}"
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
        let message = another(more.clone()).unwrap_err();
        assert!(
            message.contains(" belongs to the older image a/old: "),
            "{more}: {message}"
        );
    }
    assert_eq!(another(json!({ "nodeName": "n1" })), Ok(None));
}

#[test]
fn an_object_without_a_plain_tag_does_not_block_it() {
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
fn an_object_that_is_refused_its_name_blocks_no_tag() {
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
    let late = super::package("b", 2, json!({}));
    assert_eq!(plain(&same, &[&late], &[&first]), Ok(None));
}

#[test]
fn at_one_moment_a_package_is_older_than_an_image() {
    let (package, image) = (
        package("a", 1, json!({})),
        image("app", 1, json!({ "image": "ghcr.io/app:1", "naming": "Plain" })),
    );
    assert!(
        plain(&image, &[&package], &[])
            .unwrap_err()
            .contains("the older package a/app: ")
    );
    let (known, (defaults, operator_registry)) = (known(&[], &[&image]), operator_registry());
    let checked = OlderObjects::than(&package, &known).check_package(&package, &defaults, &operator_registry);
    assert!(checked.is_ok());
}

#[test]
fn images_of_one_package_and_deleted_images_do_not_conflict() {
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
fn a_tag_of_an_older_image_is_refused_to_a_package() {
    let (defaults, operator_registry) = operator_registry();
    let decision = |package: &JackalPackage, image: &JackalImage| {
        let known = known(&[], &[image]);
        let checked = OlderObjects::than(package, &known).check_package(package, &defaults, &operator_registry);
        checked.err().map(|fault| fault.message)
    };
    let (new, old) = (
        package("b", 2, json!({})),
        image("old", 1, json!({ "image": "ghcr.io/app:1" })),
    );
    let message = decision(&new, &old).unwrap();
    assert!(
        message.starts_with("r:1/app:1 belongs to the older image a/old: give this one another name, version"),
        "{message}"
    );
    assert_eq!(decision(&package("b", 0, json!({})), &old), None);
    assert_eq!(decision(&package("b", 2, json!({ "version": "2" })), &old), None);
    let mut own = old;
    own.metadata.owner_references = serde_json::from_value(
        json!([{ "apiVersion": "x/v1", "kind": "X", "name": "x", "uid": new.uid(), "controller": true }]),
    )
    .unwrap();
    assert!(decision(&new, &own).is_some(), "an owner is of the same namespace");
    own.metadata.namespace = new.metadata.namespace.clone();
    assert_eq!(decision(&new, &own), None);
}

#[test]
fn objects_that_will_write_a_manifest_need_it() {
    let (defaults, operator_registry) = operator_registry();
    let registry = defaults
        .location(&operator_registry, "a", &crate::api::v1alpha1::RegistrySpec::default())
        .unwrap();
    let image = image("one", 1, json!({ "image": "ghcr.io/x/app:1", "naming": "Plain" }));
    let package = package("app", 1, json!({ "registry": { "repositoryPrefix": "x" } }));
    let digest = Digest::of(b"x");
    for (name, of_image, of_package) in [
        ("ghcr.io/x/app:1", true, true),
        ("ghcr.io/x/app:2", false, false),
        ("ghcr.io/y/app:1", false, false),
    ] {
        let reference: Reference = name.parse().unwrap();
        let location = Location::new(&reference, "r:1", "", crate::oci::Naming::Plain, true).unwrap();
        let query = ManifestQuery {
            registry: &registry,
            name: &location.to_string(),
            location: &location,
            digest: &digest,
        };
        assert_eq!(
            query.is_claimed_by(&image, &defaults, &operator_registry),
            of_image,
            "{name}"
        );
        assert!(!query.is_named_by(&image, &defaults, &operator_registry));
        assert_eq!(
            query.is_of_package(&package, &defaults, &operator_registry),
            of_package,
            "{name}"
        );
    }
}

#[test]
fn an_owner_in_another_namespace_does_not_count() {
    let own = image("one", 1, json!({ "image": "ghcr.io/x/app:1" }));
    let mut forged = image("two", 2, json!({ "image": "evil.io/x/app:1" }));
    let owner = json!([{ "apiVersion": "x/v1", "kind": "X", "name": "x", "uid": "u", "controller": true }]);
    let owned = |image: &JackalImage| {
        let mut image = image.clone();
        image.metadata.owner_references = serde_json::from_value(owner.clone()).unwrap();
        image
    };
    forged.metadata.namespace = own.metadata.namespace.clone();
    assert!(!may_conflict(&owned(&forged), &owned(&own)), "of one package");
    forged.metadata.namespace = Some("evil".to_owned());
    assert!(may_conflict(&owned(&forged), &owned(&own)));
}

#[test]
fn an_object_that_a_policy_denies_blocks_no_tag() {
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
    let operator_registry = OperatorRegistry {
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
            .check_image(&young, &defaults, &operator_registry)
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

use serde_json::json;

use super::*;
use crate::runtime::{Policy, RepositoryPolicy};

mod images;

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

fn decision(mine: &JackalPackage, other: &JackalPackage, repositories: RepositoryPolicy) -> Option<String> {
    let (mut defaults, operator_registry) = operator_registry();
    defaults.policy.repositories = repositories;
    let known = known(&[mine, other], &[]);
    let checked = OlderObjects::than(mine, &known).check_package(mine, &defaults, &operator_registry);
    checked.err().map(|fault| fault.message)
}

#[test]
fn the_older_package_has_the_tag() {
    let any = RepositoryPolicy::Any;
    let (old, new) = (package("b", 1, json!({})), package("a", 2, json!({})));
    let message = decision(&new, &old, any).unwrap();
    assert!(
        message.starts_with("r:1/app:1 belongs to the older package b/app:"),
        "{message}"
    );
    assert_eq!(decision(&old, &new, any), None);
    assert_eq!(decision(&new, &old, RepositoryPolicy::Namespace), None);
    // Of one second, the first by name.
    let twin = package("b", 2, json!({}));
    assert!(decision(&twin, &new, any).is_some() && decision(&new, &twin, any).is_none());
    let named = package("b", 1, json!({ "registry": { "address": "r:1" } }));
    assert!(decision(&new, &named, any).is_some());
    for other in [
        json!({ "version": "2" }),
        json!({ "architecture": "arm64" }),
        json!({ "registry": { "repositoryPrefix": "b" } }),
        json!({ "registry": { "address": "r:2" } }),
    ] {
        assert_eq!(decision(&new, &package("b", 1, other.clone()), any), None, "{other}");
    }
    let own = json!({ "registry": { "address": "own:1" } });
    let (old, new) = (package("b", 1, own.clone()), package("a", 2, own));
    assert!(
        decision(&new, &old, RepositoryPolicy::Namespace).is_some(),
        "no fence there"
    );
}

#[test]
fn a_package_with_version_from_has_the_tag_that_it_wrote_last() {
    let mut old = package("b", 1, json!({}));
    (old.spec.version, old.spec.version_from) = (None, serde_json::from_value(json!({ "image": "a" })).unwrap());
    let new = package("a", 2, json!({}));
    assert_eq!(decision(&new, &old, RepositoryPolicy::Any), None, "nothing yet");
    let artifact = |version: &str| {
        serde_json::from_value(json!({ "artifact": {
            "digest": "d", "revision": format!("{version}@d"), "url": "u", "size": 1,
            "lastUpdateTime": "2026-01-01T00:00:00Z",
        } }))
        .unwrap()
    };
    old.status = artifact("2");
    assert_eq!(decision(&new, &old, RepositoryPolicy::Any), None);
    old.status = artifact("1");
    assert!(decision(&new, &old, RepositoryPolicy::Any).is_some());
}

#[test]
fn another_name_of_the_registry_is_the_same_registry() {
    let any = RepositoryPolicy::Any;
    let new = package("a", 2, json!({}));
    for registry in [
        json!({ "address": "R:1" }),
        json!({ "address": "x:1", "endpoint": "r:1" }),
        json!({ "endpoint": "x:1" }),
    ] {
        let old = package("b", 1, json!({ "registry": registry }));
        let message = decision(&new, &old, any).unwrap_or_else(|| panic!("{registry}"));
        assert!(
            message.starts_with("r:1/app:1 belongs to the older package b/app: "),
            "{message}"
        );
    }
    let behind = |address: &str| json!({ "registry": { "address": address, "endpoint": "registry.svc:5000" } });
    let (old, new) = (package("b", 1, behind("x:1")), package("a", 2, behind("y:1")));
    assert!(decision(&new, &old, any).is_some());
    // Without the port of HTTPS.
    let at = |address: &str| json!({ "registry": { "address": address } });
    let (old, new) = (package("b", 1, at("x.example:443")), package("a", 2, at("X.example")));
    assert!(decision(&new, &old, any).is_some());
}

#[test]
fn a_package_has_only_the_tag_of_its_own_architecture() {
    let (defaults, operator_registry) = operator_registry();
    let named = |namespace: &str, second: u32, architecture: &str| {
        package(namespace, second, json!({ "architecture": architecture }))
    };
    let (first, second, third) = (named("a", 1, "amd64"), named("b", 2, "arm64"), named("c", 3, "arm64"));
    let known = known(&[&third, &second, &first], &[]);
    let owner = |package: &JackalPackage| {
        let checked = OlderObjects::than(package, &known).check_package(package, &defaults, &operator_registry);
        checked.err().map(|fault| fault.message)
    };
    assert_eq!((owner(&first), owner(&second)), (None, None), "they share an index");
    assert!(owner(&third).unwrap().contains("the older package b/app: "));
}

#[test]
fn changes_that_affect_tags_are_news() {
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
    let affects = |now: &JackalPackage| affects_tags(Some(&before), Some(now));
    assert!(!affects(&before) && !affects(&with(conditions("PushFailed"))));
    assert!(affects(&with(conditions("RepositoryConflict"))));
    assert!(affects_tags(None, Some(&before)) && affects_tags(Some(&before), None));
    let mut edited = before.clone();
    edited.metadata.generation = Some(2);
    assert!(affects(&edited));

    let before = image("a", 1, json!({ "image": "ghcr.io/app", "policy": { "pattern": ".*" } }));
    let chosen = |status: serde_json::Value| {
        let mut image = before.clone();
        image.status = serde_json::from_value(status).unwrap();
        affects_tags(Some(&before), Some(&image))
    };
    assert!(!chosen(json!({ "digest": "sha256:0" })));
    assert!(chosen(json!({ "naming": "Zarf" })));
    assert!(chosen(
        json!({ "selected": { "tag": "1", "reason": "LastAlphabetical", "message": "" } })
    ));
}

#[test]
fn packages_of_one_name_concern_each_other() {
    let (one, other) = (package("a", 2, json!({})), package("b", 1, json!({})));
    assert!(may_affect(&one, "app", other.metadata.uid.as_deref()));
    assert!(!may_affect(&one, "app", one.metadata.uid.as_deref()));
    assert!(!may_affect(&one, "other", None));
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

fn operator_registry() -> (RegistryDefaults, OperatorRegistry) {
    let defaults = RegistryDefaults {
        registry: serde_json::from_value(json!({ "address": "r:1" })).unwrap(),
        policy: Policy {
            repositories: RepositoryPolicy::Any,
            ..Policy::default()
        },
        ..RegistryDefaults::default()
    };
    let operator_registry = OperatorRegistry {
        address: Some("r:1".to_owned()),
        naming: Some(crate::oci::Naming::Jackal),
        ..OperatorRegistry::default()
    };
    (defaults, operator_registry)
}

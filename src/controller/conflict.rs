//! Two packages that would write one tag of one registry in turn: the older one has it. No IO.

use kube::ResourceExt as _;

use crate::api::v1alpha1::JackalPackage;
use crate::fault::{Fault, Reason};
use crate::worker::{Defaults, Place, name_of};

/// Where an artifact stands: registry, repository, tag, and its entry in the index under that tag.
#[derive(Debug, PartialEq, Eq)]
struct Site {
    /// None where it is not known what the operator's own registry is called.
    address: Option<String>,
    repository: String,
    version: String,
    architecture: String,
}

impl Site {
    fn of(package: &JackalPackage, defaults: &Defaults, home: Option<&str>) -> Self {
        let spec = &package.spec;
        let own = spec.registry.address.as_deref();
        let namespace = package.namespace().unwrap_or_default();
        Self {
            address: own.or(home).map(str::to_ascii_lowercase),
            repository: crate::package::repository(
                &defaults.prefix(&namespace, &spec.registry, own.is_none() || own == home),
                &package.name_any(),
            ),
            // Of one that follows an image, what it wrote last.
            version: spec.version.clone().or_else(|| published(package)).unwrap_or_default(),
            architecture: spec.architecture.clone().unwrap_or_else(|| "amd64".to_owned()),
        }
    }
}

/// The version of the artifact that stands.
fn published(package: &JackalPackage) -> Option<String> {
    let artifact = package.status.as_ref()?.artifact.as_ref()?;
    let (version, _) = artifact.revision.split_once('@')?;
    Some(version.to_owned())
}

/// That no older package writes what `package`, whose registry is `place`, writes.
pub(super) fn check<'a>(
    package: &JackalPackage,
    others: impl IntoIterator<Item = &'a JackalPackage>,
    defaults: &Defaults,
    place: &Place,
) -> Result<(), Fault> {
    let home = match &package.spec.registry.address {
        None => Some(place.address.as_str()),
        Some(_) => defaults.registry.address.as_deref(),
    };
    let site = Site::of(package, defaults, home);
    let age = |package: &JackalPackage| {
        let created = package.metadata.creation_timestamp.as_ref().map(|time| time.0);
        (created, package.namespace(), package.name_any())
    };
    let mine = age(package);
    let older = |other: &&JackalPackage| {
        other.name_any() == package.name_any() && age(other) < mine && Site::of(other, defaults, home) == site
    };
    let Some(holder) = others.into_iter().filter(older).min_by_key(|other| age(other)) else {
        return Ok(());
    };
    Err(Fault::stalled(
        Reason::RepositoryConflict,
        format!(
            "{}/{}:{} belongs to the older package {}: give this one another name, version or registry.repositoryPrefix, or have the operator run with --repository-policy namespace",
            place.address,
            site.repository,
            site.version,
            name_of(holder)
        ),
    ))
}

/// Whether `package` waits for another to leave its tag, and may have it when `gone` changed or went.
pub(super) fn waits(package: &JackalPackage, gone: &JackalPackage) -> bool {
    let reason = Reason::RepositoryConflict.to_string();
    package.name_any() == gone.name_any()
        && package.uid() != gone.uid()
        && package
            .status
            .iter()
            .flat_map(|status| &status.conditions)
            .any(|condition| condition.reason == reason)
}

#[cfg(test)]
mod tests {
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
        assert!(!waits(&waiting, &other));
        waiting.status = serde_json::from_value(json!({ "conditions": [{
            "type": "Stalled", "status": "True", "reason": "RepositoryConflict", "message": "",
            "lastTransitionTime": "2026-01-01T00:00:00Z",
        }] }))
        .unwrap();
        assert!(waits(&waiting, &other) && !waits(&waiting, &waiting));
    }
}

//! The registry and prefix of an object, computed from its spec and the names of the operator's registry, without
//! credentials. It shows whether two objects write to the same repository.

use super::policy::RepositoryScope;
use super::registry_defaults::{OperatorRegistry, RegistryDefaults};
use crate::api::v1alpha1::RegistrySpec;
use crate::oci::{Naming, same_host};

/// The part of a registry that an object writes to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RegistryLocation {
    /// Host and port as pods write it.
    pub address: String,
    /// All names of the registry.
    names: Vec<String>,
    /// The path prefix of everything that is written; may be empty.
    pub prefix: String,
    /// The naming of objects with `naming: Auto`.
    pub naming: Naming,
    scope: Option<RepositoryScope>,
}

impl RegistryLocation {
    /// Whether both are in the same registry: whether they have a name in common.
    pub fn is_same_registry(&self, other: &Self) -> bool {
        self.names.iter().any(|name| other.has_name(name))
    }

    /// Whether `host` (host and port) is one of the registry's names.
    pub fn has_name(&self, host: &str) -> bool {
        self.names.iter().any(|known| same_host(known, host))
    }

    /// Whether the object may write `repository`, a full path in the registry.
    pub fn allows(&self, repository: &str) -> bool {
        self.scope
            .as_ref()
            .is_none_or(|scope| scope.check(repository, "").is_ok())
    }
}

impl RegistryDefaults {
    /// The location that `spec`, of an object in `namespace`, names. None if neither it nor the operator's registry has an
    /// address.
    pub fn location(
        &self,
        operator_registry: &OperatorRegistry,
        namespace: &str,
        spec: &RegistrySpec,
    ) -> Option<RegistryLocation> {
        let address = spec.address.as_ref().or(operator_registry.address.as_ref())?;
        let own = spec.address.iter().chain(&spec.endpoint);
        let mut names: Vec<String> = own.cloned().collect();
        let named = names
            .iter()
            .any(|name| operator_registry.names().any(|known| same_host(known, name)));
        if spec.address.is_none() || named {
            names.extend(operator_registry.names().cloned());
        }
        let in_operator_registry = spec.address.is_none()
            || spec.address == self.registry.address
            || self.policy_needs_operator_registry() && named;
        let base = self.base_prefix(operator_registry);
        Some(RegistryLocation {
            address: address.clone(),
            names,
            naming: operator_registry
                .naming
                .filter(|_| spec.address.is_none() || named)
                .unwrap_or(Naming::Plain),
            prefix: self.prefix(namespace, spec, in_operator_registry.then_some(operator_registry)),
            scope: self
                .policy
                .repository_scope(base, namespace)
                .filter(|_| in_operator_registry),
        })
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::runtime::{Policy, RepositoryPolicy};

    fn location(
        defaults: &RegistryDefaults,
        operator_registry: &OperatorRegistry,
        spec: serde_json::Value,
    ) -> Option<RegistryLocation> {
        defaults.location(operator_registry, "a", &serde_json::from_value(spec).unwrap())
    }

    #[test]
    fn one_registry_may_have_several_names() {
        let defaults = RegistryDefaults::default();
        let operator_registry = OperatorRegistry {
            address: Some("127.0.0.1:31999".to_owned()),
            endpoint: Some("registry.svc:5000".to_owned()),
            ..OperatorRegistry::default()
        };
        let same_registry = |one: serde_json::Value, other: serde_json::Value| {
            let (one, other) = (
                location(&defaults, &operator_registry, one),
                location(&defaults, &operator_registry, other),
            );
            one.unwrap().is_same_registry(&other.unwrap())
        };
        let none = || json!({});
        assert!(same_registry(none(), none()));
        assert!(same_registry(none(), json!({ "address": "127.0.0.1:31999" })));
        assert!(same_registry(none(), json!({ "address": "Registry.svc:5000" })));
        assert!(same_registry(
            none(),
            json!({ "address": "x:1", "endpoint": "registry.svc:5000" })
        ));
        assert!(same_registry(
            json!({ "address": "x:1" }),
            json!({ "address": "y:1", "endpoint": "x:1" })
        ));
        assert!(!same_registry(none(), json!({ "address": "x:1" })));
        assert!(!same_registry(json!({ "address": "x:2" }), json!({ "address": "x:1" })));
        assert_eq!(location(&defaults, &OperatorRegistry::default(), none()), None);
    }

    #[test]
    fn the_repository_policy_limits_the_operators_registry_only() {
        let defaults = RegistryDefaults {
            registry: serde_json::from_value(json!({ "address": "r:1", "repositoryPrefix": "base" })).unwrap(),
            policy: Policy {
                repositories: RepositoryPolicy::Namespace,
                ..Policy::default()
            },
            ..RegistryDefaults::default()
        };
        let operator_registry = OperatorRegistry {
            address: Some("r:1".to_owned()),
            ..OperatorRegistry::default()
        };
        let own = location(&defaults, &operator_registry, json!({})).unwrap();
        assert_eq!(own.prefix, "base/a");
        assert!(own.allows("base/a/app") && !own.allows("base/b/app"));
        let elsewhere = location(&defaults, &operator_registry, json!({ "address": "x:1" })).unwrap();
        assert!(elsewhere.prefix.is_empty() && elsewhere.allows("base/b/app"));
    }
}

//! Where an object's content goes, as far as that follows from its spec and from what the operator's own registry is
//! called: enough to tell whether two objects mean the same place, without anybody's credentials.

use kube::Client;

use super::policy::{RepositoryPolicy, RepositoryScope};
use super::registry_state::State;
use super::registry_target::RegistryDefaults;
use crate::api::v1alpha1::RegistrySpec;
use crate::fault::Fault;
use crate::oci::{Naming, same_host};

/// What the operator's own registry is called, as far as that is known.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct OperatorRegistry {
    /// By pods.
    pub address: Option<String>,
    /// By the operator, which reaches it there.
    pub endpoint: Option<String>,
    /// A path that everything is put under, where the cluster's state says so.
    pub prefix: Option<String>,
    /// Whether it speaks plain HTTP there.
    pub plain_http: bool,
    /// How names are made there, where the cluster's state says so.
    pub naming: Option<Naming>,
}

impl OperatorRegistry {
    /// Each name once.
    pub fn names(&self) -> impl Iterator<Item = &String> {
        self.address.iter().chain(&self.endpoint)
    }

    /// Where the operator reaches it.
    pub fn effective_endpoint(&self) -> Option<&String> {
        self.endpoint.as_ref().or(self.address.as_ref())
    }
}

/// The part of a registry that an object means.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RegistryLocation {
    /// Host and port as pods write it.
    pub address: String,
    /// Every name by which the registry is known.
    names: Vec<String>,
    /// A path that everything is put under; may be empty.
    pub prefix: String,
    /// How names are made where an object leaves it to the cluster.
    pub naming: Naming,
    scope: Option<RepositoryScope>,
}

impl RegistryLocation {
    /// Whether both are parts of one registry: whether any of their names is the same.
    pub fn is_same_registry(&self, other: &Self) -> bool {
        self.names.iter().any(|name| other.has_name(name))
    }

    /// Whether `host` (host and port) is one of the registry's names.
    pub fn has_name(&self, host: &str) -> bool {
        self.names.iter().any(|known| same_host(known, host))
    }

    /// Whether the object may write `repository`, a whole path in the registry.
    pub fn allows(&self, repository: &str) -> bool {
        self.scope
            .as_ref()
            .is_none_or(|scope| scope.check(repository, "").is_ok())
    }
}

impl RegistryDefaults {
    /// What the operator's own registry is called. Without a flag that says so, the cluster's state is read.
    pub async fn operator_registry(&self, client: &Client) -> Result<OperatorRegistry, Fault> {
        let state = self.find_state(client).await?;
        let mut operator_registry = self.operator_registry_from(state.as_ref());
        let of_state = |state: &State| {
            let known = [&state.address, &state.endpoint];
            operator_registry
                .names()
                .any(|name| known.iter().any(|known| same_host(known, name)))
        };
        let naming = state.filter(of_state).map(|state| state.naming);
        operator_registry.naming = naming;
        Ok(operator_registry)
    }

    /// The same without how names are made: what the flags say is enough.
    pub(super) async fn operator_registry_without_naming(&self, client: &Client) -> Result<OperatorRegistry, Fault> {
        let state = match &self.registry.address {
            Some(_) => None,
            None => self.find_state(client).await?,
        };
        Ok(self.operator_registry_from(state.as_ref()))
    }

    /// What the operator's own registry is where the cluster's state is `state`, without how names are made.
    pub(super) fn operator_registry_from(&self, state: Option<&State>) -> OperatorRegistry {
        let flags = &self.registry;
        match (&flags.address, state) {
            (None, Some(state)) => OperatorRegistry {
                address: Some(state.address.clone()),
                endpoint: Some(flags.endpoint.clone().unwrap_or_else(|| state.endpoint.clone())),
                prefix: state.prefix.clone(),
                plain_http: state.is_internal || self.restrictions.speaks_plain_http(&state.endpoint),
                naming: None,
            },
            (address, _) => OperatorRegistry {
                address: address.clone(),
                endpoint: flags.endpoint.clone(),
                prefix: None,
                plain_http: flags.insecure == Some(true),
                naming: None,
            },
        }
    }

    /// The part of the registry that `spec`, an object's of `namespace`, means where the operator's own is `operator_registry`.
    /// None where it is not known which registry that is.
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
        let base = self
            .registry
            .repository_prefix
            .as_deref()
            .or(operator_registry.prefix.as_deref());
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

    /// Whether a policy asks which objects mean the operator's own registry by another name. Else only those mean it, to
    /// its policies and its prefix, that name none or the one that the flags say.
    pub(super) fn policy_needs_operator_registry(&self) -> bool {
        !self.policy.hosts.is_empty() || self.policy.repositories == RepositoryPolicy::Namespace
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::runtime::Policy;

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
        let beside = |one: serde_json::Value, other: serde_json::Value| {
            let (one, other) = (
                location(&defaults, &operator_registry, one),
                location(&defaults, &operator_registry, other),
            );
            one.unwrap().is_same_registry(&other.unwrap())
        };
        let none = || json!({});
        assert!(beside(none(), none()));
        assert!(beside(none(), json!({ "address": "127.0.0.1:31999" })));
        assert!(beside(none(), json!({ "address": "Registry.svc:5000" })));
        assert!(beside(
            none(),
            json!({ "address": "x:1", "endpoint": "registry.svc:5000" })
        ));
        assert!(beside(
            json!({ "address": "x:1" }),
            json!({ "address": "y:1", "endpoint": "x:1" })
        ));
        assert!(!beside(none(), json!({ "address": "x:1" })));
        assert!(!beside(json!({ "address": "x:2" }), json!({ "address": "x:1" })));
        assert_eq!(location(&defaults, &OperatorRegistry::default(), none()), None);
    }

    #[test]
    fn what_a_policy_denies_is_no_place() {
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

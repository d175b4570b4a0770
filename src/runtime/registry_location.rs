//! Where an object's content goes, as far as that follows from its spec and from what the operator's own registry is
//! called: enough to tell whether two objects mean the same place, without anybody's credentials.

use kube::Client;

use super::policy::{Fence, RepositoryPolicy};
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
    pub fn reached_at(&self) -> Option<&String> {
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
    fence: Option<Fence>,
}

impl RegistryLocation {
    /// Whether both are parts of one registry: whether any of their names is the same.
    pub fn is_beside(&self, other: &Self) -> bool {
        self.names.iter().any(|name| other.is_called(name))
    }

    /// Whether `host` (host and port) is one of the registry's names.
    pub fn is_called(&self, host: &str) -> bool {
        self.names.iter().any(|known| same_host(known, host))
    }

    /// Whether the object may write `repository`, a whole path in the registry.
    pub fn admits(&self, repository: &str) -> bool {
        self.fence
            .as_ref()
            .is_none_or(|fence| fence.check(repository, "").is_ok())
    }
}

impl RegistryDefaults {
    /// What the operator's own registry is called. Without a flag that says so, the cluster's state is read.
    pub async fn home(&self, client: &Client) -> Result<OperatorRegistry, Fault> {
        let state = self.find_state(client).await?;
        let mut home = self.home_of(state.as_ref());
        let of_state = |state: &State| {
            let known = [&state.address, &state.endpoint];
            home.names()
                .any(|name| known.iter().any(|known| same_host(known, name)))
        };
        let naming = state.filter(of_state).map(|state| state.naming);
        home.naming = naming;
        Ok(home)
    }

    /// The same without how names are made: what the flags say is enough.
    pub(super) async fn own(&self, client: &Client) -> Result<OperatorRegistry, Fault> {
        let state = match &self.registry.address {
            Some(_) => None,
            None => self.find_state(client).await?,
        };
        Ok(self.home_of(state.as_ref()))
    }

    /// What the operator's own registry is where the cluster's state is `state`, without how names are made.
    pub(super) fn home_of(&self, state: Option<&State>) -> OperatorRegistry {
        let flags = &self.registry;
        match (&flags.address, state) {
            (None, Some(state)) => OperatorRegistry {
                address: Some(state.address.clone()),
                endpoint: Some(flags.endpoint.clone().unwrap_or_else(|| state.endpoint.clone())),
                prefix: state.prefix.clone(),
                plain_http: state.is_internal || self.restrictions.serves_plain_http(&state.endpoint),
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

    /// The part of the registry that `spec`, an object's of `namespace`, means where the operator's own is called `home`.
    /// None where it is not known which registry that is.
    pub fn site(&self, home: &OperatorRegistry, namespace: &str, spec: &RegistrySpec) -> Option<RegistryLocation> {
        let address = spec.address.as_ref().or(home.address.as_ref())?;
        let own = spec.address.iter().chain(&spec.endpoint);
        let mut names: Vec<String> = own.cloned().collect();
        let named = names
            .iter()
            .any(|name| home.names().any(|known| same_host(known, name)));
        if spec.address.is_none() || named {
            names.extend(home.names().cloned());
        }
        let at_home =
            spec.address.is_none() || spec.address == self.registry.address || self.policy_asks_for_home() && named;
        let base = self.registry.repository_prefix.as_deref().or(home.prefix.as_deref());
        Some(RegistryLocation {
            address: address.clone(),
            names,
            naming: home
                .naming
                .filter(|_| spec.address.is_none() || named)
                .unwrap_or(Naming::Plain),
            prefix: self.prefix(namespace, spec, at_home.then_some(home)),
            fence: self.policy.fence(base, namespace).filter(|_| at_home),
        })
    }

    /// Whether a policy asks which objects mean the operator's own registry by another name. Else only those mean it, to
    /// its policies and its prefix, that name none or the one that the flags say.
    pub(super) fn policy_asks_for_home(&self) -> bool {
        !self.policy.hosts.is_empty() || self.policy.repositories == RepositoryPolicy::Namespace
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::runtime::Policy;

    fn site(defaults: &RegistryDefaults, home: &OperatorRegistry, spec: serde_json::Value) -> Option<RegistryLocation> {
        defaults.site(home, "a", &serde_json::from_value(spec).unwrap())
    }

    #[test]
    fn one_registry_may_have_several_names() {
        let defaults = RegistryDefaults::default();
        let home = OperatorRegistry {
            address: Some("127.0.0.1:31999".to_owned()),
            endpoint: Some("registry.svc:5000".to_owned()),
            ..OperatorRegistry::default()
        };
        let beside = |one: serde_json::Value, other: serde_json::Value| {
            let (one, other) = (site(&defaults, &home, one), site(&defaults, &home, other));
            one.unwrap().is_beside(&other.unwrap())
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
        assert_eq!(site(&defaults, &OperatorRegistry::default(), none()), None);
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
        let home = OperatorRegistry {
            address: Some("r:1".to_owned()),
            ..OperatorRegistry::default()
        };
        let own = site(&defaults, &home, json!({})).unwrap();
        assert_eq!(own.prefix, "base/a");
        assert!(own.admits("base/a/app") && !own.admits("base/b/app"));
        let elsewhere = site(&defaults, &home, json!({ "address": "x:1" })).unwrap();
        assert!(elsewhere.prefix.is_empty() && elsewhere.admits("base/b/app"));
    }
}

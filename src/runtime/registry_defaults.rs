//! The administrator's settings of registries, and the operator's registry, which follows from them and the cluster's
//! state.

use std::sync::Arc;
use std::time::Duration;

use kube::Client;

use super::policy::{Policy, RepositoryPolicy};
use super::registry_state::{State, StateSecret};
use super::secrets::Secrets;
use crate::api::v1alpha1::RegistrySpec;
use crate::fault::{Fault, Reason};
use crate::oci::{Naming, same_host};
use crate::registry::{Endpoint, Limits, Restrictions, Trust};

/// The administrator's settings of registries, and the registry of objects whose spec names none.
#[derive(Clone, Debug, Default)]
pub struct RegistryDefaults {
    /// The flags `address`, `endpoint`, `repositoryPrefix` and `insecure`; `secretRef` and `certSecretRef` are in the
    /// operator's namespace. `endpoint` without `address` is the endpoint of the registry that the cluster's state names.
    pub registry: RegistrySpec,
    /// The operator's namespace.
    pub namespace: String,
    /// The Secret with the cluster's state. It names the registry if the flags do not, and the naming of its webhook.
    pub state: Option<StateSecret>,
    /// The hosts that objects may name, and where those may redirect to.
    pub restrictions: Arc<Restrictions>,
    /// Certificate authorities (PEM) that are trusted in addition to the system's, for every connection.
    pub authorities: Option<Vec<u8>>,
    /// The limits of requests to one registry.
    pub limits: Limits,
    /// What objects may do.
    pub policy: Policy,
}

/// The names of the operator's registry, as far as they are known.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct OperatorRegistry {
    /// Host and port as pods write it.
    pub address: Option<String>,
    /// Host and port at which the operator reaches it.
    pub endpoint: Option<String>,
    /// The path prefix of all repositories, if the cluster's state names one.
    pub prefix: Option<String>,
    /// Whether it serves plain HTTP at the endpoint.
    pub plain_http: bool,
    /// Its naming, if the cluster's state names one.
    pub naming: Option<Naming>,
}

impl OperatorRegistry {
    /// Its address and endpoint.
    pub fn names(&self) -> impl Iterator<Item = &String> {
        self.address.iter().chain(&self.endpoint)
    }

    /// Host and port at which the operator reaches it: the endpoint, else the address.
    pub fn effective_endpoint(&self) -> Option<&String> {
        self.endpoint.as_ref().or(self.address.as_ref())
    }
}

impl RegistryDefaults {
    /// The operator's registry, with its naming. It reads the cluster's state.
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

    /// The same without the naming. It reads the cluster's state only if the flags name no registry.
    pub(super) async fn operator_registry_without_naming(&self, client: &Client) -> Result<OperatorRegistry, Fault> {
        let state = match &self.registry.address {
            Some(_) => None,
            None => self.find_state(client).await?,
        };
        Ok(self.operator_registry_from(state.as_ref()))
    }

    /// The operator's registry, without the naming, by the flags and the cluster's `state`.
    pub(super) fn operator_registry_from(&self, state: Option<&State>) -> OperatorRegistry {
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

    /// Whether a policy depends on which objects name the operator's registry by another name. Otherwise only an object that
    /// names no registry, or the address in the flags, counts as writing to the operator's registry.
    pub(super) fn policy_needs_operator_registry(&self) -> bool {
        !self.policy.hosts.is_empty() || self.policy.repositories == RepositoryPolicy::Namespace
    }

    /// The prefix of everything in the operator's registry.
    pub(super) fn base_prefix<'a>(&'a self, operator_registry: &'a OperatorRegistry) -> Option<&'a str> {
        let flag = self.registry.repository_prefix.as_deref();
        flag.or(operator_registry.prefix.as_deref())
    }

    /// The path prefix of what an object in `namespace` with `spec` writes. `operator_registry` is none if it writes to
    /// another registry.
    pub fn prefix(&self, namespace: &str, spec: &RegistrySpec, operator_registry: Option<&OperatorRegistry>) -> String {
        let own = spec.repository_prefix.as_deref();
        let base = operator_registry.and_then(|operator_registry| self.base_prefix(operator_registry));
        let scope = self
            .policy
            .repository_scope(base, namespace)
            .filter(|_| operator_registry.is_some());
        match scope {
            Some(scope) => scope.prefix(own),
            None => own.or(base).unwrap_or_default().to_owned(),
        }
    }

    /// The endpoint of a source registry that is not the destination, without credentials. `trust` is the object's trust for
    /// that host.
    pub fn source_endpoint(&self, host: &str, trust: Trust, idle: Duration) -> Endpoint {
        Endpoint {
            plain_http: self.restrictions.serves_plain_http(host),
            trust: trust.with_authorities(self.authorities.as_deref()),
            idle,
            restrictions: Some(Arc::clone(&self.restrictions)),
            ..Endpoint::new(host).with_limits(self.limits)
        }
    }

    /// The cluster's state, if the administrator names its Secret and the Secret exists.
    pub(super) async fn find_state(&self, client: &Client) -> Result<Option<State>, Fault> {
        let Some(named) = &self.state else {
            return Ok(None);
        };
        let secret = Secrets::new(client.clone(), &*named.namespace)
            .find(&named.name)
            .await?;
        Ok(secret.and_then(|secret| State::read(named, &secret)))
    }

    /// The cluster's state, for an object that needs it.
    ///
    /// # Errors
    /// The object names no registry, and there is no state.
    pub(super) async fn state(&self, client: &Client) -> Result<State, Fault> {
        self.find_state(client).await?.ok_or_else(|| {
            let cluster = match &self.state {
                Some(named) => format!("initialise the cluster with Jackal or Zarf, because the Secret {named} names no registry"),
                None => "with --state-secret in a cluster that Jackal or Zarf initialised".to_owned(),
            };
            Fault::retryable(
                Reason::InvalidSpec,
                format!(
                    "no registry is configured: set spec.registry.address, or start the operator with --registry-address, or {cluster}"
                ),
            )
        })
    }
}

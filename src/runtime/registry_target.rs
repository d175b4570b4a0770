//! Which registry an object means, and the clients for it.

use std::sync::Arc;
use std::time::Duration;

use kube::Client;

use super::policy::{Policy, RepositoryScope};
use super::registry_location::OperatorRegistry;
use super::registry_state::{State, StateSecret};
use super::secrets::Secrets;
use crate::api::v1alpha1::{RegistrySpec, WrittenRepository};
use crate::fault::{Fault, Reason};
use crate::oci::{Naming, same_host};
use crate::registry::{Endpoint, Limits, Restrictions, Trust};

/// What holds for objects that say nothing of the registry.
#[derive(Clone, Debug, Default)]
pub struct RegistryDefaults {
    /// From the flags: `address`, `endpoint`, `repositoryPrefix`, `insecure`; `secretRef` and
    /// `certSecretRef` are in the operator's own namespace. `endpoint` without `address` is where the
    /// registry is reached that the cluster's state names.
    pub registry: RegistrySpec,
    /// The operator's own namespace.
    pub namespace: String,
    /// The Secret with the state of the cluster, which says what its registry is where the flags do not, and how its
    /// webhook makes names.
    pub state: Option<StateSecret>,
    /// What the hosts that objects name may be, and where they may lead.
    pub restrictions: Arc<Restrictions>,
    /// Authorities that are trusted besides the system's, for every registry and whatever else is asked: a bundle of PEM.
    pub authorities: Option<Vec<u8>>,
    /// How much is asked of one registry.
    pub limits: Limits,
    /// What is allowed to objects.
    pub policy: Policy,
}

/// The registry that an object means.
#[derive(Clone, Debug)]
pub struct RegistryTarget {
    /// Host and port as pods write it.
    pub address: String,
    /// A path that everything is put under; may be empty. It lies within the scope.
    pub prefix: String,
    /// The part of the registry that the object may use; none where all of it is free, or it is the object's own.
    pub scope: Option<RepositoryScope>,
    /// How the operator reaches it, with credentials and trust.
    pub endpoint: Endpoint,
    /// The naming that belongs to the registry, where the cluster's state said which registry it is.
    pub naming: Option<Naming>,
}

impl RegistryTarget {
    /// That the object may read and write `repository`, a whole path in this registry, by the operator's means;
    /// `what` names its part of the object for people.
    pub fn check(&self, repository: &str, what: &str) -> Result<(), Fault> {
        self.scope
            .as_ref()
            .map_or(Ok(()), |scope| scope.check(repository, what))
    }
}

impl State {
    /// Whether it is the registry of `place`.
    fn names(&self, place: &RegistryTarget) -> bool {
        let names = [&self.address, &self.endpoint];
        let called = [&place.address, &place.endpoint.host];
        called
            .iter()
            .any(|called| names.iter().any(|name| same_host(called, name)))
    }
}

impl RegistryDefaults {
    /// The registry that `spec`, an object's of `namespace`, means. Its Secrets are read in that namespace;
    /// those of the defaults in the operator's, and only for the registry that the defaults name, reached as
    /// they say: else an object could have the operator's credentials sent wherever it likes.
    pub async fn target(
        &self,
        client: &Client,
        namespace: &str,
        spec: &RegistrySpec,
        idle: Duration,
    ) -> Result<RegistryTarget, Fault> {
        let flags = &self.registry;
        let (mut credentials, mut naming) = (None, None);
        let (address, mut default, operator_registry) = match (&spec.address, &flags.address) {
            (Some(own), _) if Some(own) != flags.address.as_ref() => {
                let operator_registry = match self.operator_registry_without_naming(client).await {
                    Err(fault) if self.policy_needs_operator_registry() => return Err(fault),
                    operator_registry => operator_registry.unwrap_or_default(),
                };
                (own.clone(), RegistrySpec::default(), operator_registry)
            }
            (_, Some(default)) => (default.clone(), flags.clone(), self.operator_registry_from(None)),
            (_, None) => {
                let state = self.state(client).await?;
                let operator_registry = self.operator_registry_from(Some(&state));
                (credentials, naming) = (state.credentials, Some(state.naming));
                let default = RegistrySpec {
                    endpoint: operator_registry.endpoint.clone(),
                    insecure: Some(operator_registry.plain_http),
                    ..RegistrySpec::default()
                };
                (state.address, default, operator_registry)
            }
        };
        if goes_elsewhere(spec, &default, &address) {
            (default.secret_ref, default.cert_secret_ref, credentials) = (None, None, None);
        }
        let host = spec
            .endpoint
            .clone()
            .or(default.endpoint.clone())
            .unwrap_or_else(|| address.clone());
        // A registry is the operator's own by whatever of its names an object calls it.
        let is_named = |name: &str| operator_registry.names().any(|known| same_host(known, name));
        let in_operator_registry = spec.address.is_none()
            || spec.address == flags.address
            || self.policy_needs_operator_registry() && (is_named(&address) || is_named(&host));
        let is_own = operator_registry
            .effective_endpoint()
            .is_some_and(|usual| same_host(usual, &host));
        if !is_own && (!in_operator_registry || spec.endpoint.is_some() && !is_named(&host)) {
            let field = if spec.endpoint.is_some() {
                "registry.endpoint"
            } else {
                "registry.address"
            };
            self.policy.check_host(&host, field)?;
        }
        let plain_http = spec.insecure.or(default.insecure).unwrap_or(false);
        if plain_http && !(is_own && operator_registry.plain_http) && !self.restrictions.allows_plain_http(&host) {
            return Err(Fault::stalled(
                Reason::PolicyDenied,
                format!(
                    "registry.insecure asks for plain HTTP of {host}: have that registry serve HTTPS and remove insecure, or have the administrator list the host in --insecure-registry"
                ),
            ));
        }
        let base = flags
            .repository_prefix
            .as_deref()
            .or(operator_registry.prefix.as_deref());
        let scope = self
            .policy
            .repository_scope(base, namespace)
            .filter(|_| in_operator_registry);
        let own = Secrets::new(client.clone(), namespace);
        let operators = Secrets::new(client.clone(), &self.namespace);
        let secret = spec
            .secret_ref
            .as_ref()
            .map(|name| (&own, name))
            .or(default.secret_ref.as_ref().map(|name| (&operators, name)));
        // Which endpoint has which address is the administrator's word for the operator's own registry. Of any other an
        // object says it, so its credentials are those for the host that receives them.
        let names = match is_own && is_named(&address) {
            true => vec![&address, &host],
            false => vec![&host],
        };
        let with_operators = credentials.is_some() || default.secret_ref.is_some();
        if let Some((secrets, name)) = secret {
            let keychain = secrets.keychain(&name.name).await?;
            let path = spec.repository_prefix.as_deref().unwrap_or_default();
            credentials = names.iter().find_map(|host| keychain.for_pushing(host, path));
            if credentials.is_none() {
                let mut hosts: Vec<&str> = names.iter().map(|host| host.as_str()).collect();
                hosts.dedup();
                return Err(Fault::retryable(
                    Reason::AuthenticationFailed,
                    format!(
                        "the Secret {} has no entry for {}: add one, or correct registry.secretRef",
                        name.name,
                        hosts.join(" or ")
                    ),
                ));
            }
        }
        if spec.cert_secret_ref.is_some() && spec.secret_ref.is_none() && with_operators {
            return Err(Fault::stalled(
                Reason::PolicyDenied,
                "registry.certSecretRef is for registries of your own: the operator's credentials for its registry are protected by what its administrator trusts; remove certSecretRef, or give credentials of your own by registry.secretRef",
            ));
        }
        let certificates = spec
            .cert_secret_ref
            .as_ref()
            .map(|name| (&own, name))
            .or(default.cert_secret_ref.as_ref().map(|name| (&operators, name)));
        let trust = match certificates {
            Some((secrets, name)) => secrets.trust(&name.name).await?,
            None => Trust::default(),
        };
        let trust = trust.with_authorities(self.authorities.as_deref());
        // Only who is reached as the administrator says is surely who the administrator means.
        let is_operators = is_own && spec.cert_secret_ref.is_none() && plain_http == operator_registry.plain_http;
        let endpoint = Endpoint {
            aliases: vec![address.clone()],
            plain_http,
            trust,
            credentials,
            idle,
            restrictions: (!is_operators).then(|| Arc::clone(&self.restrictions)),
            ..Endpoint::new(host).within(self.limits)
        };
        Ok(RegistryTarget {
            address,
            prefix: self.prefix(namespace, spec, in_operator_registry.then_some(&operator_registry)),
            scope,
            endpoint,
            naming,
        })
    }

    /// What a status records of content that an object with `spec` writes to `repository`, a whole path in the registry of
    /// `place`. How the operator's processes reach a registry is their administrator's affair, and may differ and change;
    /// that an object has content sent to a host of its own choice makes it another registry.
    pub fn written_repository(
        &self,
        spec: &RegistrySpec,
        place: &RegistryTarget,
        repository: &str,
    ) -> WrittenRepository {
        let flags = &self.registry;
        let own = spec.address.is_some() && spec.address != flags.address;
        let usual = flags.endpoint.as_ref().filter(|_| !own).unwrap_or(&place.address);
        WrittenRepository {
            address: place.address.clone(),
            endpoint: spec.endpoint.clone().filter(|endpoint| !same_host(endpoint, usual)),
            repository: repository.to_owned(),
        }
    }

    /// How names are made in the registry of `place` by an object that leaves it to the cluster: as the webhook expects
    /// that came with the registry, and plainly in any other. `known` is what it was for the same object before, which
    /// stays: names that pods use do not change by themselves.
    pub async fn naming(
        &self,
        client: &Client,
        place: &RegistryTarget,
        known: Option<Naming>,
    ) -> Result<Naming, Fault> {
        if let Some(naming) = place.naming.or(known) {
            return Ok(naming);
        }
        let state = self.find_state(client).await;
        let state = state.map_err(|fault| fault.within("naming: Auto (any other naming asks for no Secret)"))?;
        let named = state.filter(|state| state.names(place));
        Ok(named.map_or(Naming::Plain, |state| state.naming))
    }

    /// What an object of `namespace` has everything put under that means the operator's own registry, `operator_registry`, or another
    /// one; [`RegistryTarget::prefix`] without asking anybody.
    pub fn prefix(&self, namespace: &str, spec: &RegistrySpec, operator_registry: Option<&OperatorRegistry>) -> String {
        let own = spec.repository_prefix.as_deref();
        let base = self.registry.repository_prefix.as_deref();
        let base = operator_registry.and_then(|operator_registry| base.or(operator_registry.prefix.as_deref()));
        let scope = self
            .policy
            .repository_scope(base, namespace)
            .filter(|_| operator_registry.is_some());
        match scope {
            Some(scope) => scope.prefix(own),
            None => own.or(base).unwrap_or_default().to_owned(),
        }
    }

    /// The endpoint of a source registry that is not the destination, without credentials. `trust` is what the object
    /// says of that host.
    pub fn source_endpoint(&self, host: &str, trust: Trust, idle: Duration) -> Endpoint {
        Endpoint {
            plain_http: self.restrictions.speaks_plain_http(host),
            trust: trust.with_authorities(self.authorities.as_deref()),
            idle,
            restrictions: Some(Arc::clone(&self.restrictions)),
            ..Endpoint::new(host).within(self.limits)
        }
    }

    /// The state of the cluster, if the administrator names one and it is there.
    pub(super) async fn find_state(&self, client: &Client) -> Result<Option<State>, Fault> {
        let Some(named) = &self.state else {
            return Ok(None);
        };
        let secret = Secrets::new(client.clone(), &*named.namespace)
            .find(&named.name)
            .await?;
        Ok(secret.and_then(|secret| State::read(named, &secret)))
    }

    async fn state(&self, client: &Client) -> Result<State, Fault> {
        self.find_state(client).await?.ok_or_else(|| {
            let cluster = match &self.state {
                Some(named) => format!("initialise the cluster with Jackal or Zarf, whose Secret {named} names none"),
                None => "with --state-secret in a cluster that Jackal or Zarf initialised".to_owned(),
            };
            Fault::retryable(
                Reason::InvalidSpec,
                format!(
                    "no registry is named: set spec.registry.address, or have the operator started with --registry-address, or {cluster}"
                ),
            )
        })
    }
}

/// Whether `spec` leads to the registry `address` by another way than `default` does: another endpoint, or
/// without the TLS that keeps credentials from being read on the way.
fn goes_elsewhere(spec: &RegistrySpec, default: &RegistrySpec, address: &str) -> bool {
    let usual = default.endpoint.as_deref().unwrap_or(address);
    let another = spec.endpoint.as_deref().is_some_and(|own| own != usual);
    let bare = spec.insecure == Some(true) && default.insecure != Some(true);
    another || bare
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_host_of_the_objects_own_choice_is_another_registry() {
        let defaults = RegistryDefaults {
            registry: serde_json::from_value(json!({ "address": "r:1", "endpoint": "svc:5" })).unwrap(),
            ..RegistryDefaults::default()
        };
        let written = |spec: serde_json::Value| {
            let spec: RegistrySpec = serde_json::from_value(spec).unwrap();
            let address = spec.address.clone().unwrap_or_else(|| "r:1".to_owned());
            let host = spec.endpoint.clone().unwrap_or_else(|| "svc:5".to_owned());
            let place = RegistryTarget {
                address,
                prefix: String::new(),
                scope: None,
                endpoint: Endpoint::new(host),
                naming: None,
            };
            defaults.written_repository(&spec, &place, "app")
        };
        let usual = written(json!({}));
        assert_eq!(usual.endpoint, None);
        for same in [
            json!({ "address": "r:1" }),
            json!({ "address": "R:1", "endpoint": "R:1" }),
            json!({ "address": "r:1", "endpoint": "svc:5" }),
        ] {
            assert!(written(same.clone()).is(&usual), "{same}");
        }
        for other in [
            json!({ "address": "r:1", "endpoint": "evil" }),
            json!({ "address": "evil" }),
        ] {
            assert!(!written(other.clone()).is(&usual), "{other}");
        }
        let evil = written(json!({ "address": "r:1", "endpoint": "evil" }));
        assert_eq!(evil.apart_from(&usual), "evil/app");
        assert_eq!(usual.apart_from(&evil), "r:1/app");
    }
}

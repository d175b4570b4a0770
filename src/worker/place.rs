//! Which registry an object means, and the clients for it.

use std::time::Duration;

use kube::Client;

use super::policy::{Fence, Policy};
use super::secrets::{Secrets, state_of};
use super::site::Home;
use crate::api::v1alpha1::{RegistrySpec, WrittenRepository};
use crate::fault::{Fault, Reason};
use crate::oci::{Naming, same_host};
use crate::registry::{Credentials, Endpoint, Limits, Trust};

/// What holds for objects that say nothing of the registry.
#[derive(Clone, Debug, Default)]
pub struct Defaults {
    /// From the flags: `address`, `endpoint`, `repositoryPrefix`, `insecure`; `secretRef` and
    /// `certSecretRef` are in the operator's own namespace. `endpoint` without `address` is where the
    /// registry is reached that the cluster's state names.
    pub registry: RegistrySpec,
    /// The operator's own namespace.
    pub namespace: String,
    /// Hosts of source registries that speak plain HTTP.
    pub insecure_sources: Vec<String>,
    /// Authorities that are trusted besides the system's, for every registry and whatever else is asked: a bundle of PEM.
    pub authorities: Option<Vec<u8>>,
    /// How much is asked of one registry.
    pub limits: Limits,
    /// What is allowed to objects.
    pub policy: Policy,
}

/// The registry that an object means.
#[derive(Clone, Debug)]
pub struct Place {
    /// Host and port as pods write it.
    pub address: String,
    /// A path that everything is put under; may be empty. It lies within the fence.
    pub prefix: String,
    /// The part of the registry that the object may use; none where all of it is free, or it is the object's own.
    pub fence: Option<Fence>,
    /// How the operator reaches it, with credentials and trust.
    pub endpoint: Endpoint,
    /// The naming that belongs to the registry, where the cluster's state said which registry it is.
    pub naming: Option<Naming>,
}

impl Place {
    /// That the object may read and write `repository`, a whole path in this registry, by the operator's means;
    /// `what` names its part of the object for people.
    pub fn check(&self, repository: &str, what: &str) -> Result<(), Fault> {
        self.fence
            .as_ref()
            .map_or(Ok(()), |fence| fence.check(repository, what))
    }
}

/// Where state that Jackal or Zarf left in the cluster lies: namespace, Secret, the registry's Service, and the naming that
/// the webhook expects.
const STATES: [(&str, &str, &str, Naming); 2] = [
    (
        "jackal",
        "jackal-state",
        "jackal-docker-registry.jackal.svc.cluster.local:5000",
        Naming::Jackal,
    ),
    (
        "zarf",
        "zarf-state",
        "zarf-docker-registry.zarf.svc.cluster.local:5000",
        Naming::Zarf,
    ),
];

/// What a cluster's state says of its registry.
pub(super) struct State {
    /// What pods call it.
    pub address: String,
    /// Its Service.
    pub service: &'static str,
    /// The credentials for pushing.
    pub credentials: Option<Credentials>,
    /// How the webhook makes the names of images.
    pub naming: Naming,
}

impl State {
    /// Whether it is the registry of `place`.
    fn names(&self, place: &Place) -> bool {
        let names = [self.address.as_str(), self.service];
        let called = [&place.address, &place.endpoint.host];
        called
            .iter()
            .any(|called| names.iter().any(|name| same_host(called, name)))
    }
}

impl Defaults {
    /// The registry that `spec`, an object's of `namespace`, means. Its Secrets are read in that namespace;
    /// those of the defaults in the operator's, and only for the registry that the defaults name, reached as
    /// they say: else an object could have the operator's credentials sent wherever it likes.
    pub async fn place(
        &self,
        client: &Client,
        namespace: &str,
        spec: &RegistrySpec,
        idle: Duration,
    ) -> Result<Place, Fault> {
        let flags = &self.registry;
        let (mut credentials, mut naming) = (None, None);
        let (address, mut default) = match (&spec.address, &flags.address) {
            (Some(own), _) if Some(own) != flags.address.as_ref() => (own.clone(), RegistrySpec::default()),
            (_, Some(default)) => (default.clone(), flags.clone()),
            (_, None) => {
                let state = self.state(client).await?;
                (credentials, naming) = (state.credentials, Some(state.naming));
                (
                    state.address,
                    RegistrySpec {
                        endpoint: Some(flags.endpoint.clone().unwrap_or_else(|| state.service.to_owned())),
                        insecure: Some(true),
                        ..RegistrySpec::default()
                    },
                )
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
        // An object that names no registry means the operator's own.
        let home = match self.policy_asks_for_home() && spec.address.is_some() {
            true => self.home(client).await?,
            false => Home::default(),
        };
        // A registry is the operator's own by whatever of its names an object calls it.
        let at_home = spec.address.is_none()
            || spec.address == flags.address
            || [&address, &host]
                .iter()
                .any(|name| home.names().any(|known| same_host(known, name)));
        if !at_home || spec.endpoint.is_some() && !home.names().any(|known| same_host(known, &host)) {
            let field = if spec.endpoint.is_some() {
                "registry.endpoint"
            } else {
                "registry.address"
            };
            self.policy.admits_host(&host, field)?;
        }
        let fence = self
            .policy
            .fence(flags.repository_prefix.as_deref(), namespace)
            .filter(|_| at_home);
        let own = Secrets::new(client.clone(), namespace);
        let operators = Secrets::new(client.clone(), &self.namespace);
        let secret = spec
            .secret_ref
            .as_ref()
            .map(|name| (&own, name))
            .or(default.secret_ref.as_ref().map(|name| (&operators, name)));
        if let Some((secrets, name)) = secret {
            let keychain = secrets.keychain(&name.name).await?;
            let path = spec.repository_prefix.as_deref().unwrap_or_default();
            let found = keychain.for_pushing(&address, path);
            credentials = found.or_else(|| keychain.for_pushing(&host, path));
            if credentials.is_none() {
                let hosts = if address == host {
                    address
                } else {
                    format!("{address} or {host}")
                };
                return Err(Fault::retryable(
                    Reason::AuthenticationFailed,
                    format!(
                        "the Secret {} has no entry for {hosts}: add one, or correct registry.secretRef",
                        name.name
                    ),
                ));
            }
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
        let endpoint = Endpoint {
            aliases: vec![address.clone()],
            plain_http: spec.insecure.or(default.insecure).unwrap_or(false),
            trust,
            credentials,
            idle,
            ..Endpoint::new(host).within(self.limits)
        };
        Ok(Place {
            address,
            prefix: self.prefix(namespace, spec, at_home),
            fence,
            endpoint,
            naming,
        })
    }

    /// What a status records of content that an object with `spec` writes to `repository`, a whole path in the registry of
    /// `place`. How the operator's processes reach a registry is their administrator's affair, and may differ and change;
    /// that an object has content sent to a host of its own choice makes it another registry.
    pub fn written(&self, spec: &RegistrySpec, place: &Place, repository: &str) -> WrittenRepository {
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
    pub async fn naming(&self, client: &Client, place: &Place, known: Option<Naming>) -> Result<Naming, Fault> {
        if let Some(naming) = place.naming.or(known) {
            return Ok(naming);
        }
        let state = self.find_state(client).await;
        let state = state.map_err(|fault| fault.within("naming: Auto (any other naming asks for no Secret)"))?;
        let named = state.filter(|state| state.names(place));
        Ok(named.map_or(Naming::Plain, |state| state.naming))
    }

    /// What an object of `namespace` has everything put under that means the operator's own registry (`at_home`) or
    /// another one; [`Place::prefix`] without asking anybody.
    pub fn prefix(&self, namespace: &str, spec: &RegistrySpec, at_home: bool) -> String {
        let own = spec.repository_prefix.as_deref();
        let default = self.registry.repository_prefix.as_deref().filter(|_| at_home);
        let fence = self.policy.fence(default, namespace).filter(|_| at_home);
        match fence {
            Some(fence) => fence.prefix(own),
            None => own.or(default).unwrap_or_default().to_owned(),
        }
    }

    /// The endpoint of a source registry that is not the destination, without credentials. `trust` is what the object
    /// says of that host.
    pub fn source(&self, host: &str, trust: Trust, idle: Duration) -> Endpoint {
        let plain_http = self.insecure_sources.iter().any(|insecure| same_host(insecure, host));
        Endpoint {
            plain_http,
            trust: trust.with_authorities(self.authorities.as_deref()),
            idle,
            ..Endpoint::new(host).within(self.limits)
        }
    }

    pub(super) async fn find_state(&self, client: &Client) -> Result<Option<State>, Fault> {
        for (namespace, name, service, naming) in STATES {
            // The chart grants it where registry.stateSecret names it.
            let secret = Secrets::new(client.clone(), namespace).find_readable(name).await?;
            if let Some((address, credentials)) = secret.as_ref().and_then(state_of) {
                return Ok(Some(State {
                    address,
                    service,
                    credentials,
                    naming,
                }));
            }
        }
        Ok(None)
    }

    async fn state(&self, client: &Client) -> Result<State, Fault> {
        self.find_state(client).await?.ok_or_else(|| {
            Fault::retryable(
                Reason::InvalidSpec,
                "no registry is named: set spec.registry.address, or start the operator with --registry-address, or initialise the cluster with Jackal or Zarf",
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
        let defaults = Defaults {
            registry: serde_json::from_value(json!({ "address": "r:1", "endpoint": "svc:5" })).unwrap(),
            ..Defaults::default()
        };
        let written = |spec: serde_json::Value| {
            let spec: RegistrySpec = serde_json::from_value(spec).unwrap();
            let address = spec.address.clone().unwrap_or_else(|| "r:1".to_owned());
            let host = spec.endpoint.clone().unwrap_or_else(|| "svc:5".to_owned());
            let place = Place {
                address,
                prefix: String::new(),
                fence: None,
                endpoint: Endpoint::new(host),
                naming: None,
            };
            defaults.written(&spec, &place, "app")
        };
        let home = written(json!({}));
        assert_eq!(home.endpoint, None);
        for same in [
            json!({ "address": "r:1" }),
            json!({ "address": "R:1", "endpoint": "R:1" }),
            json!({ "address": "r:1", "endpoint": "svc:5" }),
        ] {
            assert!(written(same.clone()).is(&home), "{same}");
        }
        for other in [
            json!({ "address": "r:1", "endpoint": "evil" }),
            json!({ "address": "evil" }),
        ] {
            assert!(!written(other.clone()).is(&home), "{other}");
        }
        let evil = written(json!({ "address": "r:1", "endpoint": "evil" }));
        assert_eq!(evil.apart_from(&home), "evil/app");
        assert_eq!(home.apart_from(&evil), "r:1/app");
    }
}

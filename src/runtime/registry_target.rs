//! The registry that an object writes to, and how the operator reaches it.

use std::sync::Arc;
use std::time::Duration;

use kube::Client;

use super::policy::RepositoryScope;
use super::registry_defaults::{OperatorRegistry, RegistryDefaults};
use super::registry_state::State;
use super::secrets::Secrets;
use crate::api::v1alpha1::{LocalReference, RegistrySpec, WrittenRepository};
use crate::fault::{Fault, Reason};
use crate::oci::{Naming, same_host};
use crate::registry::{Credentials, Endpoint, Trust};

/// The registry that an object writes to.
#[derive(Clone, Debug)]
pub struct RegistryTarget {
    /// Host and port as pods write it.
    pub address: String,
    /// The path prefix of everything that is written; may be empty. It is within the scope.
    pub prefix: String,
    /// The repositories that the object may use; none if it may use all of them.
    pub scope: Option<RepositoryScope>,
    /// How the operator reaches it, with credentials and trust.
    pub endpoint: Endpoint,
    /// The naming of the registry, if the cluster's state named the registry.
    pub naming: Option<Naming>,
}

impl RegistryTarget {
    /// Checks that the object may read and write `repository`, a full path in this registry. `what` names the object's field
    /// in the message.
    pub fn check(&self, repository: &str, what: &str) -> Result<(), Fault> {
        self.scope
            .as_ref()
            .map_or(Ok(()), |scope| scope.check(repository, what))
    }
}

impl State {
    /// Whether it describes the registry of `target`.
    fn names(&self, target: &RegistryTarget) -> bool {
        let names = [&self.address, &self.endpoint];
        let called = [&target.address, &target.endpoint.host];
        called
            .iter()
            .any(|called| names.iter().any(|name| same_host(called, name)))
    }
}

impl RegistryDefaults {
    /// The registry that `spec`, of an object in `namespace`, names. Its Secrets are read in that namespace. The Secrets of
    /// the defaults are read in the operator's namespace, and only for the registry and the endpoint that the defaults
    /// name: otherwise an object could have the operator's credentials sent to any host.
    pub async fn target(
        &self,
        client: &Client,
        namespace: &str,
        spec: &RegistrySpec,
        idle: Duration,
    ) -> Result<RegistryTarget, Fault> {
        let NamedRegistry {
            address,
            mut defaults,
            operator_registry,
            mut credentials,
            naming,
        } = self.named_registry(client, spec).await?;
        if leaves_defaults(spec, &defaults, &address) {
            (defaults.secret_ref, defaults.cert_secret_ref, credentials) = (None, None, None);
        }
        let host = spec
            .endpoint
            .clone()
            .or(defaults.endpoint.clone())
            .unwrap_or_else(|| address.clone());
        // Every name of the operator's registry means that registry, whichever of them an object uses.
        let is_named = |name: &str| operator_registry.names().any(|known| same_host(known, name));
        let in_operator_registry = spec.address.is_none()
            || spec.address == self.registry.address
            || self.policy_needs_operator_registry() && (is_named(&address) || is_named(&host));
        let is_own = operator_registry
            .effective_endpoint()
            .is_some_and(|usual| same_host(usual, &host));
        if !is_own && (!in_operator_registry || spec.endpoint.is_some() && !is_named(&host)) {
            let field = match spec.endpoint {
                Some(_) => "registry.endpoint",
                None => "registry.address",
            };
            self.policy.check_host(&host, field)?;
        }
        let plain_http = spec.insecure.or(defaults.insecure).unwrap_or(false);
        if plain_http && !(is_own && operator_registry.plain_http) {
            self.check_plain_http(&host)?;
        }
        // The administrator configures which address and endpoint belong to the operator's registry. Of any other registry
        // the object says so, so only credentials for the host that receives them are used.
        let names = match is_own && is_named(&address) {
            true => vec![&address, &host],
            false => vec![&host],
        };
        let secrets = SecretReaders {
            object: Secrets::new(client.clone(), namespace),
            operator: Secrets::new(client.clone(), &self.namespace),
        };
        let has_operator_credentials = credentials.is_some() || defaults.secret_ref.is_some();
        if let Some(read) = secrets.credentials(spec, &defaults, &names).await? {
            credentials = Some(read);
        }
        check_certificates(spec, has_operator_credentials)?;
        let trust = secrets.trust(spec, &defaults).await?;
        // Restrictions are lifted only for the registry reached exactly as the administrator configured it.
        let is_as_configured = is_own && spec.cert_secret_ref.is_none() && plain_http == operator_registry.plain_http;
        let endpoint = Endpoint {
            aliases: vec![address.clone()],
            plain_http,
            trust: trust.with_authorities(self.authorities.as_deref()),
            credentials,
            idle,
            restrictions: (!is_as_configured).then(|| Arc::clone(&self.restrictions)),
            ..Endpoint::new(host).with_limits(self.limits)
        };
        let base = self.base_prefix(&operator_registry);
        Ok(RegistryTarget {
            address,
            prefix: self.prefix(namespace, spec, in_operator_registry.then_some(&operator_registry)),
            scope: self
                .policy
                .repository_scope(base, namespace)
                .filter(|_| in_operator_registry),
            endpoint,
            naming,
        })
    }

    /// The registry that `spec` names: its own address, the address of the flags, or that of the cluster's state.
    async fn named_registry(&self, client: &Client, spec: &RegistrySpec) -> Result<NamedRegistry, Fault> {
        let flags = &self.registry;
        match (&spec.address, &flags.address) {
            (Some(own), _) if Some(own) != flags.address.as_ref() => {
                let operator_registry = match self.operator_registry_without_naming(client).await {
                    Err(fault) if self.policy_needs_operator_registry() => return Err(fault),
                    found => found.unwrap_or_default(),
                };
                Ok(NamedRegistry {
                    address: own.clone(),
                    defaults: RegistrySpec::default(),
                    operator_registry,
                    credentials: None,
                    naming: None,
                })
            }
            (_, Some(address)) => Ok(NamedRegistry {
                address: address.clone(),
                defaults: flags.clone(),
                operator_registry: self.operator_registry_from(None),
                credentials: None,
                naming: None,
            }),
            (_, None) => {
                let state = self.state(client).await?;
                let operator_registry = self.operator_registry_from(Some(&state));
                Ok(NamedRegistry {
                    address: state.address,
                    defaults: RegistrySpec {
                        endpoint: operator_registry.endpoint.clone(),
                        insecure: Some(operator_registry.plain_http),
                        ..RegistrySpec::default()
                    },
                    operator_registry,
                    credentials: state.credentials,
                    naming: Some(state.naming),
                })
            }
        }
    }

    fn check_plain_http(&self, host: &str) -> Result<(), Fault> {
        if self.restrictions.allows_plain_http(host) {
            return Ok(());
        }
        Err(Fault::stalled(
            Reason::PolicyDenied,
            format!(
                "registry.insecure requests plain HTTP for {host}: enable HTTPS on that registry and remove insecure, or ask the administrator to add the host to --insecure-registry"
            ),
        ))
    }

    /// What the status of an object with `spec` records of `repository`, a full path in the registry of `target`. The endpoint
    /// that the administrator configures is not recorded, because it may change and differ between processes. An endpoint
    /// that the object names makes it another registry.
    pub fn written_repository(
        &self,
        spec: &RegistrySpec,
        target: &RegistryTarget,
        repository: &str,
    ) -> WrittenRepository {
        let flags = &self.registry;
        let own = spec.address.is_some() && spec.address != flags.address;
        let usual = flags.endpoint.as_ref().filter(|_| !own).unwrap_or(&target.address);
        WrittenRepository {
            address: target.address.clone(),
            endpoint: spec.endpoint.clone().filter(|endpoint| !same_host(endpoint, usual)),
            repository: repository.to_owned(),
        }
    }

    /// The naming of an object with `naming: Auto`: that of the webhook that belongs to the registry of `target`, else plain
    /// names. `known` is the naming of the same object so far; it is kept, because pods use the names.
    pub async fn naming(
        &self,
        client: &Client,
        target: &RegistryTarget,
        known: Option<Naming>,
    ) -> Result<Naming, Fault> {
        if let Some(naming) = target.naming.or(known) {
            return Ok(naming);
        }
        let state = self.find_state(client).await;
        let state = state.map_err(|fault| fault.with_context("naming: Auto (any other naming needs no Secret)"))?;
        let named = state.filter(|state| state.names(target));
        Ok(named.map_or(Naming::Plain, |state| state.naming))
    }
}

/// The registry that a spec names.
struct NamedRegistry {
    address: String,
    /// The fields that apply if the spec does not set them.
    defaults: RegistrySpec,
    operator_registry: OperatorRegistry,
    /// The credentials in the cluster's state.
    credentials: Option<Credentials>,
    naming: Option<Naming>,
}

/// The Secrets of the object's and of the operator's namespace.
struct SecretReaders {
    object: Secrets,
    operator: Secrets,
}

impl SecretReaders {
    /// The Secret that the object names, else the one of the defaults.
    fn choose<'a>(
        &'a self,
        own: Option<&'a LocalReference>,
        default: Option<&'a LocalReference>,
    ) -> Option<(&'a Secrets, &'a str)> {
        own.map(|own| (&self.object, &*own.name))
            .or(default.map(|default| (&self.operator, &*default.name)))
    }

    /// The credentials for the first of `hosts` that the Secret has an entry for; none if no Secret is named.
    async fn credentials(
        &self,
        spec: &RegistrySpec,
        defaults: &RegistrySpec,
        hosts: &[&String],
    ) -> Result<Option<Credentials>, Fault> {
        let Some((secrets, name)) = self.choose(spec.secret_ref.as_ref(), defaults.secret_ref.as_ref()) else {
            return Ok(None);
        };
        let keychain = secrets.keychain(name).await?;
        let path = spec.repository_prefix.as_deref().unwrap_or_default();
        if let Some(found) = hosts.iter().find_map(|host| keychain.for_pushing(host, path)) {
            return Ok(Some(found));
        }
        let mut hosts: Vec<&str> = hosts.iter().map(|host| host.as_str()).collect();
        hosts.dedup();
        Err(Fault::retryable(
            Reason::AuthenticationFailed,
            format!(
                "the Secret {name} has no entry for {}: add one, or correct registry.secretRef",
                hosts.join(" or ")
            ),
        ))
    }

    async fn trust(&self, spec: &RegistrySpec, defaults: &RegistrySpec) -> Result<Trust, Fault> {
        match self.choose(spec.cert_secret_ref.as_ref(), defaults.cert_secret_ref.as_ref()) {
            Some((secrets, name)) => secrets.trust(name).await,
            None => Ok(Trust::default()),
        }
    }
}

/// Refuses certificates of the object for a registry that gets the operator's credentials.
fn check_certificates(spec: &RegistrySpec, has_operator_credentials: bool) -> Result<(), Fault> {
    match spec.cert_secret_ref.is_some() && spec.secret_ref.is_none() && has_operator_credentials {
        false => Ok(()),
        true => Err(Fault::stalled(
            Reason::PolicyDenied,
            "registry.certSecretRef applies only to registries with credentials of your own; the operator's credentials are sent only to a registry that its administrator trusts: remove certSecretRef, or set registry.secretRef",
        )),
    }
}

/// Whether `spec` reaches the registry `address` otherwise than `defaults` do: at another endpoint, or without TLS, which
/// protects the credentials.
fn leaves_defaults(spec: &RegistrySpec, defaults: &RegistrySpec, address: &str) -> bool {
    let usual = defaults.endpoint.as_deref().unwrap_or(address);
    let is_elsewhere = spec.endpoint.as_deref().is_some_and(|own| own != usual);
    let drops_tls = spec.insecure == Some(true) && defaults.insecure != Some(true);
    is_elsewhere || drops_tls
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn an_endpoint_that_the_object_names_is_another_registry() {
        let defaults = RegistryDefaults {
            registry: serde_json::from_value(json!({ "address": "r:1", "endpoint": "svc:5" })).unwrap(),
            ..RegistryDefaults::default()
        };
        let written = |spec: serde_json::Value| {
            let spec: RegistrySpec = serde_json::from_value(spec).unwrap();
            let address = spec.address.clone().unwrap_or_else(|| "r:1".to_owned());
            let host = spec.endpoint.clone().unwrap_or_else(|| "svc:5".to_owned());
            let target = RegistryTarget {
                address,
                prefix: String::new(),
                scope: None,
                endpoint: Endpoint::new(host),
                naming: None,
            };
            defaults.written_repository(&spec, &target, "app")
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

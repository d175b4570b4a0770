//! What an object may read: which hosts the policy allows it, and the credentials and certificates that it names.

use std::collections::BTreeMap;
use std::sync::Arc;

use async_trait::async_trait;
use kube::{Client, ResourceExt as _};
use tokio::sync::OnceCell;

use crate::api::v1alpha1::{JackalImage, JackalPackage, LocalReference, SourceRegistrySpec};
use crate::fault::{Fault, Reason};
use crate::fetch::ContentAccess;
use crate::oci::{Reference, same_host};
use crate::registry::{Kind, Registry, Trust};
use crate::runtime::{PullCredentials, Registries, RegistryTarget, Secrets, Settings, read_config_map};

/// The most Secrets without credentials that a message names.
const NAMED_SECRETS: usize = 3;

/// The clients of this process, which all objects share.
#[derive(Clone, Copy)]
pub(super) struct AccessClients<'a> {
    client: &'a Client,
    settings: &'a Settings,
    registries: &'a Arc<Registries>,
}

impl<'a> AccessClients<'a> {
    pub fn of(client: &'a Client, settings: &'a Settings, registries: &'a Arc<Registries>) -> Self {
        Self {
            client,
            settings,
            registries,
        }
    }
}

/// What one object may read, and how.
pub(super) struct ObjectAccess<'a> {
    clients: AccessClients<'a>,
    /// The registry that the object is written to.
    target: &'a RegistryTarget,
    namespace: String,
    pull_secrets: &'a [LocalReference],
    service_account: Option<&'a str>,
    /// The certificates of single source registries.
    sources: &'a [SourceRegistrySpec],
    idle: std::time::Duration,
    /// The credentials of the pull secrets, once they were read.
    credentials: OnceCell<PullCredentials>,
}

impl<'a> ObjectAccess<'a> {
    /// That of a package.
    pub fn of_package(clients: AccessClients<'a>, package: &'a JackalPackage, target: &'a RegistryTarget) -> Self {
        Self {
            clients,
            target,
            namespace: package.namespace().unwrap_or_default(),
            pull_secrets: &package.spec.image_pull_secrets,
            service_account: package.spec.service_account_name.as_deref(),
            sources: &package.spec.source_registries,
            idle: clients.settings.idle(package.spec.stall_timeout),
            credentials: OnceCell::new(),
        }
    }

    /// That of an image.
    pub fn of_image(clients: AccessClients<'a>, image: &'a JackalImage, target: &'a RegistryTarget) -> Self {
        Self {
            clients,
            target,
            namespace: image.namespace().unwrap_or_default(),
            pull_secrets: &image.spec.image_pull_secrets,
            service_account: image.spec.service_account_name.as_deref(),
            sources: &image.spec.source_registries,
            idle: clients.settings.idle(image.spec.stall_timeout),
            credentials: OnceCell::new(),
        }
    }

    /// The client of the registry that holds `reference`. `what` names the part of the object in messages.
    pub async fn registry(&self, reference: &Reference, what: &str) -> Result<Registry, Fault> {
        let (host, target) = (reference.registry(), self.target);
        let AccessClients {
            settings, registries, ..
        } = self.clients;
        if host == target.address || host == target.endpoint.host {
            // The target registry is read with the operator's own credentials, so only what the object may use.
            target.check(reference.repository(), what)?;
            return registries.open(&target.endpoint);
        }
        settings.defaults.policy.check_host(host, what)?;
        let secrets = self.secrets();
        let read = async || secrets.pull_credentials(self.pull_secrets, self.service_account).await;
        let credentials = self.credentials.get_or_try_init(read).await?;
        let candidates = credentials.keychain.candidates(host, reference.repository());
        let endpoint = settings
            .defaults
            .source_endpoint(host, self.trust(host).await?, self.idle);
        let registry = registries.open_accepted(&endpoint, candidates, reference).await?;
        match credentials.missing.is_empty() {
            true => Ok(registry),
            false => check_without_secrets(&credentials.missing, registry, reference).await,
        }
    }

    /// The certificates that the object names for `host`.
    async fn trust(&self, host: &str) -> Result<Trust, Fault> {
        match self.sources.iter().find(|source| same_host(&source.host, host)) {
            Some(source) => self.secrets().trust(&source.cert_secret_ref.name).await,
            None => Ok(Trust::default()),
        }
    }

    fn secrets(&self) -> Secrets {
        Secrets::new(self.clients.client.clone(), &self.namespace)
    }
}

/// `registry`, unless it refuses to read `reference`. `missing` says which Secrets hold no credentials: they are a likely
/// cause, so the fault names them.
async fn check_without_secrets(
    missing: &[String],
    registry: Registry,
    reference: &Reference,
) -> Result<Registry, Fault> {
    let repository = registry.repository(reference.repository());
    match repository.head_manifest(reference.identifier()).await {
        Err(error) if matches!(error.kind(), Kind::Unauthorized | Kind::Denied) => {
            let fault = error.into_read_fault(&reference.to_string());
            let missing = missing
                .iter()
                .take(NAMED_SECRETS)
                .map(String::as_str)
                .collect::<Vec<_>>();
            let message = format!("{}; {}", missing.join("; "), fault.message);
            Err(Fault::retryable(Reason::SecretUnavailable, message))
        }
        // Any other failure is reported by the read that follows.
        _ => Ok(registry),
    }
}

#[async_trait]
impl ContentAccess for ObjectAccess<'_> {
    async fn registry(&self, reference: &Reference, what: &str) -> Result<Registry, Fault> {
        ObjectAccess::registry(self, reference, what).await
    }

    async fn host(&self, host: &str, what: &str) -> Result<Registry, Fault> {
        let AccessClients {
            settings, registries, ..
        } = self.clients;
        settings.defaults.policy.check_host(host, what)?;
        let trust = self.trust(host).await?;
        registries.open(&settings.defaults.source_endpoint(host, trust, self.idle))
    }

    async fn config_map(&self, name: &str) -> Result<BTreeMap<String, String>, Fault> {
        read_config_map(self.clients.client, &self.namespace, name).await
    }
}

//! Whom an object may have asked, and by which credentials.

use std::collections::BTreeMap;
use std::sync::Arc;

use async_trait::async_trait;
use kube::{Client, ResourceExt as _};
use tokio::sync::OnceCell;

use super::packages::Packages;
use crate::api::v1alpha1::{JackalImage, JackalPackage, LocalReference, SourceRegistrySpec};
use crate::fault::{Fault, Reason};
use crate::fetch::ContentAccess;
use crate::oci::{Reference, same_host};
use crate::registry::{Kind, Registry, Trust};
use crate::runtime::{PullCredentials, Registries, RegistryTarget, Secrets, Settings, read_config_map};

/// The Secrets without credentials that a message names.
const LACKING: usize = 3;

/// What decides how registries are reached for one object.
pub(super) struct ObjectAccess<'a> {
    pub client: &'a Client,
    pub settings: &'a Settings,
    pub registries: &'a Arc<Registries>,
    /// The registry that the object means.
    pub place: &'a RegistryTarget,
    pub namespace: String,
    pub pull_secrets: &'a [LocalReference],
    pub account: Option<&'a str>,
    /// How single sources are reached.
    pub sources: &'a [SourceRegistrySpec],
    pub idle: std::time::Duration,
    /// The credentials of the pull secrets, once they were read.
    pub credentials: OnceCell<PullCredentials>,
}

impl<'a> ObjectAccess<'a> {
    /// Of a package.
    pub fn by_package(packages: &'a Packages, package: &'a JackalPackage, place: &'a RegistryTarget) -> Self {
        Self {
            client: &packages.client,
            settings: &packages.settings,
            registries: &packages.registries,
            place,
            namespace: package.namespace().unwrap_or_default(),
            pull_secrets: &package.spec.image_pull_secrets,
            account: package.spec.service_account_name.as_deref(),
            sources: &package.spec.source_registries,
            idle: packages.settings.idle(package.spec.stall_timeout),
            credentials: OnceCell::new(),
        }
    }

    /// Of an image of its own.
    pub fn by_image(
        (client, settings, registries): (&'a Client, &'a Settings, &'a Arc<Registries>),
        image: &'a JackalImage,
        place: &'a RegistryTarget,
    ) -> Self {
        Self {
            client,
            settings,
            registries,
            place,
            namespace: image.namespace().unwrap_or_default(),
            pull_secrets: &image.spec.image_pull_secrets,
            account: image.spec.service_account_name.as_deref(),
            sources: &image.spec.source_registries,
            idle: settings.idle(image.spec.stall_timeout),
            credentials: OnceCell::new(),
        }
    }

    /// The client for the registry that holds `reference`; `what` names the part of the object for people.
    pub async fn registry(&self, reference: &Reference, what: &str) -> Result<Registry, Fault> {
        let (host, place) = (reference.registry(), self.place);
        // What lies in the destination already is reached as the destination is.
        if host == place.address || host == place.endpoint.host {
            // By the operator's credentials, so only what the object may use.
            place.check(reference.repository(), what)?;
            return self.registries.open(&place.endpoint);
        }
        self.settings.defaults.policy.check_host(host, what)?;
        let secrets = self.secrets();
        let read = async || secrets.pull_credentials(self.pull_secrets, self.account).await;
        let credentials = self.credentials.get_or_try_init(read).await?;
        let candidates = credentials.keychain.candidates(host, reference.repository());
        let endpoint = self
            .settings
            .defaults
            .source_endpoint(host, self.trust(host).await?, self.idle);
        let registry = self.registries.open_accepted(&endpoint, candidates, reference).await?;
        match credentials.missing.is_empty() {
            true => Ok(registry),
            false => without(&credentials.missing, registry, reference).await,
        }
    }

    /// What the object says of the certificates of `host`, and of that host alone.
    async fn trust(&self, host: &str) -> Result<Trust, Fault> {
        match self.sources.iter().find(|source| same_host(&source.host, host)) {
            Some(source) => self.secrets().trust(&source.cert_secret_ref.name).await,
            None => Ok(Trust::default()),
        }
    }

    fn secrets(&self) -> Secrets {
        Secrets::new(self.client.clone(), &self.namespace)
    }
}

/// `registry`, unless it refuses what some Secrets, which hold no credentials (`missing`), may have been named for.
async fn without(missing: &[String], registry: Registry, reference: &Reference) -> Result<Registry, Fault> {
    let repository = registry.repository(reference.repository());
    match repository.head_manifest(reference.identifier()).await {
        Err(error) if matches!(error.kind(), Kind::Unauthorized | Kind::Denied) => {
            let fault = error.into_read_fault(&reference.to_string());
            let missing = missing.iter().take(LACKING).map(String::as_str).collect::<Vec<_>>();
            let message = format!("{}; {}", missing.join("; "), fault.message);
            Err(Fault::retryable(Reason::SecretUnavailable, message))
        }
        // Whoever reads next meets any other failure too.
        _ => Ok(registry),
    }
}

#[async_trait]
impl ContentAccess for ObjectAccess<'_> {
    async fn registry(&self, reference: &Reference, what: &str) -> Result<Registry, Fault> {
        ObjectAccess::registry(self, reference, what).await
    }

    async fn host(&self, host: &str, what: &str) -> Result<Registry, Fault> {
        let defaults = &self.settings.defaults;
        defaults.policy.check_host(host, what)?;
        let trust = self.trust(host).await?;
        self.registries.open(&defaults.source_endpoint(host, trust, self.idle))
    }

    async fn config_map(&self, name: &str) -> Result<BTreeMap<String, String>, Fault> {
        read_config_map(self.client, &self.namespace, name).await
    }
}

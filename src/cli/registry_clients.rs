//! The registry clients of a command, with the user's credentials and trust.

use std::time::Duration;

use super::UsageError;
use super::authorities::AuthorityFlags;
use super::credentials::CredentialFiles;
use super::limits::LimitFlags;
use crate::fault::Fault;
use crate::oci::{Reference, same_host};
use crate::registry::{Endpoint, Limits, Registry, Trust};
use crate::runtime::Registries;

/// The registry clients of one run.
pub(super) struct RegistryClients {
    trust: Trust,
    /// Additional trust for single hosts.
    trust_of_hosts: Vec<(String, Trust)>,
    limits: Limits,
    idle: Duration,
    credentials: CredentialFiles,
    registries: Registries,
}

impl RegistryClients {
    /// Creates the clients. `idle` is the timeout of a registry without progress, and of credential helpers.
    pub async fn new(authorities: &AuthorityFlags, limits: &LimitFlags, idle: Duration) -> Result<Self, UsageError> {
        Ok(Self {
            trust: Trust {
                authorities: authorities.read().await?,
                ..Trust::default()
            },
            trust_of_hosts: Vec::new(),
            limits: limits.limits(),
            idle,
            credentials: CredentialFiles::of_environment(idle),
            registries: Registries::default(),
        })
    }

    /// Adds trust for `host`.
    pub fn trusting(mut self, host: &str, trust: Trust) -> Self {
        self.trust_of_hosts.push((host.to_owned(), trust));
        self
    }

    /// How long a registry or an engine may make no progress.
    pub fn idle(&self) -> Duration {
        self.idle
    }

    /// The client for `host`, without credentials.
    pub fn anonymous(&self, host: &str, plain_http: bool) -> Result<Registry, Fault> {
        self.registries.open(&self.endpoint(host, plain_http))
    }

    /// The client for the registry of `reference`, with the first credentials that it accepts.
    pub async fn source(&self, reference: &Reference, plain_http: bool) -> anyhow::Result<Registry> {
        let host = reference.registry();
        let candidates = self.credentials.candidates(host, reference.repository()).await?;
        let endpoint = self.endpoint(host, plain_http);
        Ok(self.registries.open_accepted(&endpoint, candidates, reference).await?)
    }

    /// The client for pushing to `host` under the path `prefix`.
    pub async fn destination(&self, host: &str, prefix: &str, plain_http: bool) -> anyhow::Result<Registry> {
        let endpoint = Endpoint {
            credentials: self.credentials.for_pushing(host, prefix).await?,
            ..self.endpoint(host, plain_http)
        };
        Ok(self.registries.open(&endpoint)?)
    }

    fn trust_of(&self, host: &str) -> Trust {
        let mut known = self.trust_of_hosts.iter();
        match known.find(|(known, _)| same_host(known, host)) {
            Some((_, trust)) => trust.clone().with_authorities(self.trust.authorities.as_deref()),
            None => self.trust.clone(),
        }
    }

    fn endpoint(&self, host: &str, plain_http: bool) -> Endpoint {
        Endpoint {
            plain_http,
            trust: self.trust_of(host),
            idle: self.idle,
            ..Endpoint::new(host).with_limits(self.limits)
        }
    }
}

//! How a command reaches registries: with the credentials of whoever runs it, and what it trusts.

use std::time::Duration;

use super::UsageError;
use super::authorities::AuthorityFlags;
use super::credentials::CredentialFiles;
use super::limits::LimitFlags;
use crate::fault::Fault;
use crate::oci::{Reference, same_host};
use crate::registry::{Endpoint, Limits, Registry, Trust};
use crate::runtime::Registries;

/// The clients of one run, each for all that is asked of a registry in one way.
pub(super) struct RegistryClients {
    trust: Trust,
    /// What is trusted for single hosts besides.
    trust_of_hosts: Vec<(String, Trust)>,
    limits: Limits,
    idle: Duration,
    credentials: CredentialFiles,
    registries: Registries,
}

impl RegistryClients {
    /// As the flags say. `idle` is how long a registry may not move, or a credential helper not answer.
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

    /// The same, which trusts `trust` besides for `host`.
    pub fn trusting(mut self, host: &str, trust: Trust) -> Self {
        self.trust_of_hosts.push((host.to_owned(), trust));
        self
    }

    /// How long a registry or an engine may not move.
    pub fn idle(&self) -> Duration {
        self.idle
    }

    /// The client for `host`, without credentials.
    pub fn anonymous(&self, host: &str, plain_http: bool) -> Result<Registry, Fault> {
        self.registries.open(&self.endpoint(host, plain_http))
    }

    /// The client for what holds `reference`, by the first of its credentials that are accepted.
    pub async fn source(&self, reference: &Reference, plain_http: bool) -> anyhow::Result<Registry> {
        let host = reference.registry();
        let candidates = self.credentials.candidates(host, reference.repository()).await?;
        let endpoint = self.endpoint(host, plain_http);
        Ok(self.registries.open_accepted(&endpoint, candidates, reference).await?)
    }

    /// The client for `host`, to push below the path `prefix`.
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

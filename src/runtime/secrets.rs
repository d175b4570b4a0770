//! Secrets and ServiceAccounts that objects name, read when they are needed and never kept.

use std::collections::HashSet;

use k8s_openapi::api::core::v1::{Secret, ServiceAccount};
use kube::{Api, Client};

use super::status::{kube_fault, with_timeout};
use crate::api::v1alpha1::LocalReference;
use crate::fault::{Fault, Reason};
use crate::registry::{Keychain, Trust};

/// What several Secrets hold for reading images.
#[derive(Clone, Debug, Default)]
pub struct PullCredentials {
    /// The credentials.
    pub keychain: Keychain,
    /// Which Secrets hold none, and what to do about each.
    pub missing: Vec<String>,
}

/// Reads Secrets of one namespace.
#[derive(Clone)]
pub struct Secrets {
    client: Client,
    namespace: String,
}

impl Secrets {
    /// Reads in `namespace` only.
    pub fn new(client: Client, namespace: impl Into<String>) -> Self {
        Self {
            client,
            namespace: namespace.into(),
        }
    }

    /// The Secret, or why it cannot be had. A missing one may appear, so it is tried again.
    pub async fn get(&self, name: &str) -> Result<Secret, Fault> {
        let found = self.find(name).await?;
        found.ok_or_else(|| Fault::retryable(Reason::SecretUnavailable, self.missing(name)))
    }

    /// The Secret, if there is one.
    pub async fn find(&self, name: &str) -> Result<Option<Secret>, Fault> {
        let api: Api<Secret> = Api::namespaced(self.client.clone(), &self.namespace);
        let read = with_timeout(api.get_opt(name)).await;
        read.map_err(|error| {
            let what = format!("reading the Secret {}/{name}", self.namespace);
            let fault = kube_fault(Reason::SecretUnavailable, &what, &error);
            match &error {
                // Nodes are trusted with the least, so this is where rights end first.
                kube::Error::Api(status) if status.code == 403 => Fault {
                    message: format!(
                        "{}. Agents may read Secrets in the namespaces that agent.secretNamespaces of the chart lists: have {} added there",
                        fault.message, self.namespace
                    ),
                    ..fault
                },
                _ => fault,
            }
        })
    }

    /// One entry of a Secret.
    pub async fn entry(&self, name: &str, key: &str) -> Result<Vec<u8>, Fault> {
        let secret = self.get(name).await?;
        entry(&secret, key).map(<[u8]>::to_vec).ok_or_else(|| {
            let what = format!(
                "the Secret {}/{name} has no entry {key}: add it, or name another by `key`",
                self.namespace
            );
            Fault::retryable(Reason::SecretUnavailable, what)
        })
    }

    /// What a Secret of type `kubernetes.io/dockerconfigjson` holds, or one of the older type `kubernetes.io/dockercfg`.
    pub async fn keychain(&self, name: &str) -> Result<Keychain, Fault> {
        let found = self.find_keychain(name).await?;
        found.map_err(|missing| Fault::retryable(Reason::SecretUnavailable, missing))
    }

    /// The same, or why there is nothing to read in a Secret: it does not exist, or holds no credentials.
    async fn find_keychain(&self, name: &str) -> Result<Result<Keychain, String>, Fault> {
        let Some(secret) = self.find(name).await? else {
            return Ok(Err(self.missing(name)));
        };
        let read = match (entry(&secret, ".dockerconfigjson"), entry(&secret, ".dockercfg")) {
            (Some(config), _) => Keychain::parse(config),
            (None, Some(legacy)) => Keychain::parse_legacy(legacy),
            (None, None) => {
                return Ok(Err(format!(
                    "the Secret {}/{name} has no entry .dockerconfigjson: make it by `kubectl create secret docker-registry`",
                    self.namespace
                )));
            }
        };
        read.map(Ok).map_err(|reason| {
            let what = format!("the Secret {}/{name} is unusable: {reason}", self.namespace);
            Fault::retryable(Reason::SecretUnavailable, what)
        })
    }

    /// The credentials of several Secrets and of the imagePullSecrets of a ServiceAccount, each Secret read once. A Secret
    /// that does not exist, or holds no credentials, is passed over, as by the kubelet: the registry may not ask for them.
    pub async fn pull_credentials(
        &self,
        names: &[LocalReference],
        account: Option<&str>,
    ) -> Result<PullCredentials, Fault> {
        let mut all: Vec<String> = names.iter().map(|name| name.name.clone()).collect();
        if let Some(account) = account {
            all.extend(self.pull_secrets(account).await?);
        }
        let mut found = PullCredentials::default();
        let mut seen = HashSet::new();
        for name in all.iter().filter(|name| !name.is_empty() && seen.insert(*name)) {
            match self.find_keychain(name).await? {
                Ok(keychain) => found.keychain.extend(keychain),
                Err(missing) => {
                    tracing::warn!(missing, "images are read without the credentials of a Secret");
                    found.missing.push(missing);
                }
            }
        }
        Ok(found)
    }

    fn missing(&self, name: &str) -> String {
        format!(
            "the Secret {}/{name} does not exist: create it, or remove the reference",
            self.namespace
        )
    }

    /// `ca.crt`, and `tls.crt` with `tls.key`.
    pub async fn trust(&self, name: &str) -> Result<Trust, Fault> {
        let secret = self.get(name).await?;
        Trust::of_secret(|key| entry(&secret, key)).map_err(|reason| {
            Fault::retryable(
                Reason::SecretUnavailable,
                format!("the Secret {}/{name} {reason}", self.namespace),
            )
        })
    }

    async fn pull_secrets(&self, account: &str) -> Result<Vec<String>, Fault> {
        let api: Api<ServiceAccount> = Api::namespaced(self.client.clone(), &self.namespace);
        let what = format!("reading the ServiceAccount {}/{account}", self.namespace);
        let found = with_timeout(api.get_opt(account))
            .await
            .map_err(|e| kube_fault(Reason::SecretUnavailable, &what, &e))?;
        let found = found.ok_or_else(|| {
            let what = format!(
                "the ServiceAccount {}/{account} does not exist: create it, or remove serviceAccountName",
                self.namespace
            );
            Fault::retryable(Reason::SecretUnavailable, what)
        })?;
        Ok(found
            .image_pull_secrets
            .unwrap_or_default()
            .into_iter()
            .map(|secret| secret.name)
            .collect())
    }
}

/// An entry of a Secret's data.
pub(super) fn entry<'a>(secret: &'a Secret, key: &str) -> Option<&'a [u8]> {
    secret.data.as_ref()?.get(key).map(|bytes| bytes.0.as_slice())
}

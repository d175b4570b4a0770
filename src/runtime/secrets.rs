//! Secrets and ServiceAccounts that objects name. They are read when needed and not cached.

use std::collections::HashSet;

use k8s_openapi::api::core::v1::{Secret, ServiceAccount};
use kube::{Api, Client};

use super::status::{kube_fault, with_timeout};
use crate::api::v1alpha1::LocalReference;
use crate::fault::{Fault, Reason};
use crate::registry::{Keychain, Trust};

/// The credentials that several Secrets contain for pulling images.
#[derive(Clone, Debug, Default)]
pub struct PullCredentials {
    /// The credentials.
    pub keychain: Keychain,
    /// The Secrets that contain none, and what to do about each.
    pub missing: Vec<String>,
}

/// The result of looking for credentials in a Secret.
enum FoundKeychain {
    Present(Keychain),
    /// The Secret does not exist or has no credentials; the text says what to do.
    Missing(String),
}

/// Reads the Secrets of one namespace.
#[derive(Clone)]
pub struct Secrets {
    client: Client,
    namespace: String,
}

impl Secrets {
    /// Creates a reader for `namespace`.
    pub fn new(client: Client, namespace: impl Into<String>) -> Self {
        Self {
            client,
            namespace: namespace.into(),
        }
    }

    /// The Secret. A missing Secret is a retryable fault.
    pub async fn get(&self, name: &str) -> Result<Secret, Fault> {
        let found = self.find(name).await?;
        found.ok_or_else(|| Fault::retryable(Reason::SecretUnavailable, self.does_not_exist(name)))
    }

    /// The Secret, if it exists.
    pub async fn find(&self, name: &str) -> Result<Option<Secret>, Fault> {
        let api: Api<Secret> = Api::namespaced(self.client.clone(), &self.namespace);
        let read = with_timeout(api.get_opt(name)).await;
        read.map_err(|error| {
            let what = format!("reading the Secret {}/{name}", self.namespace);
            let fault = kube_fault(Reason::SecretUnavailable, &what, &error);
            match &error {
                // Agents have the fewest permissions, so the message is for them.
                kube::Error::Api(status) if status.code == 403 => Fault {
                    message: format!(
                        "{}. Agents may read Secrets in the namespaces that agent.secretNamespaces of the chart lists: ask the administrator to add {} there",
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
                "the Secret {}/{name} has no entry {key}: add it, or set `key` to another entry",
                self.namespace
            );
            Fault::retryable(Reason::SecretUnavailable, what)
        })
    }

    /// The credentials in a Secret of type `kubernetes.io/dockerconfigjson` or of the older type `kubernetes.io/dockercfg`.
    pub async fn keychain(&self, name: &str) -> Result<Keychain, Fault> {
        match self.find_keychain(name).await? {
            FoundKeychain::Present(keychain) => Ok(keychain),
            FoundKeychain::Missing(missing) => Err(Fault::retryable(Reason::SecretUnavailable, missing)),
        }
    }

    /// The same. A Secret that does not exist or has no credentials is no fault.
    async fn find_keychain(&self, name: &str) -> Result<FoundKeychain, Fault> {
        let Some(secret) = self.find(name).await? else {
            return Ok(FoundKeychain::Missing(self.does_not_exist(name)));
        };
        let read = match (entry(&secret, ".dockerconfigjson"), entry(&secret, ".dockercfg")) {
            (Some(config), _) => Keychain::parse(config),
            (None, Some(legacy)) => Keychain::parse_legacy(legacy),
            (None, None) => {
                return Ok(FoundKeychain::Missing(format!(
                    "the Secret {}/{name} has no entry .dockerconfigjson: create it with `kubectl create secret docker-registry`",
                    self.namespace
                )));
            }
        };
        read.map(FoundKeychain::Present).map_err(|reason| {
            let what = format!("the Secret {}/{name} is invalid: {reason}", self.namespace);
            Fault::retryable(Reason::SecretUnavailable, what)
        })
    }

    /// The credentials of several Secrets and of the imagePullSecrets of a ServiceAccount; each Secret is read once. As by
    /// the kubelet, a Secret that does not exist or contains no credentials is skipped: the registry may not require any.
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
                FoundKeychain::Present(keychain) => found.keychain.extend(keychain),
                FoundKeychain::Missing(missing) => {
                    tracing::warn!(missing, "images are pulled without the credentials of a Secret");
                    found.missing.push(missing);
                }
            }
        }
        Ok(found)
    }

    fn does_not_exist(&self, name: &str) -> String {
        format!(
            "the Secret {}/{name} does not exist: create it, or remove the reference",
            self.namespace
        )
    }

    /// The certificates in the entries `ca.crt`, and `tls.crt` with `tls.key`.
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

/// An entry of a Secret.
pub(super) fn entry<'a>(secret: &'a Secret, key: &str) -> Option<&'a [u8]> {
    secret.data.as_ref()?.get(key).map(|bytes| bytes.0.as_slice())
}

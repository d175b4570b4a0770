//! Secrets and ServiceAccounts that objects name, read when they are needed and never kept.

use std::collections::HashSet;

use k8s_openapi::api::core::v1::{Secret, ServiceAccount};
use kube::{Api, Client};
use secrecy::SecretString;

use super::status::{kube_fault, within};
use crate::api::v1alpha1::LocalReference;
use crate::fault::{Fault, Reason};
use crate::registry::{Keychain, Trust, certificates};

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
        self.find(name).await?.ok_or_else(|| {
            let what = format!(
                "the Secret {}/{name} does not exist: create it, or remove the reference",
                self.namespace
            );
            Fault::retryable(Reason::SecretUnavailable, what)
        })
    }

    /// The Secret, if there is one.
    pub async fn find(&self, name: &str) -> Result<Option<Secret>, Fault> {
        let api: Api<Secret> = Api::namespaced(self.client.clone(), &self.namespace);
        within(api.get_opt(name)).await.map_err(|error| {
            kube_fault(
                Reason::SecretUnavailable,
                &format!("reading the Secret {}/{name}", self.namespace),
                &error,
            )
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
        let secret = self.get(name).await?;
        let read = match (entry(&secret, ".dockerconfigjson"), entry(&secret, ".dockercfg")) {
            (Some(config), _) => Keychain::parse(config),
            (None, Some(legacy)) => Keychain::parse_legacy(legacy),
            (None, None) => {
                let what = format!(
                    "the Secret {}/{name} has no entry .dockerconfigjson: make it by `kubectl create secret docker-registry`",
                    self.namespace
                );
                return Err(Fault::retryable(Reason::SecretUnavailable, what));
            }
        };
        read.map_err(|reason| {
            let what = format!("the Secret {}/{name} is unusable: {reason}", self.namespace);
            Fault::retryable(Reason::SecretUnavailable, what)
        })
    }

    /// The credentials of several Secrets and of the imagePullSecrets of a ServiceAccount, each Secret read once.
    pub async fn keychains(&self, names: &[LocalReference], account: Option<&str>) -> Result<Keychain, Fault> {
        let mut all: Vec<String> = names.iter().map(|name| name.name.clone()).collect();
        if let Some(account) = account {
            all.extend(self.pull_secrets(account).await?);
        }
        let mut keychain = Keychain::default();
        let mut seen = HashSet::new();
        for name in all.iter().filter(|name| !name.is_empty() && seen.insert(*name)) {
            keychain.extend(self.keychain(name).await?);
        }
        Ok(keychain)
    }

    /// `ca.crt`, and `tls.crt` with `tls.key`.
    pub async fn trust(&self, name: &str) -> Result<Trust, Fault> {
        let secret = self.get(name).await?;
        let bytes = |key: &str| entry(&secret, key).map(<[u8]>::to_vec);
        let unusable = |what: &str| {
            Fault::retryable(
                Reason::SecretUnavailable,
                format!("the Secret {}/{name} {what}", self.namespace),
            )
        };
        let key = match bytes("tls.key").map(String::from_utf8) {
            Some(Ok(key)) => Some(SecretString::from(key)),
            Some(Err(_)) => return Err(unusable("has a tls.key that is not PEM")),
            None => None,
        };
        for key in ["ca.crt", "tls.crt"] {
            if let Some(Err(reason)) = entry(&secret, key).map(certificates::authorities) {
                return Err(unusable(&format!("is unusable: {key} {reason}")));
            }
        }
        let trust = Trust {
            authorities: bytes("ca.crt"),
            certificate: bytes("tls.crt"),
            key,
        };
        if trust.certificate.is_some() != trust.key.is_some() {
            return Err(unusable(
                "has only one of tls.crt and tls.key: a client certificate needs both",
            ));
        }
        if trust.authorities.is_none() && trust.certificate.is_none() {
            return Err(unusable("has neither ca.crt nor tls.crt"));
        }
        Ok(trust)
    }

    async fn pull_secrets(&self, account: &str) -> Result<Vec<String>, Fault> {
        let api: Api<ServiceAccount> = Api::namespaced(self.client.clone(), &self.namespace);
        let what = format!("reading the ServiceAccount {}/{account}", self.namespace);
        let found = within(api.get_opt(account))
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

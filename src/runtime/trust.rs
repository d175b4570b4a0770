//! Keys and trusted roots that objects name in their own namespace.

use async_trait::async_trait;
use kube::Client;
use tokio::sync::Semaphore;

use super::config_maps::read_config_map;
use super::secrets::Secrets;
use crate::api::v1alpha1::SigningSpec;
use crate::fault::{Fault, Reason};
use crate::package::EntryReader;
use crate::signing::{PrivateKeyError, SigningKey};

/// The entries that `cosign generate-key-pair k8s://…` writes.
const PRIVATE_KEY: &str = "cosign.key";
const PASSWORD: &str = "cosign.password";

/// Decrypting a key takes 64 MiB of memory, at most 256 MiB, so a process decrypts one key at a time.
static DECRYPTION: Semaphore = Semaphore::const_new(1);

/// Reads entries of the Secrets and ConfigMaps of one namespace.
pub struct NamespaceEntryReader {
    client: Client,
    namespace: String,
    secrets: Secrets,
}

impl NamespaceEntryReader {
    /// Creates a reader for `namespace`.
    pub fn new(client: &Client, namespace: &str) -> Self {
        Self {
            secrets: Secrets::new(client.clone(), namespace),
            client: client.clone(),
            namespace: namespace.to_owned(),
        }
    }

    /// The key that `signing` names. Every fault is retryable, because the Secret can be corrected.
    pub async fn signing_key(&self, signing: &SigningSpec) -> Result<SigningKey, Fault> {
        let name = &signing.secret_ref.name;
        let secret = self.secrets.get(name).await?;
        let mut data = secret.data.unwrap_or_default();
        let mut take = |key: &str| data.remove(key).map(|bytes| zeroize::Zeroizing::new(bytes.0));
        let (pem, password) = (take(PRIVATE_KEY), take(PASSWORD));
        let unusable = |what: &str| {
            Fault::retryable(
                Reason::SigningFailed,
                format!("the Secret {name} of signing.secretRef: {what}"),
            )
        };
        let pem = pem.ok_or_else(|| {
            unusable("it has no entry cosign.key: create it with `cosign generate-key-pair k8s://NAMESPACE/NAME`")
        })?;
        open_key(pem, password).await.map_err(|error| {
            unusable(&match error {
                PrivateKeyError::NoPassword => format!("{error}: add the entry cosign.password"),
                PrivateKeyError::WrongPassword => format!("{error} (entries cosign.key and cosign.password)"),
                error => error.to_string(),
            })
        })
    }
}

/// Reads a private key on a blocking thread: decryption takes up to seconds.
pub async fn open_key(
    pem: zeroize::Zeroizing<Vec<u8>>,
    password: Option<zeroize::Zeroizing<Vec<u8>>>,
) -> Result<SigningKey, PrivateKeyError> {
    let _permit = DECRYPTION.acquire().await;
    let reading = tokio::task::spawn_blocking(move || {
        let password = password.as_ref().map(|password| password.as_slice());
        SigningKey::from_pem(&pem, password)
    });
    // It fails only when the process ends.
    reading.await.unwrap_or(Err(PrivateKeyError::Malformed))
}

#[async_trait]
impl EntryReader for NamespaceEntryReader {
    async fn of_secret(&self, name: &str, key: &str) -> Result<Vec<u8>, Fault> {
        self.secrets.entry(name, key).await
    }

    async fn of_config_map(&self, name: &str, key: &str) -> Result<Vec<u8>, Fault> {
        let mut data = read_config_map(&self.client, &self.namespace, name).await?;
        data.remove(key).map(String::into_bytes).ok_or_else(|| {
            let what = format!(
                "the ConfigMap {}/{name} has no entry {key}: add it, or set `key` to another entry",
                self.namespace
            );
            Fault::retryable(Reason::ConfigMapUnavailable, what)
        })
    }
}

//! The cache of registry clients, and what each learned.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use secrecy::ExposeSecret as _;

use super::policy::RepositoryScope;
use super::registry_target::RegistryTarget;
use crate::fault::Fault;
use crate::oci::{Digest, Hasher, Reference};
use crate::registry::{Credentials, Endpoint, Kind, Registry};
use crate::transfer::KnownBlobs;

/// Cached clients; when there would be more, all are dropped.
const CLIENT_LIMIT: usize = 256;
/// Repositories for which the accepted credentials are cached; when there would be more, all are dropped.
const ACCEPTED_LIMIT: usize = 4096;

/// Registry clients, one for each distinct endpoint, so that all images of a registry share its connections, tokens and
/// limits.
///
/// Endpoints that differ in credentials or trust have different clients, so the credentials of one object, and what was
/// learned with them, are never used for another.
#[derive(Default)]
pub struct Registries {
    known: Mutex<HashMap<Digest, CachedClient>>,
    /// The fingerprint of the endpoint whose credentials were accepted last, by repository and fingerprint of the endpoint
    /// without credentials.
    accepted: Mutex<HashMap<(String, Digest), Digest>>,
}

struct CachedClient {
    registry: Registry,
    /// The known blobs, separate for each scope: otherwise an object that names the digest of another namespace's blob could
    /// get it mounted.
    blobs: HashMap<Option<RepositoryScope>, Arc<KnownBlobs>>,
}

impl Registries {
    /// The client for `endpoint`.
    pub fn open(&self, endpoint: &Endpoint) -> Result<Registry, Fault> {
        self.with(endpoint, |known| known.registry.clone())
    }

    /// The client for the registry of `target`, and the known blobs in the scope of its object.
    pub fn destination(&self, target: &RegistryTarget) -> Result<(Registry, Arc<KnownBlobs>), Fault> {
        self.with(&target.endpoint, |known| {
            if known.blobs.len() >= CLIENT_LIMIT {
                known.blobs.clear();
            }
            let blobs = known.blobs.entry(target.scope.clone()).or_default();
            (known.registry.clone(), Arc::clone(blobs))
        })
    }

    /// The client for `endpoint` with the first of `candidates` that its registry accepts for `reference`. As by the kubelet,
    /// the next one is tried if one is refused or finds no image. With several candidates each costs a request, starting with
    /// the one accepted last. If none is accepted, the client has the first candidate that was not refused, else the first,
    /// and its requests return the error.
    pub async fn open_accepted(
        &self,
        endpoint: &Endpoint,
        candidates: Vec<Credentials>,
        reference: &Reference,
    ) -> Result<Registry, Fault> {
        let with = |credentials| Endpoint {
            credentials,
            ..endpoint.clone()
        };
        let mut endpoints: Vec<Endpoint> = candidates.into_iter().map(|found| with(Some(found))).collect();
        if endpoints.len() < 2 {
            return self.open(&endpoints.pop().unwrap_or_else(|| endpoint.clone()));
        }
        let repository_key = (reference.name(), fingerprint(endpoint));
        let last = lock(&self.accepted).get(&repository_key).cloned();
        if let Some(last) = last {
            endpoints.sort_by_key(|endpoint| fingerprint(endpoint) != last);
        }
        let mut best = None;
        for endpoint in &endpoints {
            let registry = self.open(endpoint)?;
            let repository = registry.repository(reference.repository());
            match repository.head_manifest(reference.identifier()).await {
                // The registry may hide the image from this account.
                Ok(None) => best = best.or(Some(registry)),
                Err(error) if matches!(error.kind(), Kind::Unauthorized | Kind::Denied) => {}
                // Other errors are not about credentials, and the next request returns them too.
                Ok(Some(_)) | Err(_) => {
                    let mut accepted = lock(&self.accepted);
                    if accepted.len() >= ACCEPTED_LIMIT {
                        accepted.clear();
                    }
                    accepted.insert(repository_key, fingerprint(endpoint));
                    return Ok(registry);
                }
            }
        }
        match best {
            Some(registry) => Ok(registry),
            None => self.open(&endpoints[0]),
        }
    }

    fn with<T>(&self, endpoint: &Endpoint, take: impl FnOnce(&mut CachedClient) -> T) -> Result<T, Fault> {
        let key = fingerprint(endpoint);
        let mut known = lock(&self.known);
        if let Some(found) = known.get_mut(&key) {
            return Ok(take(found));
        }
        let registry = Registry::new(endpoint.clone()).map_err(|error| error.pushing(&endpoint.host))?;
        if known.len() >= CLIENT_LIMIT {
            known.clear();
        }
        let blobs = HashMap::new();
        Ok(take(known.entry(key).or_insert(CachedClient { registry, blobs })))
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A hash of everything that distinguishes two endpoints. It is hashed so that no key contains a password.
fn fingerprint(endpoint: &Endpoint) -> Digest {
    let mut hasher = Hasher::sha256();
    let mut part = |bytes: &[u8]| {
        hasher.update(&(bytes.len() as u64).to_be_bytes());
        hasher.update(bytes);
    };
    part(endpoint.host.as_bytes());
    part(&(endpoint.aliases.len() as u64).to_be_bytes());
    for alias in &endpoint.aliases {
        part(alias.as_bytes());
    }
    part(&[u8::from(endpoint.plain_http)]);
    part(&[u8::from(endpoint.restrictions.is_some())]);
    part(&endpoint.idle.as_millis().to_be_bytes());
    if let Some(credentials) = &endpoint.credentials {
        part(credentials.username.as_bytes());
        part(credentials.password.expose_secret().as_bytes());
        for token in [&credentials.identity_token, &credentials.registry_token] {
            part(&[u8::from(token.is_some())]);
            part(
                token
                    .as_ref()
                    .map(|token| token.expose_secret().as_bytes())
                    .unwrap_or_default(),
            );
        }
    }
    for pem in [&endpoint.trust.authorities, &endpoint.trust.certificate] {
        part(pem.as_deref().unwrap_or_default());
    }
    part(
        endpoint
            .trust
            .key
            .as_ref()
            .map(|key| key.expose_secret().as_bytes())
            .unwrap_or_default(),
    );
    hasher.finish()
}

#[cfg(test)]
mod tests {
    use super::super::policy::{Policy, RepositoryPolicy};
    use super::*;

    #[test]
    fn known_blobs_are_separate_for_each_repository_scope() {
        let _ = rustls::crypto::ring::default_provider().install_default();
        let policy = Policy {
            repositories: RepositoryPolicy::Namespace,
            ..Policy::default()
        };
        let target = |namespace: Option<&str>| RegistryTarget {
            address: "r:1".to_owned(),
            prefix: String::new(),
            scope: namespace.and_then(|namespace| policy.repository_scope(None, namespace)),
            endpoint: Endpoint::new("r:1"),
            naming: None,
        };
        let registries = Registries::default();
        let known = |namespace| registries.destination(&target(namespace)).unwrap().1;
        assert!(Arc::ptr_eq(&known(Some("a")), &known(Some("a"))));
        assert!(!Arc::ptr_eq(&known(Some("a")), &known(Some("b"))));
        assert!(Arc::ptr_eq(&known(None), &known(None)));
        assert!(!Arc::ptr_eq(&known(None), &known(Some("b"))));
    }

    #[test]
    fn trust_distinguishes_clients() {
        let trusting = |authorities: Option<&[u8]>| {
            let mut endpoint = Endpoint::new("r:1");
            endpoint.trust.authorities = authorities.map(<[u8]>::to_vec);
            fingerprint(&endpoint)
        };
        assert_eq!(trusting(Some(b"a")), trusting(Some(b"a")));
        assert_ne!(trusting(Some(b"a")), trusting(Some(b"b")));
        assert_ne!(trusting(Some(b"a")), trusting(None));
    }
}

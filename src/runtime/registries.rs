//! Clients of registries that are kept, and what was learned by each.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use secrecy::ExposeSecret as _;

use super::policy::RepositoryScope;
use super::registry_target::RegistryTarget;
use crate::fault::Fault;
use crate::oci::{Digest, Hasher, Reference};
use crate::registry::{Credentials, Endpoint, Kind, Registry};
use crate::transfer::KnownBlobs;

/// Clients that are kept; beyond that all are made anew.
const CLIENT_LIMIT: usize = 256;
/// Repositories of which is kept which credentials were accepted.
const ACCEPTED_LIMIT: usize = 4096;

/// Clients of registries, one for each way to reach one, so that all images of a registry share its connections,
/// tokens and limits.
///
/// What differs in credentials or trust is another client: nothing that one object brought is used for another's, nor what
/// was learned by it.
#[derive(Default)]
pub struct Registries {
    known: Mutex<HashMap<Digest, Known>>,
    /// The client whose credentials were accepted last, where there were several, by the repository and how it is reached
    /// without them.
    accepted: Mutex<HashMap<(String, Digest), Digest>>,
}

struct Known {
    registry: Registry,
    /// What is known of its blobs, apart for each scope: else who knows the digest of another namespace's blob
    /// could have it mounted.
    blobs: HashMap<Option<RepositoryScope>, Arc<KnownBlobs>>,
}

impl Registries {
    /// The client for `endpoint`.
    pub fn open(&self, endpoint: &Endpoint) -> Result<Registry, Fault> {
        self.with(endpoint, |known| known.registry.clone())
    }

    /// The client for the registry of `place`, and what is known of the blobs that its object may use.
    pub fn destination(&self, place: &RegistryTarget) -> Result<(Registry, Arc<KnownBlobs>), Fault> {
        self.with(&place.endpoint, |known| {
            if known.blobs.len() >= CLIENT_LIMIT {
                known.blobs.clear();
            }
            let blobs = known.blobs.entry(place.scope.clone()).or_default();
            (known.registry.clone(), Arc::clone(blobs))
        })
    }

    /// The client for `endpoint` with the first of `candidates` that its registry accepts for `reference`: as the kubelet,
    /// the next is tried where one is refused or sees no image. It costs a look for each where there are several, and begins
    /// with the one that was accepted last. Where none is accepted, the client is that of the best of them, and tells why.
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
        let place = (reference.name(), fingerprint(endpoint));
        let last = lock(&self.accepted).get(&place).cloned();
        if let Some(last) = last {
            endpoints.sort_by_key(|endpoint| fingerprint(endpoint) != last);
        }
        let mut best = None;
        for endpoint in &endpoints {
            let registry = self.open(endpoint)?;
            let repository = registry.repository(reference.repository());
            match repository.head_manifest(reference.identifier()).await {
                // May be hidden from this account.
                Ok(None) => best = best.or(Some(registry)),
                Err(error) if matches!(error.kind(), Kind::Unauthorized | Kind::Denied) => {}
                // Another failure is not about credentials, and whoever reads next meets it too.
                Ok(Some(_)) | Err(_) => {
                    let mut accepted = lock(&self.accepted);
                    if accepted.len() >= ACCEPTED_LIMIT {
                        accepted.clear();
                    }
                    accepted.insert(place, fingerprint(endpoint));
                    return Ok(registry);
                }
            }
        }
        match best {
            Some(registry) => Ok(registry),
            None => self.open(&endpoints[0]),
        }
    }

    fn with<T>(&self, endpoint: &Endpoint, take: impl FnOnce(&mut Known) -> T) -> Result<T, Fault> {
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
        Ok(take(known.entry(key).or_insert(Known { registry, blobs })))
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// All that makes two endpoints different, hashed so that no password lies in a key.
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
    fn what_is_known_of_blobs_stays_within_a_repository_scope() {
        let _ = rustls::crypto::ring::default_provider().install_default();
        let policy = Policy {
            repositories: RepositoryPolicy::Namespace,
            ..Policy::default()
        };
        let place = |namespace: Option<&str>| RegistryTarget {
            address: "r:1".to_owned(),
            prefix: String::new(),
            scope: namespace.and_then(|namespace| policy.repository_scope(None, namespace)),
            endpoint: Endpoint::new("r:1"),
            naming: None,
        };
        let registries = Registries::default();
        let known = |namespace| registries.destination(&place(namespace)).unwrap().1;
        assert!(Arc::ptr_eq(&known(Some("a")), &known(Some("a"))));
        assert!(!Arc::ptr_eq(&known(Some("a")), &known(Some("b"))));
        assert!(Arc::ptr_eq(&known(None), &known(None)));
        assert!(!Arc::ptr_eq(&known(None), &known(Some("b"))));
    }

    #[test]
    fn what_is_trusted_tells_clients_apart() {
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

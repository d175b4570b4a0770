//! The digests that are in use.

use std::collections::HashSet;
use std::time::SystemTime;

use tokio_util::sync::CancellationToken;

use super::Failure;
use super::quarantine::Quarantine;
use super::references::references;
use super::store::Store;
use crate::oci::Digest;

/// The most digests in memory, and the most manifests; each has about 50 bytes.
const LIMIT: usize = 2_000_000;

/// A digest in 32 bytes: that of SHA-256 itself, else a hash of it.
type Key = [u8; 32];

/// The digests of all manifests, and all that they name.
#[derive(Debug)]
pub(super) struct Marks {
    /// When the reading of the manifests began.
    begun: SystemTime,
    digests: HashSet<Key>,
    /// The manifests that were read, by repository.
    read: HashSet<Key>,
}

impl Default for Marks {
    fn default() -> Self {
        Self {
            begun: SystemTime::now(),
            digests: HashSet::new(),
            read: HashSet::new(),
        }
    }
}

impl Marks {
    /// When the reading of the manifests began. What was stored later may be missing.
    pub fn begun(&self) -> SystemTime {
        self.begun
    }

    /// The number of manifests of all repositories.
    pub fn manifests(&self) -> u64 {
        self.read.len() as u64
    }

    /// Whether the blob is in use.
    pub fn contains(&self, digest: &Digest) -> bool {
        self.digests.contains(&key(digest))
    }

    /// Reads the manifests that were not read yet.
    pub fn update(&mut self, store: &Store, quarantine: &Quarantine, stop: &CancellationToken) -> Result<(), Failure> {
        store.repositories(stop, |repository, folder| {
            for digest in Store::manifests(folder)? {
                if stop.is_cancelled() {
                    return Err(Failure::Stopped);
                }
                let own = key_of(format!("{repository}@{digest}").as_bytes());
                if self.read.contains(&own) {
                    continue;
                }
                self.read_manifest(store, quarantine, repository, digest)?;
                insert(&mut self.read, own)?;
            }
            Ok(())
        })
    }

    /// Marks a manifest and what it names, and the manifests that it lists.
    fn read_manifest(
        &mut self,
        store: &Store,
        quarantine: &Quarantine,
        repository: &str,
        digest: Digest,
    ) -> Result<(), Failure> {
        let mut open = vec![digest];
        while let Some(digest) = open.pop() {
            insert(&mut self.digests, key(&digest))?;
            let unreadable = |why: String| Failure::Manifest {
                repository: repository.to_owned(),
                digest: digest.to_string(),
                why,
            };
            let mut folders = vec![store.blob(&digest)];
            folders.extend(quarantine.blobs(&digest)?);
            // It may have been moved back between the two looks.
            folders.push(store.blob(&digest));
            // Without its content, no client gets it, and it names nothing.
            let Some(content) = Store::manifest(&folders).map_err(unreadable)? else {
                continue;
            };
            let found = references(&content).map_err(unreadable)?;
            for named in &found.all {
                // An index may list itself only by breaking SHA-256, but the same manifest several times.
                let is_new = insert(&mut self.digests, key(named))?;
                if is_new && found.manifests.contains(named) {
                    open.push(named.clone());
                }
            }
        }
        Ok(())
    }
}

/// Whether `key` is new.
fn insert(set: &mut HashSet<Key>, key: Key) -> Result<bool, Failure> {
    if set.len() >= LIMIT && !set.contains(&key) {
        return Err(Failure::TooMany(LIMIT));
    }
    Ok(set.insert(key))
}

fn key(digest: &Digest) -> Key {
    let mut key = Key::default();
    if digest.algorithm() == "sha256" && hex::decode_to_slice(digest.hex(), &mut key).is_ok() {
        return key;
    }
    key_of(digest.as_str().as_bytes())
}

fn key_of(text: &[u8]) -> Key {
    let mut key = Key::default();
    // A SHA-256 digest always has 64 hexadecimal digits.
    let _ = hex::decode_to_slice(Digest::of(text).hex(), &mut key);
    key
}

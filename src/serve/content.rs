//! What is served: the archives, the names in them, and which blobs were verified.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use futures::StreamExt as _;
use futures::stream::{self, try_unfold};
use tracing::warn;

use super::catalog::Catalog;
use crate::archive::{Archive, Coordinates};
use crate::fault::{Fault, Reason};
use crate::oci::{Descriptor, Digest, Document, Hasher, Naming};
use crate::package::package_index;
use crate::source::ByteStream;

/// The content of one or several archives, under its names. A repository has all of it: who reaches one reaches all.
pub struct Content {
    archives: Vec<Archive>,
    /// The indexes of the packages, as `load` writes them.
    indexes: HashMap<Digest, Document>,
    pub(super) catalog: Catalog,
    /// The referrers of each digest.
    referrers: HashMap<Digest, Vec<Descriptor>>,
    /// The blobs that were read once and have their digests.
    verified: Mutex<HashSet<Digest>>,
    counts: Counts,
}

/// How much is served.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Images, by their names.
    pub images: usize,
    /// Packages: versions, each of one or several architectures.
    pub packages: usize,
}

/// The packages of one version: the file of the first, and its manifests by their architectures.
#[derive(Default)]
struct Version<'a> {
    file: String,
    packages: BTreeMap<String, &'a Document>,
}

impl Content {
    /// The content of `archives`, each with its file. Packages are below `prefix`, and so are the names that `load` with that prefix
    /// and `naming` gives to images.
    ///
    /// # Errors
    /// A stalled fault, where two things have one name, or one has none.
    pub fn new(archives: Vec<(&Path, Archive)>, prefix: &str, naming: Naming) -> Result<Self, Fault> {
        let mut catalog = Catalog::default();
        let mut images = HashSet::new();
        let mut versions: BTreeMap<(String, String), Version<'_>> = BTreeMap::new();
        for (path, archive) in &archives {
            let file = path.display().to_string();
            let within = |fault: Fault| fault.with_context(&file);
            for image in archive.images() {
                let Some(name) = &image.name else { continue };
                catalog
                    .add_image(name, &image.root.digest, &file, (prefix, naming))
                    .map_err(within)?;
                images.insert(name.to_string());
            }
            for package in archive.packages() {
                let Coordinates {
                    repository,
                    tag,
                    architecture,
                } = Coordinates::of(package, prefix).map_err(within)?;
                let version = versions.entry((repository, tag)).or_default();
                if version.file.is_empty() {
                    version.file.clone_from(&file);
                }
                let other = version.packages.insert(architecture.clone(), &package.manifest);
                if other.is_some_and(|other| other.digest() != package.manifest.digest()) {
                    return Err(different_packages(&version.file, &file, &architecture));
                }
            }
        }
        let mut indexes = HashMap::new();
        for ((repository, tag), version) in &versions {
            let packages = version.packages.iter();
            let index = package_index(packages.map(|(architecture, manifest)| (*manifest, architecture.as_str())))?;
            catalog.add_package(repository, tag, index.digest(), &version.file)?;
            indexes.insert(index.digest().clone(), index);
        }
        let counts = Counts {
            images: images.len(),
            packages: versions.len(),
        };
        drop(versions);
        let archives: Vec<Archive> = archives.into_iter().map(|(_, archive)| archive).collect();
        Ok(Self {
            referrers: referrers_in(&archives),
            archives,
            indexes,
            catalog,
            verified: Mutex::default(),
            counts,
        })
    }

    /// How much is served.
    pub fn counts(&self) -> Counts {
        self.counts
    }

    /// The names of all repositories, in order.
    pub fn repositories(&self) -> impl Iterator<Item = &str> {
        self.catalog.names()
    }

    /// A manifest or index.
    pub(super) fn document(&self, digest: &Digest) -> Option<&Document> {
        let packages = self.archives.iter().flat_map(Archive::packages);
        let mut packages = packages.map(|package| &package.manifest);
        let own = self.indexes.get(digest);
        own.or_else(|| packages.find(|manifest| manifest.digest() == digest))
            .or_else(|| self.archives.iter().find_map(|archive| archive.document(digest)))
    }

    /// The entries of what refers to `subject`.
    pub(super) fn referrers(&self, subject: &Digest) -> &[Descriptor] {
        self.referrers.get(subject).map(Vec::as_slice).unwrap_or_default()
    }

    /// The length in bytes of a blob.
    pub(super) fn size(&self, digest: &Digest) -> Option<u64> {
        self.archives.iter().find_map(|archive| archive.size(digest))
    }

    /// The bytes of a blob from `offset`, at most `length`, not verified.
    pub(super) fn part(&self, digest: &Digest, offset: u64, length: u64) -> Option<ByteStream<'static>> {
        let mut archives = self.archives.iter();
        archives.find_map(|archive| archive.read_range(digest, offset, length))
    }

    /// A whole blob. Its last bytes follow when all of it was verified, which a blob needs once.
    pub(super) fn whole(self: &Arc<Self>, digest: &Digest) -> Option<ByteStream<'static>> {
        if self.is_verified(digest) {
            return self.part(digest, 0, u64::MAX);
        }
        if self.size(digest)? == 0 {
            let is_empty = Hasher::like(digest).finish() == *digest;
            return is_empty.then(|| stream::empty().boxed());
        }
        let content = self.archives.iter().find_map(|archive| archive.read(digest))?;
        let (this, digest) = (Arc::clone(self), digest.clone());
        Some(held_back(content, move || {
            let mut verified = this.verified.lock().unwrap_or_else(PoisonError::into_inner);
            verified.insert(digest);
        }))
    }

    fn is_verified(&self, digest: &Digest) -> bool {
        let verified = self.verified.lock().unwrap_or_else(PoisonError::into_inner);
        verified.contains(digest)
    }
}

fn different_packages(first: &str, second: &str, architecture: &str) -> Fault {
    let message = format!(
        "{first} and {second} have different packages of the same name and version for {architecture}; serve one of them"
    );
    Fault::stalled(Reason::PackageFailed, message)
}

/// The referrers of each digest, as a registry lists them.
fn referrers_in(archives: &[Archive]) -> HashMap<Digest, Vec<Descriptor>> {
    let mut referrers: HashMap<Digest, Vec<Descriptor>> = HashMap::new();
    let mut seen = HashSet::new();
    for archive in archives {
        let roots = archive.images().iter().map(|image| &image.root.digest);
        for document in roots.flat_map(|root| archive.manifests(root)) {
            let Some(subject) = document.subject() else { continue };
            if let Some(entry) = document.as_referrer().filter(|entry| seen.insert(entry.digest.clone())) {
                referrers.entry(subject.digest.clone()).or_default().push(entry);
            }
        }
    }
    referrers
}

/// `content`, whose last bytes follow when it ended without an error: a client has all of it only if it is right. Calls `complete`
/// then.
fn held_back(content: ByteStream<'static>, complete: impl FnOnce() + Send + 'static) -> ByteStream<'static> {
    let state = (content, None::<Bytes>, Some(complete));
    try_unfold(state, |(mut content, mut held, mut complete)| async move {
        if complete.is_none() {
            return Ok(None);
        }
        loop {
            match content.next().await {
                Some(Ok(chunk)) => {
                    if let Some(chunk) = held.replace(chunk) {
                        return Ok(Some((chunk, (content, held, complete))));
                    }
                }
                Some(Err(fault)) => {
                    warn!(%fault, "a blob is not sent to its end");
                    return Err(fault);
                }
                None => {
                    if let Some(complete) = complete.take() {
                        complete();
                    }
                    return Ok(held.take().map(|last| (last, (content, None, complete))));
                }
            }
        }
    })
    .boxed()
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicBool, Ordering};

    use super::*;

    fn chunks(chunks: &[&'static str], fault: bool) -> ByteStream<'static> {
        let chunks = chunks.iter().map(|chunk| Ok(Bytes::from_static(chunk.as_bytes())));
        let end = fault.then(|| Err(Fault::stalled(Reason::SourceFailed, "it differs")));
        let all: Vec<_> = chunks.chain(end).collect();
        stream::iter(all).boxed()
    }

    #[tokio::test]
    async fn the_last_bytes_follow_when_all_was_verified() {
        for (count, fault) in [(0, false), (1, false), (3, false), (1, true), (3, true)] {
            let complete = Arc::new(AtomicBool::new(false));
            let done = Arc::clone(&complete);
            let content = chunks(&["a", "b", "c"][..count], fault);
            let read: Vec<_> = held_back(content, move || done.store(true, Ordering::Relaxed))
                .collect()
                .await;
            let sent = read.iter().filter(|chunk| chunk.is_ok()).count();
            assert_eq!(sent, if fault { count - 1 } else { count });
            assert_eq!(read.iter().any(Result::is_err), fault);
            assert_eq!(complete.load(Ordering::Relaxed), !fault);
        }
    }
}

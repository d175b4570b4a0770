//! Images that lie in a registry: manifests are carried to the byte, blobs streamed through.

use std::collections::{HashMap, HashSet};

use async_trait::async_trait;
use futures::{StreamExt, TryStreamExt, stream};

use super::readings::Readings;
use super::{Blob, BlobSink, Delivered, Form, Identity, ImageSource, Method, Resolved};
use crate::fault::{Fault, Reason};
use crate::oci::{
    Absent, Descriptor, Digest, Document, Manifest, Platform, Reference, Selection, distinct_blobs, media_type,
    select_by,
};
use crate::registry::{Error, Kind, Registry, Repository};

/// How deep indexes may lie in each other.
const DEPTH: usize = 4;
/// How many manifests one image may have, all platforms and attestations together.
const MANIFESTS: usize = 256;
/// Manifests of one image that are read at once, and blobs that are carried. What of it runs is up to the
/// registries' limits; a blob that somebody else brings just now only waits.
const AT_ONCE: usize = 8;
/// The longest image configuration in bytes that is read.
const CONFIG_LIMIT: usize = 8 * 1024 * 1024;

/// A registry as a source. References are looked up in it by their repository, whatever host they name, so a
/// mirror may stand in.
#[derive(Clone)]
pub struct RegistrySource {
    registry: Registry,
}

impl RegistrySource {
    /// Reads from `registry`.
    pub fn new(registry: Registry) -> Self {
        Self { registry }
    }

    fn lookup(&self, reference: &Reference) -> Lookup {
        Lookup {
            repository: self.registry.repository(reference.repository()),
            name: reference.to_string(),
        }
    }
}

#[async_trait]
impl ImageSource for RegistrySource {
    async fn resolve(&self, reference: &Reference, platforms: &[Platform]) -> Result<Resolved, Fault> {
        let lookup = self.lookup(reference);
        // The only look at the tag; from here on digests decide.
        let root = lookup.document(reference.identifier()).await?.ok_or_else(|| {
            Fault::retryable(
                Reason::SourceNotFound,
                format!(
                    "{} does not exist in {}; check the name and the tag, or push the image there",
                    lookup.name,
                    self.registry.host()
                ),
            )
        })?;
        let root = lookup.choose(root, platforms).await?;
        let documents = lookup.with_children(root).await?;
        let size = distinct_blobs(&documents).iter().map(|blob| blob.size).sum::<u64>();
        let digest = documents.last().map(|root| root.digest().clone());
        Ok(Resolved {
            reference: reference.clone(),
            platforms: platforms.to_vec(),
            identity: Identity::Manifest(digest.ok_or_else(|| lookup.failed("it has no manifest"))?),
            documents,
            size: Some(size),
        })
    }

    async fn deliver(&self, image: &Resolved, sink: &dyn BlobSink) -> Result<Delivered, Fault> {
        let repository = self.registry.repository(image.reference.repository());
        let name = image.reference.to_string();
        let mut blobs = distinct_blobs(&image.documents);
        // The largest first: begun last, it would be what everybody waits for.
        blobs.sort_by(|one, other| other.size.cmp(&one.size).then_with(|| one.digest.cmp(&other.digest)));
        let (repository, name) = (&repository, &name);
        stream::iter(blobs.into_iter().map(Ok))
            .try_for_each_concurrent(AT_ONCE, |blob| async move {
                let mut readings = Readings::default();
                loop {
                    match carry(repository, name, blob, sink).await {
                        Err(fault) => readings.again(fault)?,
                        done => return done,
                    }
                }
            })
            .await?;
        Ok(Delivered {
            documents: image.documents.clone(),
            method: Method::Registry,
            declined: None,
        })
    }

    async fn referrers(&self, reference: &Reference, subject: &Digest) -> Result<Vec<Descriptor>, Fault> {
        let lookup = self.lookup(reference);
        let listed = lookup.repository.referrers(subject).await;
        listed.map_err(|error| error.reading(&lookup.name))
    }

    async fn tagged(&self, reference: &Reference, tag: &str) -> Result<Option<Digest>, Fault> {
        let lookup = self.lookup(reference);
        match lookup.repository.head_manifest(tag).await {
            Ok(found) => Ok(found.map(|descriptor| descriptor.digest)),
            // Nothing that anybody could carry.
            Err(error) if is_no_manifest(&error) => Ok(None),
            Err(error) => Err(error.reading(&lookup.name)),
        }
    }

    async fn referrer(&self, reference: &Reference, digest: &Digest) -> Result<Result<Resolved, String>, Fault> {
        let lookup = self.lookup(reference);
        let root = match lookup.repository.manifest(digest.as_str()).await {
            Ok(Some(root)) => root,
            Ok(None) => return Ok(Err("it does not exist".to_owned())),
            Err(error) if is_no_manifest(&error) => return Ok(Err(error.to_string())),
            Err(error) => return Err(error.reading(&lookup.name)),
        };
        let documents = match lookup.with_children(root).await {
            Ok(documents) => documents,
            Err(fault) if fault.reason == Reason::SourceNotFound => return Ok(Err(fault.message)),
            Err(fault) => return Err(fault),
        };
        Ok(Ok(Resolved {
            reference: reference.clone(),
            platforms: Vec::new(),
            identity: Identity::Manifest(digest.clone()),
            size: Some(distinct_blobs(&documents).iter().map(|blob| blob.size).sum()),
            documents,
        }))
    }

    fn repository(&self, reference: &Reference) -> Option<Repository> {
        Some(self.registry.repository(reference.repository()))
    }
}

/// Whether what was read is content of another kind.
fn is_no_manifest(error: &Error) -> bool {
    matches!(error.kind(), Kind::Unsupported | Kind::Protocol | Kind::TooLarge)
}

async fn carry(repository: &Repository, name: &str, blob: &Descriptor, sink: &dyn BlobSink) -> Result<(), Fault> {
    if sink.holds(&blob.digest, Some(blob.size)).await?.is_some() {
        return Ok(());
    }
    let owned = name.to_owned();
    // The sink verifies it. Nothing is asked of the registry before the first chunk is.
    let download = repository.unverified_blob(&blob.digest, blob.size);
    let bytes = download.into_stream().map_err(move |error| error.reading(&owned));
    let taken = sink.take(Blob {
        form: Form::Exact,
        digest: Some(blob.digest.clone()),
        size: Some(blob.size),
        bytes: bytes.boxed(),
    });
    match taken.await {
        Ok(_) => Ok(()),
        // Where it went it was found to be another; more than that it came from here is not known.
        Err(fault) if fault.reason == Reason::DigestMismatch && !fault.message.contains(name) => {
            let message = format!("cannot read {name} as its digests say: {}", fault.message);
            Err(Fault { message, ..fault })
        }
        Err(fault) => Err(fault),
    }
}

/// The search for one image.
struct Lookup {
    repository: Repository,
    /// The image as it was asked for, for messages.
    name: String,
}

impl Lookup {
    fn failed(&self, what: &str) -> Fault {
        Fault::retryable(Reason::SourceFailed, format!("cannot read {}: {what}", self.name))
    }

    async fn document(&self, identifier: &str) -> Result<Option<Document>, Fault> {
        let read = self.repository.manifest(identifier).await;
        read.map_err(|error| error.reading(&self.name))
    }

    /// A manifest that an index lists.
    async fn child(&self, entry: &Descriptor) -> Result<Document, Fault> {
        let what = match &entry.platform {
            _ if entry.is_attestation() => "an attestation".to_owned(),
            Some(platform) => format!("a manifest for {platform}"),
            None => "a manifest".to_owned(),
        };
        if !entry.media_type.is_empty() && !media_type::is_manifest(&entry.media_type) {
            return Err(self.failed(&format!(
                "its index lists {} of type `{}`, which is no image; choose by platforms, or push the image again with a tool of today",
                entry.digest, entry.media_type
            )));
        }
        self.document(entry.digest.as_str()).await?.ok_or_else(|| {
            Fault::retryable(
                Reason::SourceNotFound,
                format!(
                    "the index of {} lists {what} ({}) that {} does not have; choose among the others by platforms, or push the whole image there",
                    self.name,
                    entry.digest,
                    self.repository.registry().host()
                ),
            )
        })
    }

    /// The root that has only the platforms asked for: `root` itself where that is so.
    async fn choose(&self, root: Document, platforms: &[Platform]) -> Result<Document, Fault> {
        if platforms.is_empty() {
            return Ok(root);
        }
        let index = match (root.index(), root.manifest()) {
            (Some(index), _) => index,
            (None, Some(manifest)) => {
                let offered = self.platform_of(manifest).await?;
                let unmet = |asked: &&Platform| !offered.as_ref().is_some_and(|offered| asked.admits(offered));
                let absent: Vec<Platform> = platforms.iter().filter(unmet).cloned().collect();
                return match absent.is_empty() {
                    true => Ok(root),
                    false => Err(self.lacking(&Absent(absent), offered.into_iter().collect())),
                };
            }
            (None, None) => return Ok(root),
        };
        if index.manifests.len() > MANIFESTS {
            return Err(self.too_many());
        }
        let mut offered: Vec<Option<Platform>> = Vec::with_capacity(index.manifests.len());
        for entry in &index.manifests {
            offered.push(match entry.may_be_image() {
                true => self.platform_of_entry(entry).await?,
                false => None,
            });
        }
        match select_by(index, platforms, |at| offered.get(at)?.as_ref()) {
            Ok(Selection::Whole) => Ok(root),
            Ok(Selection::One(only)) => self.child(&only).await,
            Ok(Selection::Several(index)) => Document::of_index(index).map_err(|error| self.failed(&error.to_string())),
            Err(absent) => Err(self.lacking(&absent, offered.into_iter().flatten().collect())),
        }
    }

    /// What an entry of an index runs on; where the index does not say, its configuration does.
    async fn platform_of_entry(&self, entry: &Descriptor) -> Result<Option<Platform>, Fault> {
        let said = entry
            .platform
            .as_ref()
            .is_some_and(|platform| !platform.architecture.is_empty());
        if said || media_type::is_index(&entry.media_type) {
            return Ok(entry.platform.clone());
        }
        match self.child(entry).await?.manifest() {
            Some(manifest) => self.platform_of(manifest).await,
            None => Ok(None),
        }
    }

    async fn platform_of(&self, manifest: &Manifest) -> Result<Option<Platform>, Fault> {
        let config = &manifest.config;
        let raw = self.repository.small_blob(&config.digest, CONFIG_LIMIT).await;
        let raw = raw.map_err(|error| error.reading(&self.name))?.ok_or_else(|| {
            self.failed(&format!(
                "its configuration {} is missing; push the image there again",
                config.digest
            ))
        })?;
        Ok(Platform::of_config(&raw))
    }

    /// That some of the platforms asked for are not offered.
    fn lacking(&self, absent: &Absent, offered: Vec<Platform>) -> Fault {
        let mut has: Vec<String> = offered.iter().map(Platform::to_string).collect();
        has.dedup();
        let has = match has.len() {
            0 => "does not say what it runs on".to_owned(),
            count if count > 20 => format!("is for {} and {} others", has[..20].join(", "), count - 20),
            _ => format!("is for {}", has.join(", ")),
        };
        Fault::retryable(
            Reason::SourceNotFound,
            format!(
                "{} has no image for {absent}: it {has}; choose among these by platforms, or push the missing one there",
                self.name
            ),
        )
    }

    /// Every manifest under `root`, children before every index that lists them, each once.
    async fn with_children(&self, root: Document) -> Result<Vec<Document>, Fault> {
        let top = root.digest().clone();
        let mut found = HashMap::from([(top.clone(), root)]);
        let mut level = vec![top.clone()];
        for depth in 0.. {
            let entries = unread(&level, &found);
            if found.len() + entries.len() > MANIFESTS {
                return Err(self.too_many());
            }
            let has_index = |digest: &Digest| found.get(digest).is_some_and(|document| document.index().is_some());
            if depth >= DEPTH && level.iter().any(has_index) {
                return Err(self.failed(&format!("its indexes lie more than {DEPTH} deep in each other")));
            }
            if entries.is_empty() {
                break;
            }
            let children: Vec<Document> = stream::iter(entries)
                .map(|entry| async move { self.child(&entry).await })
                .buffered(AT_ONCE)
                .try_collect()
                .await?;
            level = children.iter().map(|child| child.digest().clone()).collect();
            found.extend(children.into_iter().map(|child| (child.digest().clone(), child)));
        }
        let mut ordered = Vec::with_capacity(found.len());
        children_first(&top, &mut found, &mut ordered);
        Ok(ordered)
    }

    fn too_many(&self) -> Fault {
        self.failed(&format!(
            "it has more than {MANIFESTS} manifests; choose some by platforms"
        ))
    }
}

/// What the indexes of `level` list and `found` lacks, each once.
fn unread(level: &[Digest], found: &HashMap<Digest, Document>) -> Vec<Descriptor> {
    let mut seen = HashSet::new();
    level
        .iter()
        .filter_map(|digest| found.get(digest)?.index())
        .flat_map(|index| &index.manifests)
        .filter(|entry| !found.contains_key(&entry.digest) && seen.insert(&entry.digest))
        .cloned()
        .collect()
}

/// Moves the document of `digest` from `found` to the end of `ordered`, after all that it lists.
pub(super) fn children_first(digest: &Digest, found: &mut HashMap<Digest, Document>, ordered: &mut Vec<Document>) {
    if let Some(document) = found.remove(digest) {
        for entry in document.index().into_iter().flat_map(|index| &index.manifests) {
            children_first(&entry.digest, found, ordered);
        }
        ordered.push(document);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::oci::Index;

    #[test]
    fn children_come_first_wherever_they_are_listed() {
        let document = |entries: Vec<Descriptor>| Document::of_index(Index::new(entries)).unwrap();
        let inner = document(Vec::new());
        let middle = document(vec![inner.descriptor.clone()]);
        let root = document(vec![middle.descriptor.clone(), inner.descriptor.clone()]);
        let mut found = [&inner, &middle, &root]
            .map(|one| (one.digest().clone(), one.clone()))
            .into();
        let mut ordered = Vec::new();
        children_first(root.digest(), &mut found, &mut ordered);
        assert_eq!(ordered, [inner, middle, root]);
    }
}

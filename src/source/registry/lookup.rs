//! Finds one image in its registry: its manifests, and of an index those of the platforms that were asked for.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::sync::Arc;

use futures::{StreamExt, TryStreamExt, stream};

use crate::budget::{Reservation, json_memory};
use crate::fault::{Fault, Reason};
use crate::oci::{
    Descriptor, Digest, Document, Index, Manifest, MissingPlatforms, Platform, Reference, Selection, distinct_blobs,
    media_type, select_by, total_size,
};
use crate::registry::{Error, Kind, Repository};
use crate::source::{Identity, Resolved};

/// Manifests of one image that are read concurrently, and blobs that are transferred. The registries' limits decide how many
/// of these are requests at the same time; a blob that another transfer is sending only waits.
pub(super) const CONCURRENCY: usize = 8;
/// How deep indexes may be nested.
const DEPTH_LIMIT: usize = 4;
/// How many manifests one image may have, all platforms and attestations together.
const MANIFESTS_LIMIT: usize = 256;
/// The longest image configuration in bytes that is read.
const CONFIG_LIMIT: usize = 8 * 1024 * 1024;

/// The lookup of one image.
pub(super) struct Lookup {
    pub repository: Repository,
    /// The reference of the image, for messages.
    pub name: String,
    /// Whether the reference has a digest. Of an index, only all of it has that digest.
    pub pinned: bool,
    /// The memory that is reserved for the manifests.
    pub memory: Arc<Reservation>,
}

impl Lookup {
    fn failure(&self, what: &str) -> Fault {
        Fault::retryable(Reason::SourceFailed, format!("cannot read {}: {what}", self.name))
    }

    /// The manifest or index of the image's name.
    pub async fn root(&self, reference: &Reference) -> Result<Document, Fault> {
        self.document(reference.identifier()).await?.ok_or_else(|| {
            Fault::retryable(
                Reason::SourceNotFound,
                format!(
                    "{} does not exist in {}; check the name and the tag, or push the image there",
                    self.name,
                    self.repository.registry().host()
                ),
            )
        })
    }

    pub async fn resolve(
        &self,
        root: Document,
        reference: &Reference,
        platforms: &[Platform],
    ) -> Result<Resolved, Fault> {
        let top = root.digest().clone();
        let (root, read) = self.select_platforms(root, platforms).await?;
        let digest = root.digest().clone();
        let documents = self.with_children(root, read).await?;
        let size = total_size(distinct_blobs(&documents));
        Ok(Resolved {
            reference: reference.clone(),
            platforms: platforms.to_vec(),
            chosen_from: (top != digest).then_some(top),
            identity: Identity::Manifest(digest),
            documents,
            memory: Arc::clone(&self.memory),
            size: Some(size),
        })
    }

    pub async fn document(&self, identifier: &str) -> Result<Option<Document>, Fault> {
        let read = self.repository.manifest(identifier).await;
        self.reserve_memory(read.map_err(|error| error.into_read_fault(&self.name))?)
    }

    /// `document`, which stays in memory until the image was transferred.
    fn reserve_memory(&self, document: Option<Document>) -> Result<Option<Document>, Fault> {
        let memory = document.as_ref().map_or(0, |document| json_memory(&document.raw));
        let added = self.memory.add(memory);
        added.map_err(|exhausted| exhausted.fault(Reason::SourceFailed, &self.name))?;
        Ok(document)
    }

    /// A manifest that an index lists; `None` if the registry has no usable manifest of that digest.
    async fn listed_manifest(&self, digest: &Digest) -> Result<Option<Document>, Fault> {
        match self.repository.manifest(digest.as_str()).await {
            Ok(document) => self.reserve_memory(document),
            // The index was read with the same credentials, so a refusal means that the manifest does not exist.
            Err(error) if is_not_a_manifest(&error) || error.may_mean_absent() => Ok(None),
            Err(error) => Err(error.into_read_fault(&self.name)),
        }
    }

    /// A manifest that an index lists; `None` for an entry that is a blob.
    async fn child(&self, entry: &Descriptor) -> Result<Option<Document>, Fault> {
        if media_type::is_blob(&entry.media_type) {
            return Ok(None);
        }
        if !entry.is_manifest_or_untyped() {
            // A registry may have it as a manifest or as a blob.
            let found = self.repository.manifest(entry.digest.as_str()).await;
            return match found {
                Err(error) if is_not_a_manifest(&error) => Err(self.failure(&format!(
                    "its index lists {} of type `{}`, which is not an image; choose by platforms, or push the image again with a current tool",
                    entry.digest, entry.media_type
                ))),
                found => self.reserve_memory(found.map_err(|error| error.into_read_fault(&self.name))?),
            };
        }
        let document = self.document(entry.digest.as_str()).await?;
        document.map(Some).ok_or_else(|| self.missing(entry))
    }

    /// The fault of a manifest that the index lists and the registry does not have.
    fn missing(&self, entry: &Descriptor) -> Fault {
        let host = self.repository.registry().host();
        let (digest, name) = (&entry.digest, &self.name);
        let instead = match self.pinned {
            true => "name one of its images by the image's own digest",
            false => "choose among the others by platforms",
        };
        let message = match entry.attested_digest().filter(|_| entry.is_attestation()) {
            Some(subject) => format!(
                "the index of {name} lists attestations ({digest}) of the image {subject} that {host} does not have; {without}, or push the whole image there",
                without = match self.pinned {
                    true => instead,
                    false => "choose images by platforms, which leaves these attestations out",
                }
            ),
            None => {
                let platform = entry.platform.as_ref().filter(|platform| platform.is_specified());
                let platform = platform.map(|platform| format!("for {platform} ")).unwrap_or_default();
                format!(
                    "the index of {name} lists a manifest {platform}({digest}) that {host} does not have; {instead}, or push the whole image there"
                )
            }
        };
        Fault::retryable(Reason::SourceNotFound, message)
    }

    /// The root that has only the platforms asked for, which may be `root` itself, and those of the listed manifests that were
    /// read. An index that is referred to by its digest stays whole: the cluster looks for that digest.
    async fn select_platforms(
        &self,
        root: Document,
        platforms: &[Platform],
    ) -> Result<(Document, HashMap<Digest, Document>), Fault> {
        if platforms.is_empty() {
            return Ok((root, HashMap::new()));
        }
        let index = match (root.index(), root.manifest()) {
            (Some(index), _) => index,
            (None, Some(manifest)) => {
                // An image without a platform is accepted for every platform.
                let Some(offered) = self.platform_of(manifest).await? else {
                    return Ok((root, HashMap::new()));
                };
                let absent: Vec<Platform> = platforms
                    .iter()
                    .filter(|asked| !asked.admits(&offered))
                    .cloned()
                    .collect();
                return match absent.is_empty() {
                    true => Ok((root, HashMap::new())),
                    false => Err(self.platforms_not_found(&MissingPlatforms(absent), vec![offered])),
                };
            }
            (None, None) => return Ok((root, HashMap::new())),
        };
        let mut read = HashMap::new();
        let index = &self.flatten(index, &mut read).await?;
        let mut offered: Vec<Option<Platform>> = Vec::with_capacity(index.manifests.len());
        for entry in &index.manifests {
            offered.push(match entry.may_be_image() {
                true => self.platform_of_entry(entry, &mut read).await?,
                false => None,
            });
        }
        let selection = match select_by(index, platforms, |at| offered.get(at)?.as_ref()) {
            Ok(selection) => selection,
            Err(absent) => return Err(self.platforms_not_found(&absent, offered.into_iter().flatten().collect())),
        };
        let kept = match selection {
            _ if self.pinned => return Ok((root, read)),
            Selection::Image(only) => {
                let document = match read.remove(&only.digest) {
                    Some(document) => Some(document),
                    None => self.document(only.digest.as_str()).await?,
                };
                return Ok((document.ok_or_else(|| self.missing(&only))?, read));
            }
            Selection::Index(kept) => kept,
            Selection::Unchanged => index.clone(),
        };
        if kept.manifests.len() > MANIFESTS_LIMIT {
            return Err(self.too_many());
        }
        let platform_of_digest = |digest: &Digest| {
            let mut entries = index.manifests.iter().zip(&offered);
            entries.find_map(|(entry, offered)| (entry.digest == *digest).then_some(offered.as_ref())?)
        };
        let (entries, read) = self
            .existing_entries(kept.manifests, platforms, platform_of_digest, read)
            .await?;
        let kept = Index {
            manifests: entries,
            ..kept
        };
        if kept.manifests.len() == index.manifests.len() {
            return Ok((root, read));
        }
        // Only one image may remain.
        let images: Vec<&Descriptor> = kept.manifests.iter().filter(|entry| entry.may_be_image()).collect();
        if let [only] = images.as_slice()
            && let Some(document) = read.get(&only.digest)
        {
            return Ok((document.clone(), read));
        }
        let root = Document::of_index(kept).map_err(|error| self.failure(&error.to_string()))?;
        Ok((root, read))
    }

    /// The index with nested indexes that name no platform replaced by their entries. Indexes that are read are added to
    /// `read`.
    async fn flatten(&self, index: &Index, read: &mut HashMap<Digest, Document>) -> Result<Index, Fault> {
        let (mut flat, mut absent) = (index.clone(), HashSet::new());
        for _ in 0..DEPTH_LIMIT {
            let mut open = flat.unresolved_indexes(read);
            open.retain(|digest| !absent.contains(digest));
            if open.is_empty() {
                break;
            }
            if read.len() + open.len() > MANIFESTS_LIMIT {
                return Err(self.too_many());
            }
            let found: Vec<(Digest, Option<Document>)> = stream::iter(open)
                .map(|digest| async move { Ok::<_, Fault>((digest.clone(), self.listed_manifest(&digest).await?)) })
                .buffered(CONCURRENCY)
                .try_collect()
                .await?;
            for (digest, document) in found {
                match document {
                    Some(document) => drop(read.insert(digest, document)),
                    None => drop(absent.insert(digest)),
                }
            }
            flat = flat.expand_indexes(read).ok_or_else(|| self.too_many())?;
        }
        Ok(flat)
    }

    /// Those of the selected `entries` that the registry has, with their manifests. Attestations may be missing, and so may an
    /// image if another one for the same platform exists.
    async fn existing_entries<'a>(
        &self,
        entries: Vec<Descriptor>,
        platforms: &[Platform],
        platform_of_digest: impl Fn(&Digest) -> Option<&'a Platform>,
        mut read: HashMap<Digest, Document>,
    ) -> Result<(Vec<Descriptor>, HashMap<Digest, Document>), Fault> {
        let unread: BTreeSet<Digest> = entries
            .iter()
            .map(|entry| entry.digest.clone())
            .filter(|digest| !read.contains_key(digest))
            .collect();
        let found: Vec<Option<Document>> = stream::iter(unread)
            .map(|digest| async move { self.listed_manifest(&digest).await })
            .buffered(CONCURRENCY)
            .try_collect()
            .await?;
        read.extend(
            found
                .into_iter()
                .flatten()
                .map(|document| (document.digest().clone(), document)),
        );
        let (mut existing, missing): (Vec<Descriptor>, Vec<Descriptor>) =
            entries.into_iter().partition(|entry| read.contains_key(&entry.digest));
        for entry in existing.iter_mut().filter(|entry| entry.size == 0) {
            entry.size = read.get(&entry.digest).map_or(0, |document| document.descriptor.size);
        }
        let has = |asked: &Platform| {
            let mut images = existing.iter().filter(|entry| entry.may_be_image());
            images.any(|image| platform_of_digest(&image.digest).is_some_and(|offered| asked.admits(offered)))
        };
        match missing.iter().find(|entry| entry.may_be_image()) {
            Some(image) if !platforms.iter().all(has) => Err(self.missing(image)),
            _ => Ok((existing, read)),
        }
    }

    /// The platform of an entry of an index, by the index or else by its configuration. A manifest that is read is added to
    /// `read`.
    async fn platform_of_entry(
        &self,
        entry: &Descriptor,
        read: &mut HashMap<Digest, Document>,
    ) -> Result<Option<Platform>, Fault> {
        if entry.has_platform() {
            return Ok(entry.platform.clone());
        }
        if read.len() >= MANIFESTS_LIMIT {
            return Err(self.failure(&format!(
                "more than {MANIFESTS_LIMIT} entries of its index name no platform; refer to the image that is wanted by its digest"
            )));
        }
        let Some(document) = self.listed_manifest(&entry.digest).await? else {
            return Ok(None);
        };
        let platform = match document.manifest() {
            Some(manifest) => self.platform_of(manifest).await?,
            None => None,
        };
        read.insert(entry.digest.clone(), document);
        Ok(platform)
    }

    /// The platform in an image's configuration.
    async fn platform_of(&self, manifest: &Manifest) -> Result<Option<Platform>, Fault> {
        if let Some(raw) = manifest.config.inline_content() {
            return Ok(Platform::of_config(&raw));
        }
        match self.repository.small_blob(&manifest.config.digest, CONFIG_LIMIT).await {
            Ok(raw) => Ok(raw.and_then(|raw| Platform::of_config(&raw))),
            Err(error) if is_not_a_manifest(&error) => Ok(None),
            Err(error) => Err(error.into_read_fault(&self.name)),
        }
    }

    /// The fault of platforms that the image does not have.
    fn platforms_not_found(&self, absent: &MissingPlatforms, mut offered: Vec<Platform>) -> Fault {
        offered.retain(Platform::is_specified);
        let mut has: Vec<String> = offered.iter().map(Platform::to_string).collect();
        let mut seen = HashSet::new();
        has.retain(|platform| seen.insert(platform.clone()));
        let what = match has.len() {
            0 => {
                "it names no platform; leave platforms out to take all of it, or push an image that names its platform"
                    .to_owned()
            }
            count => {
                let more = count.saturating_sub(20);
                has.truncate(20);
                let others = if more > 0 {
                    format!(" and {more} others")
                } else {
                    String::new()
                };
                format!(
                    "it is for {}{others}; choose among these by platforms, or push the missing one there",
                    has.join(", ")
                )
            }
        };
        Fault::retryable(
            Reason::SourceNotFound,
            format!("{} has no image for {absent}: {what}", self.name),
        )
    }

    /// Every manifest under `root`, children before every index that lists them, each once.
    /// `read` are some of them.
    pub async fn with_children(
        &self,
        root: Document,
        mut read: HashMap<Digest, Document>,
    ) -> Result<Vec<Document>, Fault> {
        let top = root.digest().clone();
        let mut found = HashMap::from([(top.clone(), root)]);
        let mut level = vec![top.clone()];
        for depth in 0.. {
            let entries = unread(&level, &found);
            if found.len() + entries.len() > MANIFESTS_LIMIT {
                return Err(self.too_many());
            }
            let has_index = |digest: &Digest| found.get(digest).is_some_and(|document| document.index().is_some());
            if depth >= DEPTH_LIMIT && level.iter().any(has_index) {
                return Err(self.failure(&format!("its indexes are nested more than {DEPTH_LIMIT} levels deep")));
            }
            if entries.is_empty() {
                break;
            }
            let (known, unknown): (Vec<_>, Vec<_>) = entries
                .into_iter()
                .map(|entry| (read.remove(&entry.digest), entry))
                .partition(|(known, _)| known.is_some());
            let children: Vec<Option<Document>> = stream::iter(unknown)
                .map(|(_, entry)| async move { self.child(&entry).await })
                .buffered(CONCURRENCY)
                .try_collect()
                .await?;
            let known = known.into_iter().map(|(known, _)| known);
            let children: Vec<Document> = known.chain(children).flatten().collect();
            level = children.iter().map(|child| child.digest().clone()).collect();
            found.extend(children.into_iter().map(|child| (child.digest().clone(), child)));
        }
        let mut ordered = Vec::with_capacity(found.len());
        children_first(&top, &mut found, &mut ordered);
        Ok(ordered)
    }

    fn too_many(&self) -> Fault {
        self.failure(&format!(
            "it has more than {MANIFESTS_LIMIT} manifests; choose some by platforms"
        ))
    }
}

/// Whether the content is not a manifest.
fn is_not_a_manifest(error: &Error) -> bool {
    matches!(error.kind(), Kind::Unsupported | Kind::Protocol | Kind::TooLarge)
}

/// The entries of the indexes of `level` that are not in `found`, each once.
fn unread(level: &[Digest], found: &HashMap<Digest, Document>) -> Vec<Descriptor> {
    let mut seen = HashSet::new();
    level
        .iter()
        .filter_map(|digest| found.get(digest)?.index())
        .flat_map(|index| &index.manifests)
        .filter(|entry| !media_type::is_blob(&entry.media_type))
        .filter(|entry| !found.contains_key(&entry.digest) && seen.insert(&entry.digest))
        .cloned()
        .collect()
}

/// Moves the document of `digest` from `found` to the end of `ordered`, after all that it lists.
pub(in crate::source) fn children_first(
    digest: &Digest,
    found: &mut HashMap<Digest, Document>,
    ordered: &mut Vec<Document>,
) {
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
    fn children_come_before_every_index_that_lists_them() {
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

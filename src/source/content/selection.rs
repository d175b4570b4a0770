//! Selects the manifests of an image that are taken from a content store, by what the store holds.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::sync::{Arc, Mutex, PoisonError};

use super::faults::{StoreOwner, StoredImage};
use super::store::ContentStore;
use crate::budget::{IMAGES, Reservation, json_memory};
use crate::fault::{Fault, Reason};
use crate::oci::{
    Descriptor, Digest, Document, Index, MANIFEST_LIMIT, Manifest, Platform, Reference, Selection, distinct_blobs,
    media_type, select_by, total_size,
};
use crate::source::registry::children_first;
use crate::source::{Identity, Resolved};

/// How deep indexes may be nested; real ones have one level.
const DEPTH_LIMIT: usize = 4;
/// How many manifests one image may have, all platforms and attestations together.
const MANIFESTS_LIMIT: usize = 256;
/// The longest image configuration in bytes that is read.
const CONFIG_LIMIT: u64 = 8 * 1024 * 1024;

impl ContentStore {
    /// Finds the manifests of the image with the root `root`, for `platforms`, and checks that all of their blobs exist.
    ///
    /// Without platforms an index is taken whole when all of it is held. A client that pulled it holds one platform of
    /// those that it lists; then that one image is taken, as `docker push` does. If several but not all are held, the user
    /// must choose.
    ///
    /// # Errors
    /// [`Reason::SourceNotFound`] when a platform that was asked for is not held, [`Reason::SourceFailed`] when content
    /// of what is held does not exist, [`Reason::DigestMismatch`] when it is damaged.
    pub async fn resolve(
        &self,
        owner: StoreOwner,
        root: &Digest,
        reference: &Reference,
        platforms: &[Platform],
    ) -> Result<Resolved, Fault> {
        let memory = Arc::new(IMAGES.reserve());
        let documents = select_documents(self, owner, &memory, root, reference, platforms).await?;
        let size = total_size(distinct_blobs(&documents));
        let root = documents.last().map_or(root, Document::digest).clone();
        Ok(Resolved {
            reference: reference.clone(),
            platforms: platforms.to_vec(),
            identity: Identity::Manifest(root),
            chosen_from: None,
            documents,
            memory,
            size: Some(size),
        })
    }
}

// Every manifest that is taken of the image under `root`, children first. `memory` is reserved for them.
async fn select_documents(
    store: &ContentStore,
    owner: StoreOwner,
    memory: &Reservation,
    root: &Digest,
    reference: &Reference,
    platforms: &[Platform],
) -> Result<Vec<Document>, Fault> {
    let name = reference.familiar();
    let image = StoredImage { owner, name: &name };
    let reader = ImageReader {
        store,
        image,
        memory,
        counted: Mutex::default(),
    };
    let Some(top) = reader.document(&Descriptor::new("", root.clone(), 0)).await? else {
        return Err(image.missing(root));
    };
    if let Some(manifest) = top.manifest() {
        if !platforms.is_empty() {
            let offered = reader.platform_of(manifest).await?;
            let admits = |asked: &&Platform| offered.as_ref().is_none_or(|offered| asked.admits(offered));
            if let Some(asked) = platforms.iter().find(|asked| !admits(asked)) {
                return Err(image.platform_not_found(&asked.to_string()));
            }
        }
        return reader.complete_tree(top).await;
    }
    let Some(index) = top.index() else {
        return Err(image.unusable("it is neither a manifest nor an index"));
    };
    // A digest may name one image of the index.
    let pinned = reference.digest().filter(|digest| *digest != root);
    if let Some(entry) = index.manifests.iter().find(|entry| Some(&entry.digest) == pinned) {
        return reader.entry_image(entry).await;
    }
    // A reference with the digest of an index means all of it. In docker, a digest after a tag only selects what is read.
    let named = owner == StoreOwner::Containerd || reference.tag().is_none();
    if named
        && !platforms.is_empty()
        && reference.digest() == Some(root)
        && let Tree::Complete(documents) = reader.tree(top.clone()).await?
    {
        return Ok(documents);
    }
    let flat = match platforms.is_empty() {
        true => None,
        false => Some(reader.flatten(index).await?),
    };
    let index = flat.as_ref().unwrap_or(index);
    let mut offered: Vec<Option<Platform>> = Vec::with_capacity(index.manifests.len());
    for entry in &index.manifests {
        offered.push(match entry.may_be_image() {
            true => reader.platform_of_entry(entry).await?,
            false => None,
        });
    }
    let selected = select_by(index, platforms, |at| offered.get(at)?.as_ref());
    match selected.map_err(|absent| image.platform_not_found(&absent.to_string()))? {
        Selection::Image(entry) => reader.entry_image(&entry).await,
        Selection::Index(kept) => reader.index_of(kept, platforms).await,
        Selection::Unchanged if platforms.is_empty() => reader.index_or_only_image(&top, index).await,
        Selection::Unchanged => match reader.tree(top.clone()).await? {
            Tree::Complete(documents) => Ok(documents),
            Tree::Incomplete(_) => reader.index_of(index.clone(), platforms).await,
        },
    }
}

/// Everything under a manifest or index.
enum Tree {
    /// Every manifest, children first. All of their blobs exist.
    Complete(Vec<Document>),
    /// Some of it does not exist.
    Incomplete(MissingContent),
}

/// What does not exist of something that an index lists.
enum MissingContent {
    /// Its manifest: it was never pulled.
    Manifest,
    /// A blob.
    Blob(Fault),
}

/// Reads the manifests of one image.
struct ImageReader<'a> {
    store: &'a ContentStore,
    image: StoredImage<'a>,
    memory: &'a Reservation,
    /// The manifests that are counted in `memory`.
    counted: Mutex<HashSet<Digest>>,
}

impl ImageReader<'_> {
    // All of an index, or the one image of it that is held.
    async fn index_or_only_image(&self, top: &Document, index: &Index) -> Result<Vec<Document>, Fault> {
        let missing = match self.tree(top.clone()).await? {
            Tree::Complete(documents) => return Ok(documents),
            Tree::Incomplete(missing) => missing,
        };
        let mut complete: Vec<(&Descriptor, Vec<Document>)> = Vec::new();
        let mut first_fault: Option<Fault> = None;
        for entry in index.manifests.iter().filter(|entry| entry.may_be_image()) {
            match self.entry(entry).await? {
                Tree::Complete(documents) => complete.push((entry, documents)),
                Tree::Incomplete(MissingContent::Blob(fault)) => drop(first_fault.get_or_insert(fault)),
                Tree::Incomplete(MissingContent::Manifest) => {}
            }
        }
        let Some(((first, _), others)) = complete.split_first() else {
            return Err(match (first_fault, missing) {
                (Some(fault), _) | (None, MissingContent::Blob(fault)) => fault,
                (None, MissingContent::Manifest) => self.image.platform_not_found("any platform"),
            });
        };
        if others.is_empty() {
            return Ok(complete.remove(0).1);
        }
        let platform = |entry: &Descriptor| {
            entry
                .platform
                .as_ref()
                .filter(|said| said.is_specified())
                .map(Platform::normalised)
        };
        // Such as one image compressed by gzip and by zstd.
        if let Some(only) = platform(first)
            && others.iter().all(|(entry, _)| platform(entry).as_ref() == Some(&only))
        {
            let mut kept = index.clone();
            kept.manifests = complete.iter().map(|(entry, _)| (*entry).clone()).collect();
            return self.index_of(kept, &[only]).await;
        }
        let mut labels: Vec<String> = complete.iter().map(|(entry, _)| label(entry)).collect();
        labels.dedup();
        let advice = match complete.iter().all(|(entry, _)| platform(entry).is_some()) {
            true => "set platforms to those that are wanted",
            false => "set platforms to those that are wanted, or name one image by its tag and its digest",
        };
        Err(Fault::retryable(
            Reason::SourceFailed,
            format!(
                "{} holds {} of `{}`, but not all that its index lists; {advice}",
                self.image.owner.name(),
                labels.join(", "),
                self.image.name
            ),
        ))
    }

    // The index with nested indexes that name no platform replaced by their entries. One that is not held stays.
    async fn flatten(&self, index: &Index) -> Result<Index, Fault> {
        let (mut flat, mut read, mut seen) = (index.clone(), HashMap::new(), HashSet::new());
        for _ in 0..DEPTH_LIMIT {
            let open: Vec<Digest> = flat
                .unresolved_indexes(&read)
                .into_iter()
                .filter(|digest| seen.insert(digest.clone()))
                .collect();
            if open.is_empty() {
                break;
            }
            if seen.len() > MANIFESTS_LIMIT {
                return Err(self.too_many());
            }
            for digest in open {
                if let Some(document) = self.document(&Descriptor::new("", digest.clone(), 0)).await? {
                    read.insert(digest, document);
                }
            }
            flat = flat.expand_indexes(&read).ok_or_else(|| self.too_many())?;
        }
        Ok(flat)
    }

    // An index made of `index` with the entries that are held, and their documents. Attestations that were never pulled are
    // left out, and so is an image if another one for the same platform is held.
    async fn index_of(&self, mut index: Index, platforms: &[Platform]) -> Result<Vec<Document>, Fault> {
        let mut documents: Vec<Document> = Vec::new();
        let mut kept: Vec<Descriptor> = Vec::with_capacity(index.manifests.len());
        let mut images: Vec<Platform> = Vec::new();
        let mut first_fault: Option<Fault> = None;
        for entry in std::mem::take(&mut index.manifests) {
            match self.entry(&entry).await? {
                Tree::Complete(under) => {
                    let known: HashSet<Digest> = documents.iter().map(|known| known.digest().clone()).collect();
                    documents.extend(under.into_iter().filter(|document| !known.contains(document.digest())));
                    if entry.may_be_image() {
                        images.extend(self.platform_of_entry(&entry).await?);
                    }
                    kept.push(entry);
                }
                Tree::Incomplete(_) if entry.is_attestation() => {}
                Tree::Incomplete(missing) => drop(first_fault.get_or_insert(self.fault(missing, &entry))),
            }
        }
        if let Some(fault) = first_fault
            && !platforms
                .iter()
                .all(|asked| images.iter().any(|image| asked.admits(image)))
        {
            return Err(fault);
        }
        let entries: Vec<&Descriptor> = kept.iter().filter(|entry| entry.may_be_image()).collect();
        if let [only] = entries.as_slice() {
            return self.entry_image(only).await;
        }
        index.manifests = kept;
        documents.push(Document::of_index(index).map_err(|error| self.image.unusable(&error.to_string()))?);
        Ok(documents)
    }

    // Everything under an entry of an index, which must exist.
    async fn entry_image(&self, entry: &Descriptor) -> Result<Vec<Document>, Fault> {
        match self.entry(entry).await? {
            Tree::Complete(documents) => Ok(documents),
            Tree::Incomplete(missing) => Err(self.fault(missing, entry)),
        }
    }

    fn fault(&self, missing: MissingContent, entry: &Descriptor) -> Fault {
        match missing {
            MissingContent::Blob(fault) => fault,
            MissingContent::Manifest => self.image.platform_not_found(&label(entry)),
        }
    }

    // Everything under `top`, which must exist.
    async fn complete_tree(&self, top: Document) -> Result<Vec<Document>, Fault> {
        let digest = top.digest().clone();
        match self.tree(top).await? {
            Tree::Complete(documents) => Ok(documents),
            Tree::Incomplete(MissingContent::Blob(fault)) => Err(fault),
            Tree::Incomplete(MissingContent::Manifest) => Err(self.image.missing(&digest)),
        }
    }

    // Everything under an entry of an index.
    async fn entry(&self, entry: &Descriptor) -> Result<Tree, Fault> {
        match self.document(entry).await? {
            Some(document) => self.tree(document).await,
            None => Ok(Tree::Incomplete(MissingContent::Manifest)),
        }
    }

    // Everything under `root`.
    async fn tree(&self, root: Document) -> Result<Tree, Fault> {
        let top = root.digest().clone();
        let mut found = HashMap::from([(top.clone(), root)]);
        let mut level = vec![top.clone()];
        for depth in 0.. {
            let entries: Vec<Descriptor> = level
                .iter()
                .filter_map(|digest| found.get(digest)?.index())
                .flat_map(|index| index.manifests.clone())
                // Anything else is a blob.
                .filter(Descriptor::is_manifest_or_untyped)
                .collect();
            if entries.is_empty() {
                break;
            }
            if depth >= DEPTH_LIMIT {
                return Err(self
                    .image
                    .unusable(&format!("its indexes are nested more than {DEPTH_LIMIT} levels deep")));
            }
            level.clear();
            for entry in entries {
                if found.contains_key(&entry.digest) {
                    continue;
                }
                if found.len() >= MANIFESTS_LIMIT {
                    return Err(self.too_many());
                }
                let Some(document) = self.document(&entry).await? else {
                    return Ok(Tree::Incomplete(MissingContent::Manifest));
                };
                level.push(entry.digest.clone());
                found.insert(entry.digest, document);
            }
        }
        let mut documents = Vec::with_capacity(found.len());
        children_first(&top, &mut found, &mut documents);
        Ok(match self.missing_blob(&documents).await? {
            Some(fault) => Tree::Incomplete(MissingContent::Blob(fault)),
            None => Tree::Complete(documents),
        })
    }

    // The fault of the first blob of `documents` that does not exist or has another length.
    async fn missing_blob(&self, documents: &[Document]) -> Result<Option<Fault>, Fault> {
        let blobs = distinct_blobs(documents);
        let sizes = self.store.sizes(blobs.iter().map(|blob| blob.digest.clone()).collect());
        let sizes = sizes
            .await
            .map_err(|fault| fault.with_context(format_args!("`{}`", self.image.name)))?;
        for blob in &blobs {
            match sizes.get(&blob.digest) {
                Some(&size) if size == blob.size => {}
                Some(&size) => return Ok(Some(self.image.wrong_length(blob, size))),
                None => return Ok(Some(self.missing_blob_fault(documents, &blob.digest, &sizes))),
            }
        }
        Ok(None)
    }

    fn missing_blob_fault(&self, documents: &[Document], first: &Digest, sizes: &HashMap<Digest, u64>) -> Fault {
        let manifests = || documents.iter().filter_map(Document::manifest);
        let layers: BTreeSet<&Digest> = manifests()
            .flat_map(|manifest| &manifest.layers)
            .map(|layer| &layer.digest)
            .collect();
        let configured = manifests().all(|manifest| sizes.contains_key(&manifest.config.digest));
        let discarded = configured && !layers.is_empty() && !layers.iter().any(|layer| sizes.contains_key(*layer));
        if self.image.owner == StoreOwner::Docker || !discarded {
            return self.image.missing(first);
        }
        let message = format!(
            "{} holds `{}` without its {} layers ({first} is one): it discards them once they are unpacked; \
             set discard_unpacked_layers = false in its configuration, restart it and {}",
            self.image.owner.name(),
            self.image.name,
            layers.len(),
            self.image.owner.reload_advice()
        );
        Fault::retryable(Reason::SourceFailed, message)
    }

    async fn document(&self, descriptor: &Descriptor) -> Result<Option<Document>, Fault> {
        let limit = MANIFEST_LIMIT as u64;
        let read = self.store.read_small(self.image, &descriptor.digest, limit);
        let Some(raw) = read.await? else {
            return Ok(None);
        };
        let declared = Some(descriptor.media_type.as_str()).filter(|declared| media_type::is_manifest(declared));
        let document = Document::parse(declared, raw);
        let document = document.map_err(|error| self.image.unusable(&format!("{}: {error}", descriptor.digest)))?;
        let mut counted = self.counted.lock().unwrap_or_else(PoisonError::into_inner);
        if counted.insert(descriptor.digest.clone()) {
            let added = self.memory.add(json_memory(&document.raw));
            added.map_err(|exhausted| exhausted.fault(Reason::SourceFailed, &format!("`{}`", self.image.name)))?;
        }
        Ok(Some(document.with_digest(descriptor.digest.clone())))
    }

    /// The platform of an entry of an index, by the index or else by its configuration.
    async fn platform_of_entry(&self, entry: &Descriptor) -> Result<Option<Platform>, Fault> {
        if entry.has_platform() {
            return Ok(entry.platform.clone());
        }
        // An entry that cannot be read cannot be chosen.
        match self.document(entry).await {
            Ok(document) => match document.as_ref().and_then(Document::manifest) {
                Some(manifest) => self.platform_of(manifest).await,
                None => Ok(None),
            },
            Err(_) => Ok(None),
        }
    }

    async fn platform_of(&self, manifest: &Manifest) -> Result<Option<Platform>, Fault> {
        let digest = &manifest.config.digest;
        let raw = self.store.read_small(self.image, digest, CONFIG_LIMIT).await?;
        Ok(raw.and_then(|raw| Platform::of_config(&raw)))
    }

    fn too_many(&self) -> Fault {
        self.image.unusable(&format!(
            "it has more than {MANIFESTS_LIMIT} manifests; choose some by platforms"
        ))
    }
}

fn label(descriptor: &Descriptor) -> String {
    match descriptor.platform.as_ref().filter(|platform| platform.is_specified()) {
        Some(platform) => platform.to_string(),
        None => descriptor.digest.to_string(),
    }
}

//! What of an image is taken from a content store, which shows by itself what it holds.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::sync::{Mutex, PoisonError};

use super::{Content, Keeper, misshapen, missing};
use crate::budget::{Reservation, json_memory};
use crate::fault::{Fault, Reason};
use crate::oci::{
    Descriptor, Digest, Document, Index, MANIFEST_LIMIT, Manifest, Platform, Reference, Selection, distinct_blobs,
    media_type, select_by,
};
use crate::source::registry::children_first;

/// Indexes in indexes; real ones have one.
const DEPTH: usize = 4;
/// How many manifests one image may have, all platforms and attestations together.
const MANIFESTS: usize = 256;
/// The longest image configuration in bytes that is read.
const CONFIG_LIMIT: u64 = 8 * 1024 * 1024;

/// Every manifest of what is taken of the image under `root`, children first; `memory` is what they take.
///
/// Without a choice of platforms an index is taken whole when all of it is held. Who was told to pull holds one
/// platform of what the index lists; then that one image is taken, as `docker push` does. Where several but not
/// all are held the choice is left to the user.
///
/// # Errors
/// [`Reason::SourceNotFound`] when a platform that was asked for is not held, [`Reason::SourceFailed`] when content
/// of what is held is not there, [`Reason::DigestMismatch`] when it is damaged.
pub(super) async fn find(
    content: &Content,
    keeper: Keeper,
    memory: &Reservation,
    root: &Digest,
    reference: &Reference,
    platforms: &[Platform],
) -> Result<Vec<Document>, Fault> {
    let name = reference.familiar();
    let walk = Walk {
        content,
        keeper,
        name: &name,
        memory,
        counted: Mutex::default(),
    };
    let Some(top) = walk.document(&Descriptor::new("", root.clone(), 0)).await? else {
        return Err(missing(keeper, &name, root));
    };
    if let Some(manifest) = top.manifest() {
        if !platforms.is_empty() {
            let offered = walk.platform_of(manifest).await?;
            let admits = |asked: &&Platform| offered.as_ref().is_none_or(|offered| asked.admits(offered));
            if let Some(asked) = platforms.iter().find(|asked| !admits(asked)) {
                return Err(walk.lacking(&asked.to_string()));
            }
        }
        return walk.whole(top).await;
    }
    let Some(index) = top.index() else {
        return Err(walk.failed("it is neither a manifest nor an index"));
    };
    // A digest may name one image of the index.
    let pinned = reference.digest().filter(|digest| *digest != root);
    if let Some(entry) = index.manifests.iter().find(|entry| Some(&entry.digest) == pinned) {
        return walk.one(entry).await;
    }
    // The digest of an index names all of it. Beside a tag in docker it only says what is read.
    let named = keeper == Keeper::Containerd || reference.tag().is_none();
    if named
        && !platforms.is_empty()
        && reference.digest() == Some(root)
        && let Ok(documents) = walk.tree(top.clone()).await?
    {
        return Ok(documents);
    }
    let flat = match platforms.is_empty() {
        true => None,
        false => Some(walk.flat(index).await?),
    };
    let index = flat.as_ref().unwrap_or(index);
    let mut runs_on: Vec<Option<Platform>> = Vec::with_capacity(index.manifests.len());
    for entry in &index.manifests {
        runs_on.push(match entry.may_be_image() {
            true => walk.platform_of_entry(entry).await?,
            false => None,
        });
    }
    let selected = select_by(index, platforms, |at| runs_on.get(at)?.as_ref());
    match selected.map_err(|absent| walk.lacking(&absent.to_string()))? {
        Selection::Image(entry) => walk.one(&entry).await,
        Selection::Index(kept) => walk.several(kept, platforms).await,
        Selection::Unchanged if platforms.is_empty() => walk.held(&top, index).await,
        Selection::Unchanged => match walk.tree(top.clone()).await? {
            Ok(documents) => Ok(documents),
            Err(_) => walk.several(index.clone(), platforms).await,
        },
    }
}

/// What is not there of something that is listed.
enum MissingContent {
    /// Its manifest, so nobody ever asked for it.
    Unasked,
    /// Some of its content.
    Content(Fault),
}

struct Walk<'a> {
    content: &'a Content,
    keeper: Keeper,
    name: &'a str,
    memory: &'a Reservation,
    /// The manifests that `memory` has room for already.
    counted: Mutex<HashSet<Digest>>,
}

impl Walk<'_> {
    // An index of which all is held, or the one image that is.
    async fn held(&self, top: &Document, index: &Index) -> Result<Vec<Document>, Fault> {
        let lack = match self.tree(top.clone()).await? {
            Ok(documents) => return Ok(documents),
            Err(lack) => lack,
        };
        let mut whole: Vec<(&Descriptor, Vec<Document>)> = Vec::new();
        let mut broken: Option<Fault> = None;
        for entry in index.manifests.iter().filter(|entry| entry.may_be_image()) {
            match self.entry(entry).await? {
                Ok(documents) => whole.push((entry, documents)),
                Err(MissingContent::Content(fault)) => drop(broken.get_or_insert(fault)),
                Err(MissingContent::Unasked) => {}
            }
        }
        let Some(((first, _), others)) = whole.split_first() else {
            return Err(match (broken, lack) {
                (Some(fault), _) | (None, MissingContent::Content(fault)) => fault,
                (None, MissingContent::Unasked) => self.lacking("any platform"),
            });
        };
        if others.is_empty() {
            return Ok(whole.remove(0).1);
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
            kept.manifests = whole.iter().map(|(entry, _)| (*entry).clone()).collect();
            return self.several(kept, &[only]).await;
        }
        let mut labels: Vec<String> = whole.iter().map(|(entry, _)| label(entry)).collect();
        labels.dedup();
        let advice = match whole.iter().all(|(entry, _)| platform(entry).is_some()) {
            true => "set platforms to those that are wanted",
            false => "set platforms to those that are wanted, or name one image by its tag and its digest",
        };
        Err(Fault::retryable(
            Reason::SourceFailed,
            format!(
                "{} holds {} of `{}`, but not all that its index lists; {advice}",
                self.keeper.name(),
                labels.join(", "),
                self.name
            ),
        ))
    }

    // The index with the entries of those within it that only their own entries place. What is not held stays as it is.
    async fn flat(&self, index: &Index) -> Result<Index, Fault> {
        let (mut flat, mut read, mut seen) = (index.clone(), HashMap::new(), HashSet::new());
        for _ in 0..DEPTH {
            let open: Vec<Digest> = flat
                .unresolved_indexes(&read)
                .into_iter()
                .filter(|digest| seen.insert(digest.clone()))
                .collect();
            if open.is_empty() {
                break;
            }
            if seen.len() > MANIFESTS {
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

    // The images of an index of our own. What is said of them is left out where it was never pulled, and so is an image
    // that another one stands beside for the same platform.
    async fn several(&self, mut index: Index, platforms: &[Platform]) -> Result<Vec<Document>, Fault> {
        let mut documents: Vec<Document> = Vec::new();
        let mut kept: Vec<Descriptor> = Vec::with_capacity(index.manifests.len());
        let mut images: Vec<Platform> = Vec::new();
        let mut lost: Option<Fault> = None;
        for entry in std::mem::take(&mut index.manifests) {
            match self.entry(&entry).await? {
                Ok(under) => {
                    let known: HashSet<Digest> = documents.iter().map(|known| known.digest().clone()).collect();
                    documents.extend(under.into_iter().filter(|document| !known.contains(document.digest())));
                    if entry.may_be_image() {
                        images.extend(self.platform_of_entry(&entry).await?);
                    }
                    kept.push(entry);
                }
                Err(_) if entry.is_attestation() => {}
                Err(MissingContent::Content(fault)) => drop(lost.get_or_insert(fault)),
                Err(MissingContent::Unasked) => drop(lost.get_or_insert_with(|| self.lacking(&label(&entry)))),
            }
        }
        if let Some(fault) = lost
            && !platforms
                .iter()
                .all(|asked| images.iter().any(|image| asked.admits(image)))
        {
            return Err(fault);
        }
        let entries: Vec<&Descriptor> = kept.iter().filter(|entry| entry.may_be_image()).collect();
        if let [only] = entries.as_slice() {
            return self.one(only).await;
        }
        index.manifests = kept;
        documents.push(Document::of_index(index).map_err(|error| self.failed(&error.to_string()))?);
        Ok(documents)
    }

    async fn one(&self, entry: &Descriptor) -> Result<Vec<Document>, Fault> {
        match self.entry(entry).await? {
            Ok(documents) => Ok(documents),
            Err(MissingContent::Content(fault)) => Err(fault),
            Err(MissingContent::Unasked) => Err(self.lacking(&label(entry))),
        }
    }

    async fn whole(&self, top: Document) -> Result<Vec<Document>, Fault> {
        let digest = top.digest().clone();
        match self.tree(top).await? {
            Ok(documents) => Ok(documents),
            Err(MissingContent::Content(fault)) => Err(fault),
            Err(MissingContent::Unasked) => Err(missing(self.keeper, self.name, &digest)),
        }
    }

    // Everything under an entry of an index.
    async fn entry(&self, entry: &Descriptor) -> Result<Result<Vec<Document>, MissingContent>, Fault> {
        match self.document(entry).await? {
            Some(document) => self.tree(document).await,
            None => Ok(Err(MissingContent::Unasked)),
        }
    }

    // Every manifest under `root`, children first, when all of their content is there.
    async fn tree(&self, root: Document) -> Result<Result<Vec<Document>, MissingContent>, Fault> {
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
            if depth >= DEPTH {
                return Err(self.failed(&format!("its indexes lie more than {DEPTH} deep in each other")));
            }
            level.clear();
            for entry in entries {
                if found.contains_key(&entry.digest) {
                    continue;
                }
                if found.len() >= MANIFESTS {
                    return Err(self.too_many());
                }
                let Some(document) = self.document(&entry).await? else {
                    return Ok(Err(MissingContent::Unasked));
                };
                level.push(entry.digest.clone());
                found.insert(entry.digest, document);
            }
        }
        let mut documents = Vec::with_capacity(found.len());
        children_first(&top, &mut found, &mut documents);
        Ok(match self.lack(&documents).await? {
            Some(fault) => Err(MissingContent::Content(fault)),
            None => Ok(documents),
        })
    }

    // What is not there of the blobs that `documents` name.
    async fn lack(&self, documents: &[Document]) -> Result<Option<Fault>, Fault> {
        let blobs = distinct_blobs(documents);
        let sizes = self
            .content
            .sizes(blobs.iter().map(|blob| blob.digest.clone()).collect());
        let sizes = sizes
            .await
            .map_err(|fault| fault.with_context(format_args!("`{}`", self.name)))?;
        for blob in &blobs {
            match sizes.get(&blob.digest) {
                Some(&size) if size == blob.size => {}
                Some(&size) => return Ok(Some(misshapen(self.keeper, self.name, blob, size))),
                None => return Ok(Some(self.gap(documents, &blob.digest, &sizes))),
            }
        }
        Ok(None)
    }

    fn gap(&self, documents: &[Document], first: &Digest, sizes: &HashMap<Digest, u64>) -> Fault {
        let manifests = || documents.iter().filter_map(Document::manifest);
        let layers: BTreeSet<&Digest> = manifests()
            .flat_map(|manifest| &manifest.layers)
            .map(|layer| &layer.digest)
            .collect();
        let configured = manifests().all(|manifest| sizes.contains_key(&manifest.config.digest));
        let discarded = configured && !layers.is_empty() && !layers.iter().any(|layer| sizes.contains_key(*layer));
        if self.keeper == Keeper::Docker || !discarded {
            return missing(self.keeper, self.name, first);
        }
        let message = format!(
            "{} holds `{}` without its {} layers ({first} is one): it discards them once they are unpacked; \
             set discard_unpacked_layers = false in its configuration, restart it and {}",
            self.keeper.name(),
            self.name,
            layers.len(),
            self.keeper.again()
        );
        Fault::retryable(Reason::SourceFailed, message)
    }

    async fn document(&self, descriptor: &Descriptor) -> Result<Option<Document>, Fault> {
        let limit = MANIFEST_LIMIT as u64;
        let read = self.content.small(self.keeper, self.name, &descriptor.digest, limit);
        let Some(raw) = read.await? else {
            return Ok(None);
        };
        let declared = Some(descriptor.media_type.as_str()).filter(|declared| media_type::is_manifest(declared));
        let document = Document::parse(declared, raw);
        let document = document.map_err(|error| self.failed(&format!("{}: {error}", descriptor.digest)))?;
        let mut counted = self.counted.lock().unwrap_or_else(PoisonError::into_inner);
        if counted.insert(descriptor.digest.clone()) {
            let added = self.memory.add(json_memory(&document.raw));
            added.map_err(|exhausted| exhausted.fault(Reason::SourceFailed, &format!("`{}`", self.name)))?;
        }
        Ok(Some(document.with_digest(descriptor.digest.clone())))
    }

    /// What an entry of an index runs on; where the index does not say, its configuration does.
    async fn platform_of_entry(&self, entry: &Descriptor) -> Result<Option<Platform>, Fault> {
        if entry.has_platform() {
            return Ok(entry.platform.clone());
        }
        // What cannot be read cannot be chosen.
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
        let raw = self.content.small(self.keeper, self.name, digest, CONFIG_LIMIT).await?;
        Ok(raw.and_then(|raw| Platform::of_config(&raw)))
    }

    fn lacking(&self, platform: &str) -> Fault {
        let message = format!(
            "{} does not hold {platform} of `{}`; pull or build it there for that platform, or change platforms",
            self.keeper.name(),
            self.name
        );
        Fault::retryable(Reason::SourceNotFound, message)
    }

    fn failed(&self, what: &str) -> Fault {
        let message = format!(
            "`{}` cannot be read from {}: {what}; {}",
            self.name,
            self.keeper.name(),
            self.keeper.again()
        );
        Fault::retryable(Reason::SourceFailed, message)
    }

    fn too_many(&self) -> Fault {
        self.failed(&format!(
            "it has more than {MANIFESTS} manifests; choose some by platforms"
        ))
    }
}

fn label(descriptor: &Descriptor) -> String {
    match descriptor.platform.as_ref().filter(|platform| platform.is_specified()) {
        Some(platform) => platform.to_string(),
        None => descriptor.digest.to_string(),
    }
}

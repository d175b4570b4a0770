//! The images of an archive: their names, and the manifests that they consist of.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use bytes::Bytes;

use crate::budget::{PACKAGES, Reservation, json_memory};
use crate::fault::{Fault, Reason};
use crate::oci::{
    Content, Descriptor, Digest, Document, Platform, Reference, distinct_blobs, distinct_foreign_layers, total_size,
};
use crate::package::{BASE_NAME, REF_NAME};
use crate::source::{Blob, BlobSink, ByteStream, Delivery, Form, Identity, Method, Resolved};

/// An image of an archive.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NamedImage {
    /// Its name; `None` where the archive has it without one.
    pub name: Option<Reference>,
    /// Its root manifest or index.
    pub root: Descriptor,
}

impl NamedImage {
    /// The images that the index `raw` lists, each name once (OCI image layout specification, `index.json`). Those without a name
    /// are left out.
    ///
    /// # Errors
    /// A stalled fault, where it is not an index or has an invalid name.
    pub fn of_index(raw: &Bytes) -> Result<Vec<Self>, Fault> {
        let document = Document::parse(None, raw.clone()).map_err(|error| {
            Fault::stalled(
                Reason::SourceFailed,
                format!("its list of images cannot be read: {error}"),
            )
        })?;
        let entries = document
            .index()
            .map(|index| index.manifests.as_slice())
            .unwrap_or_default();
        let roots = roots(entries)?.into_iter();
        Ok(roots.map(|(name, root)| Self { name: Some(name), root }).collect())
    }
}

/// Adds the images of a further package.
///
/// # Errors
/// A stalled fault that names an image that is there already with another content.
pub(super) fn add_images(images: &mut Vec<NamedImage>, further: Vec<NamedImage>) -> Result<(), Fault> {
    let mut known: HashMap<String, Digest> = HashMap::new();
    let entry = |image: &NamedImage| Some((image.name.as_ref()?.to_string(), image.root.digest.clone()));
    known.extend(images.iter().filter_map(entry));
    for image in further {
        let Some((name, digest)) = entry(&image) else { continue };
        match known.get(&name) {
            Some(other) if *other != digest => {
                let message = format!(
                    "two packages have the image `{name}` with different content, {other} and {digest}; make a file of each package"
                );
                return Err(Fault::stalled(Reason::InvalidSpec, message));
            }
            Some(_) => {}
            None => {
                known.insert(name, digest);
                images.push(image);
            }
        }
    }
    Ok(())
}

/// The names and root manifests of images, each name once.
///
/// # Errors
/// A stalled fault that shows an invalid name.
pub(super) fn roots(entries: &[Descriptor]) -> Result<Vec<(Reference, Descriptor)>, Fault> {
    let mut roots: Vec<(Reference, Descriptor)> = Vec::new();
    let mut known = HashSet::new();
    let by = |key: &'static str| entries.iter().map(move |entry| (entry, entry.annotations.get(key)));
    // Jackal and older Zarf write the second alone; in packages that have both, it may name one platform of an image.
    for (entry, name) in by(REF_NAME).chain(by(BASE_NAME)) {
        let Some(name) = name else { continue };
        let shown: String = name.chars().take(200).collect();
        let reference: Reference = name.parse().map_err(|error| {
            Fault::stalled(
                Reason::InvalidReference,
                format!("it lists the image {shown:?}: {error}"),
            )
        })?;
        if known.insert(reference.to_string()) {
            roots.push((reference, entry.clone()));
        }
    }
    Ok(roots)
}

/// The manifests of images, by their digests.
#[derive(Debug)]
pub struct ImageTree {
    documents: HashMap<Digest, Document>,
    memory: Arc<Reservation>,
}

impl ImageTree {
    /// An empty tree.
    pub fn new() -> Self {
        Self {
            documents: HashMap::new(),
            memory: Arc::new(PACKAGES.reserve()),
        }
    }

    /// Adds the manifest or index `raw`, whose digest was verified. Returns the manifests that it lists.
    ///
    /// # Errors
    /// Where it is not a manifest, or there is no memory for it.
    pub fn add(&mut self, digest: &Digest, raw: Bytes) -> Result<Vec<Descriptor>, Fault> {
        let document = Document::parse(None, raw)
            .map_err(|error| Fault::stalled(Reason::SourceFailed, format!("{digest} is not a manifest: {error}")))?;
        let reserved = self.memory.add(json_memory(&document.raw));
        reserved.map_err(|exhausted| exhausted.fault(Reason::SourceFailed, "the package"))?;
        let entries = document
            .index()
            .map(|index| index.manifests.as_slice())
            .unwrap_or_default();
        let listed = entries
            .iter()
            .filter(|entry| entry.is_manifest_or_untyped())
            .cloned()
            .collect();
        self.documents.insert(digest.clone(), document);
        Ok(listed)
    }

    /// The manifest or index with that digest.
    pub fn document(&self, digest: &Digest) -> Option<&Document> {
        self.documents.get(digest)
    }

    /// All manifests and indexes.
    pub fn documents(&self) -> impl Iterator<Item = &Document> {
        self.documents.values()
    }

    /// The manifests of the image `root`, children before the index that lists them. Those that are not in the tree are left out.
    pub fn manifests(&self, root: &Digest) -> Vec<Document> {
        let mut found = Vec::new();
        let mut open = vec![(root, false)];
        let mut done = HashSet::new();
        while let Some((digest, is_listed)) = open.pop() {
            let Some(document) = self.documents.get(digest) else {
                continue;
            };
            if is_listed {
                found.push(document.clone());
                continue;
            }
            if !done.insert(digest) {
                continue;
            }
            open.push((digest, true));
            if let Content::Index(index) = &document.content {
                open.extend(index.manifests.iter().map(|entry| (&entry.digest, false)));
            }
        }
        found
    }

    /// The image `reference` with the root manifest `root`, unchanged.
    ///
    /// # Errors
    /// A stalled fault, where there is no root or it is not in the tree.
    pub fn resolve(
        &self,
        reference: &Reference,
        root: Option<&Digest>,
        platforms: &[Platform],
    ) -> Result<Resolved, Fault> {
        let missing = || {
            Fault::stalled(
                Reason::SourceNotFound,
                format!("the archive lacks manifests of {reference}"),
            )
        };
        let root = root.ok_or_else(missing)?;
        let documents = self.manifests(root);
        if documents.last().map(Document::digest) != Some(root) {
            return Err(missing());
        }
        Ok(Resolved {
            reference: reference.clone(),
            platforms: platforms.to_vec(),
            identity: Identity::Manifest(root.clone()),
            chosen_from: None,
            size: Some(total_size(distinct_blobs(&documents))),
            documents,
            memory: Arc::clone(&self.memory),
        })
    }
}

/// The root manifest of the image `name`.
pub(super) fn root_of<'i>(images: &'i [NamedImage], name: &Reference) -> Option<&'i Digest> {
    let mut named = images.iter().filter(|image| image.name.as_ref() == Some(name));
    named.next().map(|image| &image.root.digest)
}

/// Sends every blob of `image` that `sink` lacks. `read` opens one; `None` where the archive leaves it out, as it may leave out
/// foreign layers.
///
/// # Errors
/// A fault that names the blob.
pub(super) async fn deliver_from<'a, F>(
    image: &Resolved,
    sink: &dyn BlobSink,
    read: impl Fn(Descriptor) -> F,
) -> Result<Delivery, Fault>
where
    F: Future<Output = Result<Option<ByteStream<'a>>, Fault>> + 'a,
{
    let foreign = distinct_foreign_layers(&image.documents);
    let blobs = distinct_blobs(&image.documents);
    for blob in blobs.into_iter().chain(foreign.iter().copied()) {
        if sink.existing_size(&blob.digest, Some(blob.size)).await?.is_some() {
            continue;
        }
        let Some(bytes) = read(blob.clone()).await? else {
            if foreign.contains(&blob) {
                continue;
            }
            let message = format!("the archive lacks the blob {}", blob.digest);
            return Err(Fault::stalled(Reason::SourceNotFound, message));
        };
        sink.store(Blob {
            form: Form::Exact,
            digest: Some(blob.digest.clone()),
            size: Some(blob.size),
            bytes,
        })
        .await?;
    }
    Ok(Delivery {
        documents: image.documents.clone(),
        method: Method::Registry,
        method_message: None,
    })
}

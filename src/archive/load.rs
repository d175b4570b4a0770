//! Publishes a package file in a registry or an OCI layout, while it is read.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use async_trait::async_trait;
use bytes::{Bytes, BytesMut};
use futures::{StreamExt as _, TryStreamExt as _};
use serde::Deserialize;

use super::order::PackageFile;
use super::read::Reader;
use crate::budget::{PACKAGES, Reservation, json_memory};
use crate::decode;
use crate::fault::{Fault, Reason};
use crate::oci::{
    Compression, Content, Descriptor, Digest, Document, Location, MANIFEST_LIMIT, Naming, Platform, Reference,
    ReferrersPolicy, distinct_blobs, distinct_foreign_layers,
};
use crate::package::{LAYOUT_INDEX, REF_NAME, publish_manifest, repository};
use crate::source::{Blob, BlobSink, ByteStream, Delivery, Form, Identity, ImageSource, Method, Resolved};
use crate::transfer::{Destination, KnownBlobs, Progress, Transfer, Upload};

/// Where a package file goes.
pub struct Target<'a> {
    /// Host and port of the registry; empty for an OCI layout.
    pub address: &'a str,
    /// The path below which everything is written; may be empty.
    pub prefix: &'a str,
    /// How images are named.
    pub naming: Naming,
    /// Opens a repository of the registry or layout.
    pub open: &'a (dyn Fn(&str) -> Arc<dyn Destination> + Sync),
}

/// A package that was loaded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Loaded {
    /// The repository of the package, and its tag.
    pub repository: String,
    /// The tag.
    pub tag: String,
    /// The digest of the index under the tag.
    pub digest: Digest,
    /// The names of the images.
    pub images: Vec<Location>,
    /// Bytes that were sent.
    pub sent: u64,
}

/// What the config of a package says: its definition.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Config {
    metadata: Metadata,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", default)]
#[derive(Default)]
struct Metadata {
    name: String,
    version: String,
    architecture: String,
}

/// Publishes the package of `reader`. Every file is verified before a tag is written, and what exists in the target already is not
/// sent. `progress` counts bytes of content.
///
/// # Errors
/// A fault that names the file or the image.
pub async fn load(mut reader: Reader, target: &Target<'_>, progress: &Progress) -> Result<Loaded, Fault> {
    let invalid = |what: String| Fault::stalled(Reason::SourceFailed, format!("the package file {what}"));
    let package = reader.package().clone();
    let config: Config =
        decode::json(&package.config).map_err(|error| invalid(format!("has a config that cannot be read: {error}")))?;
    let Metadata {
        name,
        version,
        architecture,
    } = config.metadata;
    let path = repository(target.prefix, &name);
    let named: Result<Reference, _> = format!("localhost/{path}:{version}").parse();
    if named.is_err() || name.is_empty() || version.is_empty() || architecture.is_empty() {
        return Err(invalid(
            "has a package without name, version or architecture, or with one that no registry takes".to_owned(),
        ));
    }
    let layers = package
        .manifest
        .manifest()
        .into_iter()
        .flat_map(|manifest| &manifest.layers);
    progress.set_total(layers.fold(0, |sum, layer| layer.size.saturating_add(sum)));

    let destination = (target.open)(&path);
    let mut images = PackedImages::new(Arc::clone(&destination));
    let mut sent = 0;
    while let Some(file) = reader.next().await? {
        let within = |fault: Fault| fault.with_context(format_args!("file `{}` of the package", file.path));
        let is_document = file.path == LAYOUT_INDEX || images.lists(&file.digest);
        let content = reader
            .content(&file)
            .inspect_ok(|chunk| progress.add_moved(chunk.len() as u64))
            .boxed();
        sent += match is_document {
            true => images.keep(&file, content).await.map_err(within)?,
            false => store(&*destination, &file, content).await.map_err(within)?,
        };
    }
    let config = package
        .manifest
        .manifest()
        .map(|manifest| manifest.config.digest.clone());
    if let Some(config) = config {
        sent += destination.keep(&config, package.config.clone()).await?;
    }
    images.complete().await?;
    let locations = images.publish(target).await?;
    let digest = publish_manifest(&package.manifest, &architecture, &*destination, &version).await?;
    Ok(Loaded {
        repository: path,
        tag: version,
        digest,
        images: locations,
        sent,
    })
}

/// Verifies a file, and stores it unless it is there. Says how many bytes were sent.
async fn store(destination: &dyn Destination, file: &PackageFile, mut content: ByteStream<'_>) -> Result<u64, Fault> {
    if destination.holds(&file.digest).await?.is_some() {
        while content.next().await.transpose()?.is_some() {}
        return Ok(0);
    }
    let upload = Upload {
        digest: Some(file.digest.clone()),
        size: Some(file.size),
        bytes: content,
    };
    Ok(destination.upload(upload).await?.1)
}

/// The images of a package, whose content its repository holds.
struct PackedImages {
    repository: Arc<dyn Destination>,
    /// The images, by their names.
    roots: Vec<(Reference, Digest)>,
    /// The manifests that were listed, and those of them that were read.
    documents: HashMap<Digest, Option<Document>>,
    memory: Arc<Reservation>,
}

impl PackedImages {
    fn new(repository: Arc<dyn Destination>) -> Self {
        Self {
            repository,
            roots: Vec::new(),
            documents: HashMap::new(),
            memory: Arc::new(PACKAGES.reserve()),
        }
    }

    fn lists(&self, digest: &Digest) -> bool {
        self.documents.contains_key(digest)
    }

    /// Reads the list of images or one of their manifests, and stores it. Says how many bytes were sent.
    async fn keep(&mut self, file: &PackageFile, content: ByteStream<'_>) -> Result<u64, Fault> {
        let raw = collect(file, content).await?;
        let sent = self.repository.keep(&file.digest, raw.clone()).await?;
        let index = self.read(&file.digest, raw)?;
        if file.path == LAYOUT_INDEX {
            self.documents.remove(&file.digest);
            self.roots = roots(&index)?;
        }
        Ok(sent)
    }

    /// Reads a manifest or index. Returns what it lists.
    fn read(&mut self, digest: &Digest, raw: Bytes) -> Result<Vec<Descriptor>, Fault> {
        let document = Document::parse(None, raw)
            .map_err(|error| Fault::stalled(Reason::SourceFailed, format!("{digest} is not a manifest: {error}")))?;
        let reserved = self.memory.add(json_memory(&document.raw));
        reserved.map_err(|exhausted| exhausted.fault(Reason::SourceFailed, "the package"))?;
        let entries = document
            .index()
            .map(|index| index.manifests.clone())
            .unwrap_or_default();
        for entry in entries.iter().filter(|entry| entry.is_manifest_or_untyped()) {
            self.documents.entry(entry.digest.clone()).or_default();
        }
        self.documents.insert(digest.clone(), Some(document));
        Ok(entries)
    }

    /// Reads the manifests that came before what lists them, from the repository, which holds them by now. Those that the package
    /// leaves out stay unread.
    async fn complete(&mut self) -> Result<(), Fault> {
        let mut absent = HashSet::new();
        loop {
            let is_open = |(digest, document): (&Digest, &Option<Document>)| {
                (document.is_none() && !absent.contains(digest)).then(|| digest.clone())
            };
            let Some(digest) = self.documents.iter().find_map(is_open) else {
                return Ok(());
            };
            match self.repository.blob(&digest, MANIFEST_LIMIT).await? {
                Some(raw) => drop(self.read(&digest, raw)?),
                None => drop(absent.insert(digest)),
            }
        }
    }

    /// Publishes every image under its names.
    async fn publish(self, target: &Target<'_>) -> Result<Vec<Location>, Fault> {
        let known = Arc::<KnownBlobs>::default();
        for document in self.documents.values().flatten() {
            for blob in distinct_blobs(std::slice::from_ref(document)) {
                known.record(&blob.digest, self.repository.repository());
            }
        }
        let source = Arc::new(self);
        let mut locations = Vec::with_capacity(source.roots.len());
        for (reference, _) in &source.roots {
            let location = Location::under_prefix(reference, target.address, target.prefix, target.naming, true)
                .map_err(|error| Fault::stalled(Reason::InvalidReference, error.to_string()))?;
            let transfer = Transfer {
                source: Arc::clone(&source) as Arc<dyn ImageSource>,
                reference: reference.clone(),
                platforms: Vec::new(),
                destination: (target.open)(&location.repository),
                location,
                compression: Compression::None,
                referrers: ReferrersPolicy::Ignore,
                progress: Arc::default(),
                known: Arc::clone(&known),
            };
            transfer
                .run()
                .await
                .map_err(|fault| fault.with_context(format_args!("image `{reference}`")))?;
            locations.push(transfer.location);
        }
        Ok(locations)
    }

    /// The manifests of the image `root`, children before what lists them.
    fn manifests(&self, root: &Digest) -> Vec<Document> {
        let mut found = Vec::new();
        let mut open = vec![(root, false)];
        let mut done = HashSet::new();
        while let Some((digest, is_listed)) = open.pop() {
            let Some(Some(document)) = self.documents.get(digest) else {
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
}

/// The names and digests of images, each name once.
fn roots(entries: &[Descriptor]) -> Result<Vec<(Reference, Digest)>, Fault> {
    let mut roots: Vec<(Reference, Digest)> = Vec::new();
    for entry in entries {
        let Some(name) = entry.annotations.get(REF_NAME) else {
            continue;
        };
        let shown: String = name.chars().take(200).collect();
        let reference: Reference = name.parse().map_err(|error| {
            Fault::stalled(
                Reason::InvalidReference,
                format!("it lists the image {shown:?}: {error}"),
            )
        })?;
        if !roots.iter().any(|(known, _)| *known == reference) {
            roots.push((reference, entry.digest.clone()));
        }
    }
    Ok(roots)
}

async fn collect(file: &PackageFile, mut content: ByteStream<'_>) -> Result<Bytes, Fault> {
    if file.size > MANIFEST_LIMIT as u64 {
        return Err(Fault::stalled(
            Reason::SourceFailed,
            format!("it is longer than the {MANIFEST_LIMIT} bytes of a manifest"),
        ));
    }
    let mut bytes = BytesMut::new();
    while let Some(chunk) = content.next().await.transpose()? {
        bytes.extend_from_slice(&chunk);
    }
    Ok(bytes.freeze())
}

#[async_trait]
impl ImageSource for PackedImages {
    async fn resolve(&self, reference: &Reference, platforms: &[Platform]) -> Result<Resolved, Fault> {
        let missing = || {
            Fault::stalled(
                Reason::SourceNotFound,
                format!("the package file lacks manifests of {reference}"),
            )
        };
        let root = self
            .roots
            .iter()
            .find(|(name, _)| name == reference)
            .map(|(_, digest)| digest);
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
            size: Some(distinct_blobs(&documents).iter().map(|blob| blob.size).sum()),
            documents,
            memory: Arc::clone(&self.memory),
        })
    }

    async fn deliver(&self, image: &Resolved, sink: &dyn BlobSink) -> Result<Delivery, Fault> {
        let foreign = distinct_foreign_layers(&image.documents);
        for blob in distinct_blobs(&image.documents)
            .into_iter()
            .chain(foreign.iter().copied())
        {
            if sink.existing_size(&blob.digest, Some(blob.size)).await?.is_some() {
                continue;
            }
            let Some(bytes) = self.repository.read(blob).await? else {
                if foreign.contains(&blob) {
                    continue;
                }
                let message = format!("the package file lacks the blob {}", blob.digest);
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
}

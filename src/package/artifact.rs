//! The artifact of a package, as `package pull|inspect|deploy oci://` of Jackal's and Zarf's commands read it: one layer for
//! each file of the package. No IO: the same images in any order give the same digests.

use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;

use super::archive::{INPUTS, INPUTS_SIGNATURE, StoredTar};
use super::definition::{Definition, Dialect};
use crate::fault::{Fault, Reason};
use crate::oci::{
    Content, Descriptor, Digest, Document, Index, MANIFEST_LIMIT, Manifest, PACKAGE_OS, Platform, Reference, media_type,
};

/// The annotation with a layer's path in the package (OCI image specification, "Annotations").
pub(crate) const TITLE: &str = "org.opencontainers.image.title";
/// The annotation with an image's name in a layout, for ORAS and Zarf.
pub(crate) const REF_NAME: &str = "org.opencontainers.image.ref.name";
/// The annotation with an image's name in a layout, for Jackal and older versions of Zarf.
pub(crate) const BASE_NAME: &str = "org.opencontainers.image.base.name";
/// The path of the list of images.
pub(crate) const LAYOUT_INDEX: &str = "images/index.json";
/// The path of the file that marks the directory of the images as an OCI layout.
pub(crate) const LAYOUT_MARKER: &str = "images/oci-layout";
/// The directory with the blobs of the images, each named by its digest.
pub(crate) const LAYOUT_BLOBS: &str = "images/blobs/sha256/";
/// The Unix epoch in the format of the annotation `created`.
const EPOCH: &str = "1970-01-01T00:00:00Z";

/// An image in the registry.
#[derive(Clone, Debug)]
pub struct ArtifactImage {
    /// The name under which the package lists it.
    pub reference: Reference,
    /// The repository that contains its blobs.
    pub repository: String,
    /// The digest of its manifest or index.
    pub root: Digest,
    /// The root and all manifests below it, in any order; others are ignored.
    pub documents: Vec<Document>,
    /// The foreign layers that the repository contains; others are omitted from the artifact.
    pub foreign: BTreeSet<Digest>,
}

impl ArtifactImage {
    /// The media type, digest and size of the root, if it is among the documents.
    pub(super) fn root_descriptor(&self) -> Option<Descriptor> {
        let root = self.documents.iter().find(|document| *document.digest() == self.root)?;
        Some(root.descriptor.clone())
    }
}

/// A blob of an image that the package's repository needs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mount {
    /// The blob.
    pub blob: Descriptor,
    /// A repository of the same registry that contains it.
    pub from: String,
}

/// Signs the bytes of a package's definition and returns the path of the signature in the package, and its content. It must
/// be deterministic, or a package would be published at every reconciliation.
pub type SignDefinition = dyn Fn(&[u8]) -> Result<(String, Bytes), Fault> + Send + Sync;

/// The inputs of an artifact, which are in the registry already.
#[derive(Clone, Copy, Default)]
pub struct ArtifactContents<'a> {
    /// Its images.
    pub images: &'a [ArtifactImage],
    /// Its tars, in the package's own repository.
    pub archives: &'a [StoredTar],
    /// Signs its definition.
    pub sign: Option<&'a SignDefinition>,
}

/// Everything that the registry has to contain for one package of one architecture.
#[derive(Clone, Debug, PartialEq)]
pub struct Artifact {
    /// The generated files, by their paths in the package. They include the images' manifests, which a registry cannot mount
    /// as blobs.
    pub files: BTreeMap<String, Bytes>,
    /// The manifest's config.
    pub config: Bytes,
    /// The images' configurations and layers, sorted by digest.
    pub mounts: Vec<Mount>,
    /// The package's manifest.
    pub manifest: Document,
    /// The total size in bytes, each blob counted once.
    pub size: u64,
    architecture: String,
}

impl Artifact {
    /// Computes the artifact of `definition` with `contents`.
    ///
    /// # Errors
    /// A retryable fault if manifests of an image are missing; a stalled one for content that the format does not support.
    pub fn of(definition: &Definition, contents: ArtifactContents<'_>) -> Result<Self, Fault> {
        let mut unique = UniqueBlobs::default();
        for image in contents.images {
            unique.add(image)?;
        }
        let has_index = unique
            .roots
            .iter()
            .any(|(_, root)| media_type::is_index(&root.media_type));
        let index_json = unique.layout_index(definition)?;
        let UniqueBlobs { manifests, blobs, .. } = unique;

        let mut files: BTreeMap<String, Bytes> = manifests
            .iter()
            .map(|(digest, document)| (blob_path(digest), document.raw.clone()))
            .collect();
        if !contents.images.is_empty() {
            files.insert(
                LAYOUT_MARKER.to_owned(),
                Bytes::from_static(br#"{"imageLayoutVersion":"1.0.0"}"#),
            );
            files.insert(LAYOUT_INDEX.to_owned(), index_json);
        }
        // A blob that is also a manifest is among the files already.
        let mounts: Vec<Mount> = blobs
            .into_values()
            .filter(|mount| !manifests.contains_key(&mount.blob.digest))
            .collect();

        let checksums = checksums(&layers(&files, &mounts, contents.archives));
        let complete = definition.with_checksum(Digest::of(&checksums).hex(), has_index);
        let yaml = complete.yaml()?;
        files.insert("checksums.txt".to_owned(), checksums);
        if let Some(sign) = contents.sign {
            let (path, signature) = sign(&yaml)?;
            files.insert(path, signature);
        }
        files.insert(definition.dialect.file.to_owned(), yaml);
        let config = complete.json()?;
        let layers = layers(&files, &mounts, contents.archives);
        let annotations = [
            (TITLE, complete.name()),
            (
                "org.opencontainers.image.description",
                complete.metadata.description.as_str(),
            ),
            ("org.opencontainers.image.created", EPOCH),
        ];
        let annotations = annotations.map(|(key, value)| (key.to_owned(), value.to_owned()));
        let manifest = manifest(complete.dialect, annotations.into(), &layers, &config)?;
        let size = size(&layers, &config, &manifest);
        Ok(Self {
            files,
            config,
            mounts,
            manifest,
            size,
            architecture: definition.architecture().to_owned(),
        })
    }

    /// The manifest's entry in the index under the package's tag.
    pub fn entry(&self) -> Descriptor {
        Descriptor {
            platform: Some(Self::platform(&self.architecture)),
            ..self.manifest.descriptor.clone()
        }
    }

    /// The platform of a package's entry in the index.
    pub(super) fn platform(architecture: &str) -> Platform {
        Platform::new(PACKAGE_OS, architecture)
    }
}

/// The distinct manifests and blobs of all images.
#[derive(Default)]
struct UniqueBlobs {
    roots: Vec<(Reference, Descriptor)>,
    manifests: BTreeMap<Digest, Document>,
    blobs: BTreeMap<Digest, Mount>,
}

impl UniqueBlobs {
    fn add(&mut self, image: &ArtifactImage) -> Result<(), Fault> {
        let within = |fault: Fault| fault.with_context(format_args!("image `{}`", image.reference));
        let documents: BTreeMap<&Digest, &Document> = image
            .documents
            .iter()
            .map(|document| (document.digest(), document))
            .collect();
        let mut open = vec![&image.root];
        let mut seen = BTreeSet::new();
        while let Some(digest) = open.pop() {
            if !seen.insert(digest) {
                continue;
            }
            let Some(&document) = documents.get(digest) else {
                return Err(within(Fault::retryable(
                    Reason::PackageFailed,
                    format!(
                        "its manifest {digest} is not in the registry (repository `{}`); the next attempt copies it again",
                        image.repository
                    ),
                )));
            };
            check_digest(digest).map_err(within)?;
            if *digest == image.root {
                self.roots.push((image.reference.clone(), document.descriptor.clone()));
            }
            self.manifests.insert(digest.clone(), document.clone());
            match &document.content {
                Content::Index(index) => {
                    for child in &index.manifests {
                        match child.is_manifest_or_untyped() || documents.contains_key(&child.digest) {
                            true => open.push(&child.digest),
                            false => self.add_blob(child, &image.repository).map_err(within)?,
                        }
                    }
                }
                Content::Manifest(manifest) => {
                    let foreign = manifest.foreign_layers().into_iter();
                    let foreign = foreign.filter(|layer| image.foreign.contains(&layer.digest));
                    for blob in manifest.blobs().into_iter().chain(foreign) {
                        self.add_blob(blob, &image.repository).map_err(within)?;
                    }
                }
            }
        }
        Ok(())
    }

    fn add_blob(&mut self, blob: &Descriptor, repository: &str) -> Result<(), Fault> {
        check_digest(&blob.digest)?;
        match self.blobs.entry(blob.digest.clone()) {
            Entry::Vacant(free) => {
                free.insert(Mount {
                    blob: Descriptor::new(blob.media_type.clone(), blob.digest.clone(), blob.size),
                    from: repository.to_owned(),
                });
            }
            Entry::Occupied(mut known) => {
                let known = known.get_mut();
                if known.blob.size != blob.size {
                    return Err(Fault::stalled(
                        Reason::PackageFailed,
                        format!(
                            "blob {} has {} bytes in one manifest and {} in another; push the wrong image again",
                            blob.digest, known.blob.size, blob.size
                        ),
                    ));
                }
                // The least one, so that the order of the images does not matter.
                if (repository, blob.media_type.as_str()) < (&known.from, &known.blob.media_type) {
                    known.from = repository.to_owned();
                    known.blob.media_type.clone_from(&blob.media_type);
                }
            }
        }
        Ok(())
    }

    /// `images/index.json`: an entry for each name.
    fn layout_index(&self, definition: &Definition) -> Result<Bytes, Fault> {
        let mut entries: Vec<Descriptor> = Vec::with_capacity(self.roots.len());
        for (reference, root) in &self.roots {
            let name = reference.to_string();
            let child = match definition.dialect.reads_indexes {
                true => None,
                false => self.image_for(root, definition.architecture()),
            };
            // Jackal expects a single image in the entry with its base name and fails on an index. So that entry is the
            // image of the package's architecture, and the index has the name that the other tools read.
            match child {
                Some(child) => {
                    entries.push(annotated(root, &[REF_NAME], &name));
                    entries.push(annotated(child, &[BASE_NAME], &name));
                }
                None => entries.push(annotated(root, &[REF_NAME, BASE_NAME], &name)),
            }
        }
        entries.sort_by(|left, right| (&left.digest, &left.annotations).cmp(&(&right.digest, &right.annotations)));
        entries.dedup();
        Document::of_index(Index::new(entries))
            .map(|document| document.raw)
            .map_err(|error| Fault::stalled(Reason::PackageFailed, error.to_string()))
    }

    /// The Linux image of `architecture` in the index `root`.
    fn image_for(&self, root: &Descriptor, architecture: &str) -> Option<&Descriptor> {
        let index = self.manifests.get(&root.digest)?.index()?;
        let child = index.manifests.iter().find(|child| {
            let linux = Platform::new("linux", architecture);
            child.may_be_image() && child.platform.as_ref().is_some_and(|platform| linux.admits(platform))
        })?;
        self.manifests.get(&child.digest).map(|document| &document.descriptor)
    }
}

fn annotated(descriptor: &Descriptor, keys: &[&str], name: &str) -> Descriptor {
    Descriptor {
        annotations: keys.iter().map(|&key| (key.to_owned(), name.to_owned())).collect(),
        ..descriptor.clone()
    }
}

fn blob_path(digest: &Digest) -> String {
    format!("{LAYOUT_BLOBS}{}", digest.hex())
}

/// Checks that a digest is SHA-256, the only algorithm of the package's paths and checksums.
fn check_digest(digest: &Digest) -> Result<(), Fault> {
    if digest.algorithm() == "sha256" {
        return Ok(());
    }
    Err(Fault::stalled(
        Reason::PackageFailed,
        format!("it contains {digest}, but a package supports only sha256; build the image again with sha256 digests"),
    ))
}

/// A file of the package, as a layer without its media type.
pub(super) struct Layer {
    pub path: String,
    pub digest: Digest,
    pub size: u64,
    /// For a tar, the digest of its inputs and the signature of that.
    pub inputs: Option<(Digest, Option<String>)>,
}

fn layers(files: &BTreeMap<String, Bytes>, mounts: &[Mount], archives: &[StoredTar]) -> Vec<Layer> {
    let made = files.iter().map(|(path, content)| Layer {
        path: path.clone(),
        digest: Digest::of(content),
        size: content.len() as u64,
        inputs: None,
    });
    let mounted = mounts.iter().map(|Mount { blob, .. }| Layer {
        path: blob_path(&blob.digest),
        digest: blob.digest.clone(),
        size: blob.size,
        inputs: None,
    });
    let archived = archives.iter().map(|archive| Layer {
        path: archive.path.clone(),
        digest: archive.digest.clone(),
        size: archive.size,
        inputs: Some((archive.inputs.clone(), archive.signature.clone())),
    });
    made.chain(mounted).chain(archived).collect()
}

/// `checksums.txt`: sorted lines `<sha256> <path>`, with a newline at the end even if there is no line.
fn checksums(layers: &[Layer]) -> Bytes {
    let line = |layer: &Layer| format!("{} {}", layer.digest.hex(), layer.path);
    let mut lines: Vec<String> = layers.iter().map(line).collect();
    lines.sort_unstable();
    (lines.join("\n") + "\n").into()
}

/// The manifest of the artifact with `layers`, with `annotations`, among them its title.
pub(super) fn manifest(
    dialect: Dialect,
    annotations: BTreeMap<String, String>,
    layers: &[Layer],
    config: &Bytes,
) -> Result<Document, Fault> {
    let count = layers.len();
    let descriptor = |layer: &Layer| {
        let inputs = layer.inputs.iter().flat_map(|(inputs, signature)| {
            let signature = signature.iter().map(|signature| (INPUTS_SIGNATURE, signature.clone()));
            [(INPUTS, inputs.to_string())].into_iter().chain(signature)
        });
        Descriptor {
            annotations: [(TITLE, layer.path.clone())]
                .into_iter()
                .chain(inputs)
                .map(|(key, value)| (key.to_owned(), value))
                .collect(),
            ..Descriptor::new(dialect.layer, layer.digest.clone(), layer.size)
        }
    };
    let mut layers: Vec<Descriptor> = layers.iter().map(descriptor).collect();
    // The definition is the first layer, because Flux's OCIRepository reads only the first layer of its media type: this
    // should be a few lines of text and not a blob of an image. Readers of packages go by the titles.
    let is_not_definition = |layer: &Descriptor| layer.annotations.get(TITLE).is_none_or(|path| path != dialect.file);
    layers.sort_by(|left, right| {
        (is_not_definition(left), &left.digest, &left.annotations).cmp(&(
            is_not_definition(right),
            &right.digest,
            &right.annotations,
        ))
    });

    let config = Descriptor::new(dialect.config, Digest::of(config), config.len() as u64);
    let mut manifest = Manifest::new(config, layers);
    manifest.annotations = annotations;
    let title = manifest.annotations.get(TITLE).cloned().unwrap_or_default();
    let document =
        Document::of_manifest(manifest).map_err(|error| Fault::stalled(Reason::PackageFailed, error.to_string()))?;
    if document.raw.len() > MANIFEST_LIMIT {
        return Err(Fault::stalled(
            Reason::PackageFailed,
            format!(
                "package `{}` has {} files, so its manifest would be longer than the {MANIFEST_LIMIT} bytes that a registry accepts; split it into two packages",
                title, count
            ),
        ));
    }
    Ok(document)
}

fn size(layers: &[Layer], config: &Bytes, manifest: &Document) -> u64 {
    let mut sizes: BTreeMap<&Digest, u64> = layers.iter().map(|layer| (&layer.digest, layer.size)).collect();
    let config_digest = Digest::of(config);
    sizes.insert(&config_digest, config.len() as u64);
    sizes
        .values()
        .fold(manifest.raw.len() as u64, |sum, &size| sum.saturating_add(size))
}

#[cfg(test)]
mod golden;
#[cfg(test)]
mod tests;

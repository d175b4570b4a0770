//! The artifact of a package, as `package pull|inspect|deploy oci://` of Jackal's and Zarf's commands read it:
//! one layer for every file of the package. No IO: the same images in any order give the same digests.

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
/// The annotation by which ORAS, and Zarf with it, names an image in a layout.
pub(crate) const REF_NAME: &str = "org.opencontainers.image.ref.name";
/// The annotation by which Jackal, and older Zarf, names an image in a layout.
pub(crate) const BASE_NAME: &str = "org.opencontainers.image.base.name";
/// The path of the list of images.
pub(crate) const LAYOUT_INDEX: &str = "images/index.json";
/// The path of the file that marks the folder of the images as an OCI layout.
pub(crate) const LAYOUT_MARKER: &str = "images/oci-layout";
/// The folder with the blobs of the images, each named by its digest.
pub(crate) const LAYOUT_BLOBS: &str = "images/blobs/sha256/";
/// The Unix epoch, as the annotation `created` writes it.
const EPOCH: &str = "1970-01-01T00:00:00Z";

/// An image that stands in the registry.
#[derive(Clone, Debug)]
pub struct ArtifactImage {
    /// The name under which the package lists it.
    pub reference: Reference,
    /// The repository of the registry that holds its blobs.
    pub repository: String,
    /// Its manifest or index.
    pub root: Digest,
    /// Every manifest below the root, the root included, in any order; others are left out of the artifact.
    pub documents: Vec<Document>,
    /// The foreign layers that the repository holds; others are left out of the artifact.
    pub foreign: BTreeSet<Digest>,
}

impl ArtifactImage {
    /// Media type, digest and length of the root, if it is there.
    pub(super) fn root_descriptor(&self) -> Option<Descriptor> {
        let root = self.documents.iter().find(|document| *document.digest() == self.root)?;
        Some(root.descriptor.clone())
    }
}

/// A blob of an image that has to stand in the package's repository too.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mount {
    /// The blob.
    pub blob: Descriptor,
    /// A repository of the same registry that holds it.
    pub from: String,
}

/// Signs a package's definition, the bytes of which are given: the path of the signature in the package, and its content.
/// The same bytes must give the same signature, or a package would be published at every look.
pub type SignDefinition = dyn Fn(&[u8]) -> Result<(String, Bytes), Fault> + Send + Sync;

/// What a package consists of, as far as it stands in the registry already.
#[derive(Clone, Copy, Default)]
pub struct ArtifactContents<'a> {
    /// Its images.
    pub images: &'a [ArtifactImage],
    /// Its tars, which the package's own repository holds.
    pub archives: &'a [StoredTar],
    /// What signs its definition.
    pub sign: Option<&'a SignDefinition>,
}

/// Everything that the registry has to hold for one package of one architecture.
#[derive(Clone, Debug, PartialEq)]
pub struct Artifact {
    /// The files that are made here, by their paths in the package. The images' manifests are among them: a
    /// registry keeps them as manifests, which cannot be mounted as blobs.
    pub files: BTreeMap<String, Bytes>,
    /// The manifest's config.
    pub config: Bytes,
    /// The images' configurations and layers, by digest.
    pub mounts: Vec<Mount>,
    /// The package's manifest.
    pub manifest: Document,
    /// Bytes of all of it, each blob counted once.
    pub size: u64,
    architecture: String,
}

impl Artifact {
    /// Computes the artifact of `definition` with `contents`. An image whose documents are not whole is a
    /// retryable fault; content that the package's form cannot hold is a stalled one.
    pub fn of(definition: &Definition, contents: ArtifactContents<'_>) -> Result<Self, Fault> {
        let mut gathered = UniqueBlobs::default();
        for image in contents.images {
            gathered.take(image)?;
        }
        let has_index = gathered
            .roots
            .iter()
            .any(|(_, root)| media_type::is_index(&root.media_type));
        let index_json = gathered.layout_index(definition)?;
        let UniqueBlobs { manifests, blobs, .. } = gathered;

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
        // A blob that is one of the manifests too is among the files already.
        let mounts: Vec<Mount> = blobs
            .into_values()
            .filter(|mount| !manifests.contains_key(&mount.blob.digest))
            .collect();

        let checksums = checksums(&layers(&files, &mounts, contents.archives));
        let sealed = definition.sealed(Digest::of(&checksums).hex(), has_index);
        let yaml = sealed.yaml()?;
        files.insert("checksums.txt".to_owned(), checksums);
        if let Some(sign) = contents.sign {
            let (path, signature) = sign(&yaml)?;
            files.insert(path, signature);
        }
        files.insert(definition.dialect.file.to_owned(), yaml);
        let config = sealed.json()?;
        let layers = layers(&files, &mounts, contents.archives);
        let annotations = [
            (TITLE, sealed.name()),
            (
                "org.opencontainers.image.description",
                sealed.metadata.description.as_str(),
            ),
            ("org.opencontainers.image.created", EPOCH),
        ];
        let annotations = annotations.map(|(key, value)| (key.to_owned(), value.to_owned()));
        let manifest = manifest(sealed.dialect, annotations.into(), &layers, &config)?;
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

    /// The manifest's entry in the index that stands under the package's tag.
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

/// What the images consist of, each thing once.
#[derive(Default)]
struct UniqueBlobs {
    roots: Vec<(Reference, Descriptor)>,
    manifests: BTreeMap<Digest, Document>,
    blobs: BTreeMap<Digest, Mount>,
}

impl UniqueBlobs {
    fn take(&mut self, image: &ArtifactImage) -> Result<(), Fault> {
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
                        "its manifest {digest} is not in the registry (repository `{}`); it is brought again with the next try",
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
                            false => self.take_blob(child, &image.repository).map_err(within)?,
                        }
                    }
                }
                Content::Manifest(manifest) => {
                    let foreign = manifest.foreign_layers().into_iter();
                    let foreign = foreign.filter(|layer| image.foreign.contains(&layer.digest));
                    for blob in manifest.blobs().into_iter().chain(foreign) {
                        self.take_blob(blob, &image.repository).map_err(within)?;
                    }
                }
            }
        }
        Ok(())
    }

    fn take_blob(&mut self, blob: &Descriptor, repository: &str) -> Result<(), Fault> {
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
                            "blob {} has {} bytes in one manifest and {} in another; push the image that is wrong again",
                            blob.digest, known.blob.size, blob.size
                        ),
                    ));
                }
                // The least of all, so that the order of the images decides nothing.
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
                false => self.image_of(root, definition.architecture()),
            };
            // Jackal takes the entry with its base name for a single image and fails on an index. It gets the
            // one of the package's architecture; the index keeps the name for everybody else.
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
    fn image_of(&self, root: &Descriptor, architecture: &str) -> Option<&Descriptor> {
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

/// The package's paths and checksums know SHA-256 only.
fn check_digest(digest: &Digest) -> Result<(), Fault> {
    if digest.algorithm() == "sha256" {
        return Ok(());
    }
    Err(Fault::stalled(
        Reason::PackageFailed,
        format!("it holds {digest}, and a package takes sha256 only; build the image again with sha256 digests"),
    ))
}

/// A file of the package, as a layer without its media type.
pub(super) struct Layer {
    pub path: String,
    pub digest: Digest,
    pub size: u64,
    /// Of a tar, what it was made of, and the signature of that.
    pub made_of: Option<(Digest, Option<String>)>,
}

fn layers(files: &BTreeMap<String, Bytes>, mounts: &[Mount], archives: &[StoredTar]) -> Vec<Layer> {
    let made = files.iter().map(|(path, content)| Layer {
        path: path.clone(),
        digest: Digest::of(content),
        size: content.len() as u64,
        made_of: None,
    });
    let mounted = mounts.iter().map(|Mount { blob, .. }| Layer {
        path: blob_path(&blob.digest),
        digest: blob.digest.clone(),
        size: blob.size,
        made_of: None,
    });
    let archived = archives.iter().map(|archive| Layer {
        path: archive.path.clone(),
        digest: archive.digest.clone(),
        size: archive.size,
        made_of: Some((archive.inputs.clone(), archive.signature.clone())),
    });
    made.chain(mounted).chain(archived).collect()
}

/// `checksums.txt`: `<sha256> <path>` a line, sorted, with a newline at the end even where there is no line.
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
        let made_of = layer.made_of.iter().flat_map(|(inputs, signature)| {
            let signature = signature.iter().map(|signature| (INPUTS_SIGNATURE, signature.clone()));
            [(INPUTS, inputs.to_string())].into_iter().chain(signature)
        });
        Descriptor {
            annotations: [(TITLE, layer.path.clone())]
                .into_iter()
                .chain(made_of)
                .map(|(key, value)| (key.to_owned(), value))
                .collect(),
            ..Descriptor::new(dialect.layer, layer.digest.clone(), layer.size)
        }
    };
    let mut layers: Vec<Descriptor> = layers.iter().map(descriptor).collect();
    // The definition first, for Flux's OCIRepository takes one layer alone, the first of its media type: a few lines of
    // text, not whichever blob of an image has the least digest. Those who read packages go by the titles.
    let place = |layer: &Descriptor| layer.annotations.get(TITLE).is_none_or(|path| path != dialect.file);
    layers.sort_by(|left, right| {
        (place(left), &left.digest, &left.annotations).cmp(&(place(right), &right.digest, &right.annotations))
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
                "package `{}` has {} files, and its manifest would be longer than the {MANIFEST_LIMIT} bytes that a registry takes; make two packages of it",
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

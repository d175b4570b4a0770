//! Which files the tars have, in which order. No IO.

use std::collections::HashSet;

use bytes::Bytes;
use serde::Serialize;

use super::chosen::Chosen;
use super::docker::DockerImage;
use crate::fault::{Fault, Reason};
use crate::oci::{Descriptor, Digest, Document, Index, distinct_blobs, distinct_foreign_layers};
use crate::package::REF_NAME;

/// The name of an image for containerd, which it prefers to [`REF_NAME`] (`images.AnnotationImageName`).
const CONTAINERD_NAME: &str = "io.containerd.image.name";
/// The version of an OCI layout (OCI image specification, "oci-layout file").
const LAYOUT: &[u8] = br#"{"imageLayoutVersion":"1.0.0"}"#;

/// A file of a tar.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct TarFile {
    /// Its path.
    pub path: String,
    /// Its length in bytes.
    pub size: u64,
    /// Its content.
    pub content: Content,
}

/// Where the content of a file comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Content {
    /// These bytes.
    Bytes(Bytes),
    /// A blob of the archive.
    Blob(Digest),
    /// A blob of the archive in Zstandard, decompressed.
    Decompressed(Digest),
}

impl TarFile {
    fn of(path: impl Into<String>, content: impl Into<Bytes>) -> Self {
        let content = content.into();
        Self {
            path: path.into(),
            size: content.len() as u64,
            content: Content::Bytes(content),
        }
    }
}

/// Bytes of the files together.
pub(super) fn total(files: &[TarFile]) -> u64 {
    files.iter().fold(0, |sum, file| file.size.saturating_add(sum))
}

/// The path of a blob in a layout: two parts of its digest, which are hexadecimal or the name of an algorithm.
fn blob_path(digest: &Digest) -> String {
    format!("blobs/{}/{}", digest.algorithm(), digest.hex())
}

/// The blobs of `image` that the archive holds, each once. It may lack foreign layers.
///
/// # Errors
/// A stalled fault that names the image, where another one is missing or has another length.
pub(super) fn blobs<'i>(
    image: &'i Chosen,
    held: &impl Fn(&Digest) -> Option<u64>,
) -> Result<Vec<(&'i Descriptor, Option<Bytes>)>, Fault> {
    let foreign = distinct_foreign_layers(&image.documents);
    let mut found = Vec::new();
    for blob in distinct_blobs(&image.documents)
        .into_iter()
        .chain(foreign.iter().copied())
    {
        match (held(&blob.digest), blob.inline_content()) {
            (Some(size), _) if size == blob.size => found.push((blob, None)),
            (None, Some(content)) => found.push((blob, Some(content))),
            (None, None) if foreign.contains(&blob) => {}
            (size, _) => {
                let what = match size {
                    Some(size) => format!(
                        "has the blob {} with {size} instead of {} bytes",
                        blob.digest, blob.size
                    ),
                    None => format!("lacks the blob {}", blob.digest),
                };
                return Err(Fault::stalled(
                    Reason::SourceNotFound,
                    format!(
                        "the archive {what} of {}; write it again with all content",
                        image.shown()
                    ),
                ));
            }
        }
    }
    Ok(found)
}

/// The tar of an OCI layout: what says which images there are, then the manifests, then everything else, each once. `held` is the
/// length of a blob in the archive.
///
/// # Errors
/// A stalled fault that names the image which is not complete.
pub(super) fn oci(images: &[Chosen], held: impl Fn(&Digest) -> Option<u64>) -> Result<Vec<TarFile>, Fault> {
    let mut entries = Vec::new();
    for image in images {
        let Some(root) = image.root() else { continue };
        let names = image.layout_names();
        if names.is_empty() {
            entries.push(root.descriptor.clone());
        }
        entries.extend(names.into_iter().map(|name| {
            Descriptor {
                annotations: [CONTAINERD_NAME, REF_NAME]
                    .map(|key| (key.to_owned(), name.clone()))
                    .into(),
                ..root.descriptor.clone()
            }
        }));
    }
    let index = Document::of_index(Index::new(entries))
        .map_err(|error| Fault::stalled(Reason::PackageFailed, format!("the list of images: {error}")))?;
    let mut files = vec![TarFile::of("oci-layout", LAYOUT), TarFile::of("index.json", index.raw)];
    let mut seen = HashSet::new();
    for document in images.iter().flat_map(|image| &image.documents) {
        if seen.insert(document.digest()) {
            files.push(TarFile::of(blob_path(document.digest()), document.raw.clone()));
        }
    }
    for image in images {
        for (blob, content) in blobs(image, &held)? {
            if !seen.insert(&blob.digest) {
                continue;
            }
            let path = blob_path(&blob.digest);
            files.push(match content {
                Some(content) => TarFile::of(path, content),
                None => TarFile {
                    path,
                    size: blob.size,
                    content: Content::Blob(blob.digest.clone()),
                },
            });
        }
    }
    Ok(files)
}

/// An entry of `manifest.json` (docker image specification 1.2, "Combined Image JSON + Filesystem Changeset Format").
#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct ManifestEntry<'i> {
    config: String,
    repo_tags: &'i [String],
    layers: Vec<String>,
}

/// The tar of `docker save`: the list of images, their configurations, then the layers, each once.
///
/// # Errors
/// Where the list cannot be written.
pub(super) fn docker(images: &[DockerImage]) -> Result<Vec<TarFile>, Fault> {
    let entries: Vec<ManifestEntry<'_>> = images
        .iter()
        .map(|image| ManifestEntry {
            config: blob_path(&image.config_digest),
            repo_tags: &image.tags,
            layers: image.layers.iter().map(|layer| blob_path(layer.name())).collect(),
        })
        .collect();
    let list = serde_json::to_vec(&entries)
        .map_err(|error| Fault::stalled(Reason::PackageFailed, format!("the list of images: {error}")))?;
    let mut files = vec![TarFile::of("manifest.json", list)];
    let mut seen = HashSet::new();
    for image in images {
        if seen.insert(&image.config_digest) {
            files.push(TarFile::of(blob_path(&image.config_digest), image.config.clone()));
        }
    }
    for layer in images.iter().flat_map(|image| &image.layers) {
        if !seen.insert(layer.name()) {
            continue;
        }
        files.push(TarFile {
            path: blob_path(layer.name()),
            size: layer.size,
            content: match &layer.diff_id {
                Some(_) => Content::Decompressed(layer.digest.clone()),
                None => Content::Blob(layer.digest.clone()),
            },
        });
    }
    Ok(files)
}

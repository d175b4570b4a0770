//! Imports the images of an archive into the containerd of a node, so that the kubelet need not pull them.

use std::collections::HashMap;

use futures::StreamExt as _;
use futures::stream::once;

use crate::archive::{Archive, NamedImage};
use crate::fault::{Fault, Reason};
use crate::oci::{Content, Descriptor, Document, distinct_blobs};
use crate::source::ByteStream;
use crate::source::containerd::ImageWriter;
use crate::transfer::Progress;

/// The label of an image that the kubelet does not remove when the disk is full.
const PINNED: (&str, &str) = ("io.cri-containerd.pinned", "pinned");
/// The beginning of the labels by which containerd knows what a manifest or index refers to.
const REFERS: &str = "containerd.io/gc.ref.content";

/// An image that was imported.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ImportedImage {
    /// Its names in the containerd.
    pub names: Vec<String>,
    /// The digest of its root manifest.
    pub digest: String,
    /// Bytes that were sent.
    pub sent: u64,
}

/// Imports all named images of `archive`, each under its tag and under its digest. Content that the containerd has is not sent. With
/// `pinned`, the kubelet does not remove them. `progress` counts bytes of content.
///
/// # Errors
/// A fault that names the image.
pub async fn import(
    archive: &Archive,
    writer: &ImageWriter,
    pinned: bool,
    progress: &Progress,
) -> Result<Vec<ImportedImage>, Fault> {
    let named = archive.images().iter().filter(|image| image.name.is_some()).count();
    if named == 0 {
        let message = "the archive has no image with a name; nothing can be imported".to_owned();
        return Err(Fault::stalled(Reason::SourceNotFound, message));
    }
    let mut imported = Vec::with_capacity(named);
    for NamedImage { name, root } in archive.images() {
        let Some(name) = name else { continue };
        let within = |fault: Fault| fault.with_context(format_args!("image `{name}`"));
        let sent = store(archive, writer, root, progress).await.map_err(within)?;
        let tagged = name.tag().map(|_| name.without_digest().to_string());
        let names: Vec<String> = tagged
            .into_iter()
            .chain([format!("{}@{}", name.name(), root.digest)])
            .collect();
        let labels = || match pinned {
            true => HashMap::from([(PINNED.0.to_owned(), PINNED.1.to_owned())]),
            false => HashMap::new(),
        };
        for name in &names {
            writer.name(name, root, labels()).await?;
        }
        imported.push(ImportedImage {
            names,
            digest: root.digest.to_string(),
            sent,
        });
    }
    Ok(imported)
}

/// Stores the content of the image `root`: blobs first, then what refers to them.
async fn store(archive: &Archive, writer: &ImageWriter, root: &Descriptor, progress: &Progress) -> Result<u64, Fault> {
    let documents = archive.manifests(&root.digest);
    if documents.last().map(Document::digest) != Some(&root.digest) {
        let message = format!("the archive lacks its manifest {}; copy the archive again", root.digest);
        return Err(Fault::stalled(Reason::SourceNotFound, message));
    }
    let mut sent = 0;
    for blob in distinct_blobs(&documents) {
        sent += store_blob(archive, writer, blob, HashMap::new(), progress).await?;
    }
    for document in &documents {
        let labels = references(archive, document);
        let descriptor = Descriptor::new(
            document.descriptor.media_type.clone(),
            document.digest().clone(),
            document.raw.len() as u64,
        );
        let raw = document.raw.clone();
        let content = move |offset: u64| -> ByteStream<'static> {
            let begin = usize::try_from(offset).map_or(raw.len(), |offset| offset.min(raw.len()));
            let rest = raw.slice(begin..);
            once(async move { Ok(rest) }).boxed()
        };
        sent += writer.store(&descriptor, labels, content).await?;
    }
    Ok(sent)
}

async fn store_blob(
    archive: &Archive,
    writer: &ImageWriter,
    blob: &Descriptor,
    labels: HashMap<String, String>,
    progress: &Progress,
) -> Result<u64, Fault> {
    let lacks = || {
        let message = format!("the archive lacks the blob {}; copy the archive again", blob.digest);
        Fault::stalled(Reason::SourceNotFound, message)
    };
    let inline = blob.inline_content();
    if archive.size(&blob.digest).is_none() && inline.is_none() {
        return Err(lacks());
    }
    let sent = writer.store(blob, labels, |offset| {
        let stored = archive.read_range(&blob.digest, offset, u64::MAX);
        let inline = inline.clone().unwrap_or_default();
        stored.unwrap_or_else(|| {
            let begin = usize::try_from(offset).map_or(inline.len(), |offset| offset.min(inline.len()));
            let rest = inline.slice(begin..);
            once(async move { Ok(rest) }).boxed()
        })
    });
    let sent = sent.await?;
    progress.add_moved(blob.size);
    Ok(sent)
}

/// The labels of `document` for what the archive has of it.
fn references(archive: &Archive, document: &Document) -> HashMap<String, String> {
    let mut labels = HashMap::new();
    let mut add = |suffix: String, blob: &Descriptor| {
        labels.insert(format!("{REFERS}.{suffix}"), blob.digest.to_string());
    };
    match &document.content {
        Content::Manifest(manifest) => {
            add("config".to_owned(), &manifest.config);
            for (at, layer) in manifest.layers.iter().enumerate() {
                add(format!("l.{at}"), layer);
            }
        }
        Content::Index(index) => {
            let listed = index.manifests.iter().enumerate();
            for (at, entry) in listed.filter(|(_, entry)| archive.document(&entry.digest).is_some()) {
                add(format!("m.{at}"), entry);
            }
        }
    }
    labels
}

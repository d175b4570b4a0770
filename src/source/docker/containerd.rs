//! Reads an image from an export of a containerd store: blobs as they are stored, under their digests.
//!
//! Entries are ordered by digest, so the type of a blob is known only at the end, when all documents were read. What looks
//! like a document is kept in memory, everything else is sent at once. If several platforms of an index were chosen, the
//! layers of the others are sent too, and stay in the destination unreferenced until its garbage collection: the API cannot
//! export several platforms together with their attestations.

use std::collections::{HashMap, HashSet};

use bytes::Bytes;
use futures::StreamExt;

use super::archive::{Archive, Entry, EntryKind};
use super::choose::{only_available, platform_not_found, retain_available};
use super::document::{DOCUMENT_LIMIT, verify};
use super::inspected_image::StoredManifest;
use crate::fault::{Fault, Reason};
use crate::oci::{Content, Descriptor, Digest, Document, Index, Selection, distinct_blobs, media_type, select};
use crate::source::{Blob, BlobSink, ByteStream, Delivery, Form, Method, Resolved};

/// The size of all documents of one export together, in bytes.
const DOCUMENTS_LIMIT: u64 = 64 * 1024 * 1024;
/// How deep indexes may be nested; real ones have one level.
const DEPTH_LIMIT: usize = 4;

/// Transfers everything under `root` in `export` to `sink`. If the engine did not describe what it holds (`root` has no media
/// type, or is an index that is exported incomplete), the platforms are selected here.
pub(super) async fn deliver(
    export: ByteStream<'static>,
    root: &Descriptor,
    image: &Resolved,
    method_message: Option<String>,
    sink: &dyn BlobSink,
) -> Result<Delivery, Fault> {
    let mut archive = Archive::new(export);
    let mut received = ReceivedExport::default();
    while let Some(entry) = archive.next().await? {
        if let Some(digest) = blob_digest(&entry)? {
            received.add(&mut archive, &entry, digest, sink).await?;
        }
    }
    let documents = received.documents(root, image)?;
    for blob in distinct_blobs(&documents) {
        received.store_retained(blob, sink).await?;
    }
    Ok(Delivery {
        documents,
        method: Method::DockerSave,
        method_message,
    })
}

/// The index `root` of `export`, which is read no further.
pub(super) async fn read_index(export: ByteStream<'static>, root: &Descriptor) -> Result<Document, Fault> {
    let mut archive = Archive::new(export);
    while let Some(entry) = archive.next().await? {
        if blob_digest(&entry)?.as_ref() == Some(&root.digest) && entry.size <= DOCUMENT_LIMIT {
            let first = archive.chunk().await?;
            let content = archive.read_content(first).await?;
            verify(&content, &root.digest)?;
            let document = Document::parse(Some(&root.media_type), content);
            let document = document.map_err(|error| unreadable(&root.digest, &error))?;
            return Ok(document.with_digest(root.digest.clone()));
        }
    }
    Err(missing(root.digest.as_str()))
}

// The digest in the path of a blob; `None` for other entries of the archive.
fn blob_digest(entry: &Entry) -> Result<Option<Digest>, Fault> {
    let Some(name) = entry
        .path
        .strip_prefix("blobs/")
        .filter(|_| entry.kind != EntryKind::Other)
    else {
        return Ok(None);
    };
    let digest = name
        .replacen('/', ":", 1)
        .parse()
        .ok()
        .filter(|_| entry.kind == EntryKind::File);
    digest.map(Some).ok_or_else(|| {
        let message = format!(
            "the export of the docker engine has an entry `{}`, which is not a blob",
            entry.path
        );
        Fault::retryable(Reason::SourceFailed, message)
    })
}

// What was received of an export.
#[derive(Default)]
struct ReceivedExport {
    // The size in bytes of every blob, whether it is kept or was sent.
    sizes: HashMap<Digest, u64>,
    // Blobs that look like documents.
    retained: HashMap<Digest, Bytes>,
    retained_bytes: u64,
}

impl ReceivedExport {
    async fn add(
        &mut self,
        archive: &mut Archive,
        entry: &Entry,
        digest: Digest,
        sink: &dyn BlobSink,
    ) -> Result<(), Fault> {
        if self.sizes.insert(digest.clone(), entry.size).is_some() {
            return Ok(());
        }
        let first = archive.chunk().await?;
        let looks_like_document = first.as_ref().is_some_and(|bytes| bytes.first() == Some(&b'{'));
        if looks_like_document && entry.size <= DOCUMENT_LIMIT {
            self.retained_bytes += entry.size;
            if self.retained_bytes > DOCUMENTS_LIMIT {
                let message = format!(
                    "the export of the docker engine has more than {DOCUMENTS_LIMIT} bytes of manifests and \
                     configurations; set platforms to those that are wanted"
                );
                return Err(Fault::retryable(Reason::SourceFailed, message));
            }
            let content = archive.read_content(first).await?;
            verify(&content, &digest)?;
            self.retained.insert(digest, content);
            return Ok(());
        }
        if sink.existing_size(&digest, Some(entry.size)).await?.is_some() {
            return Ok(());
        }
        let blob = Blob {
            form: Form::Exact,
            digest: Some(digest),
            size: Some(entry.size),
            bytes: archive.content(first),
        };
        let stored = sink.store(blob).await;
        stored.map(drop).map_err(|fault| archive.cause(fault))
    }

    // Every document under the root, children first.
    fn documents(&self, root: &Descriptor, image: &Resolved) -> Result<Vec<Document>, Fault> {
        let top = self.document(root)?;
        let top = match &top.content {
            Content::Manifest(_) => top,
            Content::Index(index) => self.choose(index, top.clone(), image)?,
        };
        let mut documents = Vec::new();
        self.gather(top, 0, &mut documents)?;
        Ok(documents)
    }

    // What is taken of an index; `choose::target` selects the same when the engine describes what it holds.
    fn choose(&self, index: &Index, top: Document, image: &Resolved) -> Result<Document, Fault> {
        let name = image.reference.familiar();
        let pinned = image.reference.digest().filter(|digest| *digest != top.digest());
        if let Some(entry) = index.manifests.iter().find(|entry| Some(&entry.digest) == pinned) {
            return self.document(entry);
        }
        match select(index, &image.platforms).map_err(|absent| platform_not_found(&name, &absent.to_string()))? {
            Selection::Image(entry) => self.document(&entry),
            Selection::Index(kept) => self.index_of_complete(kept, &top),
            Selection::Unchanged if image.platforms.is_empty() => {
                let held: Vec<StoredManifest> = index
                    .manifests
                    .iter()
                    .map(|entry| StoredManifest {
                        descriptor: entry.clone(),
                        available: self.is_complete(entry),
                    })
                    .collect();
                match only_available(&held, &name)? {
                    Some(only) => self.document(&only.descriptor),
                    None => Ok(top),
                }
            }
            Selection::Unchanged => self.index_of_complete(index.clone(), &top),
        }
    }

    // The index of those entries of which everything was received; `top` if that is all of them.
    fn index_of_complete(&self, kept: Index, top: &Document) -> Result<Document, Fault> {
        let kept = retain_available(kept, |entry| self.is_complete(entry));
        match top.index() == Some(&kept) {
            true => Ok(top.clone()),
            false => Document::of_index(kept).map_err(|error| unreadable(top.digest(), &error)),
        }
    }

    // Whether everything under an entry of an index was received.
    fn is_complete(&self, entry: &Descriptor) -> bool {
        self.document(entry)
            .and_then(|document| self.gather(document, 1, &mut Vec::new()))
            .is_ok()
    }

    fn gather(&self, document: Document, depth: usize, into: &mut Vec<Document>) -> Result<(), Fault> {
        if into.iter().any(|known| known.digest() == document.digest()) {
            return Ok(());
        }
        match &document.content {
            Content::Index(_) if depth >= DEPTH_LIMIT => {
                let message = format!("the index {} is nested too deep", document.digest());
                return Err(Fault::retryable(Reason::SourceFailed, message));
            }
            Content::Index(index) => {
                for entry in &index.manifests {
                    match entry.is_manifest_or_untyped() {
                        true => self.gather(self.document(entry)?, depth + 1, into)?,
                        false => self.check_received(entry)?,
                    }
                }
            }
            Content::Manifest(manifest) => {
                let mut checked = HashSet::new();
                for blob in manifest.blobs().into_iter().filter(|blob| checked.insert(&blob.digest)) {
                    self.check_received(blob)?;
                }
            }
        }
        into.push(document);
        Ok(())
    }

    // Checks that a blob was received in its size.
    fn check_received(&self, blob: &Descriptor) -> Result<(), Fault> {
        match self.sizes.get(&blob.digest) {
            Some(&size) if size == blob.size => Ok(()),
            Some(_) => Err(missing(&format!("{} in the size that its manifest says", blob.digest))),
            None => Err(missing(blob.digest.as_str())),
        }
    }

    fn document(&self, descriptor: &Descriptor) -> Result<Document, Fault> {
        let raw = self
            .retained
            .get(&descriptor.digest)
            .ok_or_else(|| missing(descriptor.digest.as_str()))?;
        let declared = Some(descriptor.media_type.as_str()).filter(|declared| media_type::is_manifest(declared));
        let document = Document::parse(declared, raw.clone());
        let document = document.map_err(|error| unreadable(&descriptor.digest, &error))?;
        Ok(document.with_digest(descriptor.digest.clone()))
    }

    // Sends a blob that looked like a document: a configuration, or a layer of JSON.
    async fn store_retained(&mut self, blob: &Descriptor, sink: &dyn BlobSink) -> Result<(), Fault> {
        let Some(content) = self.retained.remove(&blob.digest) else {
            return Ok(());
        };
        if sink.existing_size(&blob.digest, Some(blob.size)).await?.is_some() {
            return Ok(());
        }
        let blob = Blob {
            form: Form::Exact,
            digest: Some(blob.digest.clone()),
            size: Some(blob.size),
            bytes: futures::stream::iter([Ok(content)]).boxed(),
        };
        sink.store(blob).await.map(drop)
    }
}

fn missing(what: &str) -> Fault {
    let message = format!(
        "the docker engine left {what} out of its export, so its store does not hold the whole image; \
         pull or load it again, or set platforms to those that it holds"
    );
    Fault::retryable(Reason::SourceFailed, message)
}

fn unreadable(digest: &Digest, error: &crate::oci::DocumentError) -> Fault {
    Fault::retryable(
        Reason::SourceFailed,
        format!("in the export of the docker engine, {digest}: {error}"),
    )
}

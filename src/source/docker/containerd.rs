//! Taking an image out of an export of a containerd store: blobs as they are stored, under their digests.
//!
//! Entries come ordered by digest, so what a blob is shows only at the end, when the documents are known.
//! What looks like a document is kept in memory, everything else goes on at once. Of an index from which
//! several platforms were chosen, the others' layers go on too, and stay in the destination unreferenced
//! until its garbage collection: the API cannot export several platforms together with their attestations.

use std::collections::{HashMap, HashSet};

use bytes::Bytes;
use futures::StreamExt;

use super::archive::{Archive, Entry, Kind};
use super::choose::{lacking, only_held, sparse};
use super::inspected::Held;
use super::{DOCUMENT_LIMIT, verify};
use crate::fault::{Fault, Reason};
use crate::oci::{Content, Descriptor, Digest, Document, Index, Selection, distinct_blobs, media_type, select};
use crate::source::{Blob, BlobSink, ByteStream, Delivery, Form, Method, Resolved};

/// All documents of one export together, in bytes.
const DOCUMENTS_LIMIT: u64 = 64 * 1024 * 1024;
/// Indexes in indexes; real ones have one.
const DEPTH_LIMIT: usize = 4;

/// Brings what is under `root` in `export` to `sink`. Where the engine did not tell before what it holds
/// (`root` without a media type, or an index that came incomplete) the choice is made here.
pub(super) async fn deliver(
    export: ByteStream<'static>,
    root: &Descriptor,
    image: &Resolved,
    declined: Option<String>,
    sink: &dyn BlobSink,
) -> Result<Delivery, Fault> {
    let mut archive = Archive::new(export);
    let mut taken = Taken::default();
    while let Some(entry) = archive.next().await? {
        if let Some(digest) = blob_digest(&entry)? {
            taken.add(&mut archive, &entry, digest, sink).await?;
        }
    }
    let documents = taken.documents(root, image)?;
    for blob in distinct_blobs(&documents) {
        taken.hand_on(blob, sink).await?;
    }
    Ok(Delivery {
        documents,
        method: Method::DockerSave,
        declined,
    })
}

/// The index of `root` out of `export`, which is read no further.
pub(super) async fn index(export: ByteStream<'static>, root: &Descriptor) -> Result<Document, Fault> {
    let mut archive = Archive::new(export);
    while let Some(entry) = archive.next().await? {
        if blob_digest(&entry)?.as_ref() == Some(&root.digest) && entry.size <= DOCUMENT_LIMIT {
            let first = archive.chunk().await?;
            let content = archive.whole(first).await?;
            verify(&content, &root.digest)?;
            let document = Document::parse(Some(&root.media_type), content);
            let document = document.map_err(|error| unreadable(&root.digest, &error))?;
            return Ok(document.with_digest(root.digest.clone()));
        }
    }
    Err(missing(root.digest.as_str()))
}

// The digest that names a blob; `None` for what belongs to the archive only.
fn blob_digest(entry: &Entry) -> Result<Option<Digest>, Fault> {
    let Some(name) = entry.path.strip_prefix("blobs/").filter(|_| entry.kind != Kind::Other) else {
        return Ok(None);
    };
    let digest = name
        .replacen('/', ":", 1)
        .parse()
        .ok()
        .filter(|_| entry.kind == Kind::File);
    digest.map(Some).ok_or_else(|| {
        let message = format!(
            "the export of the docker engine has an entry `{}`, which is no blob",
            entry.path
        );
        Fault::retryable(Reason::SourceFailed, message)
    })
}

// What was seen of an export.
#[derive(Default)]
struct Taken {
    // Everything that came, whether kept or sent on, with its size in bytes.
    seen: HashMap<Digest, u64>,
    // What looks like a document.
    kept: HashMap<Digest, Bytes>,
    kept_bytes: u64,
}

impl Taken {
    async fn add(
        &mut self,
        archive: &mut Archive,
        entry: &Entry,
        digest: Digest,
        sink: &dyn BlobSink,
    ) -> Result<(), Fault> {
        if self.seen.insert(digest.clone(), entry.size).is_some() {
            return Ok(());
        }
        let first = archive.chunk().await?;
        let like_document = first.as_ref().is_some_and(|bytes| bytes.first() == Some(&b'{'));
        if like_document && entry.size <= DOCUMENT_LIMIT {
            self.kept_bytes += entry.size;
            if self.kept_bytes > DOCUMENTS_LIMIT {
                let message = format!(
                    "the export of the docker engine has more than {DOCUMENTS_LIMIT} bytes of manifests and \
                     configurations; set platforms to those that are wanted"
                );
                return Err(Fault::retryable(Reason::SourceFailed, message));
            }
            let content = archive.whole(first).await?;
            verify(&content, &digest)?;
            self.kept.insert(digest, content);
            return Ok(());
        }
        if sink.holds(&digest, Some(entry.size)).await?.is_some() {
            return Ok(());
        }
        let blob = Blob {
            form: Form::Exact,
            digest: Some(digest),
            size: Some(entry.size),
            bytes: archive.content(first),
        };
        let landed = sink.take(blob).await;
        landed.map(drop).map_err(|fault| archive.cause(fault))
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

    // What is taken of an index; see `choose::target`, which decides the same when the engine tells enough.
    fn choose(&self, index: &Index, top: Document, image: &Resolved) -> Result<Document, Fault> {
        let name = image.reference.familiar();
        let pinned = image.reference.digest().filter(|digest| *digest != top.digest());
        if let Some(entry) = index.manifests.iter().find(|entry| Some(&entry.digest) == pinned) {
            return self.document(entry);
        }
        match select(index, &image.platforms).map_err(|absent| lacking(&name, &absent.to_string()))? {
            Selection::Image(entry) => self.document(&entry),
            Selection::Index(kept) => self.of_complete(kept, &top),
            Selection::Unchanged if image.platforms.is_empty() => {
                let held: Vec<Held> = index
                    .manifests
                    .iter()
                    .map(|entry| Held {
                        descriptor: entry.clone(),
                        available: self.complete(entry),
                    })
                    .collect();
                match sparse(&held, &name)? {
                    Some(only) => self.document(&only.descriptor),
                    None => Ok(top),
                }
            }
            Selection::Unchanged => self.of_complete(index.clone(), &top),
        }
    }

    // The index of those entries of which everything came; `top` where that is all of it.
    fn of_complete(&self, kept: Index, top: &Document) -> Result<Document, Fault> {
        let kept = only_held(kept, |entry| self.complete(entry));
        match top.index() == Some(&kept) {
            true => Ok(top.clone()),
            false => Document::of_index(kept).map_err(|error| unreadable(top.digest(), &error)),
        }
    }

    // Whether everything under an entry of an index came.
    fn complete(&self, entry: &Descriptor) -> bool {
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
                let message = format!("the index {} is nested deeper than any image", document.digest());
                return Err(Fault::retryable(Reason::SourceFailed, message));
            }
            Content::Index(index) => {
                for entry in &index.manifests {
                    match entry.is_manifest_or_untyped() {
                        true => self.gather(self.document(entry)?, depth + 1, into)?,
                        false => self.came(entry)?,
                    }
                }
            }
            Content::Manifest(manifest) => {
                let mut checked = HashSet::new();
                for blob in manifest.blobs().into_iter().filter(|blob| checked.insert(&blob.digest)) {
                    self.came(blob)?;
                }
            }
        }
        into.push(document);
        Ok(())
    }

    // That a blob is in the export.
    fn came(&self, blob: &Descriptor) -> Result<(), Fault> {
        match self.seen.get(&blob.digest) {
            Some(&size) if size == blob.size => Ok(()),
            Some(_) => Err(missing(&format!("{} in the size that its manifest says", blob.digest))),
            None => Err(missing(blob.digest.as_str())),
        }
    }

    fn document(&self, descriptor: &Descriptor) -> Result<Document, Fault> {
        let raw = self
            .kept
            .get(&descriptor.digest)
            .ok_or_else(|| missing(descriptor.digest.as_str()))?;
        let declared = Some(descriptor.media_type.as_str()).filter(|declared| media_type::is_manifest(declared));
        let document = Document::parse(declared, raw.clone());
        let document = document.map_err(|error| unreadable(&descriptor.digest, &error))?;
        Ok(document.with_digest(descriptor.digest.clone()))
    }

    // Sends on what looked like a document and is a configuration, or a layer of JSON.
    async fn hand_on(&mut self, blob: &Descriptor, sink: &dyn BlobSink) -> Result<(), Fault> {
        let Some(content) = self.kept.remove(&blob.digest) else {
            return Ok(());
        };
        if sink.holds(&blob.digest, Some(blob.size)).await?.is_some() {
            return Ok(());
        }
        let blob = Blob {
            form: Form::Exact,
            digest: Some(blob.digest.clone()),
            size: Some(blob.size),
            bytes: futures::stream::iter([Ok(content)]).boxed(),
        };
        sink.take(blob).await.map(drop)
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

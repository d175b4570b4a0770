//! An open content store, by directory or socket: what it holds, and the transfer of blobs from it.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use futures::{StreamExt as _, TryStreamExt as _};
use tokio::sync::Semaphore;
use tokio_stream::wrappers::ReceiverStream;

use super::directory::{self, BlobDirectory, SmallBlob};
use super::faults::{StoreOwner, StoredImage};
use crate::fault::{Disposition, Fault, Reason};
use crate::oci::{Descriptor, Digest, Hasher, distinct_blobs, distinct_foreign_layers};
use crate::source::containerd_api::Session;
use crate::source::reread::Rereads;
use crate::source::unreadable::blocking;
use crate::source::{Blob, BlobSink, ByteStream, Delivery, Form, Method, Resolved};

/// Blobs that are transferred concurrently.
pub(super) const CONCURRENCY: usize = 4;

/// A content store that can be read.
#[derive(Debug)]
pub(in crate::source) struct ContentStore {
    pub(super) access: ContentAccess,
    /// Why the store is not read by its directory, if it is not.
    pub(super) method_message: Option<String>,
    /// One for each blob that is read by this process: each takes a thread and some chunks of memory.
    pub(super) read_permits: Arc<Semaphore>,
}

/// How a content store is read.
#[derive(Debug)]
pub(super) enum ContentAccess {
    Directory(Arc<BlobDirectory>),
    Socket(Box<Session>),
}

impl ContentStore {
    /// Transfers the blobs of `image`, which was resolved in this store, that `sink` lacks.
    pub async fn deliver(&self, owner: StoreOwner, image: &Resolved, sink: &dyn BlobSink) -> Result<Delivery, Fault> {
        let name = &image.reference.familiar();
        let stored_image = StoredImage { owner, name };
        let mut blobs = distinct_blobs(&image.documents);
        blobs.extend(self.existing(distinct_foreign_layers(&image.documents)).await?);
        // The largest first: started last, it would run alone at the end.
        blobs.sort_by(|one, other| other.size.cmp(&one.size).then_with(|| one.digest.cmp(&other.digest)));
        futures::stream::iter(blobs.into_iter().map(Ok))
            .try_for_each_concurrent(CONCURRENCY, |blob| async move {
                let mut rereads = Rereads::default();
                loop {
                    match self.transfer(stored_image, blob, sink).await {
                        Err(fault) => rereads.retry_after(fault)?,
                        done => return done,
                    }
                }
            })
            .await?;
        Ok(Delivery {
            documents: image.documents.clone(),
            method: match self.access {
                ContentAccess::Directory(_) => Method::ContainerdContent,
                ContentAccess::Socket(_) => Method::ContainerdApi,
            },
            method_message: self.method_message.clone(),
        })
    }

    /// Those of `layers` that the store holds.
    async fn existing<'l>(&self, mut layers: Vec<&'l Descriptor>) -> Result<Vec<&'l Descriptor>, Fault> {
        if !layers.is_empty() {
            let sizes = self
                .sizes(layers.iter().map(|layer| layer.digest.clone()).collect())
                .await?;
            layers.retain(|layer| sizes.get(&layer.digest) == Some(&layer.size));
        }
        Ok(layers)
    }

    async fn transfer(&self, image: StoredImage<'_>, blob: &Descriptor, sink: &dyn BlobSink) -> Result<(), Fault> {
        if sink.existing_size(&blob.digest, Some(blob.size)).await?.is_some() {
            return Ok(());
        }
        // The sink may report only that the content ended early; the cause is kept here.
        let failed: Arc<Mutex<Option<Fault>>> = Arc::default();
        let failing = Arc::clone(&failed);
        // Nothing is read before the sink asks for it: it may wait for another transfer of the same blob.
        let content = futures::stream::once(async move {
            // The semaphore is never closed.
            let permit = self.read_permits.acquire().await.ok();
            let content = self.content(image, blob).await?;
            let content = content.ok_or_else(|| image.missing(&blob.digest))?;
            Ok(content.inspect(move |_| {
                let _permit = &permit;
            }))
        });
        let bytes = content.try_flatten().inspect_err(move |fault| {
            *failing.lock().unwrap_or_else(PoisonError::into_inner) = Some(fault.clone());
        });
        let stored = sink.store(Blob {
            form: Form::Exact,
            digest: Some(blob.digest.clone()),
            size: Some(blob.size),
            bytes: bytes.boxed(),
        });
        let Err(fault) = stored.await else { return Ok(()) };
        let cause = failed.lock().unwrap_or_else(PoisonError::into_inner).take();
        Err(match cause {
            Some(cause) => cause,
            None if fault.disposition != Disposition::Reread && fault.reason == Reason::DigestMismatch => {
                image.damaged(&blob.digest, &fault.message)
            }
            None => fault,
        })
    }

    /// The content of a blob, if it exists.
    async fn content(&self, image: StoredImage<'_>, blob: &Descriptor) -> Result<Option<ByteStream<'static>>, Fault> {
        match &self.access {
            ContentAccess::Directory(directory) => {
                let (directory, digest) = (Arc::clone(directory), blob.digest.clone());
                let found = blocking(move || directory.open(&digest)).await;
                let Some((file, length)) = found.map_err(|reason| image.unreadable(&reason))? else {
                    return Ok(None);
                };
                if length != blob.size {
                    return Err(image.wrong_length(blob, length));
                }
                let (owner, name) = (image.owner, image.name.to_owned());
                let chunks = ReceiverStream::new(directory::read(file, blob.digest.clone(), length));
                let chunks = chunks.map_err(move |reason| StoredImage { owner, name: &name }.unreadable(&reason));
                Ok(Some(chunks.boxed()))
            }
            ContentAccess::Socket(session) => session.read(&blob.digest).await,
        }
    }

    /// The lengths in bytes of those of `digests` that the store holds.
    pub(super) async fn sizes(&self, digests: Vec<Digest>) -> Result<HashMap<Digest, u64>, Fault> {
        match &self.access {
            ContentAccess::Directory(directory) => {
                let directory = Arc::clone(directory);
                let sizes = blocking(move || {
                    let mut sizes = HashMap::with_capacity(digests.len());
                    for digest in digests {
                        if let Some((_, length)) = directory.open(&digest)? {
                            sizes.insert(digest, length);
                        }
                    }
                    Ok(sizes)
                });
                sizes.await.map_err(|reason| {
                    let what = format!("its content store cannot be read: {reason}");
                    Fault::retryable(Reason::SourceFailed, what)
                })
            }
            ContentAccess::Socket(session) => {
                let sizes = futures::stream::iter(digests)
                    .map(|digest| async move { Ok((session.size(&digest).await?, digest)) })
                    .buffer_unordered(CONCURRENCY);
                let existing =
                    sizes.try_filter_map(|(size, digest)| async move { Ok(size.map(|size| (digest, size))) });
                existing.try_collect().await
            }
        }
    }

    /// A blob of at most `limit` bytes, verified, if it exists.
    pub(super) async fn read_small(
        &self,
        image: StoredImage<'_>,
        digest: &Digest,
        limit: u64,
    ) -> Result<Option<Bytes>, Fault> {
        let read = match &self.access {
            ContentAccess::Directory(directory) => {
                let (directory, digest) = (Arc::clone(directory), digest.clone());
                let read = blocking(move || directory.read_small(&digest, limit)).await;
                read.map_err(|reason| image.unreadable(&reason))?
            }
            ContentAccess::Socket(session) => read_small(session, digest, limit).await?,
        };
        let content = match read {
            None => return Ok(None),
            Some(SmallBlob::TooLong(length)) => return Err(image.too_long(digest, length, limit)),
            Some(SmallBlob::Content(content)) => content,
        };
        let mut hasher = Hasher::like(digest);
        hasher.update(&content);
        let found = hasher.finish();
        match found == *digest {
            true => Ok(Some(content)),
            false => Err(image.damaged(digest, &format!("its content has {found}"))),
        }
    }
}

async fn read_small(session: &Session, digest: &Digest, limit: u64) -> Result<Option<SmallBlob>, Fault> {
    match session.size(digest).await? {
        None => return Ok(None),
        Some(length) if length > limit => return Ok(Some(SmallBlob::TooLong(length))),
        Some(_) => {}
    }
    let Some(mut chunks) = session.read(digest).await? else {
        return Ok(None);
    };
    let mut content = Vec::new();
    while let Some(chunk) = chunks.try_next().await? {
        content.extend_from_slice(&chunk);
        if content.len() as u64 > limit {
            return Ok(Some(SmallBlob::TooLong(content.len() as u64)));
        }
    }
    Ok(Some(SmallBlob::Content(content.into())))
}

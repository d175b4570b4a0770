//! The [`BlobSink`] of one transfer: reports which blobs the destination has, and uploads the others.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use async_trait::async_trait;
use bytes::Bytes;
use futures::StreamExt as _;

use super::checked_content::CheckedContent;
use super::compress::{SAMPLE, compress, pays};
use super::destination::{Destination, Upload};
use super::known_blobs::{KnownBlobs, SendReservation, UploadKey};
use super::previous_image::PreviousImage;
use super::progress::Progress;
use super::tags::Tags;
use crate::fault::{Fault, Reason};
use crate::oci::{Compression, Descriptor, Digest, Document, Location};
use crate::source::{Blob, BlobSink, ByteStream, Form, PushTarget, StoredBlob};

/// Uploads blobs to a destination.
pub(super) struct DestinationSink {
    pub destination: Arc<dyn Destination>,
    pub location: Location,
    pub compression: Compression,
    pub progress: Arc<Progress>,
    pub known: Arc<KnownBlobs>,
    pub previous_image: PreviousImage,
    pub moved_blobs: AtomicU64,
}

/// What to do with a blob.
enum BlobAction {
    /// Upload it; no other transfer does at the same time.
    Send(SendReservation),
    /// Nothing; another transfer has uploaded it.
    Exists(Box<Descriptor>),
}

/// A blob that was uploaded.
struct UploadedBlob {
    /// The digest of its content at the source.
    content: Digest,
    /// The digest of what was stored.
    digest: Digest,
    /// The size of what was stored in bytes.
    size: u64,
}

impl DestinationSink {
    /// The size of a blob that the destination contains, or that was mounted without moving bytes.
    async fn find_or_mount(&self, digest: &Digest, size: Option<u64>) -> Result<Option<u64>, Fault> {
        let here = self.destination.repository();
        let existing = match self.destination.holds(digest).await? {
            Some(existing) => Some(existing),
            None => {
                self.known.forget(digest, here);
                self.mount(digest, size).await?
            }
        };
        if existing.is_some() {
            self.known.record(digest, here);
        }
        Ok(existing)
    }

    async fn mount(&self, digest: &Digest, size: Option<u64>) -> Result<Option<u64>, Fault> {
        let Some(from) = self
            .known
            .repository_of(digest)
            .filter(|repository| repository != self.destination.repository())
        else {
            return Ok(None);
        };
        let blob = Descriptor::new("application/octet-stream", digest.clone(), size.unwrap_or_default());
        if !self.destination.mount(&blob, &from).await? {
            self.known.forget(digest, &from);
            return Ok(None);
        }
        match size {
            Some(size) => Ok(Some(size)),
            None => self.destination.holds(digest).await,
        }
    }

    /// Reserves the upload of `key`, which has `size` bytes at its source. It waits while another transfer uploads it.
    async fn reserve(&self, key: &UploadKey, size: Option<u64>) -> Result<BlobAction, Fault> {
        loop {
            let reserved = self.known.reserve(key);
            // It may have been uploaded since the destination was asked.
            if let Some(stored) = self.known_stored(key, size).await? {
                self.progress.add_existing(size.unwrap_or(stored.size));
                return Ok(BlobAction::Exists(Box::new(stored)));
            }
            match reserved {
                Ok(reservation) => return Ok(BlobAction::Send(reservation)),
                // The channel closes when that upload ends, at the latest by a timeout.
                Err(mut ended) => while ended.changed().await.is_ok() {},
            }
        }
    }

    /// The layer `diff_id`, which is stored uncompressed, if the destination contains it.
    async fn existing_uncompressed(&self, diff_id: &Digest, size: Option<u64>) -> Result<Option<Descriptor>, Fault> {
        let Some(existing) = self.existing_size(diff_id, size).await? else {
            return Ok(None);
        };
        let stored = self.compression.uncompressed_layer(diff_id.clone(), existing);
        let key = UploadKey::layer(diff_id.clone(), self.compression);
        self.known.record_stored(&key, &stored);
        Ok(Some(stored))
    }

    /// The stored form of `key`, if this process knows it and the destination contains it.
    async fn known_stored(&self, key: &UploadKey, size: Option<u64>) -> Result<Option<Descriptor>, Fault> {
        match key {
            UploadKey::Blob(digest) if self.known.repository_of(digest).is_some() => {
                let existing = self.find_or_mount(digest, size).await?;
                Ok(existing.map(|existing| Compression::None.layer(digest.clone(), existing)))
            }
            UploadKey::Blob(_) => Ok(None),
            UploadKey::Layer(..) => match self.known.stored(key) {
                Some(stored) => {
                    let existing = self.find_or_mount(&stored.digest, Some(stored.size)).await?;
                    Ok(existing.filter(|existing| *existing == stored.size).map(|_| stored))
                }
                None => Ok(None),
            },
        }
    }

    /// Uploads the content of `blob`, compressed by `compression`.
    async fn upload(&self, blob: Blob<'_>, compression: Compression) -> Result<UploadedBlob, Fault> {
        let sent = Arc::<AtomicU64>::default();
        let content = CheckedContent::new(blob.bytes, blob.size, Arc::clone(&self.progress), Arc::clone(&sent));
        let content = match compression {
            // The destination hashes and verifies content that is stored unchanged.
            Compression::None => content,
            _ => content.hashed(blob.digest.as_ref()),
        };
        let (bytes, mut end) = content.into_stream();
        let upload = match compression {
            Compression::None => Upload {
                digest: blob.digest,
                size: blob.size,
                bytes,
            },
            _ => Upload {
                digest: None,
                size: None,
                bytes: compress(bytes, compression),
            },
        };
        let uploaded = self.destination.upload(upload).await;
        let (digest, size) = uploaded.inspect_err(|_| self.progress.subtract_failed(sent.load(Ordering::Relaxed)))?;
        // A destination that stops reading before the end would store a part as the whole.
        let Ok(content) = end.try_recv() else {
            return Err(Fault::retryable(
                Reason::PushFailed,
                format!("{} read only a part of a blob", self.destination.name()),
            ));
        };
        Ok(UploadedBlob {
            content: content.unwrap_or_else(|| digest.clone()),
            digest,
            size,
        })
    }
}

/// Reads the beginning of a layer, which determines whether it is compressed; only one chunk if that is not needed.
async fn beginning(bytes: &mut ByteStream<'_>, wanted: Compression) -> Result<Vec<Bytes>, Fault> {
    let least = match wanted {
        Compression::None => 1,
        _ => SAMPLE,
    };
    let (mut chunks, mut length) = (Vec::new(), 0);
    while length < least
        && let Some(chunk) = bytes.next().await.transpose()?
    {
        length += chunk.len();
        chunks.push(chunk);
    }
    Ok(chunks)
}

#[async_trait]
impl BlobSink for DestinationSink {
    async fn existing_size(&self, digest: &Digest, size: Option<u64>) -> Result<Option<u64>, Fault> {
        let existing = self.find_or_mount(digest, size).await?;
        if let Some(existing) = existing {
            self.progress.add_existing(size.unwrap_or(existing));
        }
        Ok(existing)
    }

    async fn existing_layer(&self, diff_id: &Digest) -> Result<Option<Descriptor>, Fault> {
        if self.compression == Compression::None {
            return self.existing_uncompressed(diff_id, None).await;
        }
        // The digest of the compressed form is known only if it was compressed before.
        let key = UploadKey::layer(diff_id.clone(), self.compression);
        if let Some(stored) = self.known_stored(&key, None).await? {
            self.progress.add_existing(stored.size);
            return Ok(Some(stored));
        }
        let reusable = self
            .previous_image
            .layer(&*self.destination, &self.location, self.compression, diff_id);
        let Some(stored) = reusable.await else {
            return Ok(None);
        };
        if self.existing_size(&stored.digest, Some(stored.size)).await? != Some(stored.size) {
            return Ok(None);
        }
        self.known.record_stored(&key, &stored);
        Ok(Some(stored))
    }

    async fn store(&self, blob: Blob<'_>) -> Result<StoredBlob, Fault> {
        let form = blob.form;
        let wanted = match form {
            Form::Exact => Compression::None,
            Form::Diff => self.compression,
        };
        let described = |stored: Descriptor| match form {
            Form::Exact => Descriptor::new("application/octet-stream", stored.digest, stored.size),
            Form::Diff => stored,
        };
        let mut reservation = None;
        if let Some(digest) = &blob.digest {
            let key = UploadKey::layer(digest.clone(), wanted);
            match self.reserve(&key, blob.size).await? {
                BlobAction::Send(reserved) => reservation = Some(reserved),
                BlobAction::Exists(stored) => {
                    return Ok(StoredBlob {
                        content_digest: digest.clone(),
                        descriptor: described(*stored),
                    });
                }
            }
        }
        let mut blob = blob;
        let mut compression = wanted;
        if form == Form::Diff {
            // The source may wait for a permit before its first bytes. The upload starts only then, so that the registry does
            // not wait for it.
            let start = beginning(&mut blob.bytes, wanted).await?;
            if wanted != Compression::None && !pays(&start, wanted).await? {
                compression = Compression::None;
                if let Some(digest) = &blob.digest
                    && let Some(stored) = self.existing_uncompressed(digest, blob.size).await?
                {
                    return Ok(StoredBlob {
                        content_digest: digest.clone(),
                        descriptor: stored,
                    });
                }
            }
            blob.bytes = futures::stream::iter(start.into_iter().map(Ok))
                .chain(blob.bytes)
                .boxed();
        }
        let uploaded = self.upload(blob, compression).await?;
        let (digest, size) = (uploaded.digest, uploaded.size);
        let stored = described(match compression {
            Compression::None => wanted.uncompressed_layer(digest, size),
            _ => compression.layer(digest, size),
        });
        self.known.record(&stored.digest, self.destination.repository());
        let key = UploadKey::layer(uploaded.content.clone(), wanted);
        self.known.record_stored(&key, &stored);
        // Waiting transfers find what was recorded.
        drop(reservation);
        self.moved_blobs.fetch_add(1, Ordering::Relaxed);
        Ok(StoredBlob {
            content_digest: uploaded.content,
            descriptor: stored,
        })
    }

    async fn push_target(&self) -> Result<Option<PushTarget>, Fault> {
        let Some(tag) = self.location.tags.first() else {
            return Ok(None);
        };
        let tags = Tags {
            destination: &*self.destination,
            location: &self.location,
        };
        tags.check_first().await?;
        Ok(self.destination.push_target(tag))
    }

    async fn document(&self, digest: &Digest) -> Result<Option<Document>, Fault> {
        self.destination.document(digest.as_str()).await
    }
}

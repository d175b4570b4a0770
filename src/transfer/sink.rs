//! The sink of one transfer: asks the destination what it has, and takes the rest.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use async_trait::async_trait;
use bytes::Bytes;
use futures::{StreamExt as _, TryStreamExt as _};

use super::compress::{SAMPLE, compress, pays};
use super::destination::{Destination, Upload};
use super::known_blobs::{KnownBlobs, SendReservation, Subject};
use super::previous_image::PreviousImage;
use super::progress::Progress;
use super::tags::Tags;
use crate::fault::{Fault, Reason};
use crate::hashing::BackgroundHasher;
use crate::oci::{Compression, Descriptor, Digest, Document, Location};
use crate::source::{Blob, BlobSink, ByteStream, Form, PushTarget, StoredBlob};

/// The [`BlobSink`] over a destination.
pub(super) struct DestinationSink {
    pub destination: Arc<dyn Destination>,
    pub location: Location,
    pub compression: Compression,
    pub progress: Arc<Progress>,
    pub known: Arc<KnownBlobs>,
    pub predecessor: PreviousImage,
    pub moved_blobs: AtomicU64,
}

/// What is to be done about a blob.
enum BlobAction {
    /// It is sent, and nobody else does so meanwhile.
    Send(SendReservation),
    /// Somebody brought it since it was asked for.
    Stands(Box<Descriptor>),
}

impl DestinationSink {
    /// The size of a blob that the destination holds, or that could be brought there without moving bytes.
    async fn present(&self, digest: &Digest, size: Option<u64>) -> Result<Option<u64>, Fault> {
        let here = self.destination.repository();
        let held = match self.destination.holds(digest).await? {
            Some(held) => Some(held),
            None => {
                self.known.missed(digest, here);
                self.mounted(digest, size).await?
            }
        };
        if held.is_some() {
            self.known.saw(digest, here);
        }
        Ok(held)
    }

    async fn mounted(&self, digest: &Digest, size: Option<u64>) -> Result<Option<u64>, Fault> {
        let Some(from) = self
            .known
            .place(digest)
            .filter(|place| place != self.destination.repository())
        else {
            return Ok(None);
        };
        let blob = Descriptor::new("application/octet-stream", digest.clone(), size.unwrap_or_default());
        if !self.destination.mount(&blob, &from).await? {
            self.known.missed(digest, &from);
            return Ok(None);
        }
        match size {
            Some(size) => Ok(Some(size)),
            None => self.destination.holds(digest).await,
        }
    }

    /// Waits until nobody else sends `subject`, `size` bytes long at its source: as long as another does.
    async fn turn(&self, subject: &Subject, size: Option<u64>) -> Result<BlobAction, Fault> {
        loop {
            let reserved = self.known.reserve(subject);
            // It may have come between the question and now.
            if let Some(stored) = self.brought(subject, size).await? {
                self.progress.found(size.unwrap_or(stored.size));
                return Ok(BlobAction::Stands(Box::new(stored)));
            }
            match reserved {
                Ok(reservation) => return Ok(BlobAction::Send(reservation)),
                // Closed by its end, which every idle time limit brings about.
                Err(mut ended) => while ended.changed().await.is_ok() {},
            }
        }
    }

    /// The layer `diff_id`, which is not to be compressed, if the destination has it as it is.
    async fn left(&self, diff_id: &Digest, size: Option<u64>) -> Result<Option<Descriptor>, Fault> {
        let Some(held) = self.existing_size(diff_id, size).await? else {
            return Ok(None);
        };
        let stored = self.compression.uncompressed_layer(diff_id.clone(), held);
        let subject = Subject::diff(diff_id.clone(), self.compression);
        self.known.note_stored(&subject, &stored);
        Ok(Some(stored))
    }

    /// What `subject` stands as, when this process has seen it in the registry.
    async fn brought(&self, subject: &Subject, size: Option<u64>) -> Result<Option<Descriptor>, Fault> {
        match subject {
            Subject::Blob(digest) if self.known.place(digest).is_some() => {
                let held = self.present(digest, size).await?;
                Ok(held.map(|held| Compression::None.layer(digest.clone(), held)))
            }
            Subject::Blob(_) => Ok(None),
            Subject::Diff(..) => match self.known.stored(subject) {
                Some(stored) => {
                    let held = self.present(&stored.digest, Some(stored.size)).await?;
                    Ok(held.filter(|held| *held == stored.size).map(|_| stored))
                }
                None => Ok(None),
            },
        }
    }
}

/// Reads what tells whether the rest is to be compressed, or a first chunk where that is not asked.
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
        let held = self.present(digest, size).await?;
        if let Some(held) = held {
            self.progress.found(size.unwrap_or(held));
        }
        Ok(held)
    }

    async fn existing_layer(&self, diff_id: &Digest) -> Result<Option<Descriptor>, Fault> {
        if self.compression == Compression::None {
            return self.left(diff_id, None).await;
        }
        // A compressed form has a digest that only compressing tells, or who did it before.
        let subject = Subject::diff(diff_id.clone(), self.compression);
        if let Some(stored) = self.brought(&subject, None).await? {
            self.progress.found(stored.size);
            return Ok(Some(stored));
        }
        let standing = self
            .predecessor
            .layer(&*self.destination, &self.location, self.compression, diff_id);
        let Some(stored) = standing.await else {
            return Ok(None);
        };
        if self.existing_size(&stored.digest, Some(stored.size)).await? != Some(stored.size) {
            return Ok(None);
        }
        self.known.note_stored(&subject, &stored);
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
        let subject = blob.digest.clone().map(|digest| Subject::diff(digest, wanted));
        let mut reservation = None;
        if let (Some(subject), Some(digest)) = (&subject, &blob.digest) {
            match self.turn(subject, blob.size).await? {
                BlobAction::Send(reserved) => reservation = Some(reserved),
                BlobAction::Stands(stored) => {
                    return Ok(StoredBlob {
                        content_digest: digest.clone(),
                        descriptor: described(*stored),
                    });
                }
            }
        }
        let mut bytes = blob.bytes;
        let mut compression = wanted;
        if form == Form::Diff {
            // The first bytes may wait for a turn at the source; meanwhile the registry should not wait for them.
            let start = beginning(&mut bytes, wanted).await?;
            if wanted != Compression::None && !pays(&start, wanted).await? {
                compression = Compression::None;
                if let Some(digest) = &blob.digest
                    && let Some(stored) = self.left(digest, blob.size).await?
                {
                    return Ok(StoredBlob {
                        content_digest: digest.clone(),
                        descriptor: stored,
                    });
                }
            }
            bytes = futures::stream::iter(start.into_iter().map(Ok)).chain(bytes).boxed();
        }
        let content = Arc::new(Mutex::new(None));
        let complete = Arc::new(AtomicBool::new(false));
        let expected = Expected {
            // What is stored as it comes is hashed and verified by the destination, and once is enough.
            hash: (compression != Compression::None).then(|| blob.digest.clone()),
            size: blob.size,
        };
        let passing = observe(
            bytes,
            expected,
            Arc::clone(&self.progress),
            Arc::clone(&content),
            Arc::clone(&complete),
        );
        let passed = Arc::new(AtomicU64::new(0));
        let counting = Arc::clone(&passed);
        let passing = passing.inspect_ok(move |chunk| {
            counting.fetch_add(chunk.len() as u64, Ordering::Relaxed);
        });
        let upload = match compression {
            Compression::None => Upload {
                digest: blob.digest,
                size: blob.size,
                bytes: passing.boxed(),
            },
            _ => Upload {
                digest: None,
                size: None,
                bytes: compress(passing.boxed(), compression),
            },
        };
        let uploaded = self.destination.upload(upload).await;
        let (digest, size) = uploaded.inspect_err(|_| self.progress.lost(passed.load(Ordering::Relaxed)))?;
        // A destination that stops reading before the end would commit a part as the whole.
        if !complete.load(Ordering::Acquire) {
            return Err(Fault::retryable(
                Reason::PushFailed,
                format!("{} took only a part of a blob", self.destination.name()),
            ));
        }
        let content = content.lock().unwrap_or_else(PoisonError::into_inner).take();
        let content = content.unwrap_or_else(|| digest.clone());
        let stored = described(match compression {
            Compression::None => wanted.uncompressed_layer(digest, size),
            _ => compression.layer(digest, size),
        });
        self.known.saw(&stored.digest, self.destination.repository());
        let subject = Subject::diff(content.clone(), wanted);
        self.known.note_stored(&subject, &stored);
        // Whoever waited finds what was noted.
        drop(reservation);
        self.moved_blobs.fetch_add(1, Ordering::Relaxed);
        Ok(StoredBlob {
            content_digest: content,
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

struct Expected {
    /// The content is hashed here, and has this digest where that is known before.
    hash: Option<Option<Digest>>,
    size: Option<u64>,
}

/// Counts what passes, hashes it where nobody else does, and ends in a failure when it is not what was announced. The
/// failure comes before the stream's end, so that the destination never commits.
fn observe(
    bytes: ByteStream<'_>,
    expected: Expected,
    progress: Arc<Progress>,
    content: Arc<Mutex<Option<Digest>>>,
    complete: Arc<AtomicBool>,
) -> ByteStream<'_> {
    let hashing = expected
        .hash
        .as_ref()
        .map(|digest| BackgroundHasher::new(digest.as_ref()));
    let state = Some((bytes, hashing, 0u64));
    futures::stream::unfold(state, move |state| {
        let result = (Arc::clone(&progress), Arc::clone(&content), Arc::clone(&complete));
        let wanted = (expected.hash.clone().flatten(), expected.size);
        async move {
            let (mut bytes, mut hashing, mut length) = state?;
            let (progress, content, complete) = result;
            match bytes.next().await {
                Some(Ok(chunk)) => {
                    if let Some(hashing) = &mut hashing {
                        hashing.update(&chunk).await;
                    }
                    length += chunk.len() as u64;
                    progress.passed(chunk.len() as u64);
                    Some((Ok(chunk), Some((bytes, hashing, length))))
                }
                Some(Err(fault)) => Some((Err(fault), None)),
                None => {
                    let digest = match hashing {
                        Some(hashing) => match hashing.finish().await {
                            Ok(digest) => Some(digest),
                            Err(error) => {
                                let message = format!("hashing was given up: {error}");
                                return Some((Err(Fault::retryable(Reason::SourceFailed, message)), None));
                            }
                        },
                        None => None,
                    };
                    match verify(digest.as_ref(), length, wanted) {
                        Err(fault) => Some((Err::<Bytes, Fault>(fault), None)),
                        Ok(()) => {
                            *content.lock().unwrap_or_else(PoisonError::into_inner) = digest;
                            complete.store(true, Ordering::Release);
                            None
                        }
                    }
                }
            }
        }
    })
    .boxed()
}

fn verify(digest: Option<&Digest>, length: u64, wanted: (Option<Digest>, Option<u64>)) -> Result<(), Fault> {
    let (wanted_digest, wanted_size) = wanted;
    if let Some(size) = wanted_size.filter(|size| *size != length) {
        return Err(Fault::retryable(
            Reason::SourceFailed,
            format!("a blob of {size} bytes ended after {length}"),
        ));
    }
    match (wanted_digest, digest) {
        (Some(wanted), Some(digest)) if wanted != *digest => Err(Fault::retryable(
            Reason::DigestMismatch,
            format!("content that should be {wanted} is {digest}"),
        )),
        _ => Ok(()),
    }
}

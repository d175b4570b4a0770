//! The content store of a containerd: blobs as they are stored, whoever asked for them to be stored.
//!
//! Read from the store's folder where this process may, which costs the containerd nothing, else over its socket.
//! That a folder is the right one is proved by the image's own root in it. Every document is verified before it
//! is believed, every blob by the sink.

mod folder;
mod walk;

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use futures::{StreamExt as _, TryStreamExt as _};
use tokio::sync::Semaphore;
use tokio_stream::wrappers::ReceiverStream;

use self::folder::Folder;
use super::containerd::{Client, Session};
use super::reread::Rereads;
use super::unreadable::{UnreadableReason, blocking};
use super::{Blob, BlobSink, ByteStream, Delivery, Form, Identity, Method, Resolved};
use crate::budget::IMAGES;
use crate::fault::{Disposition, Fault, Reason};
use crate::oci::{Descriptor, Digest, Document, Hasher, Platform, Reference, distinct_blobs, distinct_foreign_layers};

/// Blobs that are carried at once.
const AT_ONCE: usize = 4;
/// Where a containerd of the system keeps everything.
const USUAL_ROOT: &str = "/var/lib/containerd";

/// Who keeps an image, in messages.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::source) enum Keeper {
    /// A docker engine with the containerd image store.
    Docker,
    /// A containerd by itself.
    Containerd,
}

impl Keeper {
    fn name(self) -> &'static str {
        match self {
            Self::Docker => "the docker engine of this machine",
            Self::Containerd => "the containerd of this machine",
        }
    }

    fn again(self) -> &'static str {
        match self {
            Self::Docker => "`docker pull` or load it there again",
            Self::Containerd => "pull or import it there again",
        }
    }
}

/// The ways to content stores of one process.
#[derive(Clone, Debug)]
pub struct ContentStores {
    root: Option<PathBuf>,
    // Of all images together: each takes a thread and some chunks of memory.
    turns: Arc<Semaphore>,
}

impl ContentStores {
    /// A containerd's root is at `root`, or else where it says.
    pub fn new(root: Option<PathBuf>) -> Self {
        Self {
            root,
            turns: Arc::new(Semaphore::new(AT_ONCE)),
        }
    }

    /// The store that holds `proof`: a folder below `own`, below the root that was named, or, where none was,
    /// below the one that the containerd behind `client` says it has; else what `client` gives.
    ///
    /// # Errors
    /// Why there is no way, in words.
    pub(in crate::source) async fn open(
        &self,
        own: Option<PathBuf>,
        client: Option<&Client>,
        proof: &Digest,
    ) -> Result<Content, String> {
        let mut tried: Vec<String> = Vec::new();
        for root in own.into_iter().chain(self.root.clone()) {
            match prove(root, proof).await {
                Ok(folder) => return Ok(self.content(Place::Folder(folder), None)),
                Err(doubt) => tried.push(doubt.to_string()),
            }
        }
        let session = match client {
            Some(client) => match client.connect().await {
                Ok(session) => Some(session),
                Err(fault) => {
                    tried.push(fault.message);
                    None
                }
            },
            None => None,
        };
        if self.root.is_none() {
            let said = match &session {
                // What it does not say is where it usually is.
                Some(session) => session.content_folder().await.unwrap_or_default(),
                None => None,
            };
            let said = said.filter(|folder| folder.ends_with(folder::PLUGIN));
            let root = said.as_deref().and_then(Path::parent).unwrap_or(Path::new(USUAL_ROOT));
            match prove(root.to_owned(), proof).await {
                Ok(folder) => return Ok(self.content(Place::Folder(folder), None)),
                Err(doubt) => tried.push(doubt.to_string()),
            }
        }
        let advice = "mount the containerd's root read-only and name it with --containerd-root";
        let method_message = format!(
            "the content store was not read directly: {}; {advice}",
            tried.join("; ")
        );
        let Some(session) = session else {
            return Err(method_message);
        };
        match session.size(proof).await {
            Ok(Some(_)) => Ok(self.content(Place::Socket(Box::new(session)), Some(method_message))),
            Ok(None) => Err(format!("{method_message}; over its socket it is not found either")),
            Err(fault) => Err(format!("{method_message}; {}", fault.message)),
        }
    }

    fn content(&self, place: Place, method_message: Option<String>) -> Content {
        Content {
            place,
            method_message,
            turns: Arc::clone(&self.turns),
        }
    }
}

async fn prove(root: PathBuf, proof: &Digest) -> Result<Arc<Folder>, UnreadableReason> {
    let proof = proof.clone();
    blocking(move || Folder::proved(&root, &proof)).await.map(Arc::new)
}

/// A content store that can be read.
#[derive(Debug)]
pub(in crate::source) struct Content {
    place: Place,
    method_message: Option<String>,
    turns: Arc<Semaphore>,
}

#[derive(Debug)]
enum Place {
    Folder(Arc<Folder>),
    Socket(Box<Session>),
}

impl Content {
    /// What is under `root`, as far as `platforms` ask for it, with every manifest read and every blob seen.
    pub async fn resolve(
        &self,
        keeper: Keeper,
        root: &Digest,
        reference: &Reference,
        platforms: &[Platform],
    ) -> Result<Resolved, Fault> {
        let memory = Arc::new(IMAGES.reserve());
        let documents = walk::find(self, keeper, &memory, root, reference, platforms).await?;
        let size = distinct_blobs(&documents).iter().map(|blob| blob.size).sum();
        let root = documents.last().map_or(root, Document::digest).clone();
        Ok(Resolved {
            reference: reference.clone(),
            platforms: platforms.to_vec(),
            identity: Identity::Manifest(root),
            chosen_from: None,
            documents,
            memory,
            size: Some(size),
        })
    }

    /// Brings what `sink` lacks of an image that was resolved here.
    pub async fn deliver(&self, keeper: Keeper, image: &Resolved, sink: &dyn BlobSink) -> Result<Delivery, Fault> {
        let name = &image.reference.familiar();
        let mut blobs = distinct_blobs(&image.documents);
        blobs.extend(self.held(distinct_foreign_layers(&image.documents)).await?);
        // The largest first: begun last, it would be what everybody waits for.
        blobs.sort_by(|one, other| other.size.cmp(&one.size).then_with(|| one.digest.cmp(&other.digest)));
        futures::stream::iter(blobs.into_iter().map(Ok))
            .try_for_each_concurrent(AT_ONCE, |blob| async move {
                let mut rereads = Rereads::default();
                loop {
                    match self.carry(keeper, name, blob, sink).await {
                        Err(fault) => rereads.retry_after(fault)?,
                        done => return done,
                    }
                }
            })
            .await?;
        Ok(Delivery {
            documents: image.documents.clone(),
            method: match self.place {
                Place::Folder(_) => Method::ContainerdContent,
                Place::Socket(_) => Method::ContainerdApi,
            },
            method_message: self.method_message.clone(),
        })
    }

    /// Those of `layers` that are held.
    async fn held<'l>(&self, mut layers: Vec<&'l Descriptor>) -> Result<Vec<&'l Descriptor>, Fault> {
        if !layers.is_empty() {
            let sizes = self
                .sizes(layers.iter().map(|layer| layer.digest.clone()).collect())
                .await?;
            layers.retain(|layer| sizes.get(&layer.digest) == Some(&layer.size));
        }
        Ok(layers)
    }

    async fn carry(&self, keeper: Keeper, name: &str, blob: &Descriptor, sink: &dyn BlobSink) -> Result<(), Fault> {
        if sink.existing_size(&blob.digest, Some(blob.size)).await?.is_some() {
            return Ok(());
        }
        // Who sends content on may only have noticed that it ended.
        let failed: Arc<Mutex<Option<Fault>>> = Arc::default();
        let failing = Arc::clone(&failed);
        // Nothing is begun before it is asked for: the sink may wait for another who brings the same blob.
        let content = futures::stream::once(async move {
            // Never closed.
            let turn = self.turns.acquire().await.ok();
            let content = self.content(keeper, name, blob).await?;
            let content = content.ok_or_else(|| missing(keeper, name, &blob.digest))?;
            Ok(content.inspect(move |_| {
                let _turn = &turn;
            }))
        });
        let bytes = content.try_flatten().inspect_err(move |fault| {
            *failing.lock().unwrap_or_else(PoisonError::into_inner) = Some(fault.clone());
        });
        let taken = sink.store(Blob {
            form: Form::Exact,
            digest: Some(blob.digest.clone()),
            size: Some(blob.size),
            bytes: bytes.boxed(),
        });
        let Err(fault) = taken.await else { return Ok(()) };
        let cause = failed.lock().unwrap_or_else(PoisonError::into_inner).take();
        Err(match cause {
            Some(cause) => cause,
            None if fault.disposition != Disposition::Reread && fault.reason == Reason::DigestMismatch => {
                damaged(keeper, name, &blob.digest, &fault.message)
            }
            None => fault,
        })
    }

    /// The content of a blob, if it is held.
    async fn content(
        &self,
        keeper: Keeper,
        name: &str,
        blob: &Descriptor,
    ) -> Result<Option<ByteStream<'static>>, Fault> {
        match &self.place {
            Place::Folder(folder) => {
                let (store, digest) = (Arc::clone(folder), blob.digest.clone());
                let found = blocking(move || store.open(&digest)).await;
                let Some((file, length)) = found.map_err(|doubt| unread(keeper, name, &doubt))? else {
                    return Ok(None);
                };
                if length != blob.size {
                    return Err(misshapen(keeper, name, blob, length));
                }
                let name = name.to_owned();
                let chunks = ReceiverStream::new(folder::read(file, blob.digest.clone(), length));
                Ok(Some(chunks.map_err(move |doubt| unread(keeper, &name, &doubt)).boxed()))
            }
            Place::Socket(session) => session.read(&blob.digest).await,
        }
    }

    /// The lengths in bytes of those of `digests` that are held.
    async fn sizes(&self, digests: Vec<Digest>) -> Result<HashMap<Digest, u64>, Fault> {
        match &self.place {
            Place::Folder(folder) => {
                let folder = Arc::clone(folder);
                let sizes = blocking(move || {
                    let mut sizes = HashMap::with_capacity(digests.len());
                    for digest in digests {
                        if let Some((_, length)) = folder.open(&digest)? {
                            sizes.insert(digest, length);
                        }
                    }
                    Ok(sizes)
                });
                sizes.await.map_err(|doubt| {
                    let what = format!("its content store cannot be read: {doubt}");
                    Fault::retryable(Reason::SourceFailed, what)
                })
            }
            Place::Socket(session) => {
                let asked = futures::stream::iter(digests)
                    .map(|digest| async move { Ok((session.size(&digest).await?, digest)) })
                    .buffer_unordered(AT_ONCE);
                let held = asked.try_filter_map(|(size, digest)| async move { Ok(size.map(|size| (digest, size))) });
                held.try_collect().await
            }
        }
    }

    /// A blob of at most `limit` bytes, verified, if it is held.
    async fn small(&self, keeper: Keeper, name: &str, digest: &Digest, limit: u64) -> Result<Option<Bytes>, Fault> {
        let longer = |length: u64| {
            let message = format!(
                "{} keeps {digest} of `{name}` with {length} bytes, more than the {limit} that such a document may have",
                keeper.name()
            );
            Fault::retryable(Reason::SourceFailed, message)
        };
        let content = match &self.place {
            Place::Folder(folder) => {
                let (folder, digest) = (Arc::clone(folder), digest.clone());
                let read = blocking(move || folder.whole(&digest, limit)).await;
                match read.map_err(|doubt| unread(keeper, name, &doubt))? {
                    None => return Ok(None),
                    Some(Err(length)) => return Err(longer(length)),
                    Some(Ok(content)) => content,
                }
            }
            Place::Socket(session) => {
                match session.size(digest).await? {
                    None => return Ok(None),
                    Some(length) if length > limit => return Err(longer(length)),
                    Some(_) => {}
                }
                let Some(mut pieces) = session.read(digest).await? else {
                    return Ok(None);
                };
                let mut content = Vec::new();
                while let Some(piece) = pieces.try_next().await? {
                    content.extend_from_slice(&piece);
                    if content.len() as u64 > limit {
                        return Err(longer(content.len() as u64));
                    }
                }
                content.into()
            }
        };
        let mut hasher = Hasher::like(digest);
        hasher.update(&content);
        let found = hasher.finish();
        match found == *digest {
            true => Ok(Some(content)),
            false => Err(damaged(keeper, name, digest, &format!("its content has {found}"))),
        }
    }
}

/// That a blob which an image needs is not there.
fn missing(keeper: Keeper, name: &str, digest: &Digest) -> Fault {
    let message = format!(
        "{} lists `{name}` but does not hold its content {digest}; {}, or choose by platforms what it holds",
        keeper.name(),
        keeper.again()
    );
    Fault::retryable(Reason::SourceFailed, message)
}

fn damaged(keeper: Keeper, name: &str, digest: &Digest, how: &str) -> Fault {
    let message = format!(
        "the content {digest} of `{name}` is damaged in the store of {} ({how}); remove the image there, then {}",
        keeper.name(),
        keeper.again()
    );
    Fault::retryable(Reason::DigestMismatch, message)
}

fn misshapen(keeper: Keeper, name: &str, blob: &Descriptor, length: u64) -> Fault {
    let how = format!("it has {length} bytes instead of {}", blob.size);
    damaged(keeper, name, &blob.digest, &how)
}

fn unread(keeper: Keeper, name: &str, doubt: &UnreadableReason) -> Fault {
    let message = format!(
        "`{name}` cannot be read from the content store of {}: {doubt}; it is tried again, and that disk wants a look if it stays so",
        keeper.name()
    );
    Fault::retryable(Reason::SourceFailed, message)
}

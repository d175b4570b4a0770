//! Images of a docker engine.
//!
//! The two kinds of store are distinguished by the image's content. The *classic* store keeps unpacked layers and the
//! configuration, so the manifest is made here, from the layers as the destination stores them. The *containerd* store
//! keeps manifests and blobs, which are copied unchanged.
//!
//! The engine is never asked to pull: an image that it does not hold is [`Reason::SourceNotFound`].
//!
//! # Folder
//!
//! The layers of a classic store are read from the engine's folder (`graph`), and a containerd store is read by
//! `source::content`, if this process can read the folder. A containerd store is read through its containerd
//! before the engine is asked to export, because an export contains every blob, including those that the destination
//! holds, in an order that cannot be chosen.
//!
//! # Export
//!
//! Otherwise the engine (of either kind) exports the image once, and the tar is read as a stream: without a temporary
//! file and without a layer in memory. Three forms of the tar are known (up to docker 24; 25 and later; the containerd
//! store). The proper end of the archive *and* every expected digest are required. Blobs that the destination holds are
//! skipped; if it holds all of them, no export is requested. The digest of a narrowed index is known only after the
//! index was found in the export; it is then cached, so that a repeat is recognised.
//!
//! # Push
//!
//! An engine that refuses to export, mostly because its disk is full, is asked to push the image (`push`). This is the
//! last method: it uses gzip in one thread, and the manifest is the engine's, with gzip layers whatever `compression`
//! says; it counts as the image from then on. The engine pushes into the repository and under the tag of the image, by
//! a name that exists only during the push, and with the destination's credentials if the engine runs on this machine.
//! It is not used for a layout, a digest, an index, or a registry that an object names, because such a registry could
//! redirect the engine anywhere. `push::name` creates and removes the name. The removal is a task that outlives a
//! cancelled transfer and that the process waits for at its end. It is repeated when the engine fails, and after a kill
//! at the next start: a second name with a hash of the first identifies what remained.

mod archive;
mod choose;
mod classic;
mod containerd;
mod document;
mod engine;
#[cfg(fuzzing)]
pub mod fuzzing;
mod graph;
mod inspected_image;
mod lines;
mod push;
mod pusher;
mod watch;

use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use lru::LruCache;

pub(crate) use archive::{Archive as TarReader, EntryKind as TarEntryKind};
pub use engine::{ApiVersion, DEFAULT_HOST, Engine, StorageKind};
pub use inspected_image::{InspectedImage, StoredManifest};
pub use push::wait_for_name_removal;
pub use watch::ImageEvents;

use self::choose::Target;
use self::graph::Graph;
use super::containerd_api::Client;
pub use super::content::ContentStores;
use super::content::{ContentStore, StoreOwner};
use super::reread::Rereads;
use super::{BlobSink, Delivery, Identity, ImageSource, Resolved};
use crate::budget::IMAGES;
use crate::fault::{Fault, Reason};
use crate::oci::{Descriptor, Digest, Document, Platform, Reference, Selection, media_type, select};

/// The number of indexes that are cached; real ones have some kilobytes.
const CACHED_INDEXES: NonZeroUsize = NonZeroUsize::new(64).unwrap();

/// The images of one docker engine.
#[derive(Clone, Debug)]
pub struct Docker {
    engine: Engine,
    graph: Graph,
    content: Option<ContentStores>,
    // Indexes of which some platforms are taken. The API returns them only in an export.
    indexes: Arc<Mutex<LruCache<Digest, Document>>>,
}

impl Docker {
    /// Reads images from `engine`. Its root directory is at `root` for this process, or else where the engine says. Where
    /// that cannot be read, the engine's API is used.
    pub fn new(engine: Engine, root: Option<PathBuf>) -> Self {
        Self {
            engine,
            graph: Graph::new(root),
            content: None,
            indexes: Arc::new(Mutex::new(LruCache::new(CACHED_INDEXES))),
        }
    }

    /// The same engine, whose containerd store is read through `content` where possible.
    pub fn with_content(self, content: ContentStores) -> Self {
        Self {
            content: Some(content),
            ..self
        }
    }

    /// The same engine with another timeout for an export that sends nothing.
    pub fn with_idle_timeout(&self, idle_timeout: Duration) -> Self {
        Self {
            engine: self.engine.with_idle_timeout(idle_timeout),
            ..self.clone()
        }
    }

    /// The same engine, used by the agent of its node. An engine has one.
    pub fn for_agent(self) -> Self {
        Self {
            engine: self.engine.for_agent(),
            ..self
        }
    }

    /// Removes the names under which processes that were killed had this engine push images.
    pub async fn remove_abandoned_names(&self) -> Result<(), Fault> {
        push::remove_abandoned_names(&self.engine).await
    }

    /// The engine.
    pub fn engine(&self) -> &Engine {
        &self.engine
    }

    // The image `reference`. If that has a digest, it must be the image's.
    async fn find(&self, reference: &Reference) -> Result<InspectedImage, Fault> {
        let familiar = reference.familiar();
        let Some(digest) = reference.digest() else {
            return self
                .engine
                .inspect(&familiar)
                .await?
                .ok_or_else(|| engine::image_not_found(&familiar));
        };
        if reference.tag().is_none() {
            let named = match self.engine.inspect(&familiar).await? {
                Some(image) => Some(image),
                // An image that was built here has no `name@digest`; its ID is meant.
                None => self.engine.inspect(digest.as_str()).await?,
            };
            return named.ok_or_else(|| engine::image_not_found(&familiar));
        }
        let tagged = familiar.split('@').next().unwrap_or(&familiar);
        let image = self
            .engine
            .inspect(tagged)
            .await?
            .ok_or_else(|| engine::image_not_found(tagged))?;
        if image.has_digest(digest) {
            return Ok(image);
        }
        let message = format!(
            "`{tagged}` in the docker engine of this machine is the image {}, not {digest}; \
             tag the right image there, or change the digest",
            image.image_id
        );
        Err(Fault::retryable(Reason::DigestMismatch, message))
    }

    // How the engine stores `image`.
    async fn storage_kind(&self, image: &InspectedImage) -> Result<StorageKind, Fault> {
        match image.descriptor {
            Some(_) => Ok(StorageKind::Containerd),
            // An engine with an API before 1.48 shows no manifests even if it keeps them.
            None => self.engine.storage_kind().await,
        }
    }

    // The content store that holds `proof`.
    async fn open_content(&self, proof: &Digest) -> Result<OpenedContent, Fault> {
        let Some(stores) = &self.content else {
            return Ok(OpenedContent::Unavailable(None));
        };
        let storage = self.engine.storage().await?;
        let root = self.graph.root().or(storage.root.as_deref().map(Path::new));
        // The root of a containerd that the engine starts.
        let own = root.map(|root| root.join("containerd/daemon"));
        let client = storage
            .containerd
            .and_then(|address| Client::new(&address, &storage.namespace, self.engine.idle_timeout()).ok());
        Ok(match stores.open(own, client.as_ref(), proof).await {
            Ok(store) => OpenedContent::Store(store),
            Err(message) => OpenedContent::Unavailable(Some(message)),
        })
    }

    // What is exported of an image, and the digest that the image has then.
    async fn export_target(
        &self,
        image: &InspectedImage,
        reference: &Reference,
        platforms: &[Platform],
    ) -> Result<(Target, Option<Digest>), Fault> {
        let target = choose::target(image, StorageKind::Containerd, reference, platforms)?;
        let Target::Manifest { root, narrowed, .. } = &target else {
            return Ok((target, None));
        };
        let digest = match narrowed {
            true => self.narrowed_digest(image, root, platforms).await?,
            false => root.digest.clone(),
        };
        Ok((target, Some(digest)))
    }

    // The digest of the index that is made of the images for `platforms`.
    async fn narrowed_digest(
        &self,
        image: &InspectedImage,
        root: &Descriptor,
        platforms: &[Platform],
    ) -> Result<Digest, Fault> {
        let known = |digest: &Digest| {
            let mut indexes = self.indexes.lock().unwrap_or_else(PoisonError::into_inner);
            indexes.get(digest).cloned()
        };
        let document = match known(&root.digest) {
            Some(document) => document,
            None => {
                let export = self.engine.export(image.image_id.as_str(), None).await?;
                let document = containerd::read_index(export, root).await?;
                let mut indexes = self.indexes.lock().unwrap_or_else(PoisonError::into_inner);
                indexes.put(root.digest.clone(), document.clone());
                document
            }
        };
        let chosen = document.index().map(|index| select(index, platforms));
        let is_available = |entry: &Descriptor| {
            let mut known = image.manifests.iter().flatten();
            known.any(|stored| stored.descriptor.digest == entry.digest && stored.available)
        };
        Ok(match chosen {
            Some(Ok(Selection::Index(kept))) => Document::of_index(choose::retain_available(kept, is_available))
                .map_err(|error| self.engine.failure(&error.to_string()))?
                .digest()
                .clone(),
            Some(Ok(Selection::Unchanged)) => match document
                .index()
                .filter(|index| !index.manifests.iter().all(is_available))
            {
                Some(index) => Document::of_index(choose::retain_available(index.clone(), is_available))
                    .map_err(|error| self.engine.failure(&error.to_string()))?
                    .digest()
                    .clone(),
                None => root.digest.clone(),
            },
            Some(Ok(Selection::Image(entry))) => entry.digest,
            _ => root.digest.clone(),
        })
    }

    // Exports the image, whose manifest or index is `digest`; has the engine push it if it refuses to.
    async fn deliver_export(
        &self,
        digest: &Digest,
        image: &Resolved,
        method_message: Option<String>,
        sink: &dyn BlobSink,
    ) -> Result<Delivery, Fault> {
        let found = self.find(&image.reference).await?;
        match self.export_target(&found, &image.reference, &image.platforms).await? {
            (Target::Manifest { root, platform, .. }, Some(exported)) if exported == *digest => {
                let id = found.image_id.as_str();
                let mut rereads = Rereads::default();
                loop {
                    match self.engine.export(id, platform.as_ref()).await {
                        Ok(export) => {
                            match containerd::deliver(export, &root, image, method_message.clone(), sink).await {
                                Err(fault) => rereads.retry_after(fault)?,
                                done => return done,
                            }
                        }
                        // The listed manifests would have to be read back from the registry to be published.
                        Err(refused) if media_type::is_index(&root.media_type) => return Err(refused),
                        Err(refused) => {
                            return push::push_refused(refused, &self.engine, id, method_message, sink, |pushed| {
                                pushed.digest() == digest
                            })
                            .await;
                        }
                    }
                }
            }
            _ => Err(self.engine.failure(&format!(
                "`{}` changed while it was read; the next attempt reads the new image",
                image.reference.familiar()
            ))),
        }
    }
}

/// The content store of an engine, if it can be read.
enum OpenedContent {
    Store(ContentStore),
    /// Why not, unless it was not to be read.
    Unavailable(Option<String>),
}

#[async_trait]
impl ImageSource for Docker {
    async fn resolve(&self, reference: &Reference, platforms: &[Platform]) -> Result<Resolved, Fault> {
        let image = self.find(reference).await?;
        let identity = match self.storage_kind(&image).await? {
            StorageKind::Classic => {
                choose::target(&image, StorageKind::Classic, reference, platforms)?;
                Identity::Config {
                    image_id: image.image_id,
                    diff_ids: image.diff_ids,
                }
            }
            StorageKind::Containerd => {
                let root = image.descriptor.as_ref().map_or(&image.image_id, |root| &root.digest);
                if let OpenedContent::Store(content) = self.open_content(root).await? {
                    return content.resolve(StoreOwner::Docker, root, reference, platforms).await;
                }
                let (_, made) = self.export_target(&image, reference, platforms).await?;
                Identity::Manifest(made.unwrap_or(image.image_id))
            }
        };
        Ok(Resolved {
            reference: reference.clone(),
            platforms: platforms.to_vec(),
            identity,
            chosen_from: None,
            documents: Vec::new(),
            memory: Arc::new(IMAGES.reserve()),
            size: image.size,
        })
    }

    async fn deliver(&self, image: &Resolved, sink: &dyn BlobSink) -> Result<Delivery, Fault> {
        match &image.identity {
            // The image is read by its ID, so it does not matter if its name was given to another one.
            Identity::Config { image_id, diff_ids } => {
                classic::deliver(&self.engine, &self.graph, image_id, diff_ids, sink).await
            }
            Identity::Manifest(digest) => {
                // An index that was made here is not in the store, but its entries are.
                let proof = image.documents.first().map_or(digest, Document::digest);
                let method_message = match (self.open_content(proof).await?, image.documents.is_empty()) {
                    (OpenedContent::Store(content), false) => {
                        return content.deliver(StoreOwner::Docker, image, sink).await;
                    }
                    (OpenedContent::Store(_), true) => None,
                    (OpenedContent::Unavailable(message), _) => message,
                };
                self.deliver_export(digest, image, method_message, sink).await
            }
        }
    }
}

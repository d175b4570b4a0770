//! Images of a docker engine, read from its folder where that can be, else taken out by its save API.
//!
//! Two kinds of store are told apart by what stands under the name. The *classic* store keeps unpacked layers
//! and the configuration, so the manifest is made here, from the layers as the destination stores them. The
//! *containerd* store keeps manifests and blobs, which are carried to the byte.
//!
//! A containerd store is read by `source::content` where that can be.
//!
//! The engine is never asked to pull: what it does not hold is [`Reason::SourceNotFound`].

mod archive;
mod choose;
mod classic;
mod containerd;
mod engine;
#[cfg(fuzzing)]
pub mod fuzzing;
mod graph;
mod inspected;
mod lines;
mod push;
mod watch;

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;

pub use engine::{ApiVersion, DEFAULT_HOST, Engine, StorageKind};
pub use inspected::{Held, InspectedImage};
pub use push::settled;
pub use watch::{ImageChange, ImageEvents};

use self::choose::Target;
use self::graph::Graph;
use super::containerd::Client;
pub use super::content::ContentStores;
use super::content::{Content, Keeper};
use super::reread::Rereads;
use super::{BlobSink, Delivery, Identity, ImageSource, Resolved};
use crate::budget::IMAGES;
use crate::fault::{Fault, Reason};
use crate::oci::{Descriptor, Digest, Document, Hasher, Platform, Reference, Selection, media_type, select};

/// A document or a configuration that is kept in memory, in bytes. Registries take no longer manifests.
const DOCUMENT_LIMIT: u64 = crate::oci::MANIFEST_LIMIT as u64;

/// Indexes that are remembered; real ones have some kilobytes.
const INDEXES: usize = 64;

/// The images of one docker engine.
#[derive(Clone, Debug)]
pub struct Docker {
    engine: Engine,
    graph: Graph,
    content: Option<ContentStores>,
    // Of which some platforms are taken. The API gives them only in an export.
    indexes: Arc<Mutex<HashMap<Digest, Document>>>,
}

impl Docker {
    /// Takes images from `engine`, whose root this process finds at `root`, or else where the engine says that
    /// it is. Where it cannot be read there the engine's API is used.
    pub fn new(engine: Engine, root: Option<PathBuf>) -> Self {
        Self {
            engine,
            graph: Graph::new(root),
            content: None,
            indexes: Arc::default(),
        }
    }

    /// The same engine, whose containerd store is read by `content` where that can be.
    pub fn with_content(self, content: ContentStores) -> Self {
        Self {
            content: Some(content),
            ..self
        }
    }

    /// The same engine, which may stand still for `idle` in a transfer.
    pub fn with_idle(&self, idle: Duration) -> Self {
        Self {
            engine: self.engine.with_idle(idle),
            ..self.clone()
        }
    }

    /// The same engine, of whose node this process is the agent. An engine has one.
    pub fn of_agent(self) -> Self {
        Self {
            engine: self.engine.of_agent(),
            ..self
        }
    }

    /// Takes away the names under which killed processes had this engine push images.
    pub async fn sweep(&self) -> Result<(), Fault> {
        push::sweep(&self.engine).await
    }

    /// The engine.
    pub fn engine(&self) -> &Engine {
        &self.engine
    }

    // What stands under `reference`; where it names a digest, that must be it.
    async fn find(&self, reference: &Reference) -> Result<InspectedImage, Fault> {
        let familiar = reference.familiar();
        let Some(digest) = reference.digest() else {
            return self
                .engine
                .inspect(&familiar)
                .await?
                .ok_or_else(|| engine::absent(&familiar));
        };
        if reference.tag().is_none() {
            let named = match self.engine.inspect(&familiar).await? {
                Some(image) => Some(image),
                // An image that was built here has no `name@digest`; its ID is meant.
                None => self.engine.inspect(digest.as_str()).await?,
            };
            return named.ok_or_else(|| engine::absent(&familiar));
        }
        let tagged = familiar.split('@').next().unwrap_or(&familiar);
        let image = self
            .engine
            .inspect(tagged)
            .await?
            .ok_or_else(|| engine::absent(tagged))?;
        if image.is(digest) {
            return Ok(image);
        }
        let message = format!(
            "`{tagged}` in the docker engine of this machine is the image {}, not {digest}; \
             tag the right image there, or change the digest",
            image.image_id
        );
        Err(Fault::retryable(Reason::DigestMismatch, message))
    }

    // How the engine keeps `image`.
    async fn shape(&self, image: &InspectedImage) -> Result<StorageKind, Fault> {
        match image.descriptor {
            Some(_) => Ok(StorageKind::Containerd),
            // An engine that lists no manifests may keep them all the same: API older than 1.48.
            None => self.engine.shape().await,
        }
    }

    // The content store that holds `proof`, or why it is not read, if anybody wanted it to be.
    async fn content(&self, proof: &Digest) -> Result<Result<Content, Option<String>>, Fault> {
        let Some(access) = &self.content else {
            return Ok(Err(None));
        };
        let storage = self.engine.storage().await?;
        let root = self.graph.root().or(storage.root.as_deref().map(Path::new));
        // Where an engine that starts its own containerd has it.
        let own = root.map(|root| root.join("containerd/daemon"));
        let client = storage
            .containerd
            .and_then(|address| Client::new(&address, &storage.namespace, self.engine.idle()).ok());
        let opened = access.open(own, client.as_ref(), proof).await;
        Ok(opened.map_err(Some))
    }

    // What is exported of an image, and what that makes of it.
    async fn exported(
        &self,
        image: &InspectedImage,
        reference: &Reference,
        platforms: &[Platform],
    ) -> Result<(Target, Option<Digest>), Fault> {
        let target = choose::target(image, StorageKind::Containerd, reference, platforms)?;
        let Target::Manifest { root, narrowed, .. } = &target else {
            return Ok((target, None));
        };
        let made = match narrowed {
            true => self.narrowed(image, root, platforms).await?,
            false => root.digest.clone(),
        };
        Ok((target, Some(made)))
    }

    // The digest of the index that is made of the images for `platforms`.
    async fn narrowed(
        &self,
        image: &InspectedImage,
        root: &Descriptor,
        platforms: &[Platform],
    ) -> Result<Digest, Fault> {
        let known = |digest: &Digest| {
            let indexes = self.indexes.lock().unwrap_or_else(PoisonError::into_inner);
            indexes.get(digest).cloned()
        };
        let document = match known(&root.digest) {
            Some(document) => document,
            None => {
                let export = self.engine.export(image.image_id.as_str(), None).await?;
                let document = containerd::index(export, root).await?;
                let mut indexes = self.indexes.lock().unwrap_or_else(PoisonError::into_inner);
                if indexes.len() >= INDEXES {
                    indexes.clear();
                }
                indexes.insert(root.digest.clone(), document.clone());
                document
            }
        };
        let chosen = document.index().map(|index| select(index, platforms));
        let held = |entry: &Descriptor| {
            let mut known = image.manifests.iter().flatten();
            known.any(|held| held.descriptor.digest == entry.digest && held.available)
        };
        Ok(match chosen {
            Some(Ok(Selection::Index(kept))) => Document::of_index(choose::only_held(kept, held))
                .map_err(|error| self.engine.failed(&error.to_string()))?
                .digest()
                .clone(),
            Some(Ok(Selection::Unchanged)) => {
                match document.index().filter(|index| !index.manifests.iter().all(held)) {
                    Some(index) => Document::of_index(choose::only_held(index.clone(), held))
                        .map_err(|error| self.engine.failed(&error.to_string()))?
                        .digest()
                        .clone(),
                    None => root.digest.clone(),
                }
            }
            Some(Ok(Selection::Image(entry))) => entry.digest,
            _ => root.digest.clone(),
        })
    }
}

#[async_trait]
impl ImageSource for Docker {
    async fn resolve(&self, reference: &Reference, platforms: &[Platform]) -> Result<Resolved, Fault> {
        let image = self.find(reference).await?;
        let identity = match self.shape(&image).await? {
            StorageKind::Classic => {
                choose::target(&image, StorageKind::Classic, reference, platforms)?;
                Identity::Config {
                    image_id: image.image_id,
                    diff_ids: image.diff_ids,
                }
            }
            StorageKind::Containerd => {
                let root = image.descriptor.as_ref().map_or(&image.image_id, |root| &root.digest);
                if let Ok(content) = self.content(root).await? {
                    return content.resolve(Keeper::Docker, root, reference, platforms).await;
                }
                let (_, made) = self.exported(&image, reference, platforms).await?;
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
            // The ID is asked for, so it does not matter if the name moved on.
            Identity::Config { image_id, diff_ids } => {
                classic::deliver(&self.engine, &self.graph, image_id, diff_ids, sink).await
            }
            Identity::Manifest(digest) => {
                // An index of our own is not in the store, but what it lists is.
                let proof = image.documents.first().map_or(digest, Document::digest);
                let declined = match (self.content(proof).await?, image.documents.is_empty()) {
                    (Ok(content), false) => return content.deliver(Keeper::Docker, image, sink).await,
                    (Ok(_), true) => None,
                    (Err(why), _) => why,
                };
                let found = self.find(&image.reference).await?;
                match self.exported(&found, &image.reference, &image.platforms).await? {
                    (Target::Manifest { root, platform, .. }, Some(made)) if made == *digest => {
                        let id = found.image_id.as_str();
                        let mut readings = Rereads::default();
                        loop {
                            match self.engine.export(id, platform.as_ref()).await {
                                Ok(export) => {
                                    match containerd::deliver(export, &root, image, declined.clone(), sink).await {
                                        Err(fault) => readings.again(fault)?,
                                        done => return done,
                                    }
                                }
                                // What is listed would have to be fetched back, to be published again.
                                Err(refused) if media_type::is_index(&root.media_type) => return Err(refused),
                                Err(refused) => {
                                    return push::delivered(refused, &self.engine, id, declined, sink, |pushed| {
                                        pushed.digest() == digest
                                    })
                                    .await;
                                }
                            }
                        }
                    }
                    _ => Err(self.engine.failed(&format!(
                        "`{}` changed while it was read; what stands there now is taken next",
                        image.reference.familiar()
                    ))),
                }
            }
        }
    }
}

// Checks a small blob that was read whole.
fn verify(content: &[u8], expected: &Digest) -> Result<(), Fault> {
    let mut hasher = Hasher::like(expected);
    hasher.update(content);
    let found = hasher.finish();
    if found == *expected {
        return Ok(());
    }
    let message = format!(
        "the docker engine exported {found} under the name {expected}; its store is damaged: \
         remove the image there and build or load it again"
    );
    Err(Fault::retryable(Reason::DigestMismatch, message))
}

//! Images of a docker engine, read from its folder where that can be, else taken out by its save API.
//!
//! Two kinds of store are told apart by what stands under the name. The *classic* store keeps unpacked layers
//! and the configuration, so the manifest is made here, from the layers as the destination stores them. The
//! *containerd* store keeps manifests and blobs, which are carried to the byte.
//!
//! The engine is never asked to pull: what it does not hold is [`Reason::SourceNotFound`].

mod archive;
mod choose;
mod classic;
mod containerd;
mod engine;
mod graph;
mod inspected;
mod watch;

use std::path::PathBuf;
use std::time::Duration;

use async_trait::async_trait;

pub use engine::{ApiVersion, DEFAULT_HOST, Engine, Shape};
pub use inspected::{Held, Inspected};
pub use watch::{ImageEvents, Notice};

use self::choose::Target;
use self::graph::Graph;
use super::{BlobSink, Delivered, Identity, ImageSource, Resolved};
use crate::fault::{Fault, Reason};
use crate::oci::{Digest, Hasher, Platform, Reference};

/// A document or a configuration that is kept in memory, in bytes. Registries take no longer manifests.
const DOCUMENT_LIMIT: u64 = crate::oci::MANIFEST_LIMIT as u64;

/// The images of one docker engine.
#[derive(Clone, Debug)]
pub struct Docker {
    engine: Engine,
    graph: Graph,
}

impl Docker {
    /// Takes images from `engine`, whose root this process finds at `root`, or else where the engine says that
    /// it is. Where it cannot be read there the engine's API is used.
    pub fn new(engine: Engine, root: Option<PathBuf>) -> Self {
        let graph = Graph::new(root);
        Self { engine, graph }
    }

    /// The same engine, which may stand still for `idle` in a transfer.
    pub fn with_idle(&self, idle: Duration) -> Result<Self, Fault> {
        let engine = Engine::new(Some(self.engine.name()), idle)?;
        let graph = self.graph.clone();
        Ok(Self { engine, graph })
    }

    /// The engine.
    pub fn engine(&self) -> &Engine {
        &self.engine
    }

    // What stands under `reference`; where it names a digest, that must be it.
    async fn find(&self, reference: &Reference) -> Result<Inspected, Fault> {
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

    async fn target(&self, reference: &Reference, platforms: &[Platform]) -> Result<(Inspected, Target), Fault> {
        let image = self.find(reference).await?;
        // An engine that lists no manifests may keep them all the same: API older than 1.48.
        let shape = if image.descriptor.is_some() {
            Shape::Containerd
        } else {
            self.engine.shape().await?
        };
        let target = choose::target(&image, shape, reference, platforms)?;
        Ok((image, target))
    }
}

#[async_trait]
impl ImageSource for Docker {
    async fn resolve(&self, reference: &Reference, platforms: &[Platform]) -> Result<Resolved, Fault> {
        let (image, target) = self.target(reference, platforms).await?;
        let identity = match target {
            Target::Layers => Identity::Config {
                image_id: image.image_id,
                diff_ids: image.diff_ids,
            },
            Target::Manifest { root, .. } => Identity::Manifest(root.digest),
        };
        Ok(Resolved {
            reference: reference.clone(),
            platforms: platforms.to_vec(),
            identity,
            documents: Vec::new(),
            size: image.size,
        })
    }

    async fn deliver(&self, image: &Resolved, sink: &dyn BlobSink) -> Result<Delivered, Fault> {
        match &image.identity {
            // The ID is asked for, so it does not matter if the name moved on.
            Identity::Config { image_id, diff_ids } => {
                classic::deliver(&self.engine, &self.graph, image_id, diff_ids, sink).await
            }
            Identity::Manifest(digest) => {
                let (found, target) = self.target(&image.reference, &image.platforms).await?;
                match target {
                    Target::Manifest { root, platform } if root.digest == *digest => {
                        let export = self.engine.export(found.image_id.as_str(), platform.as_ref()).await?;
                        containerd::deliver(export, &root, image, sink).await
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

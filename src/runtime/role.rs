//! The role of a process: whether it transfers the images of registries or those of its node.

use std::sync::Arc;

use async_trait::async_trait;
use tokio::sync::mpsc;

use super::objects::{GuardedImage, last_path_segment};
use super::registry_target::RegistryTarget;
use super::shared_watch::SharedObjects;
use crate::api::v1alpha1::{JackalImage, SourceKind};
use crate::fault::Fault;
use crate::oci::Reference;
use crate::source::ImageSource;

/// Which images a process transfers, and where it reads them.
#[async_trait]
pub trait Role: Send + Sync {
    /// Whether this process may transfer the image, by its present spec and status.
    fn may_transfer(&self, image: &JackalImage) -> bool;

    /// Whether this process compares images that are ready with their source again at each interval.
    fn rechecks(&self) -> bool;

    /// Writes into the image's status what this process knows of it, whether it transfers the image or not.
    async fn report(&self, image: &JackalImage) -> Result<(), Fault>;

    /// The object that owns the plain tag of the image, if it is another.
    ///
    /// # Errors
    /// [`Fault::conflict`] if another object owns the tag that names the image; any other fault if the owner is unknown.
    async fn plain_tag_owner(&self, image: &JackalImage) -> Result<Option<String>, Fault>;

    /// Whether a change of an image from `before` to `now` may require that others are reconciled again. None means that
    /// it does not exist or cannot be decoded.
    fn affects_others(&self, before: Option<&JackalImage>, now: Option<&JackalImage>) -> bool {
        let _ = (before, now);
        false
    }

    /// Whether `other` is one of these. `changed` is the changed image as it was or as it is.
    fn concerns(&self, changed: &JackalImage, other: &JackalImage) -> bool {
        let _ = (changed, other);
        false
    }

    /// The source that the image is read from. `target` is the registry that it is written to.
    async fn source(
        &self,
        image: &JackalImage,
        reference: &Reference,
        target: &RegistryTarget,
    ) -> Result<Arc<dyn ImageSource>, Fault>;
}

/// The images of a worker.
pub struct WorkerInputs {
    /// All images, which the process watches once.
    pub images: SharedObjects<GuardedImage>,
    /// Images to reconcile again although they did not change, because something that they depend on did.
    pub rechecks: mpsc::Receiver<Recheck>,
}

/// Images to reconcile again.
#[derive(Clone, Debug)]
pub enum Recheck {
    /// Images read from an engine of this kind that have this name there; without a name, all images of that kind.
    Engine(SourceKind, Option<String>),
    /// Images whose last path segment is this name, under which another object wrote.
    Named(String),
    /// All images.
    All,
}

impl Recheck {
    /// Whether `image` is one of them.
    pub fn matches(&self, image: &JackalImage) -> bool {
        let spec = &image.spec;
        match self {
            Self::All => true,
            Self::Named(name) => last_path_segment(&spec.image) == name,
            Self::Engine(source, name) => {
                // An image named by digest only may have any name in the engine.
                let has_name = |name: &String| {
                    spec.image
                        .parse::<crate::oci::Reference>()
                        .is_ok_and(|reference| reference.tag().is_none() || reference.engine_name() == *name)
                };
                spec.source == *source && name.as_ref().is_none_or(has_name)
            }
        }
    }
}

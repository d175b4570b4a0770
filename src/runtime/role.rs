//! Which images a process moves: those of registries, or those of its node.

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

/// Which images a process moves, and where it reads them.
#[async_trait]
pub trait Role: Send + Sync {
    /// Whether this process may move the image as its spec and status stand.
    fn may_transfer(&self, image: &JackalImage) -> bool;

    /// Whether this process looks again, at each interval, at images that are ready.
    fn rechecks(&self) -> bool;

    /// Says in the image's status what this process knows of it, whether it moves it or not.
    async fn report(&self, image: &JackalImage) -> Result<(), Fault>;

    /// Who has the plain tag of the image, if that is another object.
    ///
    /// # Errors
    /// [`Fault::conflict`] when another object has the tag that names the image. Any other fault when that cannot be told.
    async fn plain_tag_owner(&self, image: &JackalImage) -> Result<Option<String>, Fault>;

    /// Whether other images may have to be looked at again because one that was `before` is `now`; none where it does not
    /// exist, or cannot be read.
    fn affects_others(&self, before: Option<&JackalImage>, now: Option<&JackalImage>) -> bool {
        let _ = (before, now);
        false
    }

    /// Whether `other` is one of these, where `changed` is what the image was, or what it is.
    fn concerns(&self, changed: &JackalImage, other: &JackalImage) -> bool {
        let _ = (changed, other);
        false
    }

    /// Where the image is read.
    async fn source(
        &self,
        image: &JackalImage,
        reference: &Reference,
        place: &RegistryTarget,
    ) -> Result<Arc<dyn ImageSource>, Fault>;
}

/// What a worker hears of its images.
pub struct WorkerInputs {
    /// All images, which the process watches once.
    pub images: SharedObjects<GuardedImage>,
    /// Which to look at again although they did not change: something that they depend on did.
    pub rechecks: mpsc::Receiver<Recheck>,
}

/// Which images to look at again.
#[derive(Clone, Debug)]
pub enum Recheck {
    /// Those that are read from an engine of that kind and have this name there; all of them without a name.
    Engine(SourceKind, Option<String>),
    /// Those whose path ends in this name, under which another object wrote.
    Named(String),
    /// All.
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
                // What is named by its digest alone may be there under any name.
                let is = |name: &String| {
                    spec.image
                        .parse::<crate::oci::Reference>()
                        .is_ok_and(|reference| reference.tag().is_none() || reference.engine_name() == *name)
                };
                spec.source == *source && name.as_ref().is_none_or(is)
            }
        }
    }
}

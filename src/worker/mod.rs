//! Moves images that stand as `JackalImage` objects: the same worker in the controller, for images from
//! registries, and in the agent, for those of its node. What differs between the two is a [`Role`].

mod api_server;
mod caught;
mod claim;
mod config_maps;
mod events;
mod health;
mod image;
mod memory;
mod metrics;
mod place;
mod policy;
mod registries;
mod secrets;
mod selected;
mod site;
mod state;
mod status;
mod task;
mod trust;
mod turns;

pub use api_server::refuse_api_server;
pub use caught::caught;
pub use claim::STALE;
pub use config_maps::config_map;
pub use events::Events;
pub use health::{Check, Health, Listing, Pulse};
pub use image::{
    GuardedImage, Recheck, Settings, Worker, WorkerInputs, is_ready, last_part, lighten, run, stands, uids,
    until_stopped,
};
pub use memory::{Backoff, Decision, Key, ObjectView, TaskTable};
pub use metrics::{Kind, Metrics, Pass};
pub use place::{RegistryDefaults, RegistryTarget};
pub use policy::{Admission, Admissions, Fence, Policy, RepositoryPolicy};
pub use registries::Registries;
pub use secrets::{PullCredentials, Secrets};
pub use selected::{current_selection, with_tag};
pub use site::{OperatorRegistry, RegistryLocation};
pub use state::{StateSecret, StateSecretError};
pub use status::{Failure, briefly, kube_fault, name_of, told, update, within};
pub use trust::{NamespaceEntryReader, open_key};

use std::sync::Arc;

use async_trait::async_trait;

use crate::api::v1alpha1::JackalImage;
use crate::fault::Fault;
use crate::oci::Reference;
use crate::source::ImageSource;

/// Which images a process moves, and where it reads them.
#[async_trait]
pub trait Role: Send + Sync {
    /// Whether this process may move the image as its spec and status stand.
    fn admits(&self, image: &JackalImage) -> bool;

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
    fn is_news(&self, before: Option<&JackalImage>, now: Option<&JackalImage>) -> bool {
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

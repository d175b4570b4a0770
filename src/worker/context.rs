//! The state that all reconciliations and tasks of one process share.

use std::sync::Arc;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::runtime::reflector::ObjectRef;
use kube::{Api, Client, ResourceExt as _};
use tokio::sync::mpsc;

use super::concurrency::ConcurrencyLimits;
use crate::api::v1alpha1::JackalImage;
use crate::package::VerificationCache;
use crate::runtime::{Events, GuardedImage, Registries, Role, Settings, TaskTable};

/// The state that all reconciliations and tasks of one process share.
pub(super) struct Worker {
    pub client: Client,
    /// The holder that the claims of this process name.
    pub holder: String,
    pub role: Arc<dyn Role>,
    pub settings: Settings,
    pub registries: Arc<Registries>,
    pub events: Events,
    pub tasks: TaskTable,
    pub limits: Arc<ConcurrencyLimits>,
    pub verified: Arc<VerificationCache>,
    /// Receives the images to reconcile again.
    pub wakes: mpsc::Sender<ObjectRef<GuardedImage>>,
}

impl Worker {
    /// Has the image reconciled again.
    pub async fn wake(&self, image: &JackalImage) {
        let object = ObjectRef::new(&image.name_any()).within(&image.namespace().unwrap_or_default());
        // The receiver is dropped only when the process stops.
        let _ = self.wakes.send(object).await;
    }

    /// The `JackalImage` objects in the namespace of `image`.
    pub fn api_of(&self, image: &JackalImage) -> Api<JackalImage> {
        Api::namespaced(self.client.clone(), &image.namespace().unwrap_or_default())
    }
}

/// The current time, as conditions have it.
pub(super) fn now() -> Time {
    Time(jiff::Timestamp::now())
}

//! Watched objects: how they are decoded, cached and compared.

use std::collections::HashSet;
use std::time::Duration;

use kube::ResourceExt as _;
use kube::core::DeserializeGuard;
use kube::runtime::reflector::Store;
use tokio_util::sync::CancellationToken;

use crate::api::v1alpha1::{Conditions, JackalImage, READY, requested_at};

/// An image as the API server returns it; it may be undecodable.
pub type GuardedImage = DeserializeGuard<JackalImage>;

/// How long running reconciliations may continue after a stop.
const STOP_GRACE: Duration = Duration::from_secs(2);

/// Runs `controller` to its end. It ends after `stop`, but not while its first list is outstanding, so the wait is
/// limited.
pub async fn until_stopped(controller: impl Future<Output = ()>, stop: &CancellationToken) {
    tokio::select! {
        () = controller => {}
        () = async { stop.cancelled().await; tokio::time::sleep(STOP_GRACE).await } => {}
    }
}

/// Removes `metadata.managedFields`, which the operator does not read. It is about half of an image object, and a process
/// caches every object that it watches.
pub fn drop_managed_fields<K: kube::Resource>(object: &mut K) {
    object.meta_mut().managed_fields = None;
}

/// The uids of all objects of `store`.
pub fn object_uids<K: kube::Resource<DynamicType = ()> + Clone>(store: &Store<K>) -> HashSet<String> {
    store
        .state()
        .iter()
        .filter_map(|object| object.meta().uid.clone())
        .collect()
}

/// The last path segment of the image reference `image`. No prefix changes it, so images with different last segments
/// never get the same name in the cluster.
pub fn last_path_segment(image: &str) -> &str {
    let name = image.split('@').next().unwrap_or(image);
    let last = name.rsplit('/').next().unwrap_or(name);
    last.split(':').next().unwrap_or(last)
}

/// Whether the status is Ready for the present spec and the last requested reconciliation.
pub fn is_ready(image: &JackalImage) -> bool {
    let handled = image
        .status
        .as_ref()
        .and_then(|status| status.last_handled_reconcile_at.as_deref());
    is_up_to_date(image) && handled == requested_at(image.annotations())
}

/// Whether the status is Ready for the present spec and, for an engine, the assigned image ID. A requested reconciliation
/// may be outstanding.
pub fn is_up_to_date(image: &JackalImage) -> bool {
    let Some(status) = &image.status else { return false };
    let ready = Conditions(status.conditions.clone()).is_true(READY, image.metadata.generation);
    let same_source = !image.spec.source.is_engine()
        || status.assignment.as_ref().map(|assignment| &assignment.image_id) == status.source_digest.as_ref();
    ready && same_source
}

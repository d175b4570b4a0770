//! Watched objects: how they are read, kept and compared.

use std::collections::HashSet;
use std::time::Duration;

use kube::ResourceExt as _;
use kube::core::DeserializeGuard;
use kube::runtime::reflector::Store;
use tokio_util::sync::CancellationToken;

use crate::api::v1alpha1::{Conditions, JackalImage, READY, requested_at};

/// An image as the API server gives it, which may be none that can be read.
pub type GuardedImage = DeserializeGuard<JackalImage>;

/// How long reconciliations that run may go on after a stop.
const LAST_LOOKS: Duration = Duration::from_secs(2);

/// `controller` to its end, which comes by itself after `stop`: but not while its first list is outstanding,
/// so it is waited for only for a while.
pub async fn until_stopped(controller: impl Future<Output = ()>, stop: &CancellationToken) {
    tokio::select! {
        () = controller => {}
        () = async { stop.cancelled().await; tokio::time::sleep(LAST_LOOKS).await } => {}
    }
}

/// Takes out of an object what nobody here reads: who set which field. Of an image it is as long as all the rest, and a
/// process keeps every object that it watches.
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

/// The last part of the path of an image that was written as `image`. No prefix changes it, so images whose last parts
/// differ never get the same name in the cluster.
pub fn last_path_segment(image: &str) -> &str {
    let name = image.split('@').next().unwrap_or(image);
    let last = name.rsplit('/').next().unwrap_or(name);
    last.split(':').next().unwrap_or(last)
}

/// Whether the status says Ready of just what the object asks for now, the last request to look again included.
pub fn is_ready(image: &JackalImage) -> bool {
    let handled = image
        .status
        .as_ref()
        .and_then(|status| status.last_handled_reconcile_at.as_deref());
    is_up_to_date(image) && handled == requested_at(image.annotations())
}

/// Whether the status says Ready of just what the spec asks for now, as far as anybody looked.
pub fn is_up_to_date(image: &JackalImage) -> bool {
    let Some(status) = &image.status else { return false };
    let ready = Conditions(status.conditions.clone()).is_true(READY, image.metadata.generation);
    let same_source = !image.spec.source.is_engine()
        || status.assignment.as_ref().map(|assignment| &assignment.image_id) == status.source_digest.as_ref();
    ready && same_source
}

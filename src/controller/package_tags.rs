//! Packages whose tag another object has, and those whose tag may get another owner when an object changes.

use std::sync::Arc;

use kube::ResourceExt as _;
use kube::runtime::reflector::ObjectRef;

use super::conflict::{self, ObservedObjects, OlderObjects};
use super::context::PackageContext;
use super::object_cache::{GuardedPackage, affects_tags};
use crate::api::v1alpha1::JackalPackage;
use crate::fault::Fault;
use crate::runtime::{GuardedImage, ObjectChange, last_path_segment};

/// Checks that no older object has the package's tag.
pub(super) async fn check_tag(context: &PackageContext, package: &JackalPackage) -> Result<(), Fault> {
    // Images that this process has not seen yet are not considered: what is under the tag is checked before each write.
    let known = ObservedObjects {
        packages: context.packages.state(),
        images: context.images.state(),
    };
    let older = OlderObjects::than(package, &known);
    if older.write_same_content() {
        return Ok(());
    }
    let operator = context.settings.defaults.operator_registry(&context.client).await?;
    older.check_package(package, &context.settings.defaults, &operator)
}

/// Requests reconciliations of packages whose tag may get another owner by `change`.
pub(super) fn enqueue_for_package(context: &Arc<PackageContext>, change: &ObjectChange<GuardedPackage>) {
    if let Some(object) = change.object()
        && affects_tags(change)
    {
        enqueue_writers(context, &object.name_any(), object.uid().as_deref());
    }
}

/// The same for a change of an image.
pub(super) fn enqueue_for_image(context: &Arc<PackageContext>, change: &ObjectChange<GuardedImage>) {
    if !affects_tags(change) {
        return;
    }
    let versions = change.before().into_iter().chain(change.object().map(|last| &**last));
    for image in versions.filter_map(|object| object.0.as_ref().ok()) {
        enqueue_writers(context, last_path_segment(&image.spec.image), image.uid().as_deref());
    }
}

/// Requests reconciliations of the packages whose repositories end in `name`, except the object of the uid `changed`.
fn enqueue_writers(context: &Arc<PackageContext>, name: &str, changed: Option<&str>) {
    let concerned = context.packages.state_filter(|other| {
        let other = other.0.as_ref().ok();
        other.is_some_and(|other| conflict::may_affect(other, name, changed))
    });
    for object in concerned {
        context.tasks.retry(object.uid().as_deref().unwrap_or_default());
        context.spawn_enqueue(ObjectRef::from_obj(&*object));
    }
}

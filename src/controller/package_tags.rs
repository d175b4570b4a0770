//! Packages whose tag another object has, and those whose tag may get another owner when an object changes.

use std::sync::Arc;

use kube::ResourceExt as _;
use kube::runtime::reflector::ObjectRef;
use kube::runtime::watcher::{self, Event};

use super::conflict::{self, ObservedObjects, OlderObjects};
use super::context::{GuardedPackage, PackageContext};
use super::object_cache::is_news;
use crate::api::v1alpha1::JackalPackage;
use crate::fault::Fault;
use crate::runtime::{GuardedImage, last_path_segment};

/// Checks that no older object has the package's tag.
pub(super) async fn check_tag(context: &PackageContext, package: &JackalPackage) -> Result<(), Fault> {
    // Images that this process has not seen yet are not considered: what is under the tag is checked before each write.
    let known = ObservedObjects {
        packages: context.packages.state(),
        images: context.images.state(),
    };
    let older = OlderObjects::than(package, &known);
    if older.agree() {
        return Ok(());
    }
    let operator = context.settings.defaults.home(&context.client).await?;
    older.check_package(package, &context.settings.defaults, &operator)
}

/// Requests reconciliations of packages whose tag may get another owner by `event`, which the store does not hold yet.
pub(super) fn enqueue_for_package(
    context: &Arc<PackageContext>,
    event: &Result<Event<GuardedPackage>, watcher::Error>,
) {
    let Ok(Event::Apply(object) | Event::Delete(object)) = event else {
        return;
    };
    if event.as_ref().is_ok_and(|event| is_news(&context.packages, event)) {
        enqueue_writers(context, &object.name_any(), object.uid().as_deref());
    }
}

/// The same for an event of an image.
pub(super) fn enqueue_for_image(context: &Arc<PackageContext>, event: &Result<Event<GuardedImage>, watcher::Error>) {
    let Ok(Event::Apply(object) | Event::Delete(object)) = event else {
        return;
    };
    if !event.as_ref().is_ok_and(|event| is_news(&context.images, event)) {
        return;
    }
    let known = context.images.get(&ObjectRef::from_obj(object));
    let known = known.as_ref().and_then(|known| known.0.as_ref().ok());
    for image in known.into_iter().chain(object.0.as_ref().ok()) {
        enqueue_writers(context, last_path_segment(&image.spec.image), image.uid().as_deref());
    }
}

/// Requests reconciliations of the packages whose repositories end in `name`, except the object of the uid `changed`.
fn enqueue_writers(context: &Arc<PackageContext>, name: &str, changed: Option<&str>) {
    let concerned = context.packages.state_filter(|other| {
        let other = other.0.as_ref().ok();
        other.is_some_and(|other| conflict::concerns(other, name, changed))
    });
    for object in concerned {
        context.tasks.retry(object.uid().as_deref().unwrap_or_default());
        context.spawn_enqueue(ObjectRef::from_obj(&*object));
    }
}

//! Packages whose tag another object has, and those that wait for it.

use kube::core::DeserializeGuard;
use kube::runtime::reflector::ObjectRef;
use kube::runtime::watcher::{self, Event};
use kube::{Resource as _, ResourceExt as _};

use super::super::conflict::{self, Known, Older};
use super::{Packages, WAKE};
use crate::api::v1alpha1::{JackalImage, JackalPackage};
use crate::fault::Fault;
use crate::worker::last_part;

impl Packages {
    /// That no older image has the package's tag.
    pub(super) async fn check_images(&self, package: &JackalPackage) -> Result<(), Fault> {
        // Where not all images have been seen yet, what stands under the tag is looked at before it is written all the same.
        let known = Known {
            packages: self.known.state(),
            images: self.children.state(),
        };
        let older = Older::than_package(package, &known);
        if older.agree() {
            return Ok(());
        }
        let home = self.settings.defaults.home(&self.client).await?;
        older.check_package(package, &self.settings.defaults, &home)
    }

    /// Has those looked at again that wait for a tag below `name`, where the object of the uid `gone` changed or is gone.
    pub(super) fn release(&self, name: &str, gone: Option<&str>) {
        let waiting = self.known.state_filter(|other| {
            let other = other.0.as_ref().ok();
            other.is_some_and(|other| conflict::waits(other, name, gone))
        });
        for object in waiting {
            self.memory.retry(object.uid().as_deref().unwrap_or_default());
            let (wakes, object) = (self.wakes.clone(), ObjectRef::from_obj(&*object));
            self.tasks.spawn(async move {
                let _ = tokio::time::timeout(WAKE, wakes.send(object)).await;
            });
        }
    }

    /// The same where `event` may mean that an image leaves a tag.
    pub(super) fn release_of_image(&self, event: &Result<Event<DeserializeGuard<JackalImage>>, watcher::Error>) {
        let Ok(Event::Apply(object) | Event::Delete(object)) = event else {
            return;
        };
        let known = self.children.get(&ObjectRef::from_obj(object));
        let going = |object: &DeserializeGuard<JackalImage>| object.meta().deletion_timestamp.is_some();
        let changed = |known: &DeserializeGuard<JackalImage>| {
            known.meta().generation != object.meta().generation || going(known) != going(object)
        };
        if matches!(event, Ok(Event::Apply(_))) && !known.as_ref().is_some_and(|known| changed(known)) {
            return;
        }
        let known = known.as_ref().and_then(|known| known.0.as_ref().ok());
        for image in known.into_iter().chain(object.0.as_ref().ok()) {
            self.release(last_part(&image.spec.image), image.uid().as_deref());
        }
    }
}

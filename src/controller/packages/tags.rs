//! Packages whose tag another object has, and those whose tags may change hands.

use kube::ResourceExt as _;
use kube::core::DeserializeGuard;
use kube::runtime::reflector::ObjectRef;
use kube::runtime::watcher::{self, Event};

use super::super::conflict::{self, ObservedObjects, OlderObjects};
use super::super::object_cache::is_news;
use super::{GuardedPackage, Packages, WAKE};
use crate::api::v1alpha1::{JackalImage, JackalPackage};
use crate::fault::Fault;
use crate::runtime::last_path_segment;

impl Packages {
    /// That no older object has the package's tag.
    pub(super) async fn check_tag(&self, package: &JackalPackage) -> Result<(), Fault> {
        // Where not all images have been seen yet, what stands under the tag is looked at before it is written all the same.
        let known = ObservedObjects {
            packages: self.known.state(),
            images: self.children.state(),
        };
        let older = OlderObjects::than(package, &known);
        if older.agree() {
            return Ok(());
        }
        let home = self.settings.defaults.home(&self.client).await?;
        older.check_package(package, &self.settings.defaults, &home)
    }

    /// Has those packages looked at again whose tag may change hands by `event`, which is not among the known yet.
    pub(super) fn release_of_package(&self, event: &Result<Event<GuardedPackage>, watcher::Error>) {
        let Ok(Event::Apply(object) | Event::Delete(object)) = event else {
            return;
        };
        if event.as_ref().is_ok_and(|event| is_news(&self.known, event)) {
            self.release(&object.name_any(), object.uid().as_deref());
        }
    }

    /// The same for an event of an image.
    pub(super) fn release_of_image(&self, event: &Result<Event<DeserializeGuard<JackalImage>>, watcher::Error>) {
        let Ok(Event::Apply(object) | Event::Delete(object)) = event else {
            return;
        };
        if !event.as_ref().is_ok_and(|event| is_news(&self.children, event)) {
            return;
        }
        let known = self.children.get(&ObjectRef::from_obj(object));
        let known = known.as_ref().and_then(|known| known.0.as_ref().ok());
        for image in known.into_iter().chain(object.0.as_ref().ok()) {
            self.release(last_path_segment(&image.spec.image), image.uid().as_deref());
        }
    }

    /// Has those looked at again that write below `name`, but for the object of the uid `changed`.
    fn release(&self, name: &str, changed: Option<&str>) {
        let concerned = self.known.state_filter(|other| {
            let other = other.0.as_ref().ok();
            other.is_some_and(|other| conflict::concerns(other, name, changed))
        });
        for object in concerned {
            self.memory.retry(object.uid().as_deref().unwrap_or_default());
            let (wakes, object) = (self.wakes.clone(), ObjectRef::from_obj(&*object));
            self.tasks.spawn(async move {
                let _ = tokio::time::timeout(WAKE, wakes.send(object)).await;
            });
        }
    }
}

//! What a process of the controller has seen of the objects that write to registries, whether it leads or not.

use std::time::Duration;

use futures::{Stream, StreamExt as _};
use kube::core::DeserializeGuard;
use kube::runtime::WatchStreamExt as _;
use kube::runtime::reflector::store::Writer;
use kube::runtime::reflector::{ObjectRef, Store};
use kube::runtime::watcher::{self, Event, watcher};
use kube::{Client, Resource, ResourceExt as _};
use tokio::sync::mpsc;

use super::conflict::{self, ObservedObjects, OlderObjects, Writer as TagWriter};
use crate::api::v1alpha1::{JackalImage, JackalPackage};
use crate::fault::{Fault, Reason};
use crate::runtime::{GuardedImage, Recheck, Settings, drop_managed_fields};

/// How long the first list of the objects may be waited for.
const LISTED: Duration = Duration::from_secs(30);

/// Every package and image, as seen last.
#[derive(Clone)]
pub(super) struct ObjectCache {
    pub packages: Store<DeserializeGuard<JackalPackage>>,
    pub images: Store<GuardedImage>,
}

impl ObjectCache {
    /// All of them, once all were listed.
    pub async fn known(&self) -> Result<ObservedObjects, Fault> {
        let listed = async { tokio::try_join!(self.packages.wait_until_ready(), self.images.wait_until_ready()) };
        match tokio::time::timeout(LISTED, listed).await {
            Ok(Ok(_)) => Ok(ObservedObjects {
                packages: self.packages.state(),
                images: self.images.state(),
            }),
            _ => Err(Fault::retryable(
                Reason::RepositoryConflict,
                "the API server has not listed all packages and images, one of which may have the tag",
            )),
        }
    }

    /// Who has the plain tag of `image`, if that is another object.
    ///
    /// # Errors
    /// [`Fault::conflict`] when another object has the tag that names the image. Any other fault when that cannot be told.
    pub async fn plain_tag_owner(
        &self,
        client: &Client,
        settings: &Settings,
        image: &JackalImage,
    ) -> Result<Option<String>, Fault> {
        let known = self.known().await?;
        let older = OlderObjects::than(image, &known);
        if older.agree() {
            return Ok(None);
        }
        let home = settings.defaults.home(client).await?;
        older.check_image(image, &settings.defaults, &home)
    }

    /// Watches the packages, and has images looked at again that may have been waiting for a tag of one that changed.
    pub fn follow_packages(
        &self,
        client: &Client,
        settings: &Settings,
        writer: Writer<DeserializeGuard<JackalPackage>>,
        nudge: mpsc::Sender<Recheck>,
    ) -> impl Future<Output = ()> + use<> {
        let mut listing = settings.health.listing("JackalPackages");
        let before = self.packages.clone();
        let changes = watcher(settings.api(client), watcher::Config::default())
            .default_backoff()
            .modify(drop_managed_fields)
            .map(move |event| {
                listing.note(&event);
                let changed = event.as_ref().ok().and_then(|event| changed(&before, event));
                (event, changed)
            });
        follow(changes, writer, nudge)
    }
}

type Package = DeserializeGuard<JackalPackage>;

async fn follow(
    changes: impl Stream<Item = (Result<Event<Package>, watcher::Error>, Option<String>)>,
    mut writer: Writer<Package>,
    nudge: mpsc::Sender<Recheck>,
) {
    let mut changes = std::pin::pin!(changes);
    while let Some((event, changed)) = changes.next().await {
        if let Ok(event) = &event {
            writer.apply_watcher_event(event);
        }
        if let Some(name) = changed
            && nudge.send(Recheck::Named(name)).await.is_err()
        {
            return;
        }
    }
}

/// The name of the package that `event` is about, where it may write another tag than `before`.
fn changed(before: &Store<Package>, event: &Event<Package>) -> Option<String> {
    let (Event::Apply(object) | Event::Delete(object)) = event else {
        return None;
    };
    is_news(before, event).then(|| object.name_any())
}

/// Whether others may have other tags by `event`, of which `before` does not know yet.
pub(super) fn is_news<K>(before: &Store<DeserializeGuard<K>>, event: &Event<DeserializeGuard<K>>) -> bool
where
    K: Resource<DynamicType = ()> + Clone + 'static,
    for<'a> TagWriter<'a>: From<&'a K>,
{
    let (Event::Apply(object) | Event::Delete(object)) = event else {
        return false;
    };
    let known = before.get(&ObjectRef::from_obj(object));
    let known = known.as_ref().and_then(|known| known.0.as_ref().ok());
    let now = object.0.as_ref().ok().filter(|_| !matches!(event, Event::Delete(_)));
    conflict::is_news(known, now)
}

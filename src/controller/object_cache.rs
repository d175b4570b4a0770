//! Every package and image that a process of the controller has seen, whether it leads or not.

use std::time::Duration;

use futures::StreamExt as _;
use kube::core::DeserializeGuard;
use kube::{Client, ResourceExt as _};
use tokio::sync::mpsc;

use super::conflict::{self, ObservedObjects, OlderObjects, TagWriter};
use crate::api::v1alpha1::{JackalImage, JackalPackage};
use crate::fault::{Fault, Reason};
use crate::runtime::{GuardedImage, ObjectChange, Recheck, Settings, SharedObjects};

pub(super) type GuardedPackage = DeserializeGuard<JackalPackage>;

/// How long the first list of the objects may be waited for.
const LISTED: Duration = Duration::from_secs(30);

/// Every package and image, each kind by one watch of the process.
#[derive(Clone)]
pub(super) struct ObjectCache {
    pub packages: SharedObjects<GuardedPackage>,
    pub images: SharedObjects<GuardedImage>,
}

impl ObjectCache {
    /// All of them, once all were listed.
    pub async fn known(&self) -> Result<ObservedObjects, Fault> {
        let (packages, images) = (self.packages.store(), self.images.store());
        let listed = async { tokio::try_join!(packages.wait_until_ready(), images.wait_until_ready()) };
        match tokio::time::timeout(LISTED, listed).await {
            Ok(Ok(_)) => Ok(ObservedObjects {
                packages: packages.state(),
                images: images.state(),
            }),
            _ => Err(Fault::retryable(
                Reason::RepositoryConflict,
                "the API server has not listed all packages and images yet, and one of them may own the tag",
            )),
        }
    }

    /// The object that has the plain tag of `image`, if that is another one.
    ///
    /// # Errors
    /// [`Fault::conflict`] when another object has the tag that names the image. Any other fault when that cannot be decided.
    pub async fn plain_tag_owner(
        &self,
        client: &Client,
        settings: &Settings,
        image: &JackalImage,
    ) -> Result<Option<String>, Fault> {
        let known = self.known().await?;
        let older = OlderObjects::than(image, &known);
        if older.write_same_content() {
            return Ok(None);
        }
        let operator = settings.defaults.operator_registry(client).await?;
        older.check_image(image, &settings.defaults, &operator)
    }

    /// Requests reconciliations of images that may have waited for a tag of a package that changed.
    pub async fn recheck_for_packages(&self, rechecks: &mpsc::Sender<Recheck>) {
        let mut changes = self.packages.subscribe();
        while let Some(change) = changes.next().await {
            if let Some(name) = affected_name(&change)
                && rechecks.send(Recheck::Named(name)).await.is_err()
            {
                return;
            }
        }
    }
}

/// The name of the package that `change` is about, where others may have other tags by it.
fn affected_name(change: &ObjectChange<GuardedPackage>) -> Option<String> {
    let object = change.object()?;
    affects_tags(change).then(|| object.name_any())
}

/// Whether other objects may have other tags by `change`.
pub(super) fn affects_tags<K>(change: &ObjectChange<DeserializeGuard<K>>) -> bool
where
    K: 'static,
    for<'a> TagWriter<'a>: From<&'a K>,
{
    let before = change.before().and_then(|before| before.0.as_ref().ok());
    let now = change.now().and_then(|now| now.0.as_ref().ok());
    change.object().is_some() && conflict::affects_tags(before, now)
}

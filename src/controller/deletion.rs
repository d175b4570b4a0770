//! `deletionPolicy: Delete`: takes back what an object wrote, and nothing else.
//!
//! Only a manifest whose digest stands recorded and still stands under its name is deleted, and only while no
//! other object of the cluster names it: a registry deletes by digest, and with the digest every tag goes.

use k8s_openapi::api::core::v1::ObjectReference;
use kube::core::DeserializeGuard;
use kube::{Api, Client, Resource, ResourceExt as _};
use tracing::{info, warn};

use crate::api::v1alpha1::{JackalImage, JackalPackage};
use crate::fault::{Fault, Reason};
use crate::oci::{Content, Digest, Document, Index, Reference};
use crate::registry::{Kind, Repository};
use crate::worker::{Events, Place, Registries, Settings, kube_fault, name_of, within};

/// What deletions need.
pub(super) struct Deletion<'a> {
    pub client: &'a Client,
    pub settings: &'a Settings,
    pub registries: &'a Registries,
    pub events: &'a Events,
}

impl Deletion<'_> {
    /// Deletes the manifest that `image` brought.
    pub async fn image(&self, image: &JackalImage) -> Result<(), Fault> {
        let Some(status) = &image.status else { return Ok(()) };
        let (Some(name), Some(digest)) = (&status.name, &status.digest) else {
            return Ok(());
        };
        let (Ok(name), Ok(digest)) = (name.parse::<Reference>(), digest.parse::<Digest>()) else {
            return Ok(());
        };
        if let Some(other) = self.shared_with(image, &name, &digest).await? {
            let note = format!("{name} is kept: {other} names {digest} too");
            self.events.normal(image, "GarbageCollectionSucceeded", &note).await;
            return Ok(());
        }
        let place = self.place(image, &image.spec.registry, image.spec.timeout).await?;
        let repository = self.repository(&place, name.repository())?;
        let standing = repository
            .head_manifest(name.identifier())
            .await
            .map_err(|error| error.pushing(&name.to_string()))?;
        if standing.is_none_or(|standing| standing.digest != digest) {
            info!(image = name_of(image), %name, "another image stands there now: it is kept");
            return Ok(());
        }
        self.delete(&repository, &digest, &image.object_ref(&()), &name.to_string())
            .await
    }

    /// Deletes the artifacts that `package` wrote: the manifests of its history, and their entries in the
    /// indexes under their tags, where other architectures' entries stay.
    pub async fn package(&self, package: &JackalPackage) -> Result<(), Fault> {
        let Some(status) = package.status.as_ref().filter(|status| !status.history.is_empty()) else {
            return Ok(());
        };
        let place = self
            .place(package, &package.spec.registry, package.spec.timeout)
            .await?;
        let name = crate::package::repository(&place.prefix, &package.name_any());
        let repository = self.repository(&place, &name)?;
        for entry in &status.history {
            let Some((tag, _)) = entry.revision.split_once('@') else {
                continue;
            };
            let Ok(digest) = entry.digest.parse::<Digest>() else {
                continue;
            };
            let what = format!("{}/{name}:{tag}", place.address);
            let standing = repository.manifest(tag).await.map_err(|error| error.pushing(&what))?;
            if let Some(standing) = standing {
                self.leave_index(&repository, &standing, tag, &digest, package, &what)
                    .await?;
            }
            self.delete(
                &repository,
                &digest,
                &package.object_ref(&()),
                &format!("{what}@{digest}"),
            )
            .await?;
        }
        Ok(())
    }

    /// Takes the entry `digest` out of the index that stands under `tag`.
    async fn leave_index(
        &self,
        repository: &Repository,
        standing: &Document,
        tag: &str,
        digest: &Digest,
        package: &JackalPackage,
        what: &str,
    ) -> Result<(), Fault> {
        let Content::Index(index) = &standing.content else {
            return Ok(());
        };
        let rest: Vec<_> = index
            .manifests
            .iter()
            .filter(|entry| entry.digest != *digest)
            .cloned()
            .collect();
        if rest.len() == index.manifests.len() {
            return Ok(());
        }
        if rest.is_empty() {
            return self
                .delete(repository, standing.digest(), &package.object_ref(&()), what)
                .await;
        }
        let index = Document::of_index(Index {
            manifests: rest,
            ..index.clone()
        })
        .map_err(|error| Fault::stalled(Reason::PackageFailed, error.to_string()))?;
        repository
            .put_manifest(&index, tag)
            .await
            .map_err(|error| error.pushing(what))
    }

    async fn delete(
        &self,
        repository: &Repository,
        digest: &Digest,
        object: &ObjectReference,
        what: &str,
    ) -> Result<(), Fault> {
        match repository.delete_manifest(digest).await {
            Ok(true) => {
                info!(what, %digest, "deleted");
                self.events
                    .normal_on(
                        object,
                        "GarbageCollectionSucceeded",
                        &format!("deleted {what} ({digest})"),
                    )
                    .await;
                Ok(())
            }
            Ok(false) => Ok(()),
            // Trying again would not make it able to; the object must not hang for that.
            Err(error) if *error.kind() == Kind::Unsupported => {
                let note = format!(
                    "{what} is kept: the registry does not delete ({error}); allow it there, for distribution by storage.delete.enabled"
                );
                warn!("{note}");
                self.events.warning_on(object, "GarbageCollectionFailed", &note).await;
                Ok(())
            }
            Err(error) => Err(error
                .pushing(what)
                .within("deleting (deletionPolicy: Retain lets the object go without)")),
        }
    }

    /// Another object that names the same manifest in the same repository.
    async fn shared_with(
        &self,
        image: &JackalImage,
        name: &Reference,
        digest: &Digest,
    ) -> Result<Option<String>, Fault> {
        let api: Api<DeserializeGuard<JackalImage>> = self.settings.api(self.client);
        let all = within(api.list(&kube::api::ListParams::default())).await;
        let all =
            all.map_err(|error| kube_fault(Reason::PackageFailed, "looking for others that name the image", &error))?;
        let names = |other: &JackalImage| {
            let status = other.status.as_ref()?;
            let place: Reference = status.name.as_ref()?.parse().ok()?;
            let same = status.digest.as_deref() == Some(digest.as_str()) && place.name() == name.name();
            (same && other.uid() != image.uid() && other.metadata.deletion_timestamp.is_none()).then(|| name_of(other))
        };
        Ok(all.items.iter().filter_map(|item| item.0.as_ref().ok()).find_map(names))
    }

    async fn place(
        &self,
        object: &impl kube::ResourceExt,
        registry: &crate::api::v1alpha1::RegistrySpec,
        timeout: Option<crate::api::v1alpha1::Period>,
    ) -> Result<Place, Fault> {
        let namespace = object.namespace().unwrap_or_default();
        self.settings
            .defaults
            .place(self.client, &namespace, registry, self.settings.idle(timeout))
            .await
    }

    fn repository(&self, place: &Place, name: &str) -> Result<Repository, Fault> {
        Ok(self.registries.open(&place.endpoint)?.0.repository(name))
    }
}

//! Takes back what an object wrote, and nothing else: `deletionPolicy: Delete`, and `retention`.
//!
//! Only a manifest whose digest stands recorded is deleted, that this object wrote, and only while no other object
//! of the cluster and no other tag names it: a registry deletes by digest, and with the digest every tag goes.
//!
//! A status outlives edits of the spec, and tenants may have written it. So it only ever narrows what is deleted: where
//! that lies follows from the spec of today, and it must be where the status says that this object wrote.

use k8s_openapi::api::core::v1::ObjectReference;
use kube::api::ListParams;
use kube::core::DeserializeGuard;
use kube::{Api, Client, Resource as _, ResourceExt as _};
use tracing::{info, warn};

use super::conflict;
use super::retention::DeletionResult;
use super::tag_index::{Finding, Tag, TagIndex};
use crate::api::v1alpha1::{Garbage, JackalImage, JackalPackage, RetainedReason, WrittenRepository};
use crate::fault::{Fault, Reason};
use crate::oci::{Digest, Document, Index, Location};
use crate::package::ImageRequest;
use crate::registry::{Kind, Repository};
use crate::runtime::{
    Events, Registries, RegistryTarget, Settings, kube_fault, last_path_segment, qualified_name, with_tag, with_timeout,
};

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
        let Ok(digest) = digest.parse::<Digest>() else {
            return Ok(());
        };
        let kept = async |why: &str| {
            let note = format!("{name} is kept: {why}");
            self.events.normal(image, "GarbageCollectionSucceeded", &note).await;
            Ok(())
        };
        if status.adopted {
            return kept("it stood in the registry before, so this object did not write it").await;
        }
        let Some(written) = &status.registry else {
            return kept(UNRECORDED).await;
        };
        let place = self
            .place(image, &image.spec.registry, image.spec.stall_timeout)
            .await?;
        let Some(location) = location(image, &place).filter(|location| location.to_string() == *name) else {
            return kept("the object's spec leads to another name by now").await;
        };
        let defaults = &self.settings.defaults;
        let now = defaults.written(&image.spec.registry, &place, &location.repository);
        if !written.is(&now) {
            return kept(&moved(written, &now)).await;
        }
        let repository = match self.repository(&place, &location.repository) {
            Err(fault) if fault.reason == Reason::PolicyDenied => return kept(&fault.message).await,
            opened => opened?,
        };
        if let Some(why) = self.shared_with(image, name, &location, &digest).await? {
            return kept(&why).await;
        }
        let pushing = |error: crate::registry::Error| error.pushing(name);
        let identifier = location.digest.as_ref().map(Digest::as_str);
        let identifier = identifier.or(location.tags.first().map(String::as_str));
        let standing = repository.head_manifest(identifier.unwrap_or_default()).await;
        if standing
            .map_err(pushing)?
            .is_none_or(|standing| standing.digest != digest)
        {
            info!(image = qualified_name(image), %name, "another image stands there now: it is kept");
            return Ok(());
        }
        let tags: Vec<&str> = location.tags.iter().map(String::as_str).collect();
        let survey = TagIndex::of(&repository, std::slice::from_ref(&digest))
            .await
            .map_err(pushing)?;
        if let Finding::Keep(why) = survey.find(&digest, &tags) {
            return kept(&why.message).await;
        }
        match self.delete(&repository, &digest, name).await? {
            DeletionResult::Deleted => self.record_deleted(&image.object_ref(&()), name, &digest).await,
            DeletionResult::Retained(why) => self.record_retained(&image.object_ref(&()), name, &why.message).await,
        }
        Ok(())
    }

    /// Deletes the artifacts of `entries` from the repository `name` of the registry `place`, as long as `may` says
    /// so, and the index under their tag, or their entry in it where it has others.
    pub async fn artifacts(
        &self,
        place: &RegistryTarget,
        name: &str,
        entries: &[Garbage],
        may: impl Fn() -> bool,
    ) -> (Vec<(Garbage, DeletionResult)>, Result<(), Fault>) {
        let mut settled = Vec::new();
        let result = async {
            let repository = self.repository(place, name)?;
            let prefix = format!("{}/{name}:", place.address);
            let wanted: Vec<Digest> = entries.iter().filter_map(|entry| entry.digest.parse().ok()).collect();
            let survey = TagIndex::of(&repository, &wanted).await;
            let survey = survey.map_err(|error| error.pushing(prefix.trim_end_matches(':')))?;
            for entry in entries {
                let revision = entry.reference.strip_prefix(&prefix);
                let (Some((tag, _)), Ok(digest)) =
                    (revision.and_then(|text| text.split_once('@')), entry.digest.parse())
                else {
                    let why = RetainedReason::new("InvalidRecord", "its record in the status cannot be read");
                    settled.push((entry.clone(), DeletionResult::Retained(why)));
                    continue;
                };
                if !may() {
                    break;
                }
                let end = self
                    .artifact(&repository, &survey, tag, &digest, &entry.reference)
                    .await?;
                settled.push((entry.clone(), end));
            }
            Ok(())
        }
        .await;
        (settled, result)
    }

    async fn artifact(
        &self,
        repository: &Repository,
        survey: &TagIndex,
        tag: &str,
        digest: &Digest,
        what: &str,
    ) -> Result<DeletionResult, Fault> {
        let index = match survey.find(digest, &[tag]) {
            Finding::Keep(why) => return Ok(DeletionResult::Retained(why)),
            Finding::Delete(index) => index,
        };
        let standing = match &index {
            Tag::Other => None,
            Tag::Index(standing) | Tag::Shared(standing) => Some(standing),
        };
        if let Some(standing) = standing {
            let now = repository.head_manifest(tag).await;
            let now = now.map_err(|error| error.pushing(what))?;
            if now.is_none_or(|now| now.digest != *standing) {
                let why = RetainedReason::new("TagChanged", "somebody pushes to its tag just now");
                return Ok(DeletionResult::Retained(why));
            }
        }
        match index {
            Tag::Other => {}
            Tag::Index(standing) => {
                let end = self.delete(repository, &standing, what).await?;
                if end != DeletionResult::Deleted {
                    return Ok(end);
                }
            }
            Tag::Shared(standing) => {
                let read = repository.manifest(standing.as_str()).await;
                let Some(standing) = read.map_err(|error| error.pushing(what))? else {
                    return Ok(DeletionResult::Retained(RetainedReason::new(
                        "TagChanged",
                        "somebody pushes to its tag just now",
                    )));
                };
                leave_index(repository, &standing, tag, digest, what).await?;
            }
        }
        self.delete(repository, digest, what).await
    }

    async fn delete(&self, repository: &Repository, digest: &Digest, what: &str) -> Result<DeletionResult, Fault> {
        match repository.delete_manifest(digest).await {
            Ok(deleted) => {
                info!(what, %digest, deleted, "deleted");
                Ok(DeletionResult::Deleted)
            }
            // Trying again would not make it able to; the object must not hang for that.
            Err(error) if *error.kind() == Kind::Unsupported => Ok(DeletionResult::Retained(RetainedReason::new(
                "DeletionUnsupported",
                format!(
                    "the registry does not delete ({error}); allow it there, for distribution by storage.delete.enabled"
                ),
            ))),
            Err(error) => Err(error
                .pushing(what)
                .within("deleting (deletionPolicy: Retain lets the object go without)")),
        }
    }

    /// Tells that something was deleted.
    pub async fn record_deleted(&self, object: &ObjectReference, what: &str, digest: &Digest) {
        let note = match what.ends_with(digest.as_str()) {
            true => format!("deleted {what}"),
            false => format!("deleted {what} ({digest})"),
        };
        self.events.normal_on(object, "GarbageCollectionSucceeded", &note).await;
    }

    /// Tells that something stays that was to be deleted.
    pub async fn record_retained(&self, object: &ObjectReference, what: &str, why: &str) {
        let note = format!("{what} is kept: {why}");
        warn!("{note}");
        self.events.warning_on(object, "GarbageCollectionFailed", &note).await;
    }

    /// Why another object needs the same manifest in the same repository: it names it, or is to have the same name, as one
    /// that takes the place of this one has, which perhaps has not come to say so yet.
    async fn shared_with(
        &self,
        image: &JackalImage,
        name: &str,
        location: &Location,
        digest: &Digest,
    ) -> Result<Option<String>, Fault> {
        let part = last_path_segment(&image.spec.image);
        let looking = |error| kube_fault(Reason::PackageFailed, "looking for others that name the image", &error);
        let api: Api<DeserializeGuard<JackalImage>> = self.settings.api(self.client);
        let images = with_timeout(api.list(&ListParams::default())).await.map_err(looking)?;
        let images: Vec<&JackalImage> = images
            .items
            .iter()
            .filter_map(|item| item.0.as_ref().ok())
            .filter(|other| other.uid() != image.uid() && other.metadata.deletion_timestamp.is_none())
            .filter(|other| last_path_segment(&other.spec.image) == part)
            .collect();
        let api: Api<DeserializeGuard<JackalPackage>> = self.settings.api(self.client);
        let called = ListParams::default().fields(&format!("metadata.name={part}"));
        let packages = with_timeout(api.list(&called)).await.map_err(looking)?;
        let packages: Vec<&JackalPackage> = packages.items.iter().filter_map(|item| item.0.as_ref().ok()).collect();
        if images.is_empty() && packages.is_empty() {
            return Ok(None);
        }
        let defaults = &self.settings.defaults;
        let home = defaults.home(self.client).await?;
        let namespace = image.namespace().unwrap_or_default();
        let Some(site) = defaults.site(&home, &namespace, &image.spec.registry) else {
            return Ok(None);
        };
        let wanted = conflict::ManifestQuery {
            site: &site,
            name,
            location,
            digest,
        };
        if let Some(other) = images.iter().find(|other| wanted.is_named_by(other, defaults, &home)) {
            return Ok(Some(format!("{} names {digest} too", qualified_name(*other))));
        }
        if let Some(other) = images.iter().find(|other| wanted.is_claimed_by(other, defaults, &home)) {
            return Ok(Some(format!("{} is to have the same name", qualified_name(*other))));
        }
        let other = packages
            .into_iter()
            .find(|other| wanted.is_of_package(other, defaults, &home));
        Ok(other.map(|other| format!("the package {} has its artifacts there", qualified_name(other))))
    }

    async fn place(
        &self,
        object: &impl kube::ResourceExt,
        registry: &crate::api::v1alpha1::RegistrySpec,
        stall_timeout: Option<crate::api::v1alpha1::Period>,
    ) -> Result<RegistryTarget, Fault> {
        let namespace = object.namespace().unwrap_or_default();
        self.settings
            .defaults
            .place(self.client, &namespace, registry, self.settings.idle(stall_timeout))
            .await
    }

    /// A repository that the object may use.
    fn repository(&self, place: &RegistryTarget, name: &str) -> Result<Repository, Fault> {
        place.check(name, "what is to be deleted")?;
        Ok(self.registries.open(&place.endpoint)?.repository(name))
    }
}

/// Why what an earlier version of the operator wrote stays.
pub(super) const UNRECORDED: &str =
    "its status does not say which registry received it, as an earlier version of the operator wrote it";

/// Why what stands in a former registry stays.
pub(super) fn moved(written: &WrittenRepository, now: &WrittenRepository) -> String {
    format!(
        "it was written to {}, and the object leads to {} by now; delete it there by hand if nobody needs it",
        written.apart_from(now),
        now.apart_from(written)
    )
}

/// Where the image's spec leads today.
fn location(image: &JackalImage, place: &RegistryTarget) -> Option<Location> {
    let status = image.status.as_ref()?;
    let spec = &*with_tag(&image.spec, status.selected.as_ref())?;
    let request = ImageRequest::of_object(spec).ok()?;
    let naming = spec.naming.explicit().or(status.naming)?;
    let listed = crate::package::listed(&request);
    Location::of(&listed, &place.address, &place.prefix, naming, spec.plain_tag).ok()
}

/// Takes the entry `digest` out of the index that stands under `tag`.
async fn leave_index(
    repository: &Repository,
    standing: &Document,
    tag: &str,
    digest: &Digest,
    what: &str,
) -> Result<(), Fault> {
    let Some(index) = standing.index() else { return Ok(()) };
    let rest = index.manifests.iter().filter(|entry| entry.digest != *digest).cloned();
    let index = Document::of_index(Index {
        manifests: rest.collect(),
        ..index.clone()
    })
    .map_err(|error| Fault::stalled(Reason::PackageFailed, error.to_string()))?;
    repository
        .put_manifest(&index, tag)
        .await
        .map_err(|error| error.pushing(what))
}

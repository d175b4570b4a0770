//! Deletes from registries what an object wrote, and nothing else, for `deletionPolicy: Delete` and `retention`.
//!
//! A manifest is deleted only if the status records its digest and that this object wrote it, and only while no other
//! object of the cluster and no other tag names it: registries delete by digest, which removes every tag of the digest.
//!
//! A status outlives edits of the spec, and tenants may have written it. So it can only reduce what is deleted: the
//! repository follows from the present spec, and must be the one that the status records.

use k8s_openapi::api::core::v1::ObjectReference;
use kube::api::ListParams;
use kube::core::DeserializeGuard;
use kube::{Api, Client, Resource as _, ResourceExt as _};
use tracing::{info, warn};

use super::conflict;
use super::retention::DeletionResult;
use super::tag_index::{ManifestDeletion, TagIndex, TaggedContent};
use crate::api::v1alpha1::{Garbage, JackalImage, JackalPackage, RetainedReason, WrittenRepository};
use crate::fault::{Fault, Reason};
use crate::oci::{Digest, Document, Index, Location};
use crate::package::ImageRequest;
use crate::registry::{Kind, Repository};
use crate::runtime::{
    Events, Registries, RegistryTarget, Settings, kube_fault, last_path_segment, qualified_name, spec_with_tag,
    with_timeout,
};

/// What all deletions need.
pub(super) struct Deletion<'a> {
    pub client: &'a Client,
    pub settings: &'a Settings,
    pub registries: &'a Registries,
    pub events: &'a Events,
}

impl Deletion<'_> {
    /// Deletes the manifest that `image` wrote.
    pub async fn image(&self, image: &JackalImage) -> Result<(), Fault> {
        let Some(status) = &image.status else { return Ok(()) };
        let (Some(name), Some(digest)) = (&status.name, &status.digest) else {
            return Ok(());
        };
        let Ok(digest) = digest.parse::<Digest>() else {
            return Ok(());
        };
        let retained = async |why: &str| {
            let note = format!("{name} is kept: {why}");
            self.events.normal(image, "GarbageCollectionSucceeded", &note).await;
            Ok(())
        };
        if status.adopted {
            return retained("it existed in the registry before, so this object did not write it").await;
        }
        let Some(written) = &status.registry else {
            return retained(UNRECORDED).await;
        };
        let target = self
            .target(image, &image.spec.registry, image.spec.stall_timeout)
            .await?;
        let Some(location) = location(image, &target).filter(|location| location.to_string() == *name) else {
            return retained("the object's spec leads to another name now").await;
        };
        let defaults = &self.settings.defaults;
        let now = defaults.written_repository(&image.spec.registry, &target, &location.repository);
        if !written.is(&now) {
            return retained(&moved(written, &now)).await;
        }
        let repository = match self.repository(&target, &location.repository) {
            Err(fault) if fault.reason == Reason::PolicyDenied => return retained(&fault.message).await,
            opened => opened?,
        };
        if let Some(why) = self.shared_with(image, name, &location, &digest).await? {
            return retained(&why).await;
        }
        let pushing = |error: crate::registry::Error| error.into_push_fault(name);
        let identifier = location.digest.as_ref().map(Digest::as_str);
        let identifier = identifier.or(location.tags.first().map(String::as_str));
        let current = repository.head_manifest(identifier.unwrap_or_default()).await;
        if current.map_err(pushing)?.is_none_or(|current| current.digest != digest) {
            info!(image = qualified_name(image), %name, "another image has this name now, which is kept");
            return Ok(());
        }
        let tags: Vec<&str> = location.tags.iter().map(String::as_str).collect();
        let index = TagIndex::of(&repository, std::slice::from_ref(&digest))
            .await
            .map_err(pushing)?;
        if let ManifestDeletion::Retain(why) = index.deletion_of(&digest, &tags) {
            return retained(&why.message).await;
        }
        match self.delete(&repository, &digest, name).await? {
            DeletionResult::Deleted => self.record_deleted(&image.object_ref(&()), name, &digest).await,
            DeletionResult::Retained(why) => self.record_retained(&image.object_ref(&()), name, &why.message).await,
        }
        Ok(())
    }

    /// Deletes the artifacts of `entries` from the repository `path` of the registry `target`, while `may_continue`, and the
    /// index under their tag, or only their entries in it where it has others. Gives the result of each, and the failure
    /// that ended the deletion.
    pub async fn artifacts(
        &self,
        target: &RegistryTarget,
        path: &str,
        entries: &[Garbage],
        may_continue: impl Fn() -> bool,
    ) -> (Vec<(Garbage, DeletionResult)>, Result<(), Fault>) {
        let mut results = Vec::new();
        let outcome = async {
            let repository = self.repository(target, path)?;
            let prefix = format!("{}/{path}:", target.address);
            let wanted: Vec<Digest> = entries.iter().filter_map(|entry| entry.digest.parse().ok()).collect();
            let index = TagIndex::of(&repository, &wanted).await;
            let index = index.map_err(|error| error.into_push_fault(prefix.trim_end_matches(':')))?;
            for entry in entries {
                let revision = entry.reference.strip_prefix(&prefix);
                let (Some((tag, _)), Ok(digest)) =
                    (revision.and_then(|text| text.split_once('@')), entry.digest.parse())
                else {
                    let why = RetainedReason::new("InvalidRecord", "its record in the status cannot be read");
                    results.push((entry.clone(), DeletionResult::Retained(why)));
                    continue;
                };
                if !may_continue() {
                    break;
                }
                let result = self
                    .artifact(&repository, &index, (tag, &digest), &entry.reference)
                    .await?;
                results.push((entry.clone(), result));
            }
            Ok(())
        }
        .await;
        (results, outcome)
    }

    async fn artifact(
        &self,
        repository: &Repository,
        index: &TagIndex,
        (tag, digest): (&str, &Digest),
        what: &str,
    ) -> Result<DeletionResult, Fault> {
        let tagged = match index.deletion_of(digest, &[tag]) {
            ManifestDeletion::Retain(why) => return Ok(DeletionResult::Retained(why)),
            ManifestDeletion::Delete(tagged) => tagged,
        };
        let changed = || {
            let why = RetainedReason::new("TagChanged", "its tag is being pushed at this moment");
            Ok(DeletionResult::Retained(why))
        };
        if let TaggedContent::OwnIndex(known) | TaggedContent::SharedIndex(known) = &tagged {
            let current = repository.head_manifest(tag).await;
            let current = current.map_err(|error| error.into_push_fault(what))?;
            if current.is_none_or(|current| current.digest != *known) {
                return changed();
            }
        }
        match tagged {
            TaggedContent::Other => {}
            TaggedContent::OwnIndex(known) => {
                let result = self.delete(repository, &known, what).await?;
                if result != DeletionResult::Deleted {
                    return Ok(result);
                }
            }
            TaggedContent::SharedIndex(known) => {
                let read = repository.manifest(known.as_str()).await;
                let Some(document) = read.map_err(|error| error.into_push_fault(what))? else {
                    return changed();
                };
                remove_entry(repository, &document, tag, digest, what).await?;
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
            // A retry would not help, and must not keep the object from being deleted.
            Err(error) if *error.kind() == Kind::Unsupported => Ok(DeletionResult::Retained(RetainedReason::new(
                "DeletionUnsupported",
                format!(
                    "the registry does not delete ({error}); allow it there, for distribution by storage.delete.enabled"
                ),
            ))),
            Err(error) => Err(error
                .into_push_fault(what)
                .with_context("deleting (deletionPolicy: Retain lets the object go without)")),
        }
    }

    /// Records the event that something was deleted.
    pub async fn record_deleted(&self, object: &ObjectReference, what: &str, digest: &Digest) {
        let note = match what.ends_with(digest.as_str()) {
            true => format!("deleted {what}"),
            false => format!("deleted {what} ({digest})"),
        };
        self.events.normal_on(object, "GarbageCollectionSucceeded", &note).await;
    }

    /// Records the event that something was retained that was to be deleted.
    pub async fn record_retained(&self, object: &ObjectReference, what: &str, why: &str) {
        let note = format!("{what} is kept: {why}");
        warn!("{note}");
        self.events.warning_on(object, "GarbageCollectionFailed", &note).await;
    }

    /// Why another object needs the same manifest in the same repository: its status names it, or its spec leads to the same
    /// name, as that of an object which replaces this one and whose status may not say so yet.
    async fn shared_with(
        &self,
        image: &JackalImage,
        name: &str,
        location: &Location,
        digest: &Digest,
    ) -> Result<Option<String>, Fault> {
        let part = last_path_segment(&image.spec.image);
        let fault = |error| kube_fault(Reason::PackageFailed, "looking for others that name the image", &error);
        let api: Api<DeserializeGuard<JackalImage>> = self.settings.api(self.client);
        let images = with_timeout(api.list(&ListParams::default())).await.map_err(fault)?;
        let images: Vec<&JackalImage> = images
            .items
            .iter()
            .filter_map(|item| item.0.as_ref().ok())
            .filter(|other| other.uid() != image.uid() && other.metadata.deletion_timestamp.is_none())
            .filter(|other| last_path_segment(&other.spec.image) == part)
            .collect();
        let api: Api<DeserializeGuard<JackalPackage>> = self.settings.api(self.client);
        let called = ListParams::default().fields(&format!("metadata.name={part}"));
        let packages = with_timeout(api.list(&called)).await.map_err(fault)?;
        let packages: Vec<&JackalPackage> = packages.items.iter().filter_map(|item| item.0.as_ref().ok()).collect();
        if images.is_empty() && packages.is_empty() {
            return Ok(None);
        }
        let defaults = &self.settings.defaults;
        let operator_registry = defaults.operator_registry(self.client).await?;
        let namespace = image.namespace().unwrap_or_default();
        let Some(registry) = defaults.location(&operator_registry, &namespace, &image.spec.registry) else {
            return Ok(None);
        };
        let query = conflict::ManifestQuery {
            registry: &registry,
            name,
            location,
            digest,
        };
        if let Some(other) = images
            .iter()
            .find(|other| query.is_named_by(other, defaults, &operator_registry))
        {
            return Ok(Some(format!("{} names {digest} too", qualified_name(*other))));
        }
        if let Some(other) = images
            .iter()
            .find(|other| query.is_claimed_by(other, defaults, &operator_registry))
        {
            return Ok(Some(format!("{} is to have the same name", qualified_name(*other))));
        }
        let other = packages
            .into_iter()
            .find(|other| query.is_of_package(other, defaults, &operator_registry));
        Ok(other.map(|other| format!("the package {} has its artifacts there", qualified_name(other))))
    }

    async fn target(
        &self,
        object: &impl kube::ResourceExt,
        registry: &crate::api::v1alpha1::RegistrySpec,
        stall_timeout: Option<crate::api::v1alpha1::Period>,
    ) -> Result<RegistryTarget, Fault> {
        let namespace = object.namespace().unwrap_or_default();
        self.settings
            .defaults
            .target(self.client, &namespace, registry, self.settings.idle(stall_timeout))
            .await
    }

    /// A repository that the object may use.
    fn repository(&self, target: &RegistryTarget, path: &str) -> Result<Repository, Fault> {
        target.check(path, "what is to be deleted")?;
        Ok(self.registries.open(&target.endpoint)?.repository(path))
    }
}

/// Why content that an earlier version of the operator wrote is retained.
pub(super) const UNRECORDED: &str =
    "its status does not say which registry received it, as an earlier version of the operator wrote it";

/// Why content in a former registry is retained.
pub(super) fn moved(written: &WrittenRepository, now: &WrittenRepository) -> String {
    format!(
        "it was written to {}, and the object's spec leads to {} now; delete it there by hand if it is not needed",
        written.apart_from(now),
        now.apart_from(written)
    )
}

/// The location that follows from the image's present spec.
fn location(image: &JackalImage, target: &RegistryTarget) -> Option<Location> {
    let status = image.status.as_ref()?;
    let spec = &*spec_with_tag(&image.spec, status.selected.as_ref())?;
    let request = ImageRequest::of_object(spec).ok()?;
    let naming = spec.naming.explicit().or(status.naming)?;
    let listed = crate::package::package_reference(&request);
    Location::new(&listed, &target.address, &target.prefix, naming, spec.plain_tag).ok()
}

/// Removes the entry `digest` from the index `document`, which has the tag `tag`.
async fn remove_entry(
    repository: &Repository,
    document: &Document,
    tag: &str,
    digest: &Digest,
    what: &str,
) -> Result<(), Fault> {
    let Some(index) = document.index() else { return Ok(()) };
    let rest = index.manifests.iter().filter(|entry| entry.digest != *digest).cloned();
    let index = Document::of_index(Index {
        manifests: rest.collect(),
        ..index.clone()
    })
    .map_err(|error| Fault::stalled(Reason::PackageFailed, error.to_string()))?;
    repository
        .put_manifest(&index, tag)
        .await
        .map_err(|error| error.into_push_fault(what))
}

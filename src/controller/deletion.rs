//! Takes back what an object wrote, and nothing else: `deletionPolicy: Delete`, and `retention`.
//!
//! Only a manifest whose digest stands recorded is deleted, that this object wrote, and only while no other object
//! of the cluster and no other tag names it: a registry deletes by digest, and with the digest every tag goes.

use k8s_openapi::api::core::v1::ObjectReference;
use kube::core::DeserializeGuard;
use kube::{Api, Client, Resource as _, ResourceExt as _};
use tracing::{info, warn};

use super::conflict;
use super::retention::Settled;
use super::survey::{Finding, Survey, Tag};
use crate::api::v1alpha1::{Garbage, JackalImage, Kept};
use crate::fault::{Fault, Reason};
use crate::oci::{Digest, Document, Index, Location, Reference};
use crate::package::ImageRequest;
use crate::registry::{Kind, Repository};
use crate::worker::{Events, Place, Registries, Settings, kube_fault, last_part, name_of, with_tag, within};

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
        let kept = async |why: &str| {
            let note = format!("{name} is kept: {why}");
            self.events.normal(image, "GarbageCollectionSucceeded", &note).await;
            Ok(())
        };
        if status.adopted {
            return kept("it stood in the registry before, so this object did not write it").await;
        }
        if let Some(why) = self.shared_with(image, &name, &digest).await? {
            return kept(&why).await;
        }
        let place = self
            .place(image, &image.spec.registry, image.spec.stall_timeout)
            .await?;
        let repository = self.repository(&place, name.repository())?;
        let pushing = |error: crate::registry::Error| error.pushing(&name.to_string());
        let standing = repository.head_manifest(name.identifier()).await.map_err(pushing)?;
        if standing.is_none_or(|standing| standing.digest != digest) {
            info!(image = name_of(image), %name, "another image stands there now: it is kept");
            return Ok(());
        }
        let tags = tags(image, &place, &name);
        let tags: Vec<&str> = tags.iter().map(String::as_str).collect();
        let survey = Survey::of(&repository, std::slice::from_ref(&digest))
            .await
            .map_err(pushing)?;
        if let Finding::Keep(why) = survey.find(&digest, &tags) {
            return kept(&why.message).await;
        }
        let what = name.to_string();
        match self.delete(&repository, &digest, &what).await? {
            Settled::Gone => self.gone(&image.object_ref(&()), &what, &digest).await,
            Settled::Kept(why) => self.failed(&image.object_ref(&()), &what, &why.message).await,
        }
        Ok(())
    }

    /// Deletes the artifacts of `entries` from the repository `name` of the registry `place`, as long as `may` says
    /// so, and the index under their tag, or their entry in it where it has others.
    pub async fn artifacts(
        &self,
        place: &Place,
        name: &str,
        entries: &[Garbage],
        may: impl Fn() -> bool,
    ) -> (Vec<(Garbage, Settled)>, Result<(), Fault>) {
        let mut settled = Vec::new();
        let result = async {
            let repository = self.repository(place, name)?;
            let prefix = format!("{}/{name}:", place.address);
            let wanted: Vec<Digest> = entries.iter().filter_map(|entry| entry.digest.parse().ok()).collect();
            let survey = Survey::of(&repository, &wanted).await;
            let survey = survey.map_err(|error| error.pushing(prefix.trim_end_matches(':')))?;
            for entry in entries {
                let revision = entry.reference.strip_prefix(&prefix);
                let (Some((tag, _)), Ok(digest)) =
                    (revision.and_then(|text| text.split_once('@')), entry.digest.parse())
                else {
                    let why = Kept::new("InvalidRecord", "its record in the status cannot be read");
                    settled.push((entry.clone(), Settled::Kept(why)));
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
        survey: &Survey,
        tag: &str,
        digest: &Digest,
        what: &str,
    ) -> Result<Settled, Fault> {
        let index = match survey.find(digest, &[tag]) {
            Finding::Keep(why) => return Ok(Settled::Kept(why)),
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
                let why = Kept::new("TagChanged", "somebody pushes to its tag just now");
                return Ok(Settled::Kept(why));
            }
        }
        match index {
            Tag::Other => {}
            Tag::Index(standing) => {
                let end = self.delete(repository, &standing, what).await?;
                if end != Settled::Gone {
                    return Ok(end);
                }
            }
            Tag::Shared(standing) => {
                let read = repository.manifest(standing.as_str()).await;
                let Some(standing) = read.map_err(|error| error.pushing(what))? else {
                    return Ok(Settled::Kept(Kept::new(
                        "TagChanged",
                        "somebody pushes to its tag just now",
                    )));
                };
                leave_index(repository, &standing, tag, digest, what).await?;
            }
        }
        self.delete(repository, digest, what).await
    }

    async fn delete(&self, repository: &Repository, digest: &Digest, what: &str) -> Result<Settled, Fault> {
        match repository.delete_manifest(digest).await {
            Ok(deleted) => {
                info!(what, %digest, deleted, "deleted");
                Ok(Settled::Gone)
            }
            // Trying again would not make it able to; the object must not hang for that.
            Err(error) if *error.kind() == Kind::Unsupported => Ok(Settled::Kept(Kept::new(
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
    pub async fn gone(&self, object: &ObjectReference, what: &str, digest: &Digest) {
        let note = match what.ends_with(digest.as_str()) {
            true => format!("deleted {what}"),
            false => format!("deleted {what} ({digest})"),
        };
        self.events.normal_on(object, "GarbageCollectionSucceeded", &note).await;
    }

    /// Tells that something stays that was to be deleted.
    pub async fn failed(&self, object: &ObjectReference, what: &str, why: &str) {
        let note = format!("{what} is kept: {why}");
        warn!("{note}");
        self.events.warning_on(object, "GarbageCollectionFailed", &note).await;
    }

    /// Why another object needs the same manifest in the same repository: it names it, or is to have the same name, as one
    /// that takes the place of this one has, which perhaps has not come to say so yet.
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
        let others: Vec<&JackalImage> = all
            .items
            .iter()
            .filter_map(|item| item.0.as_ref().ok())
            .filter(|other| other.uid() != image.uid() && other.metadata.deletion_timestamp.is_none())
            .collect();
        let names = |other: &&&JackalImage| {
            let place = other.status.as_ref().and_then(|status| {
                let same = status.digest.as_deref() == Some(digest.as_str());
                status.name.as_ref().filter(|_| same)?.parse::<Reference>().ok()
            });
            place.is_some_and(|place| place.name() == name.name())
        };
        if let Some(other) = others.iter().find(names) {
            return Ok(Some(format!("{} names {digest} too", name_of(*other))));
        }
        let alike = |other: &&JackalImage| last_part(&other.spec.image) == last_part(&image.spec.image);
        let others: Vec<&JackalImage> = others.into_iter().filter(alike).collect();
        if others.is_empty() {
            return Ok(None);
        }
        let defaults = &self.settings.defaults;
        let home = defaults.home(self.client).await?;
        let Some(site) = defaults.site(&home, &image.namespace().unwrap_or_default(), &image.spec.registry) else {
            return Ok(None);
        };
        let claims = |other: &&JackalImage| conflict::claims(other, &site, name, defaults, &home);
        let other = others.into_iter().find(claims);
        Ok(other.map(|other| format!("{} is to have the same name", name_of(other))))
    }

    async fn place(
        &self,
        object: &impl kube::ResourceExt,
        registry: &crate::api::v1alpha1::RegistrySpec,
        stall_timeout: Option<crate::api::v1alpha1::Period>,
    ) -> Result<Place, Fault> {
        let namespace = object.namespace().unwrap_or_default();
        self.settings
            .defaults
            .place(self.client, &namespace, registry, self.settings.idle(stall_timeout))
            .await
    }

    fn repository(&self, place: &Place, name: &str) -> Result<Repository, Fault> {
        Ok(self.registries.open(&place.endpoint)?.repository(name))
    }
}

/// The tags that an image's object pushes to, the one that its name has among them.
fn tags(image: &JackalImage, place: &Place, name: &Reference) -> Vec<String> {
    let selected = image.status.as_ref().and_then(|status| status.selected.as_ref());
    let Some(spec) = with_tag(&image.spec, selected) else {
        return name
            .tag()
            .filter(|_| name.digest().is_none())
            .map(str::to_owned)
            .into_iter()
            .collect();
    };
    let spec = &*spec;
    let location = ImageRequest::of_object(spec).ok().and_then(|request| {
        let listed = crate::package::listed(&request);
        let resolved = image.status.as_ref().and_then(|status| status.naming);
        let naming = spec.naming.explicit().or(resolved)?;
        Location::of(&listed, &place.address, &place.prefix, naming, spec.plain_tag).ok()
    });
    let mut tags = location.map(|location| location.tags).unwrap_or_default();
    tags.extend(name.tag().filter(|_| name.digest().is_none()).map(str::to_owned));
    tags
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

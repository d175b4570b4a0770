//! Objects that would write one tag of one registry in turn: the older one has it. No IO.
//!
//! Two packages of one name and version write entries of one index, which are one tag to each architecture. An image is
//! written under the tag that names it and, with the names of Jackal and Zarf, under a plain one, which it can do
//! without. Objects that ask for the same image write the same and are no rivals. One that cannot have the tag that names
//! it writes nothing, and keeps nobody from its other tag.
//!
//! What is decided follows from specs, metadata and the operator's own configuration. Only the version of a package that
//! follows an image, the tag that a policy chose, and what `naming: Auto` came to are read from statuses.

use std::borrow::Cow;
use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use k8s_openapi::jiff::Timestamp;
use kube::ResourceExt as _;
use kube::core::DeserializeGuard;

use crate::api::v1alpha1::{JackalImage, JackalImageSpec, JackalPackage, RegistrySpec, SourceKind};
use crate::fault::{Fault, Reason};
use crate::oci::{Compression, Digest, Location, same_host};
use crate::package::{ImageRequest, listed};
use crate::runtime::{
    OperatorRegistry, RegistryDefaults, RegistryLocation, last_path_segment, qualified_name, with_tag,
};

/// Every package and image that this process has seen.
pub(super) struct ObservedObjects {
    pub packages: Vec<Arc<DeserializeGuard<JackalPackage>>>,
    pub images: Vec<Arc<DeserializeGuard<JackalImage>>>,
}

/// An object that writes tags.
#[derive(Clone, Copy)]
pub(super) enum Writer<'a> {
    Package(&'a JackalPackage),
    Image(&'a JackalImage),
}

/// Where an object writes.
struct WriteTarget {
    site: RegistryLocation,
    repository: String,
    /// The one that it cannot do without first.
    tags: Vec<String>,
}

/// What decides the content that an object writes.
#[derive(PartialEq, Eq)]
enum Content<'a> {
    /// An entry of an index that others of other architectures share.
    Package {
        /// Its namespace and uid.
        object: Option<(&'a str, &'a str)>,
        architecture: &'a str,
    },
    Image {
        controller: Option<(&'a str, &'a str)>,
        /// Only what a docker engine keeps unpacked is compressed here.
        request: Option<(ImageRequest, Option<Compression>)>,
    },
}

/// The older of two objects has what both want: by creation, then by name, a package before an image.
type Age = (Option<Timestamp>, Option<String>, String, bool);

impl<'a> From<&'a JackalPackage> for Writer<'a> {
    fn from(package: &'a JackalPackage) -> Self {
        Self::Package(package)
    }
}

impl<'a> From<&'a JackalImage> for Writer<'a> {
    fn from(image: &'a JackalImage) -> Self {
        Self::Image(image)
    }
}

impl<'a> Writer<'a> {
    fn metadata(self) -> &'a ObjectMeta {
        match self {
            Self::Package(package) => &package.metadata,
            Self::Image(image) => &image.metadata,
        }
    }

    fn age(self) -> Age {
        let metadata = self.metadata();
        (
            metadata.creation_timestamp.as_ref().map(|time| time.0),
            metadata.namespace.clone(),
            metadata.name.clone().unwrap_or_default(),
            matches!(self, Self::Image(_)),
        )
    }

    /// The last part of the repository that it writes to, which no prefix changes.
    fn last_part(self) -> &'a str {
        match self {
            Self::Package(package) => package.metadata.name.as_deref().unwrap_or_default(),
            Self::Image(image) => last_path_segment(&image.spec.image),
        }
    }

    fn written(self, defaults: &RegistryDefaults, home: &OperatorRegistry) -> Option<WriteTarget> {
        match self {
            Self::Package(package) => WriteTarget::of_package(package, defaults, home),
            Self::Image(image) => WriteTarget::of_image(image, defaults, home),
        }
    }

    fn content(self) -> Content<'a> {
        match self {
            Self::Package(package) => Content::Package {
                object: package
                    .metadata
                    .uid
                    .as_deref()
                    .map(|uid| (package.metadata.namespace.as_deref().unwrap_or_default(), uid)),
                architecture: package.spec.architecture.as_deref().unwrap_or("amd64"),
            },
            Self::Image(image) => {
                let request = effective(image).and_then(|spec| ImageRequest::of_object(&spec).ok());
                Content::Image {
                    controller: controller(image),
                    request: request.map(|request| {
                        let compression = (request.source == SourceKind::Docker).then_some(image.spec.compression);
                        (request, compression)
                    }),
                }
            }
        }
    }

    /// All of the object that decides which tags it has, and whether it waits for one.
    fn state(self) -> impl PartialEq {
        let metadata = self.metadata();
        let (tag, naming, conditions) = match self {
            Self::Package(package) => {
                let conditions = package.status.as_ref().map(|status| &status.conditions);
                (version(package), None, conditions)
            }
            Self::Image(image) => {
                let status = image.status.as_ref();
                let selected = status.and_then(|status| status.selected.as_ref());
                (
                    selected.map(|selected| selected.tag.clone()),
                    status.and_then(|status| status.naming),
                    status.map(|status| &status.conditions),
                )
            }
        };
        let reason = Reason::RepositoryConflict.to_string();
        let conflicts = conditions.is_some_and(|all| all.iter().any(|condition| condition.reason == reason));
        (
            (metadata.uid.clone(), metadata.generation),
            (metadata.deletion_timestamp.is_some(), conflicts),
            (tag, naming),
        )
    }
}

/// Whether others may have other tags now that an object that was `before` is `now`; none where it does not exist, or
/// cannot be read.
pub(super) fn is_news<'a, T>(before: Option<&'a T>, now: Option<&'a T>) -> bool
where
    Writer<'a>: From<&'a T>,
{
    let same = |(before, now): (&'a T, &'a T)| Writer::from(before).state() == Writer::from(now).state();
    !before.zip(now).is_some_and(same)
}

impl Content<'_> {
    /// Whether the two cannot be under one tag.
    fn contends(&self, other: &Self) -> bool {
        match (self, other) {
            (
                Self::Package { architecture: one, .. },
                Self::Package {
                    architecture: other, ..
                },
            ) => one == other,
            // The images of one package are no rivals of it and of each other: its plan sees to that.
            (Self::Package { object, .. }, Self::Image { controller, .. })
            | (Self::Image { controller, .. }, Self::Package { object, .. }) => {
                controller.is_none() || controller != object
            }
            (
                Self::Image {
                    controller: one,
                    request,
                },
                Self::Image {
                    controller: other,
                    request: others,
                },
            ) => (one.is_none() || one != other) && request != others,
        }
    }
}

impl fmt::Display for Writer<'_> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Package(package) => write!(formatter, "the older package {}", qualified_name(*package)),
            Self::Image(image) => write!(formatter, "the older image {}", qualified_name(*image)),
        }
    }
}

impl WriteTarget {
    fn of_package(package: &JackalPackage, defaults: &RegistryDefaults, home: &OperatorRegistry) -> Option<Self> {
        let namespace = package.namespace().unwrap_or_default();
        let site = defaults.site(home, &namespace, &package.spec.registry)?;
        if !is_admitted(&package.spec.registry, defaults, home) {
            return None;
        }
        Self {
            repository: crate::package::repository(&site.prefix, &package.name_any()),
            tags: vec![version(package)?],
            site,
        }
        .admitted()
    }

    fn of_image(image: &JackalImage, defaults: &RegistryDefaults, home: &OperatorRegistry) -> Option<Self> {
        let spec = &*effective(image)?;
        let site = defaults.site(home, &image.namespace().unwrap_or_default(), &spec.registry)?;
        let request = ImageRequest::of_object(spec).ok()?;
        let listed = listed(&request);
        let resolved = image.status.as_ref().and_then(|status| status.naming);
        let naming = spec.naming.explicit().or(resolved).unwrap_or(site.naming);
        let location = Location::of(&listed, &site.address, &site.prefix, naming, spec.plain_tag).ok()?;
        // What is read where it is to be, and as it is, is never written.
        let stays = request.source == SourceKind::Registry
            && request.platforms.is_empty()
            && site.is_called(listed.registry())
            && location.repository == listed.repository()
            && location.tags.iter().all(|tag| Some(tag.as_str()) == listed.tag());
        // What a policy denies is never written either, and keeps nobody else from the tag.
        let denied = request.source == SourceKind::Registry
            && !site.is_called(listed.registry())
            && defaults.policy.admits_host(listed.registry(), "image").is_err();
        if stays || denied || !is_admitted(&spec.registry, defaults, home) {
            return None;
        }
        Self {
            repository: location.repository,
            // What its digest names is the same whoever writes it.
            tags: location.tags,
            site,
        }
        .admitted()
    }

    /// Nothing, where a policy has it written nowhere.
    fn admitted(self) -> Option<Self> {
        self.site.admits(&self.repository).then_some(self)
    }

    fn conflict(&self, tag: &str, holder: Writer<'_>, advice: &str) -> Fault {
        Fault::conflict(format!(
            "{}/{}:{tag} belongs to {holder}: give this one {advice} or registry.repositoryPrefix, or have the operator run with --repository-policy namespace",
            self.site.address, self.repository
        ))
    }
}

/// Whether a policy lets the operator talk to the endpoint that an object names.
fn is_admitted(spec: &RegistrySpec, defaults: &RegistryDefaults, home: &OperatorRegistry) -> bool {
    spec.endpoint.as_ref().is_none_or(|endpoint| {
        home.names().any(|known| same_host(known, endpoint))
            || defaults.policy.admits_host(endpoint, "registry.endpoint").is_ok()
    })
}

/// The tag of a package's artifact; of one that follows an image, of what it wrote last.
pub(super) fn version(package: &JackalPackage) -> Option<String> {
    package.spec.version.clone().or_else(|| published(package))
}

/// The version of the artifact that stands.
fn published(package: &JackalPackage) -> Option<String> {
    let artifact = package.status.as_ref()?.artifact.as_ref()?;
    let (version, _) = artifact.revision.split_once('@')?;
    Some(version.to_owned())
}

/// The object that controls `image`, by its namespace and uid. An owner is of the same namespace: whoever writes the uid of
/// another's package into an image makes it no image of that package.
fn controller(image: &JackalImage) -> Option<(&str, &str)> {
    let owners = image.owner_references().iter();
    let mut controllers = owners.filter(|owner| owner.controller == Some(true));
    let namespace = image.metadata.namespace.as_deref().unwrap_or_default();
    controllers.next().map(|owner| (namespace, owner.uid.as_str()))
}

/// Whether `one` and `other` write different content, perhaps under one tag; where they do is not looked at.
pub(super) fn are_rivals(one: &JackalImage, other: &JackalImage) -> bool {
    last_path_segment(&one.spec.image) == last_path_segment(&other.spec.image)
        && one.uid() != other.uid()
        && other.metadata.deletion_timestamp.is_none()
        && Writer::Image(one).content().contends(&Writer::Image(other).content())
}

/// The spec of an image with the tag that its policy chose; none while it chose none.
fn effective(image: &JackalImage) -> Option<Cow<'_, JackalImageSpec>> {
    let spec = &image.spec;
    let last = spec.image.rsplit('/').next().unwrap_or(&spec.image);
    match last.contains(':') {
        true => Some(Cow::Borrowed(spec)),
        false => with_tag(spec, image.status.as_ref().and_then(|status| status.selected.as_ref())),
    }
}

/// An object and those that are older and may have a tag of it, the oldest first.
pub(super) struct OlderObjects<'a> {
    own: Content<'a>,
    others: Vec<(Writer<'a>, Content<'a>)>,
}

impl<'a> OlderObjects<'a> {
    /// Those than `object`, an image or a package.
    pub fn than(object: impl Into<Writer<'a>>, known: &'a ObservedObjects) -> Self {
        let own: Writer<'a> = object.into();
        let (name, uid, age) = (own.last_part(), own.metadata().uid.as_deref(), own.age());
        let packages = packages(known, name).map(Writer::Package);
        let others = packages.chain(images(known, name).map(Writer::Image));
        let others = others.filter(|other| other.metadata().uid.as_deref() != uid);
        let mut others: Vec<_> = others.map(|other| (other.age(), other)).collect();
        others.retain(|(other, _)| *other < age);
        others.sort_by(|(one, _), (other, _)| one.cmp(other));
        let with_content = |(_, other): (Age, Writer<'a>)| (other, other.content());
        Self {
            own: own.content(),
            others: others.into_iter().map(with_content).collect(),
        }
    }

    /// Whether none writes other content, as with most objects.
    pub fn agree(&self) -> bool {
        !self.others.iter().any(|(_, other)| other.contends(&self.own))
    }

    /// Who has the plain tag of `image`, if that is somebody else.
    ///
    /// # Errors
    /// [`Fault::conflict`] when somebody else has the tag that names it.
    pub fn check_image(
        &self,
        image: &JackalImage,
        defaults: &RegistryDefaults,
        home: &OperatorRegistry,
    ) -> Result<Option<String>, Fault> {
        let Some(own) = WriteTarget::of_image(image, defaults, home) else {
            return Ok(None);
        };
        let holders = self.holders(defaults, home);
        holders.check_first(&own, &self.own, "another tag, naming")?;
        let plain = own.tags.get(1).and_then(|plain| holders.of(&own, plain, &self.own));
        Ok(plain.map(|holder| holder.to_string()))
    }

    /// That none of them has the tag of `package`.
    ///
    /// # Errors
    /// [`Fault::conflict`] when one has it.
    pub fn check_package(
        &self,
        package: &JackalPackage,
        defaults: &RegistryDefaults,
        home: &OperatorRegistry,
    ) -> Result<(), Fault> {
        let Some(own) = WriteTarget::of_package(package, defaults, home) else {
            return Ok(());
        };
        let holders = self.holders(defaults, home);
        holders.check_first(&own, &self.own, "another name, version")
    }

    /// Which of them have tags: an object without its first one has none.
    fn holders(&self, defaults: &RegistryDefaults, home: &OperatorRegistry) -> TagOwners<'_> {
        let mut holders = TagOwners::default();
        for (writer, content) in &self.others {
            let Some(mut written) = writer.written(defaults, home) else {
                continue;
            };
            let first = written.tags.first().cloned();
            written.tags.retain(|tag| {
                holders
                    .of_site(&written.site, (&written.repository, tag), content)
                    .is_none()
            });
            if written.tags.first() == first.as_ref() {
                holders.add(*writer, content, written);
            }
        }
        holders
    }
}

/// Who has which tag.
#[derive(Default)]
struct TagOwners<'a> {
    all: Vec<(Writer<'a>, &'a Content<'a>, RegistryLocation)>,
    /// Those of each repository and tag, the oldest first.
    by_tag: HashMap<(String, String), Vec<usize>>,
}

impl<'a> TagOwners<'a> {
    /// The oldest that has `tag` of `written`, of those that cannot have it together with `content`.
    fn of(&self, written: &WriteTarget, tag: &str, content: &Content<'_>) -> Option<Writer<'a>> {
        self.of_site(&written.site, (&written.repository, tag), content)
    }

    fn of_site(
        &self,
        site: &RegistryLocation,
        (repository, tag): (&str, &str),
        content: &Content<'_>,
    ) -> Option<Writer<'a>> {
        let holders = self.by_tag.get(&(repository.to_owned(), tag.to_owned()))?;
        let mut holders = holders.iter().filter_map(|at| self.all.get(*at));
        let contends = |(_, other, beside): &&(Writer<'a>, &Content<'a>, RegistryLocation)| {
            other.contends(content) && beside.is_beside(site)
        };
        holders.find(contends).map(|(writer, ..)| *writer)
    }

    fn add(&mut self, writer: Writer<'a>, content: &'a Content<'a>, written: WriteTarget) {
        let WriteTarget { site, repository, tags } = written;
        let at = self.all.len();
        for tag in tags {
            let holders = self.by_tag.entry((repository.clone(), tag)).or_default();
            // Who writes the same in the same place says nothing new.
            let all = &self.all;
            let known = |at: &usize| {
                all.get(*at)
                    .is_some_and(|(_, other, known)| *other == content && *known == site)
            };
            if !holders.iter().any(known) {
                holders.push(at);
            }
        }
        self.all.push((writer, content, site));
    }

    /// That nobody else has the first tag of `own`, an object of that content; `advice` is what to give it instead.
    fn check_first(&self, own: &WriteTarget, content: &Content<'_>, advice: &str) -> Result<(), Fault> {
        let first = own.tags.first();
        match first.and_then(|tag| Some((tag, self.of(own, tag, content)?))) {
            Some((tag, holder)) => Err(own.conflict(tag, holder, advice)),
            None => Ok(()),
        }
    }
}

fn packages<'a>(known: &'a ObservedObjects, name: &str) -> impl Iterator<Item = &'a JackalPackage> {
    let packages = known.packages.iter().filter_map(|package| package.0.as_ref().ok());
    packages.filter(move |package| package.metadata.name.as_deref() == Some(name))
}

fn images<'a>(known: &'a ObservedObjects, name: &str) -> impl Iterator<Item = &'a JackalImage> {
    let images = known.images.iter().filter_map(|image| image.0.as_ref().ok());
    images.filter(move |image| {
        last_path_segment(&image.spec.image) == name && image.metadata.deletion_timestamp.is_none()
    })
}

/// A manifest in a registry, about which it is asked who needs it.
pub(super) struct ManifestQuery<'a> {
    /// The registry.
    pub site: &'a RegistryLocation,
    /// Its name for pods.
    pub name: &'a str,
    /// Repository, tags and digest that it was written under.
    pub location: &'a Location,
    /// Its digest.
    pub digest: &'a Digest,
}

impl ManifestQuery<'_> {
    fn meets(&self, other: &WriteTarget) -> bool {
        other.repository == self.location.repository && other.site.is_beside(self.site)
    }

    /// Whether `image` says that the manifest is its own.
    pub fn is_named_by(&self, image: &JackalImage, defaults: &RegistryDefaults, home: &OperatorRegistry) -> bool {
        let status = image.status.as_ref();
        let named = status.filter(|status| status.digest.as_deref() == Some(self.digest.as_str()));
        named.is_some_and(|status| {
            let there = || WriteTarget::of_image(image, defaults, home).is_some_and(|written| self.meets(&written));
            status.name.as_deref() == Some(self.name) || there()
        })
    }

    /// Whether `image` is to have the place of the manifest, whatever stands there now.
    pub fn is_claimed_by(&self, image: &JackalImage, defaults: &RegistryDefaults, home: &OperatorRegistry) -> bool {
        let Some(written) = WriteTarget::of_image(image, defaults, home) else {
            return false;
        };
        let request = effective(image).and_then(|spec| ImageRequest::of_object(&spec).ok());
        let named = match &self.location.digest {
            Some(named) => request.is_some_and(|request| listed(&request).digest() == Some(named)),
            None => self.location.tags.iter().any(|tag| written.tags.contains(tag)),
        };
        named && self.meets(&written)
    }

    /// Whether it is in the repository of the artifacts of `package`, and the tag or the digest is one of theirs.
    pub fn is_of_package(&self, package: &JackalPackage, defaults: &RegistryDefaults, home: &OperatorRegistry) -> bool {
        let Some(written) = WriteTarget::of_package(package, defaults, home) else {
            return false;
        };
        let tags = self.location.tags.iter();
        self.meets(&written)
            && (tags.into_iter().any(|tag| written.tags.contains(tag))
                || artifacts(package).any(|digest| digest == self.digest.as_str()))
    }
}

/// The digests of all artifacts that a package's status names.
pub(super) fn artifacts(package: &JackalPackage) -> impl Iterator<Item = &str> {
    let status = package.status.iter();
    status.flat_map(|status| {
        let publishing = status
            .publishing
            .as_deref()
            .and_then(|revision| revision.split_once('@'));
        let history = status.history.iter().map(|entry| entry.digest.as_str());
        let current = status.artifact.iter().map(|artifact| artifact.digest.as_str());
        history.chain(current).chain(publishing.map(|(_, digest)| digest))
    })
}

/// Whether `package` may have, or lose, its tag when the object of the uid `changed`, which writes below `name`, changed
/// or went.
pub(super) fn concerns(package: &JackalPackage, name: &str, changed: Option<&str>) -> bool {
    package.metadata.name.as_deref() == Some(name) && package.uid().as_deref() != changed
}

#[cfg(test)]
mod tests;

//! Objects that would write one tag of one registry in turn: the older one has it. No IO.
//!
//! Two packages of one name and version write entries of one index, which are one tag to each architecture. An image is
//! written under the tag that names it and, with the names of Jackal and Zarf, under a plain one, which it can do
//! without. Objects that ask for the same image write the same and are no rivals.
//!
//! What is decided follows from specs, metadata and the operator's own configuration. Only the version of a package that
//! follows an image is read from its status.

use std::borrow::Cow;
use std::fmt;
use std::sync::Arc;

use k8s_openapi::jiff::Timestamp;
use kube::ResourceExt as _;
use kube::core::DeserializeGuard;

use crate::api::v1alpha1::{JackalImage, JackalImageSpec, JackalPackage, RegistrySpec, SourceKind};
use crate::fault::{Fault, Reason};
use crate::oci::{Compression, Location, same_host};
use crate::package::{ImageRequest, listed};
use crate::worker::{Defaults, Home, Place, Site, last_part, name_of, with_tag};

/// Every package and image that this process has seen.
pub(super) struct Known {
    pub packages: Vec<Arc<DeserializeGuard<JackalPackage>>>,
    pub images: Vec<Arc<DeserializeGuard<JackalImage>>>,
}

/// An object that writes tags.
#[derive(Clone, Copy)]
enum Writer<'a> {
    Package(&'a JackalPackage),
    Image(&'a JackalImage),
}

/// What an object writes.
struct Written {
    site: Site,
    repository: String,
    /// The one that it cannot do without first.
    tags: Vec<String>,
}

/// The older of two objects has what both want: by creation, then by name.
type Age = (Option<Timestamp>, Option<String>, String);

fn age(object: &impl kube::ResourceExt) -> Age {
    let created = object.meta().creation_timestamp.as_ref().map(|time| time.0);
    (created, object.namespace(), object.name_any())
}

impl<'a> Writer<'a> {
    fn age(self) -> Age {
        match self {
            Self::Package(package) => age(package),
            Self::Image(image) => age(image),
        }
    }

    fn written(self, defaults: &Defaults, home: &Home) -> Option<Written> {
        match self {
            Self::Package(package) => Written::of_package(package, defaults, home),
            Self::Image(image) => Written::of_image(image, defaults, home),
        }
    }
}

impl fmt::Display for Writer<'_> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Package(package) => write!(formatter, "the older package {}", name_of(*package)),
            Self::Image(image) => write!(formatter, "the older image {}", name_of(*image)),
        }
    }
}

impl Written {
    fn of_package(package: &JackalPackage, defaults: &Defaults, home: &Home) -> Option<Self> {
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

    fn of_image(image: &JackalImage, defaults: &Defaults, home: &Home) -> Option<Self> {
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

    /// Whether both write to one repository.
    fn meets(&self, other: &Self) -> bool {
        self.repository == other.repository && self.site.is_beside(&other.site)
    }

    fn conflict(&self, tag: &str, holder: Writer<'_>, advice: &str) -> Fault {
        Fault::conflict(format!(
            "{}/{}:{tag} belongs to {holder}: give this one {advice} or registry.repositoryPrefix, or have the operator run with --repository-policy namespace",
            self.site.address, self.repository
        ))
    }
}

/// Whether a policy lets the operator talk to the endpoint that an object names.
fn is_admitted(spec: &RegistrySpec, defaults: &Defaults, home: &Home) -> bool {
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

/// The object that controls `image`, by its uid.
fn controller(image: &JackalImage) -> Option<&str> {
    let owners = image.owner_references().iter();
    let mut controllers = owners.filter(|owner| owner.controller == Some(true));
    controllers.next().map(|owner| owner.uid.as_str())
}

/// Whether `one` and `other` write different content, perhaps under one tag; where they do is not looked at. The images
/// of one package are no rivals, its plan sees to that.
pub(super) fn are_rivals(one: &JackalImage, other: &JackalImage) -> bool {
    last_part(&one.spec.image) == last_part(&other.spec.image)
        && one.uid() != other.uid()
        && other.metadata.deletion_timestamp.is_none()
        && (controller(one).is_none() || controller(one) != controller(other))
        && content(one) != content(other)
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

/// What decides the content that an image's object writes. Only what a docker engine keeps unpacked is compressed here.
fn content(image: &JackalImage) -> Option<(ImageRequest, Option<Compression>)> {
    let request = ImageRequest::of_object(&*effective(image)?).ok()?;
    let compression = (request.source == SourceKind::Docker).then_some(image.spec.compression);
    Some((request, compression))
}

/// The older objects that may have a tag of another one, the oldest first, each with whether it writes other content.
pub(super) struct Older<'a>(Vec<(Writer<'a>, bool)>);

impl<'a> Older<'a> {
    /// Those than an image.
    pub fn than_image(image: &JackalImage, known: &'a Known) -> Self {
        let name = last_part(&image.spec.image);
        let packages = packages(known, name).map(|package| (Writer::Package(package), true));
        let images = images(known, name).filter(|other| other.uid() != image.uid());
        let images = images.map(|other| (Writer::Image(other), are_rivals(image, other)));
        Self::of(packages.chain(images), &age(image))
    }

    /// Those than a package, which [`check`] compares with packages.
    pub fn than_package(package: &JackalPackage, known: &'a Known) -> Self {
        let (name, uid) = (package.name_any(), package.uid());
        let packages = packages(known, &name).filter(|other| other.uid() != uid);
        let packages = packages.map(|other| (Writer::Package(other), false));
        let images = images(known, &name);
        let images = images.map(|image| (Writer::Image(image), controller(image) != uid.as_deref()));
        Self::of(packages.chain(images), &age(package))
    }

    fn of(writers: impl Iterator<Item = (Writer<'a>, bool)>, age: &Age) -> Self {
        let mut writers: Vec<_> = writers.filter(|(writer, _)| writer.age() < *age).collect();
        writers.sort_by_cached_key(|(writer, _)| writer.age());
        Self(writers)
    }

    /// Whether none writes other content, as with most objects.
    pub fn agree(&self) -> bool {
        self.0.iter().all(|(_, differs)| !differs)
    }

    /// Who has the plain tag of `image`, if that is somebody else.
    ///
    /// # Errors
    /// [`Fault::conflict`] when somebody else has the tag that names it.
    pub fn check_image(&self, image: &JackalImage, defaults: &Defaults, home: &Home) -> Result<Option<String>, Fault> {
        let Some(own) = Written::of_image(image, defaults, home) else {
            return Ok(None);
        };
        if let Some((tag, holder)) = own
            .tags
            .first()
            .and_then(|tag| Some((tag, self.holder(&own, tag, defaults, home)?)))
        {
            return Err(own.conflict(tag, holder, "another tag, naming"));
        }
        let plain = own.tags.get(1);
        let holder = plain.and_then(|plain| self.holder(&own, plain, defaults, home));
        Ok(holder.map(|holder| holder.to_string()))
    }

    /// That none of them has the tag of `package`.
    ///
    /// # Errors
    /// [`Fault::conflict`] when one has it.
    pub fn check_package(&self, package: &JackalPackage, defaults: &Defaults, home: &Home) -> Result<(), Fault> {
        let Some(own) = Written::of_package(package, defaults, home) else {
            return Ok(());
        };
        let holder = own
            .tags
            .first()
            .and_then(|tag| Some((tag, self.holder(&own, tag, defaults, home)?)));
        holder.map_or(Ok(()), |(tag, holder)| {
            Err(own.conflict(tag, holder, "another name, version"))
        })
    }

    /// Who has `tag`, which is the oldest that writes it, if that writes other content.
    fn holder(&self, own: &Written, tag: &String, defaults: &Defaults, home: &Home) -> Option<Writer<'a>> {
        let has = |(writer, _): &&(Writer<'a>, bool)| {
            let written = writer.written(defaults, home);
            written.is_some_and(|written| written.meets(own) && written.tags.contains(tag))
        };
        let (writer, differs) = self.0.iter().find(has)?;
        differs.then_some(*writer)
    }
}

fn packages<'a>(known: &'a Known, name: &str) -> impl Iterator<Item = &'a JackalPackage> {
    let packages = known.packages.iter().filter_map(|package| package.0.as_ref().ok());
    packages.filter(move |package| package.metadata.name.as_deref() == Some(name))
}

fn images<'a>(known: &'a Known, name: &str) -> impl Iterator<Item = &'a JackalImage> {
    let images = known.images.iter().filter_map(|image| image.0.as_ref().ok());
    images.filter(move |image| last_part(&image.spec.image) == name && image.metadata.deletion_timestamp.is_none())
}

/// Whether `image` is to have the place `reference`, a name in the registry `site`, whatever stands there now.
pub(super) fn claims(
    image: &JackalImage,
    site: &Site,
    reference: &crate::oci::Reference,
    defaults: &Defaults,
    home: &Home,
) -> bool {
    let request = effective(image).and_then(|spec| ImageRequest::of_object(&spec).ok());
    let digest = request.as_ref().and_then(|request| listed(request).digest().cloned());
    let Some(written) = Written::of_image(image, defaults, home) else {
        return false;
    };
    let named = match reference.digest() {
        Some(named) => digest.as_ref() == Some(named),
        None => reference
            .tag()
            .is_some_and(|tag| written.tags.iter().any(|known| known == tag)),
    };
    named && written.repository == reference.repository() && written.site.is_beside(site)
}

/// Where an artifact stands: registry, repository, tag, and its entry in the index under that tag.
#[derive(Debug, PartialEq, Eq)]
struct Artifact {
    /// None where it is not known what the operator's own registry is called.
    address: Option<String>,
    repository: String,
    version: String,
    architecture: String,
}

impl Artifact {
    fn of(package: &JackalPackage, defaults: &Defaults, home: Option<&str>) -> Self {
        let spec = &package.spec;
        let own = spec.registry.address.as_deref();
        let namespace = package.namespace().unwrap_or_default();
        Self {
            address: own.or(home).map(str::to_ascii_lowercase),
            repository: crate::package::repository(
                &defaults.prefix(
                    &namespace,
                    &spec.registry,
                    (own.is_none() || own == home).then_some(&Home::default()),
                ),
                &package.name_any(),
            ),
            // Of one that follows an image, what it wrote last.
            version: self::version(package).unwrap_or_default(),
            architecture: spec.architecture.clone().unwrap_or_else(|| "amd64".to_owned()),
        }
    }
}

/// That no older package writes what `package`, whose registry is `place`, writes.
pub(super) fn check<'a>(
    package: &JackalPackage,
    others: impl IntoIterator<Item = &'a JackalPackage>,
    defaults: &Defaults,
    place: &Place,
) -> Result<(), Fault> {
    let home = match &package.spec.registry.address {
        None => Some(place.address.as_str()),
        Some(_) => defaults.registry.address.as_deref(),
    };
    let own = Artifact::of(package, defaults, home);
    let mine = age(package);
    let older = |other: &&JackalPackage| {
        other.name_any() == package.name_any() && age(*other) < mine && Artifact::of(other, defaults, home) == own
    };
    let Some(holder) = others.into_iter().filter(older).min_by_key(|other| age(*other)) else {
        return Ok(());
    };
    Err(Fault::conflict(format!(
        "{}/{}:{} belongs to the older package {}: give this one another name, version or registry.repositoryPrefix, or have the operator run with --repository-policy namespace",
        place.address,
        own.repository,
        own.version,
        name_of(holder)
    )))
}

/// Whether `package` waits for another object to leave its tag, and may have it when the one of the uid `gone`, which
/// writes below `name`, changed or went.
pub(super) fn waits(package: &JackalPackage, name: &str, gone: Option<&str>) -> bool {
    let reason = Reason::RepositoryConflict.to_string();
    package.name_any() == name
        && package.uid().as_deref() != gone
        && package
            .status
            .iter()
            .flat_map(|status| &status.conditions)
            .any(|condition| condition.reason == reason)
}

#[cfg(test)]
mod tests;

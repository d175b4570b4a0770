//! Which of several objects owns a tag that all of them would write: the oldest. No IO.
//!
//! Two packages of one name and version write entries of one index; they conflict when they have one architecture. An image is
//! written under the tag of its name and, with the names of Jackal and Zarf, under a plain tag, which is optional. Objects
//! that request the same image write the same content and do not conflict. An object that is refused the tag of its name
//! writes nothing, so it does not own its plain tag either.
//!
//! The decision depends on specs, metadata and the operator's own configuration. Only the version of a package with
//! `versionFrom`, the tag that a policy chose, and the result of `naming: Auto` are read from statuses.

mod manifest;
mod target;
mod writer;

pub(super) use self::manifest::{ManifestQuery, artifacts};
use self::target::WriteTarget;
use self::writer::{Age, Content};
pub(super) use self::writer::{TagWriter, affects_tags, may_conflict};

use std::collections::HashMap;
use std::sync::Arc;

use kube::ResourceExt as _;
use kube::core::DeserializeGuard;

use crate::api::v1alpha1::{JackalImage, JackalPackage};
use crate::fault::Fault;
use crate::runtime::{OperatorRegistry, RegistryDefaults, RegistryLocation, last_path_segment};

/// Every package and image that this process has seen.
pub(super) struct ObservedObjects {
    pub packages: Vec<Arc<DeserializeGuard<JackalPackage>>>,
    pub images: Vec<Arc<DeserializeGuard<JackalImage>>>,
}

/// An object, and older objects that may own its tags, the oldest first.
pub(super) struct OlderObjects<'a> {
    own: Content<'a>,
    others: Vec<(TagWriter<'a>, Content<'a>)>,
}

impl<'a> OlderObjects<'a> {
    /// The objects that are older than `object`, an image or a package, and write to a repository of the same last path segment.
    pub fn than(object: impl Into<TagWriter<'a>>, known: &'a ObservedObjects) -> Self {
        let own: TagWriter<'a> = object.into();
        let (name, uid, age) = (own.last_segment(), own.metadata().uid.as_deref(), own.age());
        let packages = packages(known, name).map(TagWriter::Package);
        let others = packages.chain(images(known, name).map(TagWriter::Image));
        let others = others.filter(|other| other.metadata().uid.as_deref() != uid);
        let mut others: Vec<_> = others.map(|other| (other.age(), other)).collect();
        others.retain(|(other, _)| *other < age);
        others.sort_by(|(one, _), (other, _)| one.cmp(other));
        let with_content = |(_, other): (Age, TagWriter<'a>)| (other, other.content());
        Self {
            own: own.content(),
            others: others.into_iter().map(with_content).collect(),
        }
    }

    /// Whether none writes other content, as is the case for most objects.
    pub fn write_same_content(&self) -> bool {
        !self.others.iter().any(|(_, other)| other.conflicts(&self.own))
    }

    /// The owner of the plain tag of `image`, if that is another object.
    ///
    /// # Errors
    /// [`Fault::conflict`] when another object owns the tag of its name.
    pub fn check_image(
        &self,
        image: &JackalImage,
        defaults: &RegistryDefaults,
        operator_registry: &OperatorRegistry,
    ) -> Result<Option<String>, Fault> {
        let Some(own) = WriteTarget::of_image(image, defaults, operator_registry) else {
            return Ok(None);
        };
        let owners = self.owners(defaults, operator_registry);
        owners.check_first(&own, &self.own, "another tag, naming")?;
        let plain = own.tags.get(1).and_then(|plain| owners.of(&own, plain, &self.own));
        Ok(plain.map(|owner| owner.to_string()))
    }

    /// Checks that none of them owns the tag of `package`.
    ///
    /// # Errors
    /// [`Fault::conflict`] when one does.
    pub fn check_package(
        &self,
        package: &JackalPackage,
        defaults: &RegistryDefaults,
        operator_registry: &OperatorRegistry,
    ) -> Result<(), Fault> {
        let Some(own) = WriteTarget::of_package(package, defaults, operator_registry) else {
            return Ok(());
        };
        let owners = self.owners(defaults, operator_registry);
        owners.check_first(&own, &self.own, "another name, version")
    }

    /// Which of them own tags. An object that does not own its first tag owns none.
    fn owners(&self, defaults: &RegistryDefaults, operator_registry: &OperatorRegistry) -> TagOwners<'_> {
        let mut owners = TagOwners::default();
        for (writer, content) in &self.others {
            let Some(mut written) = WriteTarget::of(*writer, defaults, operator_registry) else {
                continue;
            };
            let first = written.tags.first().cloned();
            written.tags.retain(|tag| {
                owners
                    .of_registry(&written.registry, (&written.repository, tag), content)
                    .is_none()
            });
            if written.tags.first() == first.as_ref() {
                owners.add(*writer, content, written);
            }
        }
        owners
    }
}

/// The owners of tags.
#[derive(Default)]
struct TagOwners<'a> {
    all: Vec<(TagWriter<'a>, &'a Content<'a>, RegistryLocation)>,
    /// Indexes of `all` by repository and tag, the oldest owner first.
    by_tag: HashMap<(String, String), Vec<usize>>,
}

impl<'a> TagOwners<'a> {
    /// The oldest owner of `tag` of `written` that conflicts with `content`.
    fn of(&self, written: &WriteTarget, tag: &str, content: &Content<'_>) -> Option<TagWriter<'a>> {
        self.of_registry(&written.registry, (&written.repository, tag), content)
    }

    fn of_registry(
        &self,
        registry: &RegistryLocation,
        (repository, tag): (&str, &str),
        content: &Content<'_>,
    ) -> Option<TagWriter<'a>> {
        let owners = self.by_tag.get(&(repository.to_owned(), tag.to_owned()))?;
        let mut owners = owners.iter().filter_map(|at| self.all.get(*at));
        let conflicts = |(_, other, other_registry): &&(TagWriter<'a>, &Content<'a>, RegistryLocation)| {
            other.conflicts(content) && other_registry.is_same_registry(registry)
        };
        owners.find(conflicts).map(|(writer, ..)| *writer)
    }

    fn add(&mut self, writer: TagWriter<'a>, content: &'a Content<'a>, written: WriteTarget) {
        let WriteTarget {
            registry,
            repository,
            tags,
        } = written;
        let at = self.all.len();
        for tag in tags {
            let owners = self.by_tag.entry((repository.clone(), tag)).or_default();
            // A second object with the same content and registry changes no decision.
            let all = &self.all;
            let known = |at: &usize| {
                all.get(*at)
                    .is_some_and(|(_, other, known)| *other == content && *known == registry)
            };
            if !owners.iter().any(known) {
                owners.push(at);
            }
        }
        self.all.push((writer, content, registry));
    }

    /// Checks that no object that conflicts with `content` owns the first tag of `own`. `advice` is what to change.
    fn check_first(&self, own: &WriteTarget, content: &Content<'_>, advice: &str) -> Result<(), Fault> {
        let first = own.tags.first();
        match first.and_then(|tag| Some((tag, self.of(own, tag, content)?))) {
            Some((tag, owner)) => Err(own.conflict(tag, owner, advice)),
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

/// Whether `package` may get or lose its tag when the object of the uid `changed`, which writes to a repository of the last
/// path segment `name`, is changed or deleted.
pub(super) fn may_affect(package: &JackalPackage, name: &str, changed: Option<&str>) -> bool {
    package.metadata.name.as_deref() == Some(name) && package.uid().as_deref() != changed
}

#[cfg(test)]
mod tests;

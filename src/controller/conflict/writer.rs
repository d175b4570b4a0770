//! An object that writes tags, and what decides its content.

use std::borrow::Cow;
use std::fmt;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use k8s_openapi::jiff::Timestamp;
use kube::ResourceExt as _;

use crate::api::v1alpha1::{JackalImage, JackalImageSpec, JackalPackage, SourceKind};
use crate::fault::Reason;
use crate::oci::Compression;
use crate::package::ImageRequest;
use crate::runtime::{last_path_segment, qualified_name, spec_with_tag};

/// An object that writes tags.
#[derive(Clone, Copy)]
pub(in crate::controller) enum TagWriter<'a> {
    Package(&'a JackalPackage),
    Image(&'a JackalImage),
}

/// The content that an object writes, as far as it decides about conflicts.
#[derive(PartialEq, Eq)]
pub(super) enum Content<'a> {
    /// An entry of an index, which packages of other architectures share.
    Package {
        /// Its namespace and uid.
        object: Option<(&'a str, &'a str)>,
        architecture: &'a str,
    },
    Image {
        controller: Option<(&'a str, &'a str)>,
        /// None where the spec is invalid. Only layers that a docker engine keeps unpacked are compressed here.
        request: Option<(ImageRequest, Option<Compression>)>,
    },
}

/// The order of ownership: by creation, then by namespace and name, a package before an image.
pub(super) type Age = (Option<Timestamp>, Option<String>, String, bool);

impl<'a> From<&'a JackalPackage> for TagWriter<'a> {
    fn from(package: &'a JackalPackage) -> Self {
        Self::Package(package)
    }
}

impl<'a> From<&'a JackalImage> for TagWriter<'a> {
    fn from(image: &'a JackalImage) -> Self {
        Self::Image(image)
    }
}

impl<'a> TagWriter<'a> {
    pub(super) fn metadata(self) -> &'a ObjectMeta {
        match self {
            Self::Package(package) => &package.metadata,
            Self::Image(image) => &image.metadata,
        }
    }

    pub(super) fn age(self) -> Age {
        let metadata = self.metadata();
        (
            metadata.creation_timestamp.as_ref().map(|time| time.0),
            metadata.namespace.clone(),
            metadata.name.clone().unwrap_or_default(),
            matches!(self, Self::Image(_)),
        )
    }

    /// The last path segment of the repository that it writes to, which no prefix changes.
    pub(super) fn last_segment(self) -> &'a str {
        match self {
            Self::Package(package) => package.metadata.name.as_deref().unwrap_or_default(),
            Self::Image(image) => last_path_segment(&image.spec.image),
        }
    }

    pub(super) fn content(self) -> Content<'a> {
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

    /// Everything of the object that decides which tags it owns, and whether it waits for one.
    pub(super) fn state(self) -> impl PartialEq {
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
        let waits = conditions.is_some_and(|all| all.iter().any(|condition| condition.reason == reason));
        (
            (metadata.uid.clone(), metadata.generation),
            (metadata.deletion_timestamp.is_some(), waits),
            (tag, naming),
        )
    }
}

/// Whether other objects may own other tags after an object changed from `before` to `now`. None stands for an object that
/// does not exist or cannot be decoded.
pub(in crate::controller) fn affects_tags<'a, T>(before: Option<&'a T>, now: Option<&'a T>) -> bool
where
    TagWriter<'a>: From<&'a T>,
{
    let same = |(before, now): (&'a T, &'a T)| TagWriter::from(before).state() == TagWriter::from(now).state();
    !before.zip(now).is_some_and(same)
}

impl Content<'_> {
    /// Whether the two cannot have one tag.
    pub(super) fn conflicts(&self, other: &Self) -> bool {
        match (self, other) {
            (
                Self::Package { architecture: one, .. },
                Self::Package {
                    architecture: other, ..
                },
            ) => one == other,
            // The plan of a package makes sure that its images do not conflict with it and with each other.
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

impl fmt::Display for TagWriter<'_> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Package(package) => write!(formatter, "the older package {}", qualified_name(*package)),
            Self::Image(image) => write!(formatter, "the older image {}", qualified_name(*image)),
        }
    }
}

/// The version of a package, or with `versionFrom` that of its last artifact.
pub(super) fn version(package: &JackalPackage) -> Option<String> {
    package.spec.version.clone().or_else(|| published(package))
}

/// The version of the last artifact.
fn published(package: &JackalPackage) -> Option<String> {
    let artifact = package.status.as_ref()?.artifact.as_ref()?;
    let (version, _) = artifact.revision.split_once('@')?;
    Some(version.to_owned())
}

/// The object that controls `image`, by its namespace and uid. Owners are of the same namespace, so an image with the uid of a
/// package in another namespace is not an image of that package.
fn controller(image: &JackalImage) -> Option<(&str, &str)> {
    let owners = image.owner_references().iter();
    let mut controllers = owners.filter(|owner| owner.controller == Some(true));
    let namespace = image.metadata.namespace.as_deref().unwrap_or_default();
    controllers.next().map(|owner| (namespace, owner.uid.as_str()))
}

/// Whether `one` and `other` write different content, perhaps under one tag. Only the last path segments of their
/// repositories are compared.
pub(in crate::controller) fn may_conflict(one: &JackalImage, other: &JackalImage) -> bool {
    last_path_segment(&one.spec.image) == last_path_segment(&other.spec.image)
        && one.uid() != other.uid()
        && other.metadata.deletion_timestamp.is_none()
        && TagWriter::Image(one)
            .content()
            .conflicts(&TagWriter::Image(other).content())
}

/// The spec of an image with the tag that its policy chose; none while no tag is chosen.
pub(super) fn effective(image: &JackalImage) -> Option<Cow<'_, JackalImageSpec>> {
    let spec = &image.spec;
    let last = spec.image.rsplit('/').next().unwrap_or(&spec.image);
    match last.contains(':') {
        true => Some(Cow::Borrowed(spec)),
        false => spec_with_tag(spec, image.status.as_ref().and_then(|status| status.selected.as_ref())),
    }
}

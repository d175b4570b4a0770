//! Which other objects need a manifest that is to be deleted.

use super::target::WriteTarget;
use super::writer::effective;
use crate::api::v1alpha1::{JackalImage, JackalPackage};
use crate::oci::{Digest, Location};
use crate::package::{ImageRequest, package_reference};
use crate::runtime::{OperatorRegistry, RegistryDefaults, RegistryLocation};

/// A manifest in a registry. Its methods say whether another object needs it.
pub(in crate::controller) struct ManifestQuery<'a> {
    /// The registry.
    pub registry: &'a RegistryLocation,
    /// Its name for pods.
    pub name: &'a str,
    /// Repository, tags and digest that it was written under.
    pub location: &'a Location,
    /// Its digest.
    pub digest: &'a Digest,
}

impl ManifestQuery<'_> {
    fn is_in_repository_of(&self, other: &WriteTarget) -> bool {
        other.repository == self.location.repository && other.registry.is_same_registry(self.registry)
    }

    /// Whether the status of `image` names the manifest.
    pub fn is_named_by(
        &self,
        image: &JackalImage,
        defaults: &RegistryDefaults,
        operator_registry: &OperatorRegistry,
    ) -> bool {
        let status = image.status.as_ref();
        let named = status.filter(|status| status.digest.as_deref() == Some(self.digest.as_str()));
        named.is_some_and(|status| {
            let is_written_there = || {
                WriteTarget::of_image(image, defaults, operator_registry)
                    .is_some_and(|written| self.is_in_repository_of(&written))
            };
            status.name.as_deref() == Some(self.name) || is_written_there()
        })
    }

    /// Whether `image` will be written under a tag or the digest of the manifest.
    pub fn is_claimed_by(
        &self,
        image: &JackalImage,
        defaults: &RegistryDefaults,
        operator_registry: &OperatorRegistry,
    ) -> bool {
        let Some(written) = WriteTarget::of_image(image, defaults, operator_registry) else {
            return false;
        };
        let request = effective(image).and_then(|spec| ImageRequest::of_object(&spec).ok());
        let named = match &self.location.digest {
            Some(named) => request.is_some_and(|request| package_reference(&request).digest() == Some(named)),
            None => self.location.tags.iter().any(|tag| written.tags.contains(tag)),
        };
        named && self.is_in_repository_of(&written)
    }

    /// Whether the manifest has the repository of the artifacts of `package`, and a tag or the digest of one.
    pub fn is_of_package(
        &self,
        package: &JackalPackage,
        defaults: &RegistryDefaults,
        operator_registry: &OperatorRegistry,
    ) -> bool {
        let Some(written) = WriteTarget::of_package(package, defaults, operator_registry) else {
            return false;
        };
        let tags = self.location.tags.iter();
        self.is_in_repository_of(&written)
            && (tags.into_iter().any(|tag| written.tags.contains(tag))
                || artifacts(package).any(|digest| digest == self.digest.as_str()))
    }
}

/// The digests of all artifacts that a package's status names.
pub(in crate::controller) fn artifacts(package: &JackalPackage) -> impl Iterator<Item = &str> {
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

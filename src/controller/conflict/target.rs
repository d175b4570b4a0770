//! Where an object writes, as far as that follows from its spec and the operator's configuration.

use kube::ResourceExt as _;

use super::writer::{TagWriter, effective, version};
use crate::api::v1alpha1::{JackalImage, JackalPackage, RegistrySpec, SourceKind};
use crate::fault::Fault;
use crate::oci::{Location, same_host};
use crate::package::{ImageRequest, package_reference};
use crate::runtime::{OperatorRegistry, RegistryDefaults, RegistryLocation};

/// Where an object writes.
pub(super) struct WriteTarget {
    pub registry: RegistryLocation,
    pub repository: String,
    /// The tag of its name first.
    pub tags: Vec<String>,
}

impl WriteTarget {
    pub fn of(
        writer: TagWriter<'_>,
        defaults: &RegistryDefaults,
        operator_registry: &OperatorRegistry,
    ) -> Option<Self> {
        match writer {
            TagWriter::Package(package) => Self::of_package(package, defaults, operator_registry),
            TagWriter::Image(image) => Self::of_image(image, defaults, operator_registry),
        }
    }

    pub fn of_package(
        package: &JackalPackage,
        defaults: &RegistryDefaults,
        operator_registry: &OperatorRegistry,
    ) -> Option<Self> {
        let namespace = package.namespace().unwrap_or_default();
        let registry = defaults.location(operator_registry, &namespace, &package.spec.registry)?;
        if !is_endpoint_allowed(&package.spec.registry, defaults, operator_registry) {
            return None;
        }
        Self {
            repository: crate::package::repository(&registry.prefix, &package.name_any()),
            tags: vec![version(package)?],
            registry,
        }
        .if_allowed()
    }

    pub fn of_image(
        image: &JackalImage,
        defaults: &RegistryDefaults,
        operator_registry: &OperatorRegistry,
    ) -> Option<Self> {
        let spec = &*effective(image)?;
        let registry = defaults.location(
            operator_registry,
            &image.namespace().unwrap_or_default(),
            &spec.registry,
        )?;
        let request = ImageRequest::of_object(spec).ok()?;
        let listed = package_reference(&request);
        let resolved = image.status.as_ref().and_then(|status| status.naming);
        let naming = spec.naming.explicit().or(resolved).unwrap_or(registry.naming);
        let location = Location::new(&listed, &registry.address, &registry.prefix, naming, spec.plain_tag).ok()?;
        // An image whose source is its own target is never written.
        let read = spec.source_reference()?;
        let is_own_source = request.source == SourceKind::Registry
            && request.archived.is_none()
            && request.platforms.is_empty()
            && registry.has_name(listed.registry())
            && location.repository == listed.repository()
            && location.tags.iter().all(|tag| Some(tag.as_str()) == listed.tag());
        // An image that a policy denies is never written either, so it owns no tag.
        let is_denied = request.source == SourceKind::Registry
            && !registry.has_name(read.registry())
            && defaults.policy.check_host(read.registry(), "image").is_err();
        if is_own_source || is_denied || !is_endpoint_allowed(&spec.registry, defaults, operator_registry) {
            return None;
        }
        Self {
            repository: location.repository,
            // None for an image that is named by its digest.
            tags: location.tags,
            registry,
        }
        .if_allowed()
    }

    /// None where a policy does not allow the repository.
    fn if_allowed(self) -> Option<Self> {
        self.registry.allows(&self.repository).then_some(self)
    }

    pub fn conflict(&self, tag: &str, owner: TagWriter<'_>, advice: &str) -> Fault {
        Fault::conflict(format!(
            "{}/{}:{tag} belongs to {owner}: give this one {advice} or registry.repositoryPrefix, or have the operator run with --repository-policy namespace",
            self.registry.address, self.repository
        ))
    }
}

/// Whether the policy allows the endpoint that an object names.
fn is_endpoint_allowed(spec: &RegistrySpec, defaults: &RegistryDefaults, operator_registry: &OperatorRegistry) -> bool {
    spec.endpoint.as_ref().is_none_or(|endpoint| {
        operator_registry.names().any(|known| same_host(known, endpoint))
            || defaults.policy.check_host(endpoint, "registry.endpoint").is_ok()
    })
}

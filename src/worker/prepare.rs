//! Everything that a transfer needs, from the object and the Secrets and ConfigMaps that it names.

use std::sync::Arc;

use kube::ResourceExt as _;

use super::context::Worker;
use crate::api::v1alpha1::{JackalImage, requested_at};
use crate::fault::{Fault, Reason};
use crate::oci::{Location, Naming};
use crate::package::{ImageRequest, VerifiedSource, applicable, requirements};
use crate::runtime::{NamespaceEntryReader, RegistryTarget, WrittenImage};
use crate::transfer::{RegistryDestination, Transfer};

/// The source and destination hosts that the object names. Empty for an engine of this node, and for the default
/// registry.
pub(super) fn hosts(image: &JackalImage) -> (String, String) {
    let spec = &image.spec;
    let source = match spec.source.is_engine() {
        true => None,
        false => spec.source_reference().map(|reference| reference.registry().to_owned()),
    };
    let registry = &spec.registry;
    let destination = registry.endpoint.clone().or_else(|| registry.address.clone());
    (source.unwrap_or_default(), destination.unwrap_or_default())
}

/// The transfer of `image`, and where it writes. `tag_owner` names the object that owns the plain tag, if it is another.
pub(super) async fn prepare(
    worker: &Worker,
    image: &JackalImage,
    tag_owner: Option<&str>,
) -> Result<(Transfer, WrittenImage), Fault> {
    let spec = &image.spec;
    let defaults = &worker.settings.defaults;
    let namespace = image.namespace().unwrap_or_default();
    let request = ImageRequest::of_object(spec)?;
    let idle = worker.settings.idle(spec.stall_timeout);
    let target = defaults
        .target(&worker.client, &namespace, &spec.registry, idle)
        .await?;
    let naming = match spec.naming.explicit() {
        Some(naming) => naming,
        None => defaults.naming(&worker.client, &target, resolved_naming(image)).await?,
    };
    let location = locate(image, &request, &target, naming, tag_owner)?;
    let written = WrittenImage {
        name: location.to_string(),
        naming,
        registry: defaults.written_repository(&spec.registry, &target, &location.repository),
    };
    let (registry, known) = worker.registries.destination(&target)?;
    let ImageRequest {
        reference, platforms, ..
    } = request;
    let source = worker.role.source(image, &reference, &target).await?;
    let verify = applicable(&spec.verify, &reference, spec.source)?;
    let requirements = requirements(&verify, &NamespaceEntryReader::new(&worker.client, &namespace)).await?;
    let source = VerifiedSource::of(source, &reference, requirements, &worker.verified)?;
    let destination = RegistryDestination::new(registry.repository(&location.repository));
    let transfer = Transfer {
        source,
        reference,
        platforms,
        destination: Arc::new(destination),
        location,
        compression: spec.compression,
        referrers: spec.referrers,
        progress: Arc::default(),
        known,
    };
    Ok((transfer, written))
}

/// The repository and the tags that the image gets in `target`.
fn locate(
    image: &JackalImage,
    request: &ImageRequest,
    target: &RegistryTarget,
    naming: Naming,
    tag_owner: Option<&str>,
) -> Result<Location, Fault> {
    let spec = &image.spec;
    let listed = crate::package::package_reference(request);
    let mut location = Location::new(&listed, &target.address, &target.prefix, naming, spec.plain_tag)
        .map_err(|error| Fault::stalled(Reason::InvalidReference, error.to_string()))?;
    if let Some(owner) = tag_owner {
        location.omit_plain_tag(owner);
    }
    target.check(&location.repository, &format!("image `{}`", spec.image))?;
    Ok(location)
}

/// What `naming: Auto` resolved to for the same spec before. None if a reconciliation was requested since.
fn resolved_naming(image: &JackalImage) -> Option<Naming> {
    let status = image.status.as_ref()?;
    let is_same = status.observed_generation == image.metadata.generation
        && status.last_handled_reconcile_at.as_deref() == requested_at(image.annotations());
    status.naming.filter(|_| is_same)
}

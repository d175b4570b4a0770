//! What an artifact is built from. No IO.

use std::sync::Arc;

use kube::ResourceExt as _;

use super::super::archived::ResolvedArchive;
use super::super::summary::Verification;
use crate::api::v1alpha1::{JackalImage, JackalPackage, PackagedImage, WrittenRepository};
use crate::fault::{Fault, Reason};
use crate::oci::Digest;
use crate::package::{self, Material, Plan, PlannedImage};
use crate::runtime::{RegistryDefaults, RegistryTarget};

/// What an artifact is built from.
pub(in crate::controller) struct PublicationRequest {
    /// The registry that the package is written to.
    pub target: RegistryTarget,
    pub plan: Plan,
    /// The images of the plan with their digests, as the status lists them.
    pub rows: Vec<PackagedImage>,
    /// For each image of the plan its source, as far as its object's status says it.
    pub origins: Vec<Option<Material>>,
    /// A digest of all that the artifact depends on beside the package's generation.
    pub inputs: String,
    /// Name and digest of the images that their objects wrote.
    pub written_images: Vec<(String, String)>,
    /// What is known of the signatures that the images must have.
    pub verification: Verification,
    /// The archive that the package comes from.
    pub archive: Option<Arc<ResolvedArchive>>,
}

impl PublicationRequest {
    /// The path of the artifact's repository in its registry.
    pub fn path(&self, package: &JackalPackage) -> String {
        package::repository(&self.target.prefix, &package.name_any())
    }

    /// The artifact's repository, as pods name it.
    pub fn repository(&self, package: &JackalPackage) -> String {
        format!("{}/{}", self.target.address, self.path(package))
    }

    /// The repository as the status records it.
    pub fn written_to(&self, defaults: &RegistryDefaults, package: &JackalPackage) -> WrittenRepository {
        defaults.written_repository(&package.spec.registry, &self.target, &self.path(package))
    }

    /// The artifact, as pods name it.
    pub fn url(&self, package: &JackalPackage) -> String {
        format!("oci://{}:{}", self.repository(package), package.spec.version())
    }

    /// Each image of the plan with its digest and its source.
    pub fn images(&self) -> impl Iterator<Item = (&PlannedImage, Result<Digest, Fault>, Option<&Material>)> {
        let rows = self.rows.iter().zip(&self.origins);
        self.plan.images.iter().zip(rows).map(|(planned, (row, origin))| {
            let digest = row.digest.as_deref().unwrap_or_default().parse();
            let invalid = |error| Fault::retryable(Reason::PackageFailed, format!("{}: {error}", row.image));
            (planned, digest.map_err(invalid), origin.as_ref())
        })
    }
}

/// A digest of all that the artifact depends on beside the package's generation.
pub(in crate::controller) fn inputs(
    package: &JackalPackage,
    images: &[JackalImage],
    archive: Option<&ResolvedArchive>,
) -> String {
    let mut text = package.spec.version().to_owned();
    if let Some(archive) = archive {
        text.push_str(&format!("\n{}", archive.inputs()));
    }
    for image in images {
        let digest = image
            .status
            .as_ref()
            .and_then(|status| status.digest.as_deref())
            .unwrap_or_default();
        text.push_str(&format!("\n{} {digest}", image.name_any()));
    }
    Digest::of(text.as_bytes()).to_string()
}

/// The sources of the images of `plan`, by the statuses of their objects.
pub(in crate::controller) fn origins(plan: &Plan, images: &[JackalImage]) -> Vec<Option<Material>> {
    let origin = |(planned, image): (&PlannedImage, &JackalImage)| {
        let status = image.status.as_ref()?;
        let node = status
            .assignment
            .as_ref()
            .map(|assignment| assignment.node_name.as_str());
        let parsed = |digest: &Option<String>| digest.as_deref()?.parse().ok();
        let (source, became) = (parsed(&status.source_digest)?, parsed(&status.digest)?);
        Some(Material::of_image(
            planned,
            node,
            source,
            status.method.as_deref(),
            &became,
        ))
    };
    plan.images.iter().zip(images).map(origin).collect()
}

//! The whole of a publication, in its order: what an earlier version holds is left out, the artifact is brought, and what
//! is to be signed is signed.

use super::archive::{Archive, ReusableTars};
use super::definition::Definition;
use super::differential::DifferentialSplit;
use super::provenance;
use super::publish::{PackageContents, PublishedPackage, TransferredImage, publish};
use super::signature::{SignedPackage, definition_signer, sign_published};
use crate::api::v1alpha1::{Differential, JackalPackageSpec, PinnedChart};
use crate::fault::Fault;
use crate::oci::Digest;
use crate::signing::SigningKey;
use crate::transfer::Destination;

/// What a package is assembled from.
pub struct PackageParts<'a> {
    /// The definition of the whole package.
    pub definition: Definition,
    /// What was asked for.
    pub spec: &'a JackalPackageSpec,
    /// Its images, which the registry holds.
    pub images: &'a [TransferredImage],
    /// Its tars.
    pub archives: &'a [Archive],
    /// Its charts, with the content that was found.
    pub charts: &'a [PinnedChart],
    /// The name that it is known by, `oci://registry/repository:version`.
    pub url: &'a str,
    /// What signs it and its provenance, and the images that `signing.images` names.
    pub key: Option<&'a SigningKey>,
    /// As [`PackageContents::known`].
    pub known: &'a ReusableTars,
}

/// What came of it.
pub struct AssembledPackage {
    /// The package in the registry.
    pub published: PublishedPackage,
    /// What was left out, where `differentialFrom` asks for it.
    pub differential: Option<Differential>,
    /// What came of its signatures; none where it has no key.
    pub signed: Option<SignedPackage>,
}

/// Puts the package together in `repository`, under its version; `announce` is that of [`publish`].
pub async fn assemble(
    parts: PackageParts<'_>,
    repository: &dyn Destination,
    announce: impl AsyncFnOnce(&Digest) -> Result<(), Fault>,
) -> Result<AssembledPackage, Fault> {
    let PackageParts {
        definition, spec, key, ..
    } = parts;
    let definition = match key {
        Some(_) => definition.signed(),
        None => definition,
    };
    let division = DifferentialSplit::of(definition, spec, parts.images, repository).await?;
    let signer = definition_signer(&division.definition, key);
    let contents = PackageContents {
        images: &division.images,
        omitted: &division.omitted,
        archives: parts.archives,
        sign: signer.as_deref(),
        known: Some(parts.known),
        key,
    };
    let published = publish(&division.definition, contents, repository, spec.version(), announce).await?;
    let signed = match key {
        Some(key) => {
            let signed = |image: &&TransferredImage| {
                let patterns = spec.signing.as_ref().map(|signing| &signing.images);
                patterns.is_some_and(|patterns| patterns.matches(&image.reference))
            };
            let images: Vec<&TransferredImage> = division.images.iter().filter(signed).collect();
            let mut materials = provenance::of_components(spec, parts.charts);
            materials.extend(division.images.iter().filter_map(|image| image.origin.clone()));
            let provenance = provenance::statement(parts.url, &published, spec, &materials);
            Some(sign_published(key, &published, &provenance, repository, &images).await?)
        }
        None => None,
    };
    Ok(AssembledPackage {
        differential: division.status(published.saved_bytes),
        published,
        signed,
    })
}

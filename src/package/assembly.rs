//! A whole publication in its order: images that an earlier version contains are omitted, the artifact is published, and
//! its signatures are written.

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
    /// The package's spec.
    pub spec: &'a JackalPackageSpec,
    /// Its images, which are in the registry already.
    pub images: &'a [TransferredImage],
    /// Its tars.
    pub archives: &'a [Archive],
    /// Its charts, with the digests of their content.
    pub charts: &'a [PinnedChart],
    /// Its address, `oci://registry/repository:version`.
    pub url: &'a str,
    /// The key that signs it, its provenance and the images that `signing.images` names.
    pub key: Option<&'a SigningKey>,
    /// As [`PackageContents::known`].
    pub known: &'a ReusableTars,
}

/// The result of [`assemble`].
pub struct AssembledPackage {
    /// The package in the registry.
    pub published: PublishedPackage,
    /// What was omitted, if `differentialFrom` is set.
    pub differential: Option<Differential>,
    /// Its signatures; `None` without a key.
    pub signed: Option<SignedPackage>,
}

/// Publishes the package in `repository` under its version and signs it. For `announce` see [`publish`].
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
    let split = DifferentialSplit::of(definition, spec, parts.images, repository).await?;
    let signer = definition_signer(&split.definition, key);
    let contents = PackageContents {
        images: &split.images,
        omitted: &split.omitted,
        archives: parts.archives,
        sign: signer.as_deref(),
        known: Some(parts.known),
        key,
    };
    let published = publish(&split.definition, contents, repository, spec.version(), announce).await?;
    let signed = match key {
        Some(key) => {
            let signed = |image: &&TransferredImage| {
                let patterns = spec.signing.as_ref().map(|signing| &signing.images);
                patterns.is_some_and(|patterns| patterns.matches(&image.reference))
            };
            let images: Vec<&TransferredImage> = split.images.iter().filter(signed).collect();
            let mut materials = provenance::of_components(spec, parts.charts);
            materials.extend(split.images.iter().filter_map(|image| image.origin.clone()));
            let provenance =
                provenance::statement(parts.url, [&published.manifest, &published.index], spec, &materials);
            Some(sign_published(key, &published, &provenance, repository, &images).await?)
        }
        None => None,
    };
    Ok(AssembledPackage {
        differential: split.status(published.saved_bytes),
        published,
        signed,
    })
}

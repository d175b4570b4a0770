//! Reads what two archives have, and compares it.

use std::collections::HashMap;

use super::contents::Archive;
use super::diff::{self, Difference, ImageChange, ListedImage, SbomChange};
use super::inspect::inspect;
use super::sboms::{sbom_files, sbom_of, sbom_packages};
use super::unpack::platforms_of;
use crate::fault::Fault;
use crate::oci::{Digest, Document, Reference};

/// Compares two archives. SBOMs are read where both have one of an image that differs; layers are not read.
///
/// # Errors
/// A fault that says in which of the archives (`old` or `new`) something cannot be read.
pub async fn compare(old: &Archive, new: &Archive) -> Result<Difference, Fault> {
    let [within_old, within_new] =
        ["the first archive", "the second archive"].map(|which| move |fault: Fault| fault.with_context(which));
    let packages = diff::packages(
        &inspect(old).await.map_err(within_old)?.packages,
        &inspect(new).await.map_err(within_new)?.packages,
    );
    let images = diff::images(&listed(old), &listed(new));
    let old_files = sbom_files(old).await.map_err(within_old)?;
    let new_files = sbom_files(new).await.map_err(within_new)?;
    let mut sboms = Vec::new();
    for image in &images {
        let (Some((old_name, old_digest)), Some((new_name, new_digest))) = sides(image) else {
            continue;
        };
        let old_variants = platforms_of(old, old_digest).await.map_err(within_old)?;
        let new_variants = platforms_of(new, new_digest).await.map_err(within_new)?;
        let several = new_variants.len() > 1;
        for (platform, manifest) in &new_variants {
            let before = match old_variants.as_slice() {
                [only] if !several => Some(only),
                variants => variants.iter().find(|(known, _)| known == platform),
            };
            let Some((old_platform, old_manifest)) = before.filter(|(_, old)| old != manifest) else {
                continue;
            };
            let before = sbom_of(&old_files, &old_name, old_platform.as_ref(), old_manifest);
            let after = sbom_of(&new_files, &new_name, platform.as_ref(), manifest);
            let (Some(before), Some(after)) = (before, after) else {
                continue;
            };
            let before = sbom_packages(old, before).await.map_err(within_old)?;
            let after = sbom_packages(new, after).await.map_err(within_new)?;
            let changed = diff::versions(&before, &after);
            if !changed.is_empty() {
                sboms.push(SbomChange {
                    image: new_name.to_string(),
                    platform: platform.as_ref().filter(|_| several).map(ToString::to_string),
                    packages: changed,
                });
            }
        }
    }
    Ok(Difference {
        packages,
        images,
        layers: diff::overlap(&layers(old), &layers(new)),
        content: diff::overlap(&content(old), &content(new)),
        sboms,
    })
}

/// The name and digest of a changed image in the old archive and in the new one.
type Side<'i> = Option<(Reference, &'i Digest)>;

fn sides(image: &ImageChange) -> (Side<'_>, Side<'_>) {
    fn side<'i>(name: &Option<String>, digest: &'i Option<Digest>) -> Side<'i> {
        Some((name.as_ref()?.parse().ok()?, digest.as_ref()?))
    }
    (
        side(&image.old_name, &image.old_digest),
        side(&image.new_name, &image.new_digest),
    )
}

fn listed(archive: &Archive) -> Vec<ListedImage> {
    let images = archive.images().iter().filter_map(|image| {
        Some(ListedImage {
            name: image.name.clone()?,
            digest: image.root.digest.clone(),
        })
    });
    images.collect()
}

fn content(archive: &Archive) -> HashMap<Digest, u64> {
    archive.blobs().map(|(digest, size)| (digest.clone(), size)).collect()
}

/// The layers of all images that the archive has.
fn layers(archive: &Archive) -> HashMap<Digest, u64> {
    let mut found = HashMap::new();
    for image in archive.images() {
        let documents = archive.manifests(&image.root.digest);
        for layer in documents
            .iter()
            .filter_map(Document::manifest)
            .flat_map(|manifest| &manifest.layers)
        {
            if let Some(size) = archive.size(&layer.digest) {
                found.insert(layer.digest.clone(), size);
            }
        }
    }
    found
}

//! Generates the SBOMs of an image and stores them as its referrers.

use std::sync::Arc;

use bytes::Bytes;

use super::{Format, Sbom, SbomCache, Sboms, Syft, normalise, referrer};
use crate::fault::{Fault, Reason};
use crate::oci::{Descriptor, Digest, Document, Manifest};
use crate::transfer::Destination;

/// The longest SBOM in bytes. One is in memory while it is generated.
pub const CONTENT_LIMIT: usize = 64 * 1024 * 1024;

/// The fault if SBOMs are enabled but syft is not configured.
pub fn unable() -> Fault {
    Fault::stalled(
        Reason::SbomFailed,
        "this installation cannot generate SBOMs; start it with --syft, or set sbom.enabled to false",
    )
}

/// The existing SBOMs of an image.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ExistingSboms {
    /// Those that are known to be genuine.
    pub proven: Option<Sboms>,
    /// Those that referrers claim to be, genuine or not.
    pub claimed: Option<Sboms>,
}

/// The SBOMs of the image `manifest` in its repository, genuine or not.
pub async fn find_claimed(destination: &dyn Destination, manifest: &Digest) -> Result<Option<Sboms>, Fault> {
    let existing = find(destination, manifest, &SbomCache::default()).await?;
    Ok(existing.claimed)
}

/// The same, and those of them that `cache` knows to be genuine. One request is enough if the listing of the referrers is
/// complete. Otherwise their manifests are read, each once in the lifetime of a client.
pub async fn find(destination: &dyn Destination, manifest: &Digest, cache: &SbomCache) -> Result<ExistingSboms, Fault> {
    let mut listed = destination.referrers(manifest).await?;
    let existing = |listed: &[Descriptor]| ExistingSboms {
        proven: Sboms::among_those(listed, |content| cache.contains(manifest, content)),
        claimed: Sboms::among(listed),
    };
    let found = existing(&listed);
    if found.claimed.is_some() || listed.is_empty() {
        return Ok(found);
    }
    // The likely ones first, because only a part of a long list is read.
    listed.sort_by_key(|entry| (Format::of_referrer(entry).is_none(), entry.artifact_type.is_some()));
    let read = destination.read_referrers(manifest, &listed).await?;
    Ok(existing(&read))
}

/// Generates the SBOMs of the image `manifest` in `destination`, unless they were generated while it waited for a permit.
///
/// A referrer is written after its content, and SBOMs are only used when all three exist: after an interruption they are
/// generated again and are the same.
pub async fn generate(syft: &Syft, destination: &dyn Destination, manifest: &Document) -> Result<Sboms, Fault> {
    let subject = &manifest.descriptor;
    let foreign = manifest.manifest().map(Manifest::foreign_layers).unwrap_or_default();
    for layer in &foreign {
        if destination.holds(&layer.digest).await?.is_none() {
            return Err(Fault::stalled(
                Reason::SbomFailed,
                format!(
                    "its layer {} is only at its publisher and cannot be read; push it to the image's source, remove the image, or set sbom.enabled to false",
                    layer.digest
                ),
            ));
        }
    }
    let _permit = syft.acquire_permit().await?;
    // Another package may have generated the same.
    if let Some(sboms) = find(destination, &subject.digest, syft.cache()).await?.proven {
        return Ok(sboms);
    }
    let written = Arc::new(syft.run(destination, manifest).await?);
    let read = async |format: Format| {
        let unread = |error: std::io::Error| {
            Fault::retryable(
                Reason::SbomFailed,
                format!("the {format:?} document of syft cannot be read: {error}; check that --syft names syft 1.x"),
            )
        };
        let content = written.read(format, CONTENT_LIMIT).await.map_err(unread)?;
        if content.len() > CONTENT_LIMIT {
            return Err(Fault::stalled(
                Reason::SbomFailed,
                format!(
                    "its {format:?} document has more than {CONTENT_LIMIT} bytes, which is the limit; make the image smaller"
                ),
            ));
        }
        let subject = subject.digest.clone();
        let normalised = tokio::task::spawn_blocking(move || normalise(format, &subject, &content)).await;
        let normalised = normalised.map_err(|error| Fault::retryable(Reason::SbomFailed, error.to_string()))?;
        normalised.map_err(|error| {
            let advice = "check that --syft names syft 1.x";
            Fault::stalled(
                Reason::SbomFailed,
                format!("syft wrote an invalid SBOM: {error}; {advice}"),
            )
        })
    };
    // Syft's own format contains its version.
    let own = read(Format::Syft).await?;
    let tool = own.tool.clone().unwrap_or_default();
    let mut sboms = Sboms {
        contents: [(Format::Syft, store(own, Format::Syft, destination).await?)].into(),
        tool,
    };
    for format in [Format::Spdx, Format::CycloneDx] {
        let sbom = read(format).await?;
        sboms.contents.insert(format, store(sbom, format, destination).await?);
    }
    let empty = Descriptor::empty();
    destination.keep(&empty.digest, Bytes::from_static(b"{}")).await?;
    for (format, content) in &sboms.contents {
        let document = referrer(subject, *format, &sboms.tool, content)
            .map_err(|error| Fault::stalled(Reason::SbomFailed, error.to_string()))?;
        destination.attach(&document).await?;
    }
    syft.cache().insert(&subject.digest, &sboms);
    Ok(sboms)
}

async fn store(sbom: Sbom, format: Format, destination: &dyn Destination) -> Result<Descriptor, Fault> {
    let Sbom { content, .. } = sbom;
    let blob = Descriptor::new(format.media_type(), Digest::of(&content), content.len() as u64);
    destination.keep(&blob.digest, content).await?;
    Ok(blob)
}

//! Makes the SBOMs of an image and keeps them beside it: the order of the IO.

use std::sync::Arc;

use bytes::Bytes;

use super::{Format, Sbom, SbomCache, Sboms, Syft, normalise, referrer};
use crate::fault::{Fault, Reason};
use crate::oci::{Descriptor, Digest, Document, Manifest};
use crate::transfer::Destination;

/// The longest SBOM in bytes. One is held in memory while it is made.
pub const CONTENT_LIMIT: usize = 64 * 1024 * 1024;

/// That SBOMs are wanted where there is nothing to make them.
pub fn unable() -> Fault {
    Fault::stalled(
        Reason::SbomFailed,
        "this installation makes no SBOMs; start it with --syft, or set sbom.enabled to false",
    )
}

/// What stands beside an image that says to be its SBOMs.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ExistingSboms {
    /// Those that are known to be true.
    pub proven: Option<Sboms>,
    /// Those that somebody put there.
    pub claimed: Option<Sboms>,
}

/// The SBOMs of the image `manifest` that stand beside it, whoever put them there.
pub async fn find_claimed(destination: &dyn Destination, manifest: &Digest) -> Result<Option<Sboms>, Fault> {
    let standing = find(destination, manifest, &SbomCache::default()).await?;
    Ok(standing.claimed)
}

/// The same, with those among them that `memory` knows to be true. It takes one request where the listing of the referrers
/// says all that is asked. Where it does not, their manifests are read, each once in the life of a client.
pub async fn find(
    destination: &dyn Destination,
    manifest: &Digest,
    memory: &SbomCache,
) -> Result<ExistingSboms, Fault> {
    let mut listed = destination.referrers(manifest).await?;
    let standing = |listed: &[Descriptor]| ExistingSboms {
        proven: Sboms::among_those(listed, |content| memory.knows(manifest, content)),
        claimed: Sboms::among(listed),
    };
    let found = standing(&listed);
    if found.claimed.is_some() || listed.is_empty() {
        return Ok(found);
    }
    // The likely ones first, for not all are read of a long list.
    listed.sort_by_key(|entry| (Format::of_referrer(entry).is_none(), entry.artifact_type.is_some()));
    let read = destination.read_referrers(manifest, &listed).await?;
    Ok(standing(&read))
}

/// Makes the SBOMs of the image `manifest` in `destination`, unless this syft has made them there once its turn comes.
///
/// A referrer follows its content, and SBOMs count when all three are there: whatever breaks off in between, they are made
/// again and are the same.
pub async fn generate(syft: &Syft, destination: &dyn Destination, manifest: &Document) -> Result<Sboms, Fault> {
    let subject = &manifest.descriptor;
    let foreign = manifest.manifest().map(Manifest::foreign_layers).unwrap_or_default();
    for layer in &foreign {
        if destination.holds(&layer.digest).await?.is_none() {
            return Err(Fault::stalled(
                Reason::SbomFailed,
                format!(
                    "its layer {} lies with its publisher only and cannot be looked into; push it to the image's source, leave the image out, or set sbom.enabled to false",
                    layer.digest
                ),
            ));
        }
    }
    let _turn = syft.turn().await?;
    // Another package may have waited for the same.
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
                    "its {format:?} document has more than the {CONTENT_LIMIT} bytes that are kept; make a smaller image of it"
                ),
            ));
        }
        let subject = subject.digest.clone();
        let made = tokio::task::spawn_blocking(move || normalise(format, &subject, &content)).await;
        let made = made.map_err(|error| Fault::retryable(Reason::SbomFailed, error.to_string()))?;
        made.map_err(|error| {
            let advice = "check that --syft names syft 1.x";
            Fault::stalled(
                Reason::SbomFailed,
                format!("syft wrote no SBOM that can be used: {error}; {advice}"),
            )
        })
    };
    // Its own form says which syft it is.
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
    syft.cache().note(&subject.digest, &sboms);
    Ok(sboms)
}

async fn store(sbom: Sbom, format: Format, destination: &dyn Destination) -> Result<Descriptor, Fault> {
    let Sbom { content, .. } = sbom;
    let blob = Descriptor::new(format.media_type(), Digest::of(&content), content.len() as u64);
    destination.keep(&blob.digest, content).await?;
    Ok(blob)
}

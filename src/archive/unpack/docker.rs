//! What `docker load` needs of an image: its configuration, and the form and length of its layers.

use std::collections::HashMap;

use bytes::Bytes;
use futures::StreamExt as _;
use serde::Deserialize;

use super::chosen::Chosen;
use super::decompress::decompressed;
use super::plan;
use crate::archive::contents::Archive;
use crate::decode;
use crate::fault::{Fault, Reason};
use crate::hashing::BackgroundHasher;
use crate::oci::{Descriptor, Digest};
use crate::transfer::Progress;

/// The first bytes of a Zstandard frame (RFC 8878, section 3.1.1).
const ZSTD_FRAME: [u8; 4] = [0x28, 0xb5, 0x2f, 0xfd];
/// The first bytes of a skippable frame but for the lower half of the first (RFC 8878, section 3.1.2).
const ZSTD_SKIPPABLE: [u8; 4] = [0x50, 0x2a, 0x4d, 0x18];

/// An image of one platform.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct DockerImage {
    /// Its tags, as docker writes them.
    pub tags: Vec<String>,
    /// The digest of its configuration, which is its ID.
    pub config_digest: Digest,
    /// The configuration.
    pub config: Bytes,
    /// Its layers, lowest first.
    pub layers: Vec<DockerLayer>,
}

/// A layer of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct DockerLayer {
    /// The digest of its blob in the archive.
    pub digest: Digest,
    /// The digest of its content, where the blob is to be decompressed.
    pub diff_id: Option<Digest>,
    /// The length of what is written, in bytes.
    pub size: u64,
}

impl DockerLayer {
    /// The digest of what is written.
    pub fn name(&self) -> &Digest {
        self.diff_id.as_ref().unwrap_or(&self.digest)
    }
}

/// What an image's configuration says about its layers (OCI image specification, "Image Configuration").
#[derive(Default, Deserialize)]
#[serde(default)]
struct Configuration {
    rootfs: RootFs,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct RootFs {
    diff_ids: Vec<Digest>,
}

/// Reads the configurations of `images`, and measures their layers in Zstandard.
///
/// # Errors
/// A fault that names the image that is not complete, or is none that docker runs.
pub(super) async fn describe(
    archive: &Archive,
    images: &[Chosen],
    progress: &Progress,
) -> Result<Vec<DockerImage>, Fault> {
    let mut described = Vec::with_capacity(images.len());
    let mut measured = HashMap::new();
    for image in images {
        let within = |fault: Fault| fault.with_context(format_args!("image `{}`", image.shown()));
        let found = one(archive, image, &mut measured, progress).await.map_err(within)?;
        described.push(found);
    }
    Ok(described)
}

async fn one(
    archive: &Archive,
    image: &Chosen,
    measured: &mut HashMap<Digest, u64>,
    progress: &Progress,
) -> Result<DockerImage, Fault> {
    let manifest = image.root().and_then(|root| root.manifest());
    let manifest = manifest.ok_or_else(|| invalid("it is an index instead of the manifest of one platform"))?;
    // Fails where a blob is missing; a docker engine needs foreign layers too.
    plan::blobs(image, &|digest| archive.size(digest))?;
    let config = match manifest.config.inline_content() {
        Some(content) => content,
        None => {
            let config = archive.blob(&manifest.config.digest).await?;
            config.ok_or_else(|| invalid("the archive lacks its configuration"))?
        }
    };
    let parsed: Configuration =
        decode::json(&config).map_err(|error| invalid(&format!("its configuration cannot be read: {error}")))?;
    let diff_ids = parsed.rootfs.diff_ids;
    if diff_ids.len() != manifest.layers.len() {
        return Err(invalid(&format!(
            "its configuration lists {} layers and its manifest {}",
            diff_ids.len(),
            manifest.layers.len()
        )));
    }
    let mut layers = Vec::with_capacity(diff_ids.len());
    for (layer, diff_id) in manifest.layers.iter().zip(diff_ids) {
        layers.push(describe_layer(archive, layer, diff_id, measured, progress).await?);
    }
    Ok(DockerImage {
        tags: image.docker_tags(),
        config_digest: manifest.config.digest.clone(),
        config,
        layers,
    })
}

async fn describe_layer(
    archive: &Archive,
    layer: &Descriptor,
    diff_id: Digest,
    measured: &mut HashMap<Digest, u64>,
    progress: &Progress,
) -> Result<DockerLayer, Fault> {
    let Some(mut start) = archive.read_range(&layer.digest, 0, ZSTD_FRAME.len() as u64) else {
        return Err(invalid(&format!(
            "the archive lacks its layer {}, which is available from its publisher only",
            layer.digest
        )));
    };
    let mut magic = Vec::new();
    while let Some(chunk) = start.next().await.transpose()? {
        magic.extend_from_slice(&chunk);
    }
    if !is_zstd(&magic) {
        return Ok(DockerLayer {
            digest: layer.digest.clone(),
            diff_id: None,
            size: layer.size,
        });
    }
    let size = match measured.get(&diff_id) {
        Some(size) => *size,
        None => measure(archive, layer, &diff_id, progress).await?,
    };
    measured.insert(diff_id.clone(), size);
    Ok(DockerLayer {
        digest: layer.digest.clone(),
        diff_id: Some(diff_id),
        size,
    })
}

/// Whether content that begins like this is in Zstandard.
fn is_zstd(start: &[u8]) -> bool {
    let skippable = |start: &[u8]| start.first().is_some_and(|first| first & 0xf0 == ZSTD_SKIPPABLE[0]);
    start.starts_with(&ZSTD_FRAME) || skippable(start) && start.get(1..4) == Some(&ZSTD_SKIPPABLE[1..])
}

/// The length of the content of `layer`, which has the digest `diff_id`.
async fn measure(archive: &Archive, layer: &Descriptor, diff_id: &Digest, progress: &Progress) -> Result<u64, Fault> {
    progress.set_total(progress.done().saturating_add(layer.size));
    let stored = archive.read(&layer.digest);
    let stored = stored.ok_or_else(|| invalid(&format!("the archive lacks its layer {}", layer.digest)))?;
    let stored = stored.inspect(|chunk| {
        if let Ok(chunk) = chunk {
            progress.add_moved(chunk.len() as u64);
        }
    });
    let mut content = decompressed(stored.boxed(), &layer.digest);
    let (mut hasher, mut size) = (BackgroundHasher::new(Some(diff_id)), 0_u64);
    while let Some(chunk) = content.next().await.transpose()? {
        size = size.saturating_add(chunk.len() as u64);
        hasher.update(&chunk).await;
    }
    let digest = hasher.finish().await;
    let digest = digest.map_err(|error| Fault::retryable(Reason::SourceFailed, error.to_string()))?;
    match digest == *diff_id {
        true => Ok(size),
        false => Err(invalid(&format!(
            "its layer {} has the content {digest} instead of {diff_id}, which its configuration says",
            layer.digest
        ))),
    }
}

fn invalid(what: &str) -> Fault {
    let message = format!("docker cannot load it: {what}; build or pack the image again, or use --format oci-archive");
    Fault::stalled(Reason::SourceFailed, message)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn zstandard_is_known_by_its_first_bytes() {
        assert!(is_zstd(&zstd::bulk::compress(b"layer", 1).unwrap()));
        assert!(is_zstd(&[0x5e, 0x2a, 0x4d, 0x18, 0, 0]));
        for other in [
            &b""[..],
            b"\x28\xb5",
            &[0x1f, 0x8b, 8, 0],
            b"file.txt",
            &[0x5e, 0x2a, 0x4d, 0x19],
        ] {
            assert!(!is_zstd(other), "{other:?}");
        }
    }
}

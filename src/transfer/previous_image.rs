//! The image that has the target tag in the destination before a transfer.
//!
//! Its configuration lists the digests of the uncompressed layers and its manifest those of the compressed ones. So the
//! registry itself tells every process, also after a restart, which stored layers an image can reuse.

use std::collections::HashMap;

use serde::Deserialize;
use tokio::sync::OnceCell;

use super::Destination;
use crate::decode;
use crate::fault::Fault;
use crate::oci::{Compression, Descriptor, Digest, Location};

/// The longest configuration in bytes that is read.
const CONFIG_LIMIT: usize = 4 * 1024 * 1024;

/// The stored layers by the digest of their uncompressed content, read when first needed.
#[derive(Debug, Default)]
pub(super) struct PreviousImage(OnceCell<HashMap<Digest, Descriptor>>);

impl PreviousImage {
    /// The stored form of the layer `diff_id` in the image at `location`, if this program compressed it with `compression`.
    /// It may have been deleted since.
    pub async fn layer(
        &self,
        destination: &dyn Destination,
        location: &Location,
        compression: Compression,
        diff_id: &Digest,
    ) -> Option<Descriptor> {
        let read = async || match read(destination, location, compression).await {
            Ok(layers) => layers.unwrap_or_default(),
            // Then the layers are compressed again; if the destination is unavailable, uploading them fails.
            Err(fault) => {
                tracing::debug!(%fault, "the previous image cannot be read, and its layers are not reused");
                HashMap::new()
            }
        };
        self.0.get_or_init(read).await.get(diff_id).cloned()
    }
}

async fn read(
    destination: &dyn Destination,
    location: &Location,
    compression: Compression,
) -> Result<Option<HashMap<Digest, Descriptor>>, Fault> {
    #[derive(Deserialize)]
    struct Configuration {
        rootfs: RootFs,
    }
    #[derive(Deserialize)]
    struct RootFs {
        diff_ids: Vec<Digest>,
    }
    let Some(tag) = location.tags.first() else {
        return Ok(None);
    };
    let Some(document) = destination.document(tag).await? else {
        return Ok(None);
    };
    // Layers that another tool compressed have other digests.
    let Some(manifest) = document.generated_manifest(compression) else {
        return Ok(None);
    };
    if manifest.config.size > CONFIG_LIMIT as u64 {
        return Ok(None);
    }
    let Some(raw) = destination.blob(&manifest.config.digest, CONFIG_LIMIT).await? else {
        return Ok(None);
    };
    let Ok(configuration) = decode::json::<Configuration>(&raw) else {
        return Ok(None);
    };
    let diff_ids = configuration.rootfs.diff_ids;
    if diff_ids.len() != manifest.layers.len() {
        return Ok(None);
    }
    Ok(Some(
        diff_ids.into_iter().zip(manifest.layers.iter().cloned()).collect(),
    ))
}

//! The image that stands in the destination under the name that another is brought to.
//!
//! Its configuration names the uncompressed layers and its manifest the compressed ones, so what a repeat needs to
//! know stands in the registry itself, for every process and after every restart.

use std::collections::HashMap;

use serde::Deserialize;
use tokio::sync::OnceCell;

use super::Destination;
use crate::decode;
use crate::fault::Fault;
use crate::oci::{Compression, Descriptor, Digest, Location};

/// The longest configuration in bytes that is read.
const CONFIG_LIMIT: usize = 4 * 1024 * 1024;

/// Read once, when it is first asked for.
#[derive(Debug, Default)]
pub(super) struct PreviousImage(OnceCell<HashMap<Digest, Descriptor>>);

impl PreviousImage {
    /// The stored form of the layer `diff_id` in the image that stands at `location`, if we made it with
    /// `compression`. It may be gone meanwhile.
    pub async fn layer(
        &self,
        destination: &dyn Destination,
        location: &Location,
        compression: Compression,
        diff_id: &Digest,
    ) -> Option<Descriptor> {
        let read = async || match read(destination, location, compression).await {
            Ok(layers) => layers.unwrap_or_default(),
            // What cannot be read is made anew; whether the destination answers is seen when that is sent.
            Err(fault) => {
                tracing::debug!(%fault, "the standing image is not considered");
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
    // Another tool's layers would give other digests than ours.
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

//! The image that syft reads, as an OCI layout. The operator downloads it with the rules and limits of every transfer, so that
//! syft needs neither an address nor a password.

use std::io;
use std::path::PathBuf;

use super::private_directory::PrivateDirectory;
use crate::fault::{Fault, Reason};
use crate::oci::{Document, Index, distinct_blobs, distinct_foreign_layers};
use crate::transfer::{Destination, LayoutDestination, Upload};

/// Its name in the scratch directory.
const DIRECTORY: &str = "image";

/// An OCI layout with a single image, because syft cannot select one by its digest.
#[derive(Debug)]
pub(super) struct ImageLayout {
    /// Its path.
    pub layout: PathBuf,
    /// Another directory with its blobs, which is also read.
    pub readable: Option<PathBuf>,
}

impl ImageLayout {
    /// Creates the layout of the image `manifest` in `destination`, with at most `limit` bytes. Blobs that are in a directory
    /// already are not copied.
    pub async fn create(
        destination: &dyn Destination,
        manifest: &Document,
        scratch: &PrivateDirectory,
        limit: u64,
    ) -> Result<Self, Fault> {
        let layout = scratch.path().join(DIRECTORY);
        let failed = |error: io::Error| {
            let what = format!(
                "cannot create {}: {error}; check --sbom-scratch and the free space",
                layout.display()
            );
            Fault::retryable(Reason::SbomFailed, what)
        };
        if let Some(directory) = destination.directory() {
            let blobs = std::path::absolute(directory).map_err(failed)?.join("blobs");
            link(&blobs, manifest, scratch).map_err(failed)?;
            return Ok(Self {
                layout,
                readable: Some(blobs),
            });
        }
        let image = std::slice::from_ref(manifest);
        let blobs = [distinct_blobs(image), distinct_foreign_layers(image)].concat();
        let sizes = blobs.iter().map(|blob| blob.size);
        if sizes.fold(0, u64::saturating_add) > limit {
            return Err(Fault::stalled(
                Reason::SbomFailed,
                format!(
                    "the image has more than {}; increase --sbom-scratch-limit",
                    human_size(limit)
                ),
            ));
        }
        let copy = LayoutDestination::new(&layout, "");
        for blob in blobs {
            let bytes = destination.read(blob).await?.ok_or_else(|| {
                let name = destination.name();
                let what = format!(
                    "{name} does not contain the blob {} of the image; copy the image again",
                    blob.digest
                );
                Fault::retryable(Reason::SbomFailed, what)
            })?;
            let upload = Upload {
                digest: Some(blob.digest.clone()),
                size: Some(blob.size),
                bytes,
            };
            copy.upload(upload).await?;
        }
        copy.publish(manifest, None).await?;
        Ok(Self { layout, readable: None })
    }
}

fn link(blobs: &std::path::Path, manifest: &Document, scratch: &PrivateDirectory) -> io::Result<()> {
    let directory = scratch.path().join(DIRECTORY);
    std::fs::create_dir(&directory)?;
    std::os::unix::fs::symlink(blobs, directory.join("blobs"))?;
    scratch.write("image/oci-layout", br#"{"imageLayoutVersion":"1.0.0"}"#)?;
    let index = Index::new(vec![manifest.descriptor.clone()]);
    scratch.write("image/index.json", &serde_json::to_vec(&index)?)?;
    Ok(())
}

/// A number of bytes for messages, in the unit of the flags.
pub(super) fn human_size(bytes: u64) -> String {
    match bytes {
        bytes if bytes % (1 << 30) == 0 => format!("{}Gi", bytes >> 30),
        bytes if bytes % (1 << 20) == 0 => format!("{}Mi", bytes >> 20),
        bytes => bytes.to_string(),
    }
}

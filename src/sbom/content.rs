//! The image that syft looks into, as a folder. The operator reads it, by the rules and limits of every transfer, so that
//! syft needs neither an address nor a password.

use std::io;
use std::path::PathBuf;

use super::private_directory::PrivateDirectory;
use crate::fault::{Fault, Reason};
use crate::oci::{Document, Index, distinct_blobs, distinct_foreign_layers};
use crate::transfer::{Destination, LayoutDestination, Upload};

/// Where it lies in the scratch folder.
const FOLDER: &str = "image";

/// An OCI layout of one image alone: syft takes no digest to choose by in a layout of several.
#[derive(Debug)]
pub(super) struct Content {
    /// Where it is.
    pub layout: PathBuf,
    /// What lies elsewhere and is read as well.
    pub readable: Option<PathBuf>,
}

impl Content {
    /// The image `manifest` of `destination`, of at most `limit` bytes. What lies in a folder already is not copied.
    pub async fn gather(
        destination: &dyn Destination,
        manifest: &Document,
        scratch: &PrivateDirectory,
        limit: u64,
    ) -> Result<Self, Fault> {
        let layout = scratch.path().join(FOLDER);
        let unmade = |error: io::Error| {
            let what = format!(
                "{} cannot be made: {error}; check --sbom-scratch and the space left",
                layout.display()
            );
            Fault::retryable(Reason::SbomFailed, what)
        };
        if let Some(directory) = destination.directory() {
            let blobs = std::path::absolute(directory).map_err(unmade)?.join("blobs");
            link(&blobs, manifest, scratch).map_err(unmade)?;
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
                format!("the image has more than {}; raise --sbom-scratch-limit", shown(limit)),
            ));
        }
        let copy = LayoutDestination::new(&layout, "");
        for blob in blobs {
            let bytes = destination.read(blob).await?.ok_or_else(|| {
                let name = destination.name();
                let what = format!(
                    "{name} does not hold the blob {} of the image; bring the image again",
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
    let folder = scratch.path().join(FOLDER);
    std::fs::create_dir(&folder)?;
    std::os::unix::fs::symlink(blobs, folder.join("blobs"))?;
    scratch.write("image/oci-layout", br#"{"imageLayoutVersion":"1.0.0"}"#)?;
    let index = Index::new(vec![manifest.descriptor.clone()]);
    scratch.write("image/index.json", &serde_json::to_vec(&index)?)?;
    Ok(())
}

/// Bytes for people, in the unit in which flags take them.
pub(super) fn shown(bytes: u64) -> String {
    match bytes {
        bytes if bytes % (1 << 30) == 0 => format!("{}Gi", bytes >> 30),
        bytes if bytes % (1 << 20) == 0 => format!("{}Mi", bytes >> 20),
        bytes => bytes.to_string(),
    }
}

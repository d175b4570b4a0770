//! Writes an OCI layout in a directory.

use std::collections::HashSet;
use std::path::Path;

use bytes::Bytes;
use futures::StreamExt as _;
use futures::stream;

use super::chosen::Chosen;
use super::{Unpacked, plan};
use crate::archive::contents::Archive;
use crate::fault::{Fault, Reason};
use crate::oci::Descriptor;
use crate::transfer::{Destination, LayoutDestination, Progress, Upload};

/// Writes `images` into the OCI layout `directory`, which is made, or gets the images in addition to what it has. Content that
/// it has already is not written again. `progress` counts bytes of content.
///
/// # Errors
/// A fault that names the image that is not complete, or the directory.
pub async fn write_layout(
    archive: &Archive,
    images: &[Chosen],
    directory: &Path,
    progress: &Progress,
) -> Result<Unpacked, Fault> {
    // The names of images are whole references, so the layout has no repository.
    let layout = LayoutDestination::new(directory, "");
    let mut planned = Vec::with_capacity(images.len());
    let mut seen = HashSet::new();
    for image in images {
        let mut blobs = plan::blobs(image, &|digest| archive.size(digest))?;
        blobs.retain(|(blob, _)| seen.insert(&blob.digest));
        planned.push((image, blobs));
    }
    let all = planned.iter().flat_map(|(_, blobs)| blobs);
    progress.set_total(all.fold(0, |sum, (blob, _)| blob.size.saturating_add(sum)));
    let mut unpacked = Unpacked { files: 0, size: 0 };
    for (image, blobs) in planned {
        let within = |fault: Fault| fault.with_context(format_args!("image `{}`", image.shown()));
        for (blob, content) in blobs {
            unpacked.size += write_blob(archive, &layout, blob, content, progress)
                .await
                .map_err(within)?;
            unpacked.files += 1;
        }
        unpacked.files += image.documents.len();
        publish(&layout, image).await.map_err(within)?;
    }
    Ok(unpacked)
}

/// Writes a blob unless it is there. Says how many bytes were written.
async fn write_blob(
    archive: &Archive,
    layout: &LayoutDestination,
    blob: &Descriptor,
    content: Option<Bytes>,
    progress: &Progress,
) -> Result<u64, Fault> {
    if layout.holds(&blob.digest).await? == Some(blob.size) {
        progress.add_moved(blob.size);
        return Ok(0);
    }
    let content = match content {
        Some(content) => Some(stream::once(async move { Ok(content) }).boxed()),
        None => archive.read(&blob.digest),
    };
    let content = content.ok_or_else(|| {
        Fault::stalled(
            Reason::SourceNotFound,
            format!("the archive lacks the blob {}", blob.digest),
        )
    })?;
    let upload = Upload {
        digest: Some(blob.digest.clone()),
        size: Some(blob.size),
        bytes: content
            .inspect(|chunk| {
                if let Ok(chunk) = chunk {
                    progress.add_moved(chunk.len() as u64);
                }
            })
            .boxed(),
    };
    Ok(layout.upload(upload).await?.1)
}

/// Writes the manifests of an image whose blobs are there, and enters its names.
async fn publish(layout: &LayoutDestination, image: &Chosen) -> Result<(), Fault> {
    let Some((root, children)) = image.documents.split_last() else {
        return Ok(());
    };
    for child in children {
        layout.publish(child, None).await?;
    }
    let names = image.layout_names();
    if names.is_empty() {
        return layout.publish(root, None).await;
    }
    for name in &names {
        layout.publish(root, Some(name)).await?;
    }
    Ok(())
}

//! Publishes the images of an archive that has no package.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use futures::{StreamExt as _, stream};

use super::contents::Archive;
use super::image_list::NamedImage;
use super::load::{LoadedImage, Target, publish_images, store_blob};
use crate::fault::{Fault, Reason};
use crate::oci::{Descriptor, Digest, Location, Reference, distinct_blobs, distinct_foreign_layers};
use crate::source::ImageSource;
use crate::transfer::{Destination, KnownBlobs, Progress};

/// The images that were loaded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LoadedImages {
    /// The images.
    pub images: Vec<LoadedImage>,
    /// Bytes that were sent.
    pub sent: u64,
}

/// A blob that a repository needs.
struct Needed {
    blob: Descriptor,
    image: Reference,
    destination: Arc<dyn Destination>,
}

/// Publishes the images of `archive`, which has no package. Content is read in the order of the archive, and content that exists in
/// the target already is not read. Tags are written when all content of all images was verified and stored. `progress` counts
/// bytes of content.
///
/// # Errors
/// A fault that names the image.
pub async fn load_images(
    archive: &Arc<Archive>,
    target: &Target<'_>,
    progress: &Progress,
) -> Result<LoadedImages, Fault> {
    check_names(archive, target)?;
    let idle = Progress::default();
    let needed = target
        .retries
        .run(&idle, async || needed(archive, target).await)
        .await?;
    progress.set_total(
        needed
            .iter()
            .fold(0, |sum, needed| needed.blob.size.saturating_add(sum)),
    );
    let known = Arc::<KnownBlobs>::default();
    let mut sent = 0;
    for needed in &needed {
        let within = |fault: Fault| fault.with_context(format_args!("image `{}`", needed.image));
        let stored = target
            .retries
            .run(progress, async || store(archive, needed, progress).await);
        sent += stored.await.map_err(within)?;
        known.record(&needed.blob.digest, needed.destination.repository());
    }
    let source: Arc<dyn ImageSource> = Arc::<Archive>::clone(archive);
    let images = publish_images(&source, archive.images(), &known, target).await?;
    Ok(LoadedImages { images, sent })
}

/// Checks that every image has a name, and that no two get the same one in the target.
fn check_names(archive: &Archive, target: &Target<'_>) -> Result<(), Fault> {
    let images = archive.images();
    if images.is_empty() {
        return Err(Fault::stalled(
            Reason::SourceNotFound,
            "the archive has no image and no package".to_owned(),
        ));
    }
    let mut taken: HashMap<String, (&Reference, &Digest)> = HashMap::new();
    for image in images {
        let digest = &image.root.digest;
        let Some(name) = &image.name else {
            let hint = match archive.only_image() {
                Some(_) => "give it one by --name",
                None => "load them one by one, each by --name, from archives of their own",
            };
            let message = format!("the image {digest} has no name in the archive; {hint}");
            return Err(Fault::stalled(Reason::InvalidReference, message));
        };
        for location in locate(name, target)?.names() {
            match taken.insert(location.clone(), (name, digest)) {
                Some((other, other_digest)) if other_digest != digest => {
                    let message = format!("{other} and {name} both become {location}; use another --naming");
                    return Err(Fault::stalled(Reason::InvalidReference, message));
                }
                _ => {}
            }
        }
    }
    Ok(())
}

fn locate(name: &Reference, target: &Target<'_>) -> Result<Location, Fault> {
    Location::under_prefix(name, target.address, target.prefix, target.naming, true)
        .map_err(|error| Fault::stalled(Reason::InvalidReference, error.to_string()))
}

/// The blobs of the images that are not in the target, each once, in the order of the archive.
async fn needed(archive: &Archive, target: &Target<'_>) -> Result<Vec<Needed>, Fault> {
    let mut needed = Vec::new();
    let mut known = HashSet::new();
    for NamedImage { name, root } in archive.images() {
        let Some(name) = name else { continue };
        let within = |fault: Fault| fault.with_context(format_args!("image `{name}`"));
        let destination = (target.open)(&locate(name, target)?.repository);
        let exists = destination.digest_of(root.digest.as_str()).await.map_err(within)?;
        let documents = archive.manifests(&root.digest);
        let foreign = distinct_foreign_layers(&documents);
        for blob in distinct_blobs(&documents).into_iter().chain(foreign.iter().copied()) {
            match archive.size(&blob.digest) {
                Some(size) if size == blob.size => {}
                Some(size) => {
                    let digest = &blob.digest;
                    let message = format!("its blob {digest} has {size} bytes instead of {}", blob.size);
                    return Err(within(Fault::stalled(Reason::DigestMismatch, message)));
                }
                None if foreign.contains(&blob) => continue,
                None if blob.inline_content().is_some() => {}
                None => {
                    let message = format!("the archive lacks its blob {}", blob.digest);
                    return Err(within(Fault::stalled(Reason::SourceNotFound, message)));
                }
            }
            if exists.is_none() && known.insert(blob.digest.clone()) {
                needed.push(Needed {
                    blob: blob.clone(),
                    image: name.clone(),
                    destination: Arc::clone(&destination),
                });
            }
        }
    }
    needed.sort_by_key(|needed| archive.offset(&needed.blob.digest));
    Ok(needed)
}

/// Stores a blob unless it is there. Says how many bytes were sent.
async fn store(archive: &Archive, needed: &Needed, progress: &Progress) -> Result<u64, Fault> {
    let Needed { blob, destination, .. } = needed;
    let inline = || {
        let content = blob.inline_content()?;
        Some(stream::once(async move { Ok(content) }).boxed())
    };
    let content = || archive.read(&blob.digest).or_else(inline);
    store_blob(&**destination, &blob.digest, blob.size, content, progress).await
}

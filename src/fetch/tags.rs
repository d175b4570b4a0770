//! Lists the tags of images with a policy and selects one.

use std::collections::HashSet;

use futures::StreamExt as _;
use futures::stream::{self, TryStreamExt as _};

use super::ContentAccess;
use crate::fault::{Fault, Reason};
use crate::package::{PolicyImage, Selection};

/// The number of repositories whose tags are listed concurrently.
const AT_ONCE: usize = 8;
/// The most tags of a repository.
const TAGS: usize = 50_000;

/// Selects a tag for each image from those that its registry lists now. Each repository is listed once, also if several
/// policies select from it.
pub async fn select(images: &[PolicyImage], access: &dyn ContentAccess) -> Result<Vec<Selection>, Fault> {
    let mut choices = Vec::new();
    let mut seen = HashSet::new();
    for image in images {
        if seen.insert(&image.image) {
            choices.push(choose(&image.image, images, access));
        }
    }
    // Only what was selected is kept: a list may have megabytes.
    let chosen: Vec<Vec<(usize, Result<Selection, Fault>)>> =
        stream::iter(choices).buffered(AT_ONCE).try_collect().await?;
    let mut chosen: Vec<_> = chosen.into_iter().flatten().collect();
    chosen.sort_by_key(|(at, _)| *at);
    chosen.into_iter().map(|(_, selection)| selection).collect()
}

/// What is selected for those of `images` that are named `name`, each with its position.
async fn choose(
    name: &str,
    images: &[PolicyImage],
    access: &dyn ContentAccess,
) -> Result<Vec<(usize, Result<Selection, Fault>)>, Fault> {
    let named = || images.iter().enumerate().filter(|(_, image)| image.image == name);
    let Some((_, first)) = named().next() else {
        return Ok(Vec::new());
    };
    let tags = list(first, access).await?;
    Ok(named().map(|(at, image)| (at, image.choose(&tags))).collect())
}

/// The tags of the image's repository.
async fn list(image: &PolicyImage, access: &dyn ContentAccess) -> Result<Vec<String>, Fault> {
    let reference = image.repository()?;
    let registry = access.registry(&reference, &format!("image `{}`", image.image)).await?;
    let listed = registry.repository(reference.repository()).existing_tags(TAGS).await;
    listed
        .map_err(|error| error.into_read_fault(&image.image))?
        .ok_or_else(|| {
            Fault::retryable(
                Reason::SourceFailed,
                format!(
                    "{} has more than {TAGS} tags, which is the limit; remove some, or write the tag into image",
                    image.image
                ),
            )
        })
}

//! Lists the tags of images with a policy and selects one.

use std::collections::{HashMap, HashSet};

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
    let mut lists = Vec::new();
    let mut seen = HashSet::new();
    for image in images {
        if seen.insert(&image.image) {
            lists.push(list(image, access));
        }
    }
    let listed: HashMap<&str, Vec<String>> = stream::iter(lists).buffered(AT_ONCE).try_collect().await?;
    let selections = images.iter().map(|image| {
        let tags = listed.get(image.image.as_str()).map(Vec::as_slice);
        image.choose(tags.unwrap_or_default())
    });
    selections.collect()
}

/// The image's name, and the tags of its repository.
async fn list<'f>(image: &'f PolicyImage, access: &dyn ContentAccess) -> Result<(&'f str, Vec<String>), Fault> {
    let reference = image.repository()?;
    let registry = access.registry(&reference, &format!("image `{}`", image.image)).await?;
    let listed = registry.repository(reference.repository()).existing_tags(TAGS).await;
    let tags = listed
        .map_err(|error| error.into_read_fault(&image.image))?
        .ok_or_else(|| {
            Fault::retryable(
                Reason::SourceFailed,
                format!(
                    "{} has more than {TAGS} tags, which is the limit; remove some, or write the tag into image",
                    image.image
                ),
            )
        })?;
    Ok((&image.image, tags))
}

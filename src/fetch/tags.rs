//! Looks at the tags of the images that follow a policy.

use std::collections::{HashMap, HashSet};

use futures::StreamExt as _;
use futures::stream::{self, TryStreamExt as _};

use super::ContentAccess;
use crate::fault::{Fault, Reason};
use crate::package::{PolicyImage, Selection};

/// Repositories whose tags are listed at once.
const AT_ONCE: usize = 8;
/// The tags that a repository may have.
const TAGS: usize = 50_000;

/// Chooses a tag for each image among those that its registry lists now. A repository is listed once, however many
/// policies choose from it.
pub async fn select(followed: &[PolicyImage], reach: &dyn ContentAccess) -> Result<Vec<Selection>, Fault> {
    let mut lists = Vec::new();
    let mut seen = HashSet::new();
    for followed in followed {
        if seen.insert(&followed.image) {
            lists.push(list(followed, reach));
        }
    }
    let listed: HashMap<&str, Vec<String>> = stream::iter(lists).buffered(AT_ONCE).try_collect().await?;
    let choices = followed.iter().map(|followed| {
        let tags = listed.get(followed.image.as_str()).map(Vec::as_slice);
        followed.choose(tags.unwrap_or_default())
    });
    choices.collect()
}

/// The image's name, and the tags of its repository.
async fn list<'f>(followed: &'f PolicyImage, reach: &dyn ContentAccess) -> Result<(&'f str, Vec<String>), Fault> {
    let reference = followed.repository()?;
    let registry = reach
        .registry(&reference, &format!("image `{}`", followed.image))
        .await?;
    let listed = registry.repository(reference.repository()).existing_tags(TAGS).await;
    let tags = listed
        .map_err(|error| error.into_read_fault(&followed.image))?
        .ok_or_else(|| {
            Fault::retryable(
                Reason::SourceFailed,
                format!(
                    "{} has more than the {TAGS} tags that are looked at; remove some, or write the tag into image",
                    followed.image
                ),
            )
        })?;
    Ok((&followed.image, tags))
}

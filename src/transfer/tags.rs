//! Writes the tags of an image. Each is read before it is written: an image may replace an image, but never a package.

use super::Destination;
use crate::fault::Fault;
use crate::oci::{Document, Location, OmittedTag};

/// The tags of `location` in a repository.
pub(super) struct Tags<'a> {
    pub destination: &'a dyn Destination,
    pub location: &'a Location,
}

impl Tags<'_> {
    /// Checks that the image's first tag does not name a package.
    ///
    /// # Errors
    /// [`Fault::conflict`] if it does.
    pub async fn check_first(&self) -> Result<(), Fault> {
        match self.location.tags.first() {
            Some(tag) if self.destination.holds_package(tag).await? => Err(self.conflict(tag)),
            _ => Ok(()),
        }
    }

    /// Writes `root` under all tags. Returns the plain tag if it belongs to another owner and was not written.
    ///
    /// # Errors
    /// [`Fault::conflict`] if the image's first tag names a package.
    pub async fn write(&self, root: &Document) -> Result<Option<OmittedTag>, Fault> {
        self.check_first().await?;
        if let Some(tag) = self.location.tags.first() {
            self.destination.publish(root, Some(tag)).await?;
        }
        let Some(tag) = self.location.plain_tag() else {
            return Ok(self.location.omitted_tag.clone());
        };
        if self.destination.holds_package(tag).await? {
            return Ok(Some(owned_by_package(tag)));
        }
        self.destination.publish(root, Some(tag)).await?;
        Ok(None)
    }

    fn conflict(&self, tag: &str) -> Fault {
        Fault::conflict(format!(
            "`{}:{tag}` is a package, which an image must not replace; give the image or the package another name or tag, or delete the package",
            self.destination.name()
        ))
    }
}

/// `tag`, owned by a package.
pub(super) fn owned_by_package(tag: &str) -> OmittedTag {
    OmittedTag {
        tag: tag.to_owned(),
        owner: "a package".to_owned(),
    }
}

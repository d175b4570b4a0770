//! The tags of an image, each of which is looked at before it is written: an image replaces an image, and never a package.

use super::Destination;
use crate::fault::Fault;
use crate::oci::{Document, Location, OmittedTag};

/// The tags that `location` names, in a repository.
pub(super) struct Tags<'a> {
    pub destination: &'a dyn Destination,
    pub location: &'a Location,
}

impl Tags<'_> {
    /// That no package has the tag that names the image.
    ///
    /// # Errors
    /// [`Fault::conflict`] when one has it.
    pub async fn check_first(&self) -> Result<(), Fault> {
        match self.location.tags.first() {
            Some(tag) if self.destination.holds_package(tag).await? => Err(self.conflict(tag)),
            _ => Ok(()),
        }
    }

    /// Writes `root` under each of the tags. Gives the plain one, where it belongs to somebody else and was left alone.
    ///
    /// # Errors
    /// [`Fault::conflict`] when a package has the tag that names the image.
    pub async fn write(&self, root: &Document) -> Result<Option<OmittedTag>, Fault> {
        self.check_first().await?;
        if let Some(tag) = self.location.tags.first() {
            self.destination.publish(root, Some(tag)).await?;
        }
        let Some(tag) = self.location.plain_tag() else {
            return Ok(self.location.omitted_tag.clone());
        };
        if self.destination.holds_package(tag).await? {
            return Ok(Some(of_package(tag)));
        }
        self.destination.publish(root, Some(tag)).await?;
        Ok(None)
    }

    fn conflict(&self, tag: &str) -> Fault {
        Fault::conflict(format!(
            "`{}:{tag}` is a package, which an image does not replace; give the image or the package another name or tag, or delete the package there",
            self.destination.name()
        ))
    }
}

/// `tag` as one that a package has.
pub(super) fn of_package(tag: &str) -> OmittedTag {
    OmittedTag {
        tag: tag.to_owned(),
        owner: "a package".to_owned(),
    }
}

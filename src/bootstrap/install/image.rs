//! The names of images in objects.

use std::fmt;

use serde_json::Value;

use super::{ADDRESS, Object, Options};
use crate::fault::{Fault, Reason};
use crate::oci::{Digest, Location, Naming, Reference};

/// The host of the names that are replaced.
const PLACEHOLDER: &str = "jackal.invalid/";

/// An image as pods name it: at the address where every node pulls, with the digest of the image in the archive.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InstalledImage {
    /// The repository in the registry.
    pub path: String,
    /// The tag, for people.
    pub tag: Option<String>,
    /// The digest.
    pub digest: Digest,
}

impl InstalledImage {
    /// The image that the archive has as `name`, whose root manifest is `digest`.
    ///
    /// # Errors
    /// A stalled fault, where the name becomes none in the registry.
    pub fn new(name: &Reference, digest: Digest) -> Result<Self, Fault> {
        let location = Location::under_prefix(name, ADDRESS, "", Naming::Plain, true)
            .map_err(|error| Fault::stalled(Reason::InvalidReference, error.to_string()))?;
        Ok(Self {
            path: location.repository,
            tag: location.tags.into_iter().next(),
            digest,
        })
    }

    /// The name without tag and digest.
    pub fn repository(&self) -> String {
        format!("{ADDRESS}/{}", self.path)
    }

    /// The name by its tag, if it has one.
    pub fn tagged(&self) -> Option<String> {
        let tag = self.tag.as_ref()?;
        Some(format!("{ADDRESS}/{}:{tag}", self.path))
    }
}

impl fmt::Display for InstalledImage {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{ADDRESS}/{}@{}", self.path, self.digest)
    }
}

/// Replaces the names that stand for the two images in all fields `image` of `object`.
///
/// # Errors
/// A stalled fault, where such a name stands elsewhere, or names another image.
pub(super) fn replace(object: &mut Object, options: &Options) -> Result<(), Fault> {
    let mut content = object.content.take();
    let replaced = walk(&mut content, "", options);
    object.content = content;
    replaced.map_err(|found| {
        let message = format!(
            "{object} has the name {:?}, which stands for no image; pack an operator's image of a release",
            found.chars().take(100).collect::<String>()
        );
        Fault::stalled(Reason::InvalidSpec, message)
    })
}

/// Replaces below `value`, which is the field `field`. The error is the name that cannot be replaced.
fn walk(value: &mut Value, field: &str, options: &Options) -> Result<(), String> {
    match value {
        Value::String(text) => match text.strip_prefix(PLACEHOLDER) {
            Some(rest) if field == "image" => {
                let name = rest.split([':', '@']).next().unwrap_or_default();
                *text = match name {
                    "operator" => options.operator.to_string(),
                    "registry" => options.registry.to_string(),
                    _ => return Err(text.clone()),
                };
                Ok(())
            }
            _ if text.contains(PLACEHOLDER) => Err(text.clone()),
            _ => Ok(()),
        },
        Value::Array(items) => items.iter_mut().try_for_each(|item| walk(item, field, options)),
        Value::Object(fields) => fields
            .iter_mut()
            .try_for_each(|(name, value)| walk(value, name, options)),
        _ => Ok(()),
    }
}

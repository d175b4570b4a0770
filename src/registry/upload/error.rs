//! Why an upload failed.

use std::fmt;

use crate::registry::error::Error;

/// Why an upload failed: an error of its source, unchanged, or of the registry.
#[derive(Debug)]
pub enum UploadError<E> {
    /// Reading the content failed.
    Source(E),
    /// The registry failed.
    Registry(Error),
    /// The registry failed and lost what it had: another attempt with the same content from its beginning may succeed.
    Lost(Error),
}

impl<E> From<Error> for UploadError<E> {
    fn from(error: Error) -> Self {
        Self::Registry(error)
    }
}

impl<E: fmt::Display> fmt::Display for UploadError<E> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Source(error) => error.fmt(formatter),
            Self::Registry(error) | Self::Lost(error) => error.fmt(formatter),
        }
    }
}

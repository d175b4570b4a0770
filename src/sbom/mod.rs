//! SBOMs of images: made by syft, kept as referrers of the images' manifests.
//!
//! [`Format`] is one of the three forms that one run of syft writes, [`normalise`] takes out of a document what differs
//! between two runs, [`Sboms`] is what the referrers of a manifest say of its SBOMs; these are free of IO. [`Syft`] runs
//! the program within limits and in a sandbox, and [`make`] sequences it all: find, run, upload, attach.

mod cache;
mod content;
mod document;
mod format;
mod generate;
mod isolation;
mod private_directory;
mod referrer;
mod syft;

pub use cache::SbomCache;
pub use document::{Sbom, SbomError, normalise};
pub use format::Format;
pub use generate::{CONTENT_LIMIT, ExistingSboms, find, find_claimed, generate, unable};
pub use isolation::Isolation;
pub use referrer::{Sboms, is_catalogued, referrer};
pub use syft::{Limits, Syft};

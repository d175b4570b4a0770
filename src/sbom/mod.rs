//! SBOMs of images: made by syft, kept as referrers of the images' manifests.
//!
//! [`Format`] is one of the three forms that one run of syft writes, [`normalise`] takes out of a document what differs
//! between two runs, [`Sboms`] is what the referrers of a manifest say of its SBOMs; these are free of IO. [`Syft`] runs
//! the program within limits and in a sandbox, and [`make`] sequences it all: look, run, upload, attach.

mod content;
mod document;
mod format;
mod isolation;
mod make;
mod memory;
mod referrer;
mod scratch;
mod syft;

pub use document::{Sbom, SbomError, normalise};
pub use format::Format;
pub use isolation::Isolation;
pub use make::{CONTENT_LIMIT, ExistingSboms, known, look, make, unable};
pub use memory::SbomCache;
pub use referrer::{Sboms, is_catalogued, referrer};
pub use syft::{Limits, Syft};

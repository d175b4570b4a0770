//! Package files: a package in one file, `NAME.tar.zst`, that carries it across an air gap.
//!
//! The file is a tar in seekable Zstandard ([`format`]). The tar has the files of the package at their paths, as
//! `zarf package create` lays them out. Content that cannot be compressed further is stored in raw blocks, so that it can be read
//! at any offset. Metadata comes first: a skippable frame with the package's manifest and configuration ([`Header`]), then
//! the definition, its signature, the checksums and the manifests of the images, so that a reader of a pipe can verify them before
//! the first layer arrives.

pub mod format;
mod header;
mod load;
mod order;
mod read;
mod write;

pub use header::{HEADER_LIMIT, Header, Packed};
pub use load::{Loaded, Target, load};
pub use order::{PackageFile, files_of};
pub use read::Reader;
pub use write::{Written, write};

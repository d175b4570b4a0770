//! Delivers files to the seed: the first program of the operator in a cluster that has no registry (crate `jackal-seed`).
//!
//! The seed runs in a pod on each node, with an image that the node has already. [`deliver`] sends it a list of files and then the
//! files, through the API server. The seed keeps what it received, so that another connection, or another process, continues within
//! a file. It executes its command when all files are complete.

mod connection;
mod deliver;
mod file;
pub mod image;
pub mod objects;
#[cfg(test)]
mod tests;

pub use deliver::{deliver, deliver_to_all};
pub use file::{ArchiveBlob, FileContent, LocalFile, SeedFile, file_list};
pub use objects::NAMESPACE as SEED_NAMESPACE;

/// Where the seed listens, on the loopback address of its node.
pub const SEED_PORT: u16 = 31998;

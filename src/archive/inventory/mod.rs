//! Inventories: what a registry or an OCI layout holds, in a file. It is carried to where packages are packed, so that only what
//! is missing has to come back.
//!
//! The file is JSON with one repository per line, sorted, so that two inventories can be compared line by line. It is written while
//! the registry is read: one repository is in memory at a time.

mod collect;
mod form;

use std::collections::{BTreeMap, HashMap, HashSet};

use crate::oci::Digest;

pub use collect::{Place, Tag, Unreadable, collect};
pub(super) use form::is_repository;
pub use form::{InventoryWriter, read};

/// The longest inventory that is read, in bytes.
pub const INVENTORY_LIMIT: u64 = 512 << 20;

/// What one repository holds.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RepositoryContent {
    /// Its path in the registry; empty for the images of an OCI layout that have a tag alone.
    pub repository: String,
    /// The digests under its tags.
    pub tags: BTreeMap<String, Digest>,
    /// The manifests and indexes that were found from the tags on, with their lengths in bytes.
    pub manifests: BTreeMap<Digest, u64>,
    /// The blobs of these: configs and layers, with their lengths in bytes.
    pub blobs: BTreeMap<Digest, u64>,
}

/// What an inventory says of the blobs that somebody asked for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Holdings {
    /// The registry, with the prefix to which the inventory is limited.
    pub registry: String,
    /// The first repository that holds each blob.
    pub blobs: HashMap<Digest, String>,
    /// The names of each manifest: `repository:tag`, and `repository@digest`.
    pub names: HashMap<Digest, HashSet<String>>,
}

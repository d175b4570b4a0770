//! Packages of images, built inside the cluster, for clusters without internet.
//!
//! The rooms, each of which uses only those above it: [`oci`] (names and documents), [`fault`] (failures),
//! [`registry`] (the distribution client), [`source`] (where images come from), [`transfer`] (bringing them
//! to a destination), [`package`] (what a package consists of, and its artifact).

pub mod api;
pub mod cli;
pub mod fault;
pub mod oci;
pub mod package;
pub mod registry;
pub mod source;
pub mod transfer;

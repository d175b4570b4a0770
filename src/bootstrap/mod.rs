//! Installs the operator and its registry in a cluster that has no registry, from one archive.
//!
//! [`preflight`] reads what the cluster is and judges whether that can succeed. [`packed`] reads the archive, [`install`] makes the objects,
//! and [`steps`] does the installation: [`seed`] brings the first images to the nodes, and [`port_forward`] the rest to the registry.
//! [`undo`] removes everything. [`export`] writes the files that distributions of Kubernetes read from the disks of nodes.

pub mod cluster;
pub mod export;
pub mod import;
pub mod install;
pub mod local;
pub mod packed;
pub mod port_forward;
pub mod preflight;
pub mod seed;
pub mod steps;
mod text;
pub mod undo;

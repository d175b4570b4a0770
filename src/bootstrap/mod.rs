//! Installs the operator and its registry in a cluster that has no registry, from one archive.

pub mod cluster;
pub mod install;
pub mod local;
pub mod packed;
pub mod port_forward;
pub mod seed;
pub mod steps;
pub mod undo;

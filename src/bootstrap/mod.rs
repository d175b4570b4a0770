//! Installs the operator and its registry in a cluster that has no registry, from one archive.
//!
//! [`preflight`] reads what the cluster is and judges whether that can succeed. [`export`] writes the files that distributions
//! of Kubernetes read from the disks of nodes.

pub mod export;
pub mod port_forward;
pub mod preflight;
pub mod seed;

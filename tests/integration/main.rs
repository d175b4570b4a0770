//! What the parts do together, against real ones: registries, docker engines, an API server. Run by `make test`,
//! which says where they are.
#![allow(clippy::unwrap_used, clippy::expect_used)]

#[path = "../attacks/mod.rs"]
mod attacks;
mod build;
mod chart;
mod cluster;
mod containerd;
#[path = "../crash/mod.rs"]
mod crash;
mod docker;
#[path = "../faults/mod.rs"]
mod faults;
#[path = "../field/mod.rs"]
mod field;
mod gitops;
mod invalid_input;
mod package;
mod registry;
mod sbom;
mod shutdown;
mod signing;
mod support;
mod tenancy;

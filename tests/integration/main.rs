//! Integration tests with real registries, docker engines and API servers. Run them by `make test`, which starts the
//! servers.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod archive;
mod archive_formats;
mod archive_have;
mod archive_inspect;
mod archive_parts;
mod archive_serve;
mod archive_serve_connections;
mod archive_tutorial;
mod archive_unpack;
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
mod garbage;
mod gitops;
mod invalid_input;
mod node_proxy;
mod node_proxy_connections;
mod package;
mod registry;
mod sbom;
mod shutdown;
mod signing;
mod support;
mod tenancy;

//! Integration tests with real registries, docker engines and API servers. Run them by `make test`, which starts the
//! servers.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod archive;
mod archive_definition;
mod archive_differential;
mod archive_formats;
mod archive_have;
mod archive_inspect;
mod archive_memory;
mod archive_pack;
mod archive_parts;
mod archive_resume;
mod archive_serve;
mod archive_serve_connections;
mod archive_signed;
mod archive_tutorial;
mod archive_unpack;
#[path = "../attacks/mod.rs"]
mod attacks;
mod bootstrap;
mod build;
mod chart;
mod cluster;
mod containerd;
#[path = "../crash/mod.rs"]
mod crash;
mod docker;
mod examples;
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
mod plugin;
mod registry;
mod sbom;
mod shutdown;
mod signing;
mod support;
mod tenancy;

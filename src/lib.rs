//! Builds packages of container images inside a Kubernetes cluster without internet access.
//!
//! Each module uses only the modules before it in this list: [`decode`], [`oci`], [`fault`], [`suggestion`],
//! [`budget`], [`hashing`], [`process`], [`api`], [`registry`], [`source`], [`transfer`], [`signing`], [`sbom`],
//! [`package`], [`convert`], [`fetch`], [`runtime`], [`worker`], [`controller`], [`agent`], [`server`], [`serve`], [`node_proxy`],
//! [`garbage`], [`bootstrap`], [`cli`]. The contents of each module and the path of an image through them are described in
//! `docs/architecture.md`.

pub mod agent;
pub mod api;
pub mod archive;
pub mod bootstrap;
pub mod budget;
pub mod cli;
pub mod controller;
pub mod convert;
pub mod decode;
pub mod fault;
pub mod fetch;
pub mod garbage;
pub mod hashing;
pub mod node_proxy;
pub mod oci;
pub mod package;
pub mod process;
pub mod registry;
pub mod runtime;
pub mod sbom;
pub mod serve;
pub mod server;
pub mod signing;
pub mod source;
pub mod suggestion;
pub mod transfer;
pub mod worker;

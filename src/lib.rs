//! Packages of images, built inside the cluster, for clusters without internet.
//!
//! The rooms, each of which uses only those above it: [`decode`] (JSON and YAML of others), [`oci`] (names and
//! documents), [`fault`] (failures),
//! [`suggestion`] (the name that was meant by a misspelt one),
//! [`budget`] (memory that all documents share),
//! [`hashing`] (digests of what passes), [`process`] (children that are ended with all that they started),
//! [`api`] (the custom resources), [`registry`] (the distribution client),
//! [`source`] (where images come from), [`transfer`] (bringing them to a destination), [`signing`] (signatures, and
//! whether they count), [`sbom`] (what images consist of), [`package`] (what a package consists of, and its artifact),
//! [`convert`] (what Jackal's and Zarf's commands call a package, as ours), [`fetch`] (charts, files and ConfigMaps of
//! components), [`worker`] (moving what stands as objects), [`controller`], [`agent`],
//! [`server`] (health and metrics over HTTP), [`cli`] (the commands).

pub mod agent;
pub mod api;
pub mod archive;
pub mod budget;
pub mod cli;
pub mod controller;
pub mod convert;
pub mod decode;
pub mod fault;
pub mod fetch;
pub mod hashing;
pub mod oci;
pub mod package;
pub mod process;
pub mod registry;
pub mod runtime;
pub mod sbom;
pub mod server;
pub mod signing;
pub mod source;
pub mod suggestion;
pub mod transfer;
pub mod worker;

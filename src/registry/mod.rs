//! Client for the OCI distribution API: tokens, retries, limits and typed errors.
//!
//! A [`Registry`] is one host. A [`Repository`] reads and writes its blobs and manifests. Every body has a size limit,
//! every wait has a timeout, and digests and certificates are always verified.

mod address_zone;
mod advice;
mod body;
mod cache;
pub mod certificates;
mod challenge;
mod client;
mod download;
mod endpoint;
mod error;
mod explanation;
mod file;
#[cfg(fuzzing)]
pub mod fuzzing;
mod host_limits;
mod http;
mod keychain;
mod link;
mod locks;
mod optional_tag;
mod origin;
mod pages;
mod part_size;
mod referrers;
mod referrers_api;
mod refusals;
mod repository;
mod restrictions;
mod tags;
mod throttle;
mod tls;
mod token;
mod token_service;
mod upload;

pub use body::{Body, BodyPermits};
pub use client::Registry;
pub use download::Download;
pub use endpoint::{Credentials, Endpoint, Limits, Trust};
pub use error::{Error, Kind};
pub use file::FileResponse;
pub use keychain::{Keychain, parse_helper_response};
pub use locks::named_lock;
pub use repository::Repository;
pub use restrictions::Restrictions;
pub use upload::{MountResult, PendingUpload, UploadError};

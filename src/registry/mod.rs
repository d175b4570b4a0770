//! The distribution client: everything that is said to a registry (OCI distribution specification), with
//! tokens, retries, limits and typed errors.
//!
//! A [`Registry`] is one host; a [`Repository`] of it reads and writes blobs and manifests. Nothing here
//! reads a body without a bound, waits without a limit, or skips the verification of a digest or of a
//! certificate.

mod address_zone;
mod advice;
mod body;
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
mod origin;
mod pages;
mod referrers;
mod refusal;
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
pub use repository::{MountResult, Repository};
pub use restrictions::Restrictions;
pub use upload::{PendingUpload, UploadError};

//! The registry client (OCI distribution specification), with tokens, retries, limits and typed errors.
//!
//! A [`Registry`] is one host. A [`Repository`] of it reads and writes blobs and manifests. Nothing in this module
//! reads a body without a limit, waits without a limit, or skips the verification of a digest or a certificate.
//!
//! The client is built on reqwest. oci-client cannot limit bodies, turns a failed login into an anonymous request, and
//! has no client certificates, no scope for mounts, and no cancellation or resumption of uploads. `oci-spec` parses
//! references.
//!
//! # Authentication
//!
//! `token` stores, for each scope and method, which challenge was answered when a request was accepted, because a
//! registry may use different challenges for different repositories. An unknown request tries the last accepted one
//! first, which saves one 401 for each scope. A guess that gives no token is not an error. Tokens are cached by realm,
//! service and scopes. `origin` decides which URLs in answers are the registry itself and therefore get its
//! credentials.
//!
//! `keychain` reads Secrets and the files of docker and podman, without IO. `docker_credential` knows neither the
//! kubelet's patterns and paths nor several entries for a host, cannot limit a credential helper, and treats an
//! unreadable file as absent.
//!
//! # TLS
//!
//! A server certificate that was itself given as an authority is accepted (`tls`). webpki rejects it if it says
//! CA:TRUE, which `openssl req -x509` writes by default. The verifier accepts a certificate that is byte for byte equal
//! and then checks name, time and purpose; webpki does everything else.
//!
//! # Limits
//!
//! Permits, transfer rate and `Retry-After` are shared by all clients of one host (`host_limits`), whatever their
//! credentials. `Retry-After` of a 429 or 503 applies to all requests: up to 30 s they wait; for longer they fail as
//! `Waiting` without being sent. `throttle` also delays requests if `--request-rate` limits them; parts of uploads
//! count, tokens and redirects to storage do not.
//!
//! A permit for a large body, and the memory of documents (`budget`), keep answers from exhausting the process.
//!
//! # Addresses
//!
//! The resolver of the client checks addresses (`restrictions`), so the checked address is the one that is connected
//! to. A registry has two clients: the second connects only to public addresses, for redirects of a public registry.
//! All requests are made by `http`, which rejects the others. Plain HTTP needs a flag (`--insecure-registry`): the
//! administrator decides whether a network may carry unencrypted images. An object asks for it (`registry.insecure`),
//! and the list allows it.
//!
//! # Listings
//!
//! Of a `Link` to another page of the same path only the query is used: registries behind proxies write internal names,
//! schemes and prefixes there. A page of tags with exactly the requested number of tags and without a `Link` is
//! followed by a request for the tags after the last one, because not every registry says that there are more.
//!
//! A refused request for a tag that need not exist is examined (`refusal`): signatures are stored under tags, and some
//! registries refuse tags that do not exist. cosign and skopeo fail then, imgpkg treats the tag as absent. Here the
//! list of tags decides, or without a list, whether a tag that cannot exist is refused too. Any other refusal fails the
//! image, so that no signature is lost silently.
//!
//! # Referrers
//!
//! Signatures, attestations and SBOMs are manifests with a subject (`oci::referrer`). A registry with the referrers API
//! lists them. In another registry an index under the tag `sha256-<hex>` lists them, which the pushing client
//! maintains. `referrers` detects the kind by the first answer and assumes "no API" for an hour. It writes referrers of
//! one repository one at a time: it reads the listing, adds its entry, keeps other entries unchanged, and reads the
//! listing again. Two processes may still overwrite each other's entry; the next check finds and repairs this. In an
//! OCI layout `index.json` lists referrers without a name.
//!
//! A listing only narrows a search. For verification it determines which manifests are read first; before a signature
//! counts as missing, the others are read too. SBOMs are found by the listing if it repeats the annotations of their
//! manifests, otherwise by the manifests, which a client reads once (`Repository::read_referrers`).
//!
//! # Messages
//!
//! Advice in a message depends on the reader (`fault::Frontend`, chosen once at the start of a process): fields and
//! Secrets in a cluster, flags and files on the command line.

mod address_zone;
mod advice;
mod body;
mod cache;
mod catalog;
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
mod token_cache;
mod token_service;
mod upload;

pub use body::{Body, BodyPermits};
pub use client::Registry;
pub use download::Download;
pub use endpoint::{Credentials, Endpoint, Limits, Trust};
pub use error::{Error, Kind, backoff};
pub use file::FileResponse;
pub use keychain::{Keychain, parse_helper_response};
pub use locks::named_lock;
pub use repository::Repository;
pub use restrictions::Restrictions;
pub use tls::client_config;
pub use upload::{MountResult, PendingUpload, UploadError, UploadRecord, UploadRecords};

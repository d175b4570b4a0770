//! Signatures of images and packages, as cosign 3 makes and verifies them. No IO: the caller reads the bytes from a
//! registry, a Secret or a file.
//!
//! Signatures are written as Sigstore bundles of version 0.3 with a key, without a transparency log and without a
//! timestamp: a cluster without internet has neither, and the same content and key give the same bytes. Three kinds are
//! verified: these bundles, bundles of keyless identities (with a `trusted_root.json` that the user provides), and
//! signatures of cosign 2.
//!
//! # Libraries
//!
//! `p256` signs (RFC 6979, which neither ring nor webpki implement). `scrypt` and `crypto_secretbox` decrypt cosign's
//! keys. `rustls-webpki` with ring, which TLS already uses, verifies signatures and certificate chains. `x509-cert`
//! parses certificates.
//!
//! The Sigstore crates are not used: `sigstore` 0.15 accepts no bundle of a key without a log entry, and
//! `sigstore-verify` 0.15 builds aws-lc, which is C and would be a second cryptography provider beside ring. RFC 3161
//! and CMS are parsed by our own code: `cms` for the current `der` is a release candidate, and `x509-tsp` is from 2023.

mod bundle;
mod certificate;
mod dsse;
mod encoding;
#[cfg(fuzzing)]
pub mod fuzzing;
mod identity;
mod log;
mod log_entry;
mod private_key;
mod public_key;
mod referrer;
mod signed_content;
mod simple;
mod timestamp;
mod trusted_root;
mod verify;

pub use bundle::{BUNDLE, BUNDLE_FAMILY, Bundle, BundleError, DEFINITION_SIGNATURE};
pub use dsse::{SIGN_PREDICATE, Statement, Subject};
pub use identity::{Identity, IdentityError, SubjectMatch};
pub use private_key::{PrivateKeyError, SigningKey};
pub use public_key::{PublicKey, PublicKeyError};
pub use referrer::{PREDICATE_ANNOTATION, Referrer};
pub use signed_content::SignedContent;
pub use simple::{SIMPLE_ARTIFACT, SIMPLE_LAYER, SimpleSignature, signature_tag};
pub use trusted_root::{TrustedRoot, TrustedRootError};
pub use verify::{Evaluation, FoundSignature, Requirement, Signature};

#[cfg(test)]
mod tests;

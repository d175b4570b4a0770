//! Signatures of images and packages, compatible with cosign 3. No IO: callers read registries, Secrets and files.
//!
//! Signatures are written as Sigstore bundles of version 0.3 by a key, without transparency log and timestamp: a cluster
//! without internet has neither, and the same content and key give the same bytes. Such bundles, bundles by keyless
//! identities (verified with a `trusted_root.json` that was transferred into the cluster) and the signatures of cosign 2 can be
//! verified.

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

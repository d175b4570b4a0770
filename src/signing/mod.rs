//! Signatures of images and packages, as cosign 3 makes and verifies them. No IO: the bytes come from whoever reads a
//! registry, a Secret or a file.
//!
//! Written are Sigstore bundles of version 0.3 by a key, without a transparency log and without a timestamp: a cluster
//! without internet has neither, and the same content and key give the same bytes. Read are these, bundles by keyless
//! identities (verified against a `trusted_root.json` that somebody carried here), and the signatures of cosign 2.

mod bundle;
mod certificate;
mod dsse;
mod encoding;
#[cfg(fuzzing)]
pub mod fuzzing;
mod identity;
mod log;
mod private_key;
mod public_key;
mod referrer;
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
pub use simple::{SIMPLE_ARTIFACT, SIMPLE_LAYER, SimpleSignature, signature_tag};
pub use trusted_root::{TrustedRoot, TrustedRootError};
pub use verify::{Evaluation, FoundSignature, Requirement, Signature, SignedContent};

#[cfg(test)]
mod tests;

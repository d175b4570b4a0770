//! Manifests and configurations that are kept in memory.

use crate::fault::{Fault, Reason};
use crate::oci::{Digest, Hasher};

/// The longest manifest or configuration that is read, in bytes. Registries accept no longer manifests.
pub(super) const DOCUMENT_LIMIT: u64 = crate::oci::MANIFEST_LIMIT as u64;

/// Checks that `content` has the digest `expected`.
///
/// # Errors
/// [`Reason::DigestMismatch`].
pub(super) fn verify(content: &[u8], expected: &Digest) -> Result<(), Fault> {
    let mut hasher = Hasher::like(expected);
    hasher.update(content);
    let found = hasher.finish();
    if found == *expected {
        return Ok(());
    }
    let message = format!(
        "the docker engine exported {found} under the name {expected}; its store is damaged: \
         remove the image there and build or load it again"
    );
    Err(Fault::retryable(Reason::DigestMismatch, message))
}

//! A signature with the content that was signed, independent of the format in which it was stored.

use super::dsse::Statement;
use super::log_entry::LogEntry;
use crate::oci::Digest;

/// A signature with the signed content, not verified yet.
#[derive(Clone, Debug)]
pub struct SignedContent {
    /// The bytes that were signed.
    pub(super) message: Vec<u8>,
    /// The payload of a DSSE envelope.
    pub(super) payload: Option<Vec<u8>>,
    pub(super) signature: Vec<u8>,
    pub(super) claim: SignatureClaim,
    /// The DER of the signing key's certificate.
    pub(super) certificate: Option<Vec<u8>>,
    /// The DER of intermediate certificates.
    pub(super) intermediates: Vec<Vec<u8>>,
    pub(super) entries: Vec<LogEntry>,
    /// The DER of responses of timestamp authorities (RFC 3161).
    pub(super) timestamps: Vec<Vec<u8>>,
}

/// What a signature claims.
#[derive(Clone, Debug)]
pub(super) enum SignatureClaim {
    /// An in-toto statement.
    Statement(Statement),
    /// That it is for the image with this digest.
    Image(Digest),
    /// Nothing; it is for a file.
    Blob,
}

//! Entry points for the fuzz targets of certificates and timestamps. Other builds do not contain them.

use jiff::Timestamp;

use super::certificate::Certificate;
use super::trusted_root::TrustedRoot;

/// Reads the certificate `leaf` and verifies its chain through `intermediates` to an authority of `trust` at `time`.
pub fn chain(leaf: &[u8], intermediates: &[Vec<u8>], trust: &TrustedRoot, time: Timestamp) -> Result<String, String> {
    let certificate = Certificate::read(leaf)?;
    certificate.verify(intermediates, trust, time)?;
    Ok(certificate.to_string())
}

/// The time at which an authority of `trust` saw `signature`, from its response `token`.
pub fn timestamp(token: &[u8], signature: &[u8], trust: &TrustedRoot) -> Result<Timestamp, String> {
    super::timestamp::verify(token, signature, trust)
}

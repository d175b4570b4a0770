//! Doors to what is read of certificates and timestamps, for the fuzz targets. No other build has them.

use jiff::Timestamp;

use super::certificate::Certificate;
use super::trusted_root::TrustedRoot;

/// Reads the certificate `leaf` and follows its chain through `intermediates` to an authority of `trust`, as at `time`.
pub fn chain(leaf: &[u8], intermediates: &[Vec<u8>], trust: &TrustedRoot, time: Timestamp) -> Result<String, String> {
    let certificate = Certificate::read(leaf)?;
    certificate.verify(intermediates, trust, time)?;
    Ok(certificate.to_string())
}

/// The time at which an authority of `trust` saw `signature`, by its response `token`.
pub fn timestamp(token: &[u8], signature: &[u8], trust: &TrustedRoot) -> Result<Timestamp, String> {
    super::timestamp::verify(token, signature, trust)
}

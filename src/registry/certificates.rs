//! Parses PEM (RFC 7468): bundles of CA certificates, and the client certificate. No IO.

use rustls::RootCertStore;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use x509_cert::der::{Decode as _, Encode as _, Reader as _, SliceReader};

/// Maximum size of a bundle in bytes. A bundle of all public CAs has 256 KiB, and 1 MiB with descriptions.
pub const BUNDLE_LIMIT: usize = 4 * 1024 * 1024;

const BEGIN: &str = "-----BEGIN ";
const DASHES: &str = "-----";
/// Labels of certificates in OpenSSL (`PEM_STRING_X509`, `PEM_STRING_X509_OLD`, `PEM_STRING_X509_TRUSTED`).
const LABELS: [&str; 3] = ["CERTIFICATE", "X509 CERTIFICATE", TRUSTED];
/// A certificate followed by OpenSSL trust settings.
const TRUSTED: &str = "TRUSTED CERTIFICATE";

/// The certificates of a bundle, in order, at least one. Text between them is ignored. The error is a predicate whose
/// subject is the name of the file.
pub fn authorities(bundle: &[u8]) -> Result<Vec<CertificateDer<'static>>, String> {
    if bundle.len() > BUNDLE_LIMIT {
        return Err(format!(
            "is longer than {BUNDLE_LIMIT} bytes; keep only the CA certificates"
        ));
    }
    let text = String::from_utf8_lossy(bundle);
    let text = text.trim_start_matches('\u{feff}');
    let blocks: Vec<Block<'_>> = blocks(text);
    let certificates: Vec<&Block<'_>> = blocks.iter().filter(|block| LABELS.contains(&block.label)).collect();
    if certificates.is_empty() {
        return Err(describe_missing_certificates(bundle, &blocks));
    }
    let count = certificates.len();
    let mut found = Vec::with_capacity(count);
    for (number, block) in certificates.into_iter().enumerate() {
        let certificate = block.certificate().and_then(|certificate| {
            let added = RootCertStore::empty().add(certificate.clone());
            added.map_err(|_| "is not a certificate").map(|()| certificate)
        });
        found.push(certificate.map_err(|reason| {
            format!(
                "has a certificate that cannot be read, number {} of {count} (line {}): it {reason}; replace or remove it",
                number + 1,
                block.line
            )
        })?);
    }
    Ok(found)
}

/// The certificate of a client or server with its chain, and its key.
pub(crate) fn parse_identity(
    certificate: &[u8],
    key: &[u8],
) -> Result<(Vec<CertificateDer<'static>>, PrivateKeyDer<'static>), String> {
    let chain = authorities(certificate).map_err(|reason| format!("tls.crt {reason}"))?;
    let key = PrivateKeyDer::from_pem_slice(key)
        .map_err(|_| "tls.key contains no readable private key; use unencrypted PEM".to_owned())?;
    Ok((chain, key))
}

/// A PEM block.
struct Block<'a> {
    label: &'a str,
    /// The line of `-----BEGIN`, from 1.
    line: usize,
    /// The lines between the markers.
    body: Vec<&'a str>,
    /// Whether `-----END` was found.
    complete: bool,
}

/// The blocks of `text`. Lines may be indented, with any line ending.
fn blocks(text: &str) -> Vec<Block<'_>> {
    let mut found: Vec<Block<'_>> = Vec::new();
    let mut open = false;
    for (number, line) in text.lines().enumerate() {
        let line = line.trim();
        if let Some(label) = line.strip_prefix(BEGIN).and_then(|rest| rest.strip_suffix(DASHES)) {
            found.push(Block {
                label,
                line: number + 1,
                body: Vec::new(),
                complete: false,
            });
            open = true;
        } else if let Some(block) = found.last_mut().filter(|_| open) {
            if line.starts_with("-----END ") {
                (block.complete, open) = (true, false);
            } else {
                block.body.push(line);
            }
        }
    }
    found
}

impl Block<'_> {
    fn certificate(&self) -> Result<CertificateDer<'static>, &'static str> {
        if !self.complete {
            return Err("has no end");
        }
        let pem = format!(
            "{BEGIN}CERTIFICATE{DASHES}\n{}\n-----END CERTIFICATE{DASHES}\n",
            self.body.join("\n")
        );
        let der = CertificateDer::from_pem_slice(pem.as_bytes()).map_err(|_| "is not base64")?;
        if self.label != TRUSTED {
            return Ok(der);
        }
        first_certificate(&der)
            .map(CertificateDer::from)
            .ok_or("is not a certificate")
    }
}

/// The first certificate in DER that has trailing data.
fn first_certificate(der: &[u8]) -> Option<Vec<u8>> {
    let mut reader = SliceReader::new(der).ok()?;
    let certificate = x509_cert::Certificate::decode(&mut reader).ok()?;
    let length = usize::try_from(certificate.encoded_len().ok()?).ok()?;
    debug_assert_eq!(usize::try_from(reader.position()).ok(), Some(length));
    der.get(..length).map(<[u8]>::to_vec)
}

fn describe_missing_certificates(bundle: &[u8], blocks: &[Block<'_>]) -> String {
    const DER: &str = "is DER, not PEM; convert it by `openssl x509 -inform der`";
    // A DER sequence with a two-byte length (X.690, section 8.1.3).
    if bundle.starts_with(&[0x30, 0x82]) {
        return DER.to_owned();
    }
    match blocks.first() {
        _ if bundle.trim_ascii().is_empty() => "is empty; set the CA certificate as PEM".to_owned(),
        Some(block) => format!(
            "contains no certificate, but {}; set the CA certificate as PEM",
            super::error::clean(block.label)
        ),
        None => "contains no readable certificate; set it as PEM (-----BEGIN CERTIFICATE-----)".to_owned(),
    }
}

#[cfg(test)]
mod tests;

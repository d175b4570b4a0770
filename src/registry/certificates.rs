//! Certificates that are given as PEM: bundles of authorities, and the certificate that we show (RFC 7468). No IO.

use rustls::RootCertStore;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use x509_cert::der::{Decode as _, Encode as _, Reader as _, SliceReader};

/// The longest bundle in bytes that is read: that of all public authorities has a quarter of a megabyte, and four times
/// as much where their texts are written beside them.
pub const BUNDLE_LIMIT: usize = 4 * 1024 * 1024;

const BEGIN: &str = "-----BEGIN ";
const DASHES: &str = "-----";
/// What OpenSSL calls certificates (`PEM_STRING_X509`, `PEM_STRING_X509_OLD`, `PEM_STRING_X509_TRUSTED`).
const LABELS: [&str; 3] = ["CERTIFICATE", "X509 CERTIFICATE", TRUSTED];
/// A certificate that is followed by what OpenSSL trusts it for.
const TRUSTED: &str = "TRUSTED CERTIFICATE";

/// The certificates of a bundle, in its order, at least one. What stands between them is passed over. The error says
/// what is wrong and what to do, and follows the name of the file.
pub fn authorities(bundle: &[u8]) -> Result<Vec<CertificateDer<'static>>, String> {
    if bundle.len() > BUNDLE_LIMIT {
        return Err(format!(
            "is longer than {BUNDLE_LIMIT} bytes; give the certificates of the authorities alone"
        ));
    }
    let text = String::from_utf8_lossy(bundle);
    let text = text.trim_start_matches('\u{feff}');
    let blocks: Vec<Block<'_>> = blocks(text);
    let certificates: Vec<&Block<'_>> = blocks.iter().filter(|block| LABELS.contains(&block.label)).collect();
    if certificates.is_empty() {
        return Err(without_certificates(bundle, &blocks));
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

/// The certificate that we show, with its chain, and its key.
pub(super) fn identity(
    certificate: &[u8],
    key: &[u8],
) -> Result<(Vec<CertificateDer<'static>>, PrivateKeyDer<'static>), String> {
    let chain = authorities(certificate).map_err(|reason| format!("tls.crt {reason}"))?;
    let key = PrivateKeyDer::from_pem_slice(key)
        .map_err(|_| "tls.key holds no private key that can be read; give it as PEM, unencrypted".to_owned())?;
    Ok((chain, key))
}

/// A part of a file between `-----BEGIN …-----` and its end.
struct Block<'a> {
    label: &'a str,
    /// The line of its beginning, from 1.
    line: usize,
    /// The lines between.
    body: Vec<&'a str>,
    /// Whether its end was found.
    complete: bool,
}

/// Every block of `text`. Lines may be indented, and may end in any way.
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
        first(&der).map(CertificateDer::from).ok_or("is not a certificate")
    }
}

/// The first certificate of what has something behind it.
fn first(der: &[u8]) -> Option<Vec<u8>> {
    let mut reader = SliceReader::new(der).ok()?;
    let certificate = x509_cert::Certificate::decode(&mut reader).ok()?;
    let length = usize::try_from(certificate.encoded_len().ok()?).ok()?;
    debug_assert_eq!(usize::try_from(reader.position()).ok(), Some(length));
    der.get(..length).map(<[u8]>::to_vec)
}

fn without_certificates(bundle: &[u8], blocks: &[Block<'_>]) -> String {
    const DER: &str = "is DER, not PEM; convert it by `openssl x509 -inform der`";
    // A sequence whose length has two bytes (X.690, section 8.1.3).
    if bundle.starts_with(&[0x30, 0x82]) {
        return DER.to_owned();
    }
    match blocks.first() {
        _ if bundle.trim_ascii().is_empty() => "is empty; give the certificate of the authority as PEM".to_owned(),
        Some(block) => format!(
            "holds no certificate, but {}; give the certificate of the authority as PEM",
            super::error::clean(block.label)
        ),
        None => "holds no certificate that can be read; give it as PEM (-----BEGIN CERTIFICATE-----)".to_owned(),
    }
}

#[cfg(test)]
mod tests;

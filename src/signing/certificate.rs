//! Certificates by Fulcio: their subjects, and whether an authority issued them (RFC 5280; Fulcio, "OID Information").

use std::fmt;
use std::time::Duration;

use jiff::Timestamp;
use rustls::pki_types::{CertificateDer, TrustAnchor, UnixTime};
use webpki::{EndEntityCert, KeyUsage, anchor_from_trusted_cert};
use x509_cert::der::asn1::{ObjectIdentifier, Utf8StringRef};
use x509_cert::der::{Decode as _, Encode, Header, Length, Tag, TagNumber};
use x509_cert::ext::Extensions;
use x509_cert::ext::pkix::name::GeneralName;
use x509_cert::ext::pkix::{ExtendedKeyUsage, SignedCertificateTimestampList, SubjectAltName};

use super::public_key::PublicKey;
use super::trusted_root::{Authority, Log, TrustedRoot};
use crate::oci::Digest;

/// The issuer of the identity as DER, and as plain text in older certificates.
const ISSUER: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.3.6.1.4.1.57264.1.8");
const ISSUER_PLAIN: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.3.6.1.4.1.57264.1.1");
/// A subject of a kind for which X.509 has no field.
const OTHER_NAME: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.3.6.1.4.1.57264.1.7");
/// The key usages of code signing and timestamping (RFC 5280, section 4.2.1.12).
static CODE_SIGNING: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.3.6.1.5.5.7.3.3");
pub(super) static TIME_STAMPING: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.3.6.1.5.5.7.3.8");
/// The extension with the signed certificate timestamps (RFC 6962, section 3.3).
const TIMESTAMPS: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.3.6.1.4.1.11129.2.4.2");

/// A certificate that is not verified yet.
#[derive(Clone, Debug)]
pub(super) struct Certificate {
    der: Vec<u8>,
    read: x509_cert::Certificate,
    /// Its key.
    pub key: PublicKey,
    /// The issuer of the identity.
    pub issuer: Option<String>,
    /// The subjects: addresses, URIs and other names.
    pub subjects: Vec<String>,
}

impl fmt::Display for Certificate {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let shown = |text: &str| text.chars().take(200).collect::<String>();
        let subject = self.subjects.first().map_or("an unnamed subject", String::as_str);
        let issuer = self.issuer.as_deref().unwrap_or("an unnamed issuer");
        write!(formatter, "`{}` of {}", shown(subject), shown(issuer))
    }
}

impl Certificate {
    /// The whole certificate as DER.
    pub fn der(&self) -> &[u8] {
        &self.der
    }

    /// Reads the DER of a certificate.
    pub fn read(der: &[u8]) -> Result<Self, String> {
        let damaged = || "its certificate is damaged".to_owned();
        let read = x509_cert::Certificate::from_der(der).map_err(|_| damaged())?;
        let body = read.tbs_certificate();
        let spki = body.subject_public_key_info().to_der().map_err(|_| damaged())?;
        let key = PublicKey::from_der(&spki).map_err(|error| format!("its certificate: {error}"))?;
        let extension = |id: ObjectIdentifier| {
            let extensions = body.extensions().map_or(&[] as &[_], Vec::as_slice);
            extensions.iter().find(|extension| extension.extn_id == id)
        };
        let issuer = match (extension(ISSUER), extension(ISSUER_PLAIN)) {
            (Some(issuer), _) => Some(utf8(issuer.extn_value.as_bytes()).ok_or_else(damaged)?),
            (None, Some(bare)) => Some(String::from_utf8(bare.extn_value.as_bytes().to_vec()).map_err(|_| damaged())?),
            (None, None) => None,
        };
        let names = body.get_extension::<SubjectAltName>().map_err(|_| damaged())?;
        let names = names.map_or_else(Vec::new, |(_, names)| names.0);
        Ok(Self {
            subjects: names.iter().filter_map(subject).collect(),
            der: der.to_vec(),
            key,
            issuer,
            read,
        })
    }

    /// Checks that an authority of `trust` issued the certificate for code signing, that it was valid at `time`, and that a
    /// certificate log contains it if `trust` has such logs.
    pub fn verify(&self, intermediates: &[Vec<u8>], trust: &TrustedRoot, time: Timestamp) -> Result<(), String> {
        let validity = self.read.tbs_certificate().validity();
        let seconds = u64::try_from(time.as_second()).unwrap_or(0);
        let (from, to) = (
            validity.not_before.to_unix_duration(),
            validity.not_after.to_unix_duration(),
        );
        if !(from.as_secs()..=to.as_secs()).contains(&seconds) {
            return Err(
                "its certificate was not valid when the signature was made: it had expired, or was not valid yet"
                    .to_owned(),
            );
        }
        let fits = trust.authorities.iter().find(|authority| {
            authority.valid.contains(time) && leads_to(authority, &self.der, intermediates, time, &CODE_SIGNING)
        });
        let Some(authority) = fits else {
            return Err("its certificate was not issued by an authority of the trusted root".to_owned());
        };
        if trust.certificate_logs.is_empty() || self.is_logged(intermediates, authority, &trust.certificate_logs) {
            return Ok(());
        }
        Err("its certificate is not in a certificate log of the trusted root".to_owned())
    }

    /// Whether one of `logs` signed a timestamp for the certificate. The signed content is the certificate without these
    /// timestamps (RFC 6962, section 3.2).
    fn is_logged(&self, intermediates: &[Vec<u8>], authority: &Authority, logs: &[Log]) -> bool {
        let Some(body) = self.body_without_timestamps() else {
            return false;
        };
        let list = self
            .read
            .tbs_certificate()
            .get_extension::<SignedCertificateTimestampList>();
        let Ok(Some((_, list))) = list else {
            return false;
        };
        let issuers: Vec<[u8; 32]> = intermediates
            .iter()
            .chain(&authority.chain)
            .filter_map(|der| key_hash(der))
            .collect();
        let promises = list.parse_timestamps().unwrap_or_default();
        promises
            .iter()
            .filter_map(|promise| promise.parse_timestamp().ok())
            .any(|promise| {
                let time = i64::try_from(promise.timestamp)
                    .ok()
                    .and_then(|millis| Timestamp::from_millisecond(millis).ok());
                let Some(time) = time else { return false };
                // A key may be listed several times, once for each period.
                let mut known = logs.iter().filter(|log| log.id == promise.log_id.key_id);
                let Some(key) = known
                    .find(|log| log.valid.contains(time))
                    .and_then(|log| log.key.as_ref())
                else {
                    return false;
                };
                issuers.iter().any(|issuer| {
                    let Ok(length) = u32::try_from(body.len()) else {
                        return false;
                    };
                    let extensions = promise.extensions.as_slice();
                    let Ok(extended) = u16::try_from(extensions.len()) else {
                        return false;
                    };
                    let mut signed = vec![0, 0];
                    signed.extend_from_slice(&promise.timestamp.to_be_bytes());
                    signed.extend_from_slice(&[0, 1]);
                    signed.extend_from_slice(issuer);
                    signed.extend_from_slice(&length.to_be_bytes()[1..]);
                    signed.extend_from_slice(&body);
                    signed.extend_from_slice(&extended.to_be_bytes());
                    signed.extend_from_slice(extensions);
                    key.verifies(&signed, promise.signature.signature.as_slice())
                })
            })
    }

    /// The certificate's body without the timestamps of the logs.
    fn body_without_timestamps(&self) -> Option<Vec<u8>> {
        let body = self.read.tbs_certificate();
        let remaining: Extensions = body
            .extensions()?
            .iter()
            .filter(|extension| extension.extn_id != TIMESTAMPS)
            .cloned()
            .collect();
        if body.issuer_unique_id().is_some() || body.subject_unique_id().is_some() {
            return None;
        }
        let version = with_tag(0, &body.version())?;
        let extensions = with_tag(3, &remaining)?;
        let parts = [
            version,
            body.serial_number().to_der().ok()?,
            body.signature().to_der().ok()?,
            body.issuer().to_der().ok()?,
            body.validity().to_der().ok()?,
            body.subject().to_der().ok()?,
            body.subject_public_key_info().to_der().ok()?,
            extensions,
        ];
        with_header(Tag::Sequence, &parts.concat())
    }
}

/// Whether there is a chain from `leaf` through `intermediates` to the authority's root, in which all certificates are valid
/// at `time` and for `usage`.
pub(super) fn leads_to(
    authority: &Authority,
    leaf: &[u8],
    intermediates: &[Vec<u8>],
    time: Timestamp,
    usage: &'static ObjectIdentifier,
) -> bool {
    let Some((root, between)) = authority.chain.split_last() else {
        return false;
    };
    let root = CertificateDer::from_slice(root);
    let Ok(anchor) = anchor_from_trusted_cert(&root) else {
        return false;
    };
    let between: Vec<CertificateDer<'_>> = between
        .iter()
        .chain(intermediates)
        .map(|der| CertificateDer::from_slice(der))
        .collect();
    let leaf_der = CertificateDer::from_slice(leaf);
    let Ok(leaf_cert) = EndEntityCert::try_from(&leaf_der) else {
        return false;
    };
    let anchors: [TrustAnchor<'_>; 1] = [anchor];
    let time = UnixTime::since_unix_epoch(Duration::from_secs(u64::try_from(time.as_second()).unwrap_or(0)));
    let chain = leaf_cert.verify_for_usage(
        webpki::ALL_VERIFICATION_ALGS,
        &anchors,
        &between,
        time,
        // An intermediate certificate need not state its usage; the leaf must.
        KeyUsage::required_if_present(usage.as_bytes()),
        None,
        None,
    );
    chain.is_ok() && has_usage(leaf, usage)
}

/// Whether a certificate states the key usage `usage`.
fn has_usage(der: &[u8], usage: &ObjectIdentifier) -> bool {
    let Ok(read) = x509_cert::Certificate::from_der(der) else {
        return false;
    };
    let purposes = read.tbs_certificate().get_extension::<ExtendedKeyUsage>();
    purposes.is_ok_and(|purposes| purposes.is_some_and(|(_, purposes)| purposes.0.contains(usage)))
}

/// The SHA-256 of a certificate's key, by which logs identify issuers.
fn key_hash(der: &[u8]) -> Option<[u8; 32]> {
    let read = x509_cert::Certificate::from_der(der).ok()?;
    let spki = read.tbs_certificate().subject_public_key_info().to_der().ok()?;
    hex::decode(Digest::of(&spki).hex()).ok()?.try_into().ok()
}

fn subject(name: &GeneralName) -> Option<String> {
    match name {
        GeneralName::Rfc822Name(address) => Some(address.as_str().to_owned()),
        GeneralName::UniformResourceIdentifier(uri) => Some(uri.as_str().to_owned()),
        GeneralName::DnsName(host) => Some(host.as_str().to_owned()),
        GeneralName::OtherName(other) if other.type_id == OTHER_NAME => utf8(&other.value.to_der().ok()?),
        _ => None,
    }
}

/// The text of a UTF8String in DER.
fn utf8(der: &[u8]) -> Option<String> {
    Utf8StringRef::from_der(der).ok().map(|text| text.as_str().to_owned())
}

/// The DER of `content` with an explicit tag.
fn with_tag(number: u8, content: &impl Encode) -> Option<Vec<u8>> {
    let tag = Tag::ContextSpecific {
        constructed: true,
        number: TagNumber(u32::from(number)),
    };
    with_header(tag, &content.to_der().ok()?)
}

fn with_header(tag: Tag, content: &[u8]) -> Option<Vec<u8>> {
    let length = Length::try_from(content.len()).ok()?;
    let mut der = Header::new(tag, length).to_der().ok()?;
    der.extend_from_slice(content);
    Some(der)
}

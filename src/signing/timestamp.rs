//! Timestamps (RFC 3161): a third party's statement that a signature existed at a time, in a CMS message (RFC 5652). Only the
//! few fields that a verifier needs are read; the two libraries that read all of it need another version of `der`, or are
//! unfinished.

use jiff::civil::DateTime;
use jiff::tz::TimeZone;
use jiff::{SignedDuration, Timestamp};
use sha2::{Digest as _, Sha256, Sha384, Sha512};
use x509_cert::der::asn1::{AnyRef, ObjectIdentifier};
use x509_cert::der::{Decode as _, Reader as _, SliceReader, Tag, TagNumber, Tagged as _};

use super::certificate::{TIME_STAMPING, leads_to};
use super::public_key::PublicKey;
use super::trusted_root::TrustedRoot;

/// Signed data, and a timestamp as its content (RFC 5652, section 5.1; RFC 3161, section 2.4.2).
const SIGNED_DATA: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.113549.1.7.2");
const TIMESTAMP: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.113549.1.9.16.1.4");
/// Signed attributes (RFC 5652, section 11).
const CONTENT_TYPE: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.113549.1.9.3");
const MESSAGE_DIGEST: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.113549.1.9.4");
/// Hashes (RFC 5754, section 2).
const SHA_256: ObjectIdentifier = ObjectIdentifier::new_unwrap("2.16.840.1.101.3.4.2.1");
const SHA_384: ObjectIdentifier = ObjectIdentifier::new_unwrap("2.16.840.1.101.3.4.2.2");
const SHA_512: ObjectIdentifier = ObjectIdentifier::new_unwrap("2.16.840.1.101.3.4.2.3");
/// The tag of a set.
const SET: u8 = 0x31;

/// The time at which an authority of `trust` saw `signature`, from its response `token`.
pub(super) fn verify(token: &[u8], signature: &[u8], trust: &TrustedRoot) -> Result<Timestamp, String> {
    let damaged = || "its timestamp is damaged".to_owned();
    let token = Token::read(token).ok_or_else(damaged)?;
    let info = TstInfo::read(token.content).ok_or_else(damaged)?;
    if hash(info.algorithm, signature).is_none_or(|hash| hash != info.imprint) {
        return Err("its timestamp is for another signature".to_owned());
    }
    let hash = hash(token.digest_algorithm, token.content).ok_or_else(damaged)?;
    if !token.attests(&hash).ok_or_else(damaged)? {
        return Err(damaged());
    }
    let mut signed = token.attributes.to_vec();
    // They are signed with the tag of a set, not with their tag in the message.
    if let Some(tag) = signed.first_mut() {
        *tag = SET;
    }
    let time = info.time;
    let is_trusted = trust.timestamp_authorities.iter().any(|authority| {
        let known = authority.chain.first().map(Vec::as_slice);
        let mut candidates = known.into_iter().chain(token.certificates.iter().copied());
        authority.valid.contains(time)
            && candidates.any(|candidate| {
                key_of(candidate).is_some_and(|key| key.verifies(&signed, token.signature))
                    && leads_to(authority, candidate, &[], time, &TIME_STAMPING)
            })
    });
    match is_trusted {
        true => Ok(time),
        false => Err("its timestamp is not from an authority of the trusted root".to_owned()),
    }
}

fn key_of(certificate: &[u8]) -> Option<PublicKey> {
    use x509_cert::der::Encode as _;
    let read = x509_cert::Certificate::from_der(certificate).ok()?;
    let spki = read.tbs_certificate().subject_public_key_info().to_der().ok()?;
    PublicKey::from_der(&spki).ok()
}

fn hash(algorithm: ObjectIdentifier, content: &[u8]) -> Option<Vec<u8>> {
    match algorithm {
        SHA_256 => Some(Sha256::digest(content).to_vec()),
        SHA_384 => Some(Sha384::digest(content).to_vec()),
        SHA_512 => Some(Sha512::digest(content).to_vec()),
        _ => None,
    }
}

/// The needed parts of a timestamp authority's response.
struct Token<'a> {
    /// The DER of the TSTInfo.
    content: &'a [u8],
    /// The certificates in the message.
    certificates: Vec<&'a [u8]>,
    digest_algorithm: ObjectIdentifier,
    /// The signed attributes as in the message, tag and length included.
    attributes: &'a [u8],
    signature: &'a [u8],
}

/// A DER element: its tag, its content, and the whole element.
#[derive(Clone, Copy)]
struct Element<'a> {
    tag: Tag,
    value: &'a [u8],
    whole: &'a [u8],
}

/// The consecutive elements of `der`.
fn elements(der: &[u8]) -> Option<Vec<Element<'_>>> {
    let mut reader = SliceReader::new(der).ok()?;
    let mut found = Vec::new();
    while !reader.is_finished() {
        let whole = reader.tlv_bytes().ok()?;
        let any = AnyRef::from_der(whole).ok()?;
        found.push(Element {
            tag: any.tag(),
            value: any.value(),
            whole,
        });
    }
    Some(found)
}

impl<'a> Element<'a> {
    fn children(&self) -> Option<Vec<Element<'a>>> {
        elements(self.value)
    }

    fn oid(&self) -> Option<ObjectIdentifier> {
        ObjectIdentifier::from_der(self.whole).ok()
    }

    fn is_context(&self, number: u32) -> bool {
        matches!(self.tag, Tag::ContextSpecific { number: found, .. } if found == TagNumber(number))
    }
}

/// The only element of `der`; `None` if there is not exactly one.
fn only(der: &[u8]) -> Option<Element<'_>> {
    match elements(der)?.as_slice() {
        [one] => Some(*one),
        _ => None,
    }
}

impl<'a> Token<'a> {
    fn read(response: &'a [u8]) -> Option<Self> {
        // A response is a status and a token; some tools store only the token.
        let parts = only(response)?.children()?;
        let info = match parts.first()?.tag {
            Tag::ObjectIdentifier => parts,
            _ => parts.get(1)?.children()?,
        };
        if info.first()?.oid()? != SIGNED_DATA {
            return None;
        }
        let signed = only(info.get(1)?.value)?.children()?;
        let encapsulated = signed.get(2)?.children()?;
        if encapsulated.first()?.oid()? != TIMESTAMP {
            return None;
        }
        let content = only(encapsulated.get(1)?.value)?.value;
        let certificates = signed.iter().skip(3).find(|element| element.is_context(0));
        let certificates = certificates.map_or(Some(Vec::new()), Element::children)?;
        let signer = only(signed.last()?.value)?.children()?;
        Some(Self {
            content,
            certificates: certificates.iter().map(|certificate| certificate.whole).collect(),
            digest_algorithm: signer.get(2)?.children()?.first()?.oid()?,
            attributes: signer.get(3).filter(|element| element.is_context(0))?.whole,
            signature: signer.get(5)?.value,
        })
    }

    /// Whether the signed attributes are for a timestamp whose content has this hash.
    fn attests(&self, hash: &[u8]) -> Option<bool> {
        let (mut digest, mut kind) = (false, false);
        for attribute in only(self.attributes)?.children()? {
            let parts = attribute.children()?;
            let value = only(parts.get(1)?.value)?;
            match parts.first()?.oid()? {
                MESSAGE_DIGEST => digest = value.value == hash,
                CONTENT_TYPE => kind = value.oid()? == TIMESTAMP,
                _ => {}
            }
        }
        Some(digest && kind)
    }
}

/// The content of a timestamp (RFC 3161, section 2.4.2, "TSTInfo").
struct TstInfo<'a> {
    algorithm: ObjectIdentifier,
    imprint: &'a [u8],
    time: Timestamp,
}

impl<'a> TstInfo<'a> {
    fn read(der: &'a [u8]) -> Option<Self> {
        let parts = only(der)?.children()?;
        let imprint = parts.get(2)?.children()?;
        Some(Self {
            algorithm: imprint.first()?.children()?.first()?.oid()?,
            imprint: imprint.get(1)?.value,
            time: time(parts.get(4).filter(|part| part.tag == Tag::GeneralizedTime)?.value)?,
        })
    }
}

/// Reads `20260101000000Z`, optionally with a fraction of the second, which matters if a period ends between two seconds.
fn time(text: &[u8]) -> Option<Timestamp> {
    let text = std::str::from_utf8(text).ok()?.strip_suffix('Z')?;
    let (whole, fraction) = text.split_once('.').unwrap_or((text, ""));
    if !fraction.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    let time = DateTime::strptime("%Y%m%d%H%M%S", whole).ok()?;
    let time = time.to_zoned(TimeZone::UTC).ok()?.timestamp();
    // Digits beyond nanoseconds are ignored.
    let nanoseconds = format!("{:0<9}", fraction.get(..9).unwrap_or(fraction)).parse().ok()?;
    time.checked_add(SignedDuration::from_nanos(nanoseconds)).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_read_with_their_fraction() {
        let read = |text: &str| time(text.as_bytes()).map(|time| time.to_string());
        for (text, expected) in [
            ("20260101000000Z", Some("2026-01-01T00:00:00Z")),
            ("20260101000000.5Z", Some("2026-01-01T00:00:00.5Z")),
            ("20260101000000.1234567891Z", Some("2026-01-01T00:00:00.123456789Z")),
            ("20260101000000", None),
            ("20260101000000.-1Z", None),
            ("20260101000000.\u{e9}\u{e9}\u{e9}\u{e9}\u{e9}Z", None),
            ("20261301000000Z", None),
            ("Z", None),
        ] {
            assert_eq!(read(text).as_deref(), expected, "{text}");
        }
    }
}

//! Public keys, and whether a signature is theirs.

use rustls::pki_types::SignatureVerificationAlgorithm;
use thiserror::Error;
use webpki::ring;
use x509_cert::der::{self, Decode as _, Encode as _};
use x509_cert::spki::SubjectPublicKeyInfoOwned;

use super::dsse::pre_authentication_encoding;
use super::encoding;
use crate::oci::Digest;

/// The longest PEM in bytes that is looked at: an RSA key of 8192 bits has 1,500.
const LIMIT: usize = 16 * 1024;

/// The kinds of keys whose signatures are verified, each with every hash that goes with it: cosign signs with SHA-256
/// whatever the curve, other writers with the one of the curve's length.
const ALGORITHMS: [(&str, &dyn SignatureVerificationAlgorithm); 8] = [
    ("ECDSA P-256", ring::ECDSA_P256_SHA256),
    ("ECDSA P-256", ring::ECDSA_P256_SHA384),
    ("ECDSA P-384", ring::ECDSA_P384_SHA256),
    ("ECDSA P-384", ring::ECDSA_P384_SHA384),
    ("Ed25519", ring::ED25519),
    ("RSA", ring::RSA_PKCS1_2048_8192_SHA256),
    ("RSA", ring::RSA_PKCS1_2048_8192_SHA384),
    ("RSA", ring::RSA_PKCS1_2048_8192_SHA512),
];

/// A public key: ECDSA over P-256 or P-384, Ed25519, or RSA of 2048 bits and more.
#[derive(Clone)]
pub struct PublicKey {
    /// The DER of its SubjectPublicKeyInfo (RFC 5280, section 4.1).
    spki: Vec<u8>,
    /// The key alone, as the algorithms take it.
    bits: Vec<u8>,
    kind: &'static str,
    algorithms: Vec<&'static dyn SignatureVerificationAlgorithm>,
}

/// Why bytes are not a public key.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub enum PublicKeyError {
    /// No PEM, or not that of a public key.
    #[error("it is no public key in PEM: it must begin with -----BEGIN PUBLIC KEY-----, as cosign.pub does")]
    NotPem,
    /// A key of a private pair; whoever wrote it there should know.
    #[error("it is a private key; put the public one there (`cosign public-key --key cosign.key` prints it)")]
    Private,
    /// The DER inside cannot be read.
    #[error("the public key is damaged")]
    Malformed,
    /// Another curve, or another algorithm.
    #[error(
        "keys of its kind are not verified here; those of ECDSA over P-256 or P-384, of Ed25519 and of RSA from 2048 bits on are"
    )]
    Kind,
}

impl PublicKey {
    /// Reads a PEM of the label `PUBLIC KEY` (RFC 7468, section 13).
    pub fn from_pem(pem: &[u8]) -> Result<Self, PublicKeyError> {
        if pem.len() > LIMIT {
            return Err(PublicKeyError::NotPem);
        }
        let (label, spki) = der::pem::decode_vec(pem.trim_ascii()).map_err(|_| PublicKeyError::NotPem)?;
        match label {
            "PUBLIC KEY" => Self::from_der(&spki),
            label if label.ends_with("PRIVATE KEY") => Err(PublicKeyError::Private),
            _ => Err(PublicKeyError::NotPem),
        }
    }

    /// Reads the DER of a SubjectPublicKeyInfo.
    pub fn from_der(spki: &[u8]) -> Result<Self, PublicKeyError> {
        let read = SubjectPublicKeyInfoOwned::from_der(spki).map_err(|_| PublicKeyError::Malformed)?;
        let algorithm = read.algorithm.to_der().map_err(|_| PublicKeyError::Malformed)?;
        // Without the header of the SEQUENCE, which is short: an identifier has no more than 30 bytes.
        let algorithm = algorithm.get(2..).unwrap_or_default();
        let fits = ALGORITHMS
            .iter()
            .filter(|(_, known)| known.public_key_alg_id().as_ref() == algorithm);
        let (kinds, algorithms): (Vec<&str>, Vec<_>) = fits.copied().unzip();
        let kind = kinds.first().copied().ok_or(PublicKeyError::Kind)?;
        let bits = read.subject_public_key.as_bytes().ok_or(PublicKeyError::Malformed)?;
        Ok(Self {
            spki: spki.to_vec(),
            bits: bits.to_vec(),
            kind,
            algorithms,
        })
    }

    /// Whether `signature` is this key's over `message`.
    pub fn verifies(&self, message: &[u8], signature: &[u8]) -> bool {
        self.algorithms
            .iter()
            .any(|algorithm| algorithm.verify_signature(&self.bits, message, signature).is_ok())
    }

    /// Whether `signature` is this key's over `payload` as content of the type `type_name`, as
    /// [`super::SigningKey::sign_typed`] makes it.
    pub fn verifies_typed(&self, type_name: &str, payload: &[u8], signature: &[u8]) -> bool {
        self.verifies(&pre_authentication_encoding(type_name, payload), signature)
    }

    /// What kind of key it is, for people.
    pub fn kind(&self) -> &'static str {
        self.kind
    }

    /// The DER of its SubjectPublicKeyInfo.
    pub fn spki(&self) -> &[u8] {
        &self.spki
    }

    /// The name that cosign gives a key in its bundles: the base64 of the SHA-256 of its SubjectPublicKeyInfo.
    pub fn hint(&self) -> String {
        encoding::encode(&hex::decode(self.fingerprint().hex()).unwrap_or_default())
    }

    /// The SHA-256 of its SubjectPublicKeyInfo.
    pub fn fingerprint(&self) -> Digest {
        Digest::of(&self.spki)
    }

    /// The beginning of its fingerprint, by which a person can tell two keys apart.
    pub fn short(&self) -> String {
        self.fingerprint().short_form()
    }
}

impl std::fmt::Debug for PublicKey {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(formatter, "{} key {}", self.kind, self.short())
    }
}

impl PartialEq for PublicKey {
    fn eq(&self, other: &Self) -> bool {
        self.spki == other.spki
    }
}

impl Eq for PublicKey {}

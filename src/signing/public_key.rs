//! Public keys and verification with them.

use rustls::pki_types::SignatureVerificationAlgorithm;
use thiserror::Error;
use webpki::ring;
use x509_cert::der::{self, Decode as _, Encode as _};
use x509_cert::spki::SubjectPublicKeyInfoOwned;

use super::dsse::pre_authentication_encoding;
use super::encoding;
use crate::oci::Digest;

/// The longest PEM in bytes; that of an RSA key of 8192 bits has 1,500.
const LIMIT: usize = 16 * 1024;

/// The supported kinds of keys, each with all supported hashes: cosign always uses SHA-256, other tools a hash of the
/// curve's length.
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

/// A public key: ECDSA over P-256 or P-384, Ed25519, or RSA of at least 2048 bits.
#[derive(Clone)]
pub struct PublicKey {
    /// The DER of its SubjectPublicKeyInfo (RFC 5280, section 4.1).
    spki: Vec<u8>,
    /// The key alone, in the form that the algorithms need.
    bits: Vec<u8>,
    kind: &'static str,
    algorithms: Vec<&'static dyn SignatureVerificationAlgorithm>,
}

/// Bytes are not a valid public key.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub enum PublicKeyError {
    /// Not PEM, or PEM of another type.
    #[error("it is not a public key in PEM: it must begin with -----BEGIN PUBLIC KEY-----, as cosign.pub does")]
    NotPem,
    /// A private key, which should not be there.
    #[error("it is a private key; use the public key instead (`cosign public-key --key cosign.key` prints it)")]
    Private,
    /// Invalid DER.
    #[error("the public key is damaged")]
    Malformed,
    /// An unsupported curve or algorithm.
    #[error("keys of its kind are not supported; use ECDSA over P-256 or P-384, Ed25519, or RSA of at least 2048 bits")]
    Kind,
}

impl PublicKey {
    /// Reads a PEM with the label `PUBLIC KEY` (RFC 7468, section 13).
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
        // Without the header of the SEQUENCE, which has two bytes: an identifier has at most 30 bytes.
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

    /// Whether `signature` is a signature of `message` by this key.
    pub fn verifies(&self, message: &[u8], signature: &[u8]) -> bool {
        self.algorithms
            .iter()
            .any(|algorithm| algorithm.verify_signature(&self.bits, message, signature).is_ok())
    }

    /// Whether `signature` is a signature by this key of `payload` as content of the type `type_name`, made by
    /// [`super::SigningKey::sign_typed`].
    pub fn verifies_typed(&self, type_name: &str, payload: &[u8], signature: &[u8]) -> bool {
        self.verifies(&pre_authentication_encoding(type_name, payload), signature)
    }

    /// The kind of key, for messages.
    pub fn kind(&self) -> &'static str {
        self.kind
    }

    /// The DER of its SubjectPublicKeyInfo.
    pub fn spki(&self) -> &[u8] {
        &self.spki
    }

    /// The hint by which cosign's bundles name a key: the base64 of the SHA-256 of its SubjectPublicKeyInfo.
    pub fn hint(&self) -> String {
        encoding::encode(&hex::decode(self.fingerprint().hex()).unwrap_or_default())
    }

    /// The SHA-256 of its SubjectPublicKeyInfo.
    pub fn fingerprint(&self) -> Digest {
        Digest::of(&self.spki)
    }

    /// The beginning of its fingerprint, for messages.
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

//! Private keys: cosign's encrypted PEM, and plain PKCS#8.

use crypto_secretbox::aead::{Aead as _, KeyInit as _};
use crypto_secretbox::{Key, Nonce, XSalsa20Poly1305};
use p256::ecdsa::signature::Signer as _;
use p256::ecdsa::signature::hazmat::PrehashSigner as _;
use p256::ecdsa::{self, Signature};
use p256::pkcs8::{DecodePrivateKey as _, EncodePublicKey as _};
use serde::Deserialize;
use thiserror::Error;
use x509_cert::der;

use super::dsse::pre_authentication_encoding;
use super::encoding::Base64;
use super::public_key::PublicKey;
use crate::decode;

/// The longest PEM in bytes.
const LIMIT: usize = 16 * 1024;
/// The most memory in bytes for decrypting a key. Keys by cosign need 64 MiB.
const MEMORY_LIMIT: u64 = 256 * 1024 * 1024;
/// The most rounds of scrypt with that memory. Keys by cosign need one.
const PARALLELISM_LIMIT: u32 = 4;

/// An ECDSA key over P-256. Its signatures are deterministic (RFC 6979).
#[derive(Clone)]
pub struct SigningKey {
    key: ecdsa::SigningKey,
    public: PublicKey,
}

/// Why a private key cannot be used.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub enum PrivateKeyError {
    /// Not PEM.
    #[error(
        "it is not a private key in PEM: use a key made by `cosign generate-key-pair`, or a PKCS#8 PEM that begins with -----BEGIN PRIVATE KEY-----"
    )]
    NotPem,
    /// PEM of another type.
    #[error(
        "it is a PEM of `{0}`, which cannot sign: use a cosign key or a PKCS#8 PEM (`openssl pkcs8 -topk8 -nocrypt` makes one)"
    )]
    Label(String),
    /// Encrypted PKCS#8, as openssl writes it.
    #[error(
        "it is encrypted as PKCS#8, which is not supported: encrypt it with `cosign import-key-pair`, or store it unencrypted"
    )]
    OtherEncryption,
    /// Encrypted, and no password was given.
    #[error("the key is encrypted, but there is no password for it")]
    NoPassword,
    /// The password is wrong, or the key was changed.
    #[error("the password is wrong, or the key is damaged")]
    WrongPassword,
    /// The JSON of the encryption is invalid, or exceeds the limits.
    #[error(
        "the encrypted key is damaged, or needs more than 256 MiB of memory to be decrypted; create another one with `cosign generate-key-pair`"
    )]
    Malformed,
    /// Not an ECDSA key over P-256.
    #[error("the key is not an ECDSA key over P-256, as `cosign generate-key-pair` makes; other kinds can only verify")]
    Kind,
}

/// The JSON inside cosign's PEM (go-securesystemslib, package `encrypted`).
#[derive(Deserialize)]
struct Encrypted {
    kdf: Kdf,
    cipher: Cipher,
    ciphertext: Base64,
}

#[derive(Deserialize)]
struct Kdf {
    name: String,
    params: Parameters,
    salt: Base64,
}

#[derive(Deserialize)]
#[serde(rename_all = "UPPERCASE")]
struct Parameters {
    n: u64,
    #[serde(rename = "r")]
    r: u32,
    #[serde(rename = "p")]
    p: u32,
}

#[derive(Deserialize)]
struct Cipher {
    name: String,
    nonce: Base64,
}

impl SigningKey {
    /// Reads a key: `ENCRYPTED SIGSTORE PRIVATE KEY` or the older `ENCRYPTED COSIGN PRIVATE KEY`, decrypted with `password`,
    /// or an unencrypted `PRIVATE KEY` (PKCS#8, RFC 5208), for which the password is ignored.
    ///
    /// Decrypting a key takes a quarter of a second and 64 MiB by design: do not call it on an async thread.
    pub fn from_pem(pem: &[u8], password: Option<&[u8]>) -> Result<Self, PrivateKeyError> {
        if pem.len() > LIMIT {
            return Err(PrivateKeyError::NotPem);
        }
        let (label, content) = der::pem::decode_vec(pem.trim_ascii()).map_err(|_| PrivateKeyError::NotPem)?;
        let content = zeroize::Zeroizing::new(content);
        match label {
            "ENCRYPTED SIGSTORE PRIVATE KEY" | "ENCRYPTED COSIGN PRIVATE KEY" => {
                let password = password.ok_or(PrivateKeyError::NoPassword)?;
                Self::from_pkcs8(&zeroize::Zeroizing::new(decrypt(&content, password)?))
            }
            "PRIVATE KEY" => Self::from_pkcs8(&content),
            "ENCRYPTED PRIVATE KEY" => Err(PrivateKeyError::OtherEncryption),
            other => Err(PrivateKeyError::Label(other.chars().take(60).collect())),
        }
    }

    fn from_pkcs8(der: &[u8]) -> Result<Self, PrivateKeyError> {
        let key = ecdsa::SigningKey::from_pkcs8_der(der).map_err(|_| PrivateKeyError::Kind)?;
        let spki = key
            .verifying_key()
            .to_public_key_der()
            .map_err(|_| PrivateKeyError::Kind)?;
        let public = PublicKey::from_der(spki.as_bytes()).map_err(|_| PrivateKeyError::Kind)?;
        Ok(Self { key, public })
    }

    /// The public key.
    pub fn public(&self) -> &PublicKey {
        &self.public
    }

    /// The signature of the SHA-256 of `message`, as DER (RFC 3279, section 2.2.3).
    pub fn sign(&self, message: &[u8]) -> Vec<u8> {
        let signature: Signature = self.key.sign(message);
        signature.to_der().as_bytes().to_vec()
    }

    /// The same signature, of a message whose SHA-256 is `hash`; `None` if that has another length.
    pub(super) fn sign_hash(&self, hash: &[u8]) -> Option<Vec<u8>> {
        let hash = <&[u8; 32]>::try_from(hash).ok()?;
        let signature: Signature = self.key.sign_prehash(hash).ok()?;
        Some(signature.to_der().as_bytes().to_vec())
    }

    /// The signature of `payload` as content of the type `kind` (DSSE 1.0, "PAE"). A signature of another type, or of content
    /// without a type, cannot be used instead.
    pub fn sign_typed(&self, kind: &str, payload: &[u8]) -> Vec<u8> {
        self.sign(&pre_authentication_encoding(kind, payload))
    }
}

impl std::fmt::Debug for SigningKey {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(formatter, "the private part of {:?}", self.public)
    }
}

/// Decrypts a secretbox whose key scrypt derives from the password.
fn decrypt(json: &[u8], password: &[u8]) -> Result<Vec<u8>, PrivateKeyError> {
    let read: Encrypted = decode::json(json).map_err(|_| PrivateKeyError::Malformed)?;
    let Parameters { n, r, p } = read.kdf.params;
    let known = read.kdf.name == "scrypt" && read.cipher.name == "nacl/secretbox";
    let memory = n.checked_mul(u64::from(r)).and_then(|blocks| blocks.checked_mul(128));
    let bounded = memory.is_some_and(|memory| memory <= MEMORY_LIMIT) && p <= PARALLELISM_LIMIT;
    if !known || !bounded || !n.is_power_of_two() || read.cipher.nonce.0.len() != 24 {
        return Err(PrivateKeyError::Malformed);
    }
    let log_n = u8::try_from(n.trailing_zeros()).map_err(|_| PrivateKeyError::Malformed)?;
    let parameters = scrypt::Params::new(log_n, r, p).map_err(|_| PrivateKeyError::Malformed)?;
    let mut key = zeroize::Zeroizing::new([0; 32]);
    scrypt::scrypt(password, &read.kdf.salt.0, &parameters, &mut *key).map_err(|_| PrivateKeyError::Malformed)?;
    let opened = XSalsa20Poly1305::new(Key::from_slice(&*key))
        .decrypt(Nonce::from_slice(&read.cipher.nonce.0), read.ciphertext.0.as_slice());
    opened.map_err(|_| PrivateKeyError::WrongPassword)
}

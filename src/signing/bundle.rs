//! Sigstore bundles: a signature with everything that is needed to verify it.

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use thiserror::Error;

use super::dsse::{STATEMENT, Statement, pre_authentication_encoding};
use super::encoding::Base64;
use super::log_entry::LogEntry;
use super::private_key::SigningKey;
use super::signed_content::{SignatureClaim, SignedContent};
use crate::decode;
use crate::oci::Digest;

/// The media type of a bundle of version 0.3, also used as the artifact type of its manifest.
pub const BUNDLE: &str = "application/vnd.dev.sigstore.bundle.v0.3+json";
/// The common prefix of the media types of all versions: older ones end with `;version=0.2`.
pub const BUNDLE_FAMILY: &str = "application/vnd.dev.sigstore.bundle";
/// The path, in a package, of the bundle that signs its definition, for Zarf 0.71 and later.
pub const DEFINITION_SIGNATURE: &str = "zarf.bundle.sig";
/// The longest bundle in bytes.
const LIMIT: usize = 8 * 1024 * 1024;
/// The most log entries, timestamps and certificates of a bundle, each.
const COUNT_LIMIT: usize = 32;

/// A signature, its signer, and the proofs of its time (sigstore/protobuf-specs, `sigstore_bundle.proto`).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Bundle {
    media_type: String,
    verification_material: Material,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    dsse_envelope: Option<Envelope>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    message_signature: Option<MessageSignature>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Material {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    public_key: Option<KeyIdentifier>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    certificate: Option<RawBytes>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    x509_certificate_chain: Option<Chain>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    tlog_entries: Vec<LogEntry>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    timestamp_verification_data: Option<Timestamps>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
struct KeyIdentifier {
    #[serde(default)]
    hint: String,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct RawBytes {
    raw_bytes: Base64,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
struct Chain {
    certificates: Vec<RawBytes>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Timestamps {
    #[serde(default)]
    rfc3161_timestamps: Vec<SignedTimestamp>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct SignedTimestamp {
    signed_timestamp: Base64,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Envelope {
    payload: Base64,
    payload_type: String,
    signatures: Vec<EnvelopeSignature>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
struct EnvelopeSignature {
    sig: Base64,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct MessageSignature {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    message_digest: Option<MessageDigest>,
    signature: Base64,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
struct MessageDigest {
    algorithm: String,
    digest: Base64,
}

/// Bytes are not a bundle that can be verified.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub enum BundleError {
    /// Too long.
    #[error("it has {0} bytes, more than the limit of {LIMIT}")]
    TooLarge(usize),
    /// Invalid JSON, or of another type.
    #[error("it is not a Sigstore bundle: {0}")]
    Malformed(String),
    /// Not exactly one signature.
    #[error("it does not have exactly one signature")]
    Signatures,
    /// The signature of a file instead of a statement.
    #[error("it signs a file, not an image")]
    File,
    /// A file whose SHA-256 is not known.
    #[error("only a SHA-256 digest can be signed")]
    Digest,
    /// An invalid statement.
    #[error("its content is not an in-toto statement")]
    Statement,
}

impl Bundle {
    /// Signs `statement` with `key`, in an envelope.
    pub fn of_statement(key: &SigningKey, statement: &Statement) -> Result<Self, BundleError> {
        let payload = serde_json::to_vec(statement).map_err(|error| BundleError::Malformed(error.to_string()))?;
        let signature = key.sign(&pre_authentication_encoding(STATEMENT, &payload));
        Ok(Self {
            dsse_envelope: Some(Envelope {
                payload: Base64(payload),
                payload_type: STATEMENT.to_owned(),
                signatures: vec![EnvelopeSignature { sig: Base64(signature) }],
            }),
            ..Self::unsigned(key)
        })
    }

    /// Signs a file with `key`, as `cosign sign-blob` does.
    pub fn of_blob(key: &SigningKey, content: &[u8]) -> Self {
        Self::of_message(key, &Digest::of(content), key.sign(content))
    }

    /// The same for a file of which only the SHA-256 digest is known.
    ///
    /// # Errors
    /// If `digest` is of another algorithm.
    pub fn of_digest(key: &SigningKey, digest: &Digest) -> Result<Self, BundleError> {
        let hash = Some(digest.hex()).filter(|_| digest.algorithm() == "sha256");
        let signature = hash.and_then(|hash| key.sign_hash(&hex::decode(hash).ok()?));
        Ok(Self::of_message(key, digest, signature.ok_or(BundleError::Digest)?))
    }

    fn of_message(key: &SigningKey, digest: &Digest, signature: Vec<u8>) -> Self {
        Self {
            message_signature: Some(MessageSignature {
                message_digest: Some(MessageDigest {
                    algorithm: "SHA2_256".to_owned(),
                    digest: Base64(hex::decode(digest.hex()).unwrap_or_default()),
                }),
                signature: Base64(signature),
            }),
            ..Self::unsigned(key)
        }
    }

    fn unsigned(key: &SigningKey) -> Self {
        let hint = key.public().hint();
        Self {
            media_type: BUNDLE.to_owned(),
            verification_material: Material {
                public_key: Some(KeyIdentifier { hint }),
                ..Material::default()
            },
            dsse_envelope: None,
            message_signature: None,
        }
    }

    /// Reads a bundle of any version.
    pub fn parse(json: &[u8]) -> Result<Self, BundleError> {
        if json.len() > LIMIT {
            return Err(BundleError::TooLarge(json.len()));
        }
        let read: Self = decode::json(json).map_err(|error| BundleError::Malformed(error.to_string()))?;
        if !read.media_type.starts_with(BUNDLE_FAMILY) {
            let kind: String = read.media_type.chars().take(100).collect();
            return Err(BundleError::Malformed(format!("its media type is `{kind}`")));
        }
        let material = &read.verification_material;
        let chain = material.x509_certificate_chain.as_ref();
        let timestamps = material.timestamp_verification_data.as_ref();
        let counts = [
            chain.map_or(0, |chain| chain.certificates.len()),
            material.tlog_entries.len(),
            timestamps.map_or(0, |timestamps| timestamps.rfc3161_timestamps.len()),
        ];
        if counts.into_iter().any(|count| count > COUNT_LIMIT) {
            return Err(BundleError::Malformed(format!(
                "it has more than {COUNT_LIMIT} certificates, entries or timestamps"
            )));
        }
        Ok(read)
    }

    /// Whether it says that a certificate's identity signed, rather than a key.
    pub fn is_keyless(&self) -> bool {
        let material = &self.verification_material;
        material.certificate.is_some() || material.x509_certificate_chain.is_some()
    }

    /// The bundle as JSON; the same bundle gives the same bytes.
    pub fn json(&self) -> Bytes {
        // It contains only texts, numbers and lists of them, which can always be serialised.
        serde_json::to_vec(self).unwrap_or_default().into()
    }

    /// The signature with the signed content. `blob` is the signed file of a bundle without an envelope.
    pub fn signed(self, blob: Option<&[u8]>) -> Result<SignedContent, BundleError> {
        let material = self.verification_material;
        let mut certificates: Vec<Vec<u8>> = match (material.certificate, material.x509_certificate_chain) {
            (Some(leaf), _) => vec![leaf.raw_bytes.0],
            (None, Some(chain)) => chain.certificates.into_iter().map(|each| each.raw_bytes.0).collect(),
            (None, None) => Vec::new(),
        };
        let certificate = (!certificates.is_empty()).then(|| certificates.remove(0));
        let timestamps = material.timestamp_verification_data.unwrap_or_default();
        let (message, payload, signature, claim) = match (self.dsse_envelope, self.message_signature, blob) {
            (Some(envelope), None, None) => {
                let [signature] = <[_; 1]>::try_from(envelope.signatures).map_err(|_| BundleError::Signatures)?;
                if envelope.payload_type != STATEMENT {
                    return Err(BundleError::Statement);
                }
                let payload = envelope.payload.0;
                let statement: Statement = decode::json(&payload).map_err(|_| BundleError::Statement)?;
                if !statement.is_known() {
                    return Err(BundleError::Statement);
                }
                let message = pre_authentication_encoding(STATEMENT, &payload);
                (
                    message,
                    Some(payload),
                    signature.sig.0,
                    SignatureClaim::Statement(statement),
                )
            }
            (None, Some(message), Some(blob)) => (blob.to_vec(), None, message.signature.0, SignatureClaim::Blob),
            (None, Some(_), None) => return Err(BundleError::File),
            _ => return Err(BundleError::Signatures),
        };
        Ok(SignedContent {
            message,
            payload,
            signature,
            claim,
            certificate,
            intermediates: certificates,
            entries: material.tlog_entries,
            timestamps: timestamps
                .rfc3161_timestamps
                .into_iter()
                .map(|each| each.signed_timestamp.0)
                .collect(),
        })
    }
}

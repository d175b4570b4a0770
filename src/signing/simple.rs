//! Signatures by cosign 2: a layer and its annotations under the tag `sha256-<hex>.sig`.

use std::collections::BTreeMap;

use serde::Deserialize;
use x509_cert::der;

use super::encoding::{self, Base64, int64};
use super::log_entry::LogEntry;
use super::signed_content::{SignatureClaim, SignedContent};
use crate::decode;
use crate::oci::Digest;

/// The media type of a layer that contains one.
pub const SIMPLE_LAYER: &str = "application/vnd.dev.cosign.simplesigning.v1+json";
/// The artifact type that cosign uses if it is configured to write them as referrers.
pub const SIMPLE_ARTIFACT: &str = "application/vnd.dev.cosign.artifact.sig.v1+json";
const SIGNATURE: &str = "dev.cosignproject.cosign/signature";
const CERTIFICATE: &str = "dev.sigstore.cosign/certificate";
const CHAIN: &str = "dev.sigstore.cosign/chain";
const LOGGED: &str = "dev.sigstore.cosign/bundle";
const TIMESTAMP: &str = "dev.sigstore.cosign/rfc3161timestamp";

/// The tag of the signatures by cosign 2 for this digest (cosign, "Signature Specification").
pub fn signature_tag(digest: &Digest) -> String {
    format!("{}-{}.sig", digest.algorithm(), digest.hex())
}

/// A layer of that manifest.
#[derive(Clone, Debug)]
pub struct SimpleSignature {
    /// The layer's content, which is signed.
    pub payload: Vec<u8>,
    /// The layer's annotations.
    pub annotations: BTreeMap<String, String>,
}

/// The payload (containers/image, "atomic container signature").
#[derive(Deserialize)]
struct Payload {
    critical: Critical,
}

#[derive(Deserialize)]
struct Critical {
    image: Image,
    #[serde(rename = "type")]
    kind: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "kebab-case")]
struct Image {
    docker_manifest_digest: Digest,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Logged {
    signed_entry_timestamp: Base64,
    payload: LoggedPayload,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct LoggedPayload {
    body: Base64,
    #[serde(deserialize_with = "int64")]
    integrated_time: i64,
    #[serde(deserialize_with = "int64")]
    log_index: i64,
    #[serde(rename = "logID")]
    log_id: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Timestamped {
    #[serde(rename = "SignedRFC3161Timestamp")]
    token: Base64,
}

impl SimpleSignature {
    /// The signature with the signed content. The error says what is wrong with it.
    pub fn signed(self) -> Result<SignedContent, &'static str> {
        let annotation = |key: &str| {
            self.annotations
                .get(key)
                .map(String::as_str)
                .filter(|text| !text.is_empty())
        };
        let signature =
            annotation(SIGNATURE).ok_or("its layer has no annotation dev.cosignproject.cosign/signature")?;
        let signature = encoding::decode(signature).ok_or("its signature is not base64")?;
        let payload: Payload = decode::json(&self.payload).map_err(|_| "its content is not a payload of cosign")?;
        if !matches!(
            payload.critical.kind.as_str(),
            "cosign container image signature" | "https://sigstore.dev/cosign/sign/v1"
        ) {
            return Err("its content is not a payload of cosign");
        }
        let leaf = annotation(CERTIFICATE).map(certificates).transpose()?;
        let chain = annotation(CHAIN).map(certificates).transpose()?;
        let entry = match annotation(LOGGED) {
            Some(json) => {
                let logged: Logged = decode::json(json.as_bytes()).map_err(|_| "its bundle cannot be read")?;
                let id = hex::decode(&logged.payload.log_id).map_err(|_| "its bundle cannot be read")?;
                Some(LogEntry::promised(
                    id,
                    logged.payload.log_index,
                    logged.payload.integrated_time,
                    logged.signed_entry_timestamp.0,
                    logged.payload.body.0,
                ))
            }
            None => None,
        };
        let timestamp = match annotation(TIMESTAMP) {
            Some(json) => {
                let stamped: Timestamped = decode::json(json.as_bytes()).map_err(|_| "its timestamp cannot be read")?;
                Some(stamped.token.0)
            }
            None => None,
        };
        let certificate = leaf.and_then(|leaf| leaf.into_iter().next());
        Ok(SignedContent {
            message: self.payload,
            payload: None,
            signature,
            claim: SignatureClaim::Image(payload.critical.image.docker_manifest_digest),
            certificate,
            intermediates: chain.unwrap_or_default(),
            entries: entry.into_iter().collect(),
            timestamps: timestamp.into_iter().collect(),
        })
    }
}

/// All certificates of a PEM as DER.
fn certificates(pem: &str) -> Result<Vec<Vec<u8>>, &'static str> {
    const END: &str = "-----END CERTIFICATE-----";
    let mut found = Vec::new();
    for block in pem.split_inclusive(END).filter(|block| block.contains(END)) {
        let (_, der) = der::pem::decode_vec(block.trim_ascii().as_bytes()).map_err(|_| "its certificate is not PEM")?;
        found.push(der);
    }
    Ok(found)
}

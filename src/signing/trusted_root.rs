//! Trusted roots (`trusted_root.json`): certificate authorities, timestamp authorities and transparency logs.

use jiff::Timestamp;
use serde::Deserialize;
use thiserror::Error;

use super::encoding::Base64;
use super::public_key::PublicKey;
use crate::decode;
use crate::oci::Digest;

/// The longest file in bytes; Sigstore's own has 7,000.
const LIMIT: usize = 1024 * 1024;
/// The common prefix of the media types of all versions.
const FAMILY: &str = "application/vnd.dev.sigstore.trustedroot";

/// A trusted root, as `cosign trusted-root create` writes and Sigstore publishes it (sigstore/protobuf-specs,
/// `sigstore_trustroot.proto`). It allows offline verification.
#[derive(Clone, Debug)]
pub struct TrustedRoot {
    digest: Digest,
    pub(super) logs: Vec<Log>,
    pub(super) authorities: Vec<Authority>,
    pub(super) certificate_logs: Vec<Log>,
    pub(super) timestamp_authorities: Vec<Authority>,
}

/// A transparency log of signatures or of certificates.
#[derive(Clone, Debug)]
pub(super) struct Log {
    pub id: Vec<u8>,
    /// `None` for an unsupported kind of key: then no entry of this log is valid, but entries are still required.
    pub key: Option<PublicKey>,
    pub valid: Period,
}

/// A chain of certificates, the root last.
#[derive(Clone, Debug)]
pub(super) struct Authority {
    pub chain: Vec<Vec<u8>>,
    pub valid: Period,
}

/// A period of validity. A missing start or end means unlimited.
#[derive(Clone, Copy, Debug, Default, Deserialize)]
pub(super) struct Period {
    start: Option<Timestamp>,
    end: Option<Timestamp>,
}

impl Period {
    /// Whether `time` is in the period, start and end included.
    pub fn contains(&self, time: Timestamp) -> bool {
        self.start.is_none_or(|start| start <= time) && self.end.is_none_or(|end| time <= end)
    }
}

/// A file is not a valid trusted root.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub enum TrustedRootError {
    /// Invalid JSON, or too long.
    #[error("it is not a trusted_root.json of Sigstore: {0}")]
    Malformed(String),
    /// It has no certificate authority.
    #[error("it has no certificate authority, so it cannot prove an identity")]
    NoAuthority,
    /// It cannot prove times.
    #[error(
        "it has neither a transparency log nor a timestamp authority, so it cannot prove when something was signed"
    )]
    NoTime,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Document {
    media_type: String,
    #[serde(default)]
    tlogs: Vec<LogInstance>,
    #[serde(default)]
    certificate_authorities: Vec<AuthorityInstance>,
    #[serde(default)]
    ctlogs: Vec<LogInstance>,
    #[serde(default)]
    timestamp_authorities: Vec<AuthorityInstance>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct LogInstance {
    public_key: LogKey,
    #[serde(default)]
    log_id: LogId,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct LogKey {
    raw_bytes: Base64,
    #[serde(default)]
    valid_for: Period,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase")]
struct LogId {
    key_id: Base64,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct AuthorityInstance {
    cert_chain: CertChain,
    #[serde(default)]
    valid_for: Period,
}

#[derive(Deserialize)]
struct CertChain {
    certificates: Vec<ChainCertificate>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct ChainCertificate {
    raw_bytes: Base64,
}

impl TrustedRoot {
    /// Reads the file.
    pub fn parse(json: &[u8]) -> Result<Self, TrustedRootError> {
        if json.len() > LIMIT {
            return Err(TrustedRootError::Malformed(format!("it is longer than {LIMIT} bytes")));
        }
        let read: Document = decode::json(json).map_err(|error| TrustedRootError::Malformed(error.to_string()))?;
        if !read.media_type.starts_with(FAMILY) {
            let kind: String = read.media_type.chars().take(100).collect();
            return Err(TrustedRootError::Malformed(format!("its media type is `{kind}`")));
        }
        let root = Self {
            digest: Digest::of(json),
            logs: logs(read.tlogs),
            authorities: authorities(read.certificate_authorities),
            certificate_logs: logs(read.ctlogs),
            timestamp_authorities: authorities(read.timestamp_authorities),
        };
        if root.authorities.is_empty() {
            return Err(TrustedRootError::NoAuthority);
        }
        if root.logs.is_empty() && root.timestamp_authorities.is_empty() {
            return Err(TrustedRootError::NoTime);
        }
        Ok(root)
    }

    /// The digest of the file.
    pub fn digest(&self) -> &Digest {
        &self.digest
    }
}

fn logs(instances: Vec<LogInstance>) -> Vec<Log> {
    let read = |instance: LogInstance| Log {
        key: PublicKey::from_der(&instance.public_key.raw_bytes.0).ok(),
        id: instance.log_id.key_id.0,
        valid: instance.public_key.valid_for,
    };
    instances.into_iter().map(read).collect()
}

fn authorities(instances: Vec<AuthorityInstance>) -> Vec<Authority> {
    let read = |instance: AuthorityInstance| Authority {
        chain: instance
            .cert_chain
            .certificates
            .into_iter()
            .map(|each| each.raw_bytes.0)
            .collect(),
        valid: instance.valid_for,
    };
    instances
        .into_iter()
        .map(read)
        .filter(|authority| !authority.chain.is_empty())
        .collect()
}

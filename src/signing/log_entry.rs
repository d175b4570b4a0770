//! The entry of a transparency log, as bundles contain it.

use serde::{Deserialize, Serialize};

use super::encoding::{Base64, int64};

/// An entry of a transparency log with its proofs (sigstore/protobuf-specs, `sigstore_rekor.proto`).
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct LogEntry {
    #[serde(default, deserialize_with = "int64")]
    pub log_index: i64,
    pub log_id: LogId,
    /// In seconds since the Unix epoch; zero without a time.
    #[serde(default, deserialize_with = "int64")]
    pub integrated_time: i64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub inclusion_promise: Option<InclusionPromise>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub inclusion_proof: Option<InclusionProof>,
    pub canonicalized_body: Base64,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct LogId {
    pub key_id: Base64,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct InclusionPromise {
    pub signed_entry_timestamp: Base64,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct InclusionProof {
    #[serde(default, deserialize_with = "int64")]
    pub log_index: i64,
    pub root_hash: Base64,
    #[serde(deserialize_with = "int64")]
    pub tree_size: i64,
    #[serde(default)]
    pub hashes: Vec<Base64>,
    #[serde(default)]
    pub checkpoint: Checkpoint,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Checkpoint {
    pub envelope: String,
}

impl LogEntry {
    /// An entry with only an inclusion promise.
    pub fn promised(log_id: Vec<u8>, log_index: i64, integrated_time: i64, promise: Vec<u8>, body: Vec<u8>) -> Self {
        Self {
            log_index,
            log_id: LogId { key_id: Base64(log_id) },
            integrated_time,
            inclusion_promise: Some(InclusionPromise {
                signed_entry_timestamp: Base64(promise),
            }),
            inclusion_proof: None,
            canonicalized_body: Base64(body),
        }
    }
}

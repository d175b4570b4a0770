//! in-toto statements and the envelope in which they are signed (DSSE 1.0).

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::oci::Digest;

/// The type of the predicate with which cosign 3 signs an image.
pub const SIGN_PREDICATE: &str = "https://sigstore.dev/cosign/sign/v1";
/// The media type of a statement in an envelope.
pub(super) const STATEMENT: &str = "application/vnd.in-toto+json";
const STATEMENT_TYPE: &str = "https://in-toto.io/Statement/v1";

/// A statement about some content (in-toto Attestation Framework, "Statement").
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Statement {
    #[serde(rename = "_type")]
    kind: String,
    /// The content that it is about.
    pub subject: Vec<Subject>,
    /// The type of `predicate`: a URI.
    pub predicate_type: String,
    /// The statement itself.
    #[serde(default)]
    pub predicate: serde_json::Value,
}

/// Content that a statement is about.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Subject {
    /// Its name; may be empty.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub name: String,
    /// Its digests in hexadecimal, by algorithm.
    #[serde(default)]
    pub digest: BTreeMap<String, String>,
}

impl Subject {
    /// Content with this digest, without a name.
    pub fn of(digest: &Digest) -> Self {
        Self {
            name: String::new(),
            digest: BTreeMap::from([(digest.algorithm().to_owned(), digest.hex().to_owned())]),
        }
    }

    fn has_digest(&self, digest: &Digest) -> bool {
        self.digest
            .get(digest.algorithm())
            .is_some_and(|hex| hex == digest.hex())
    }
}

impl Statement {
    /// A statement `predicate` of the type `predicate_type` about `subject`.
    pub fn new(subject: Vec<Subject>, predicate_type: impl Into<String>, predicate: serde_json::Value) -> Self {
        Self {
            kind: STATEMENT_TYPE.to_owned(),
            subject,
            predicate_type: predicate_type.into(),
            predicate,
        }
    }

    /// The statement with which `cosign sign` signs an image or artifact.
    pub fn signature(digest: &Digest) -> Self {
        let nothing = serde_json::Value::Object(serde_json::Map::new());
        Self::new(vec![Subject::of(digest)], SIGN_PREDICATE, nothing)
    }

    /// Whether it is about the content with `digest`.
    pub fn is_about(&self, digest: &Digest) -> bool {
        self.subject.iter().any(|subject| subject.has_digest(digest))
    }

    /// Whether its version of the framework is supported; the previous version has the same fields.
    pub(super) fn is_known(&self) -> bool {
        self.kind == STATEMENT_TYPE || self.kind == "https://in-toto.io/Statement/v0.1"
    }
}

/// The signed bytes of an envelope: its type and payload, each preceded by its length (DSSE, "PAE").
pub(super) fn pre_authentication_encoding(kind: &str, payload: &[u8]) -> Vec<u8> {
    let mut message = format!("DSSEv1 {} {kind} {} ", kind.len(), payload.len()).into_bytes();
    message.extend_from_slice(payload);
    message
}

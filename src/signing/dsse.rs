//! in-toto statements, and the envelope that they are signed in (DSSE 1.0).

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::oci::Digest;

/// The predicate by which cosign 3 says no more than that somebody signs an image.
pub const SIGN_PREDICATE: &str = "https://sigstore.dev/cosign/sign/v1";
/// The media type of a statement in an envelope.
pub(super) const STATEMENT: &str = "application/vnd.in-toto+json";
const STATEMENT_TYPE: &str = "https://in-toto.io/Statement/v1";

/// What somebody says of some content (in-toto Attestation Framework, "Statement").
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Statement {
    #[serde(rename = "_type")]
    kind: String,
    /// What it is about.
    pub subject: Vec<Subject>,
    /// The form and meaning of `predicate`: a URI.
    pub predicate_type: String,
    /// What is said.
    #[serde(default)]
    pub predicate: serde_json::Value,
}

/// Content that a statement is about.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Subject {
    /// What it is called; empty where its digest is enough.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub name: String,
    /// Its digests in hexadecimal, by algorithm.
    #[serde(default)]
    pub digest: BTreeMap<String, String>,
}

impl Subject {
    /// Content of this digest, without a name.
    pub fn of(digest: &Digest) -> Self {
        Self {
            name: String::new(),
            digest: BTreeMap::from([(digest.algorithm().to_owned(), digest.hex().to_owned())]),
        }
    }

    fn is(&self, digest: &Digest) -> bool {
        self.digest
            .get(digest.algorithm())
            .is_some_and(|hex| hex == digest.hex())
    }
}

impl Statement {
    /// Says `predicate`, whose form and meaning `predicate_type` names, of `subject`.
    pub fn new(subject: Vec<Subject>, predicate_type: impl Into<String>, predicate: serde_json::Value) -> Self {
        Self {
            kind: STATEMENT_TYPE.to_owned(),
            subject,
            predicate_type: predicate_type.into(),
            predicate,
        }
    }

    /// As `cosign sign` says it of an image or artifact.
    pub fn signature(digest: &Digest) -> Self {
        let nothing = serde_json::Value::Object(serde_json::Map::new());
        Self::new(vec![Subject::of(digest)], SIGN_PREDICATE, nothing)
    }

    /// Whether it is about the content of `digest`.
    pub fn is_about(&self, digest: &Digest) -> bool {
        self.subject.iter().any(|subject| subject.is(digest))
    }

    /// Whether it is of the version of the framework that is read here; the two before it have the same fields.
    pub(super) fn is_known(&self) -> bool {
        self.kind == STATEMENT_TYPE || self.kind == "https://in-toto.io/Statement/v0.1"
    }
}

/// What is signed of an envelope: its type and its payload, each with its length before it (DSSE, "PAE").
pub(super) fn pre_authentication_encoding(kind: &str, payload: &[u8]) -> Vec<u8> {
    let mut message = format!("DSSEv1 {} {kind} {} ", kind.len(), payload.len()).into_bytes();
    message.extend_from_slice(payload);
    message
}

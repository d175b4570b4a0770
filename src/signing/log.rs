//! Entries of a transparency log, verified without asking it (Rekor; RFC 6962 for the tree).

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use sha2::{Digest as _, Sha256};

use super::certificate::Certificate;
use super::encoding::{self, Base64, int64};
use super::trusted_root::{Log, TrustedRoot};
use super::verify::SignedContent;
use crate::decode;

/// How deep a tree may be: one of 2^64 leaves.
const DEPTH: usize = 64;

/// What a log gave for an entry (sigstore/protobuf-specs, `sigstore_rekor.proto`).
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Entry {
    #[serde(default, deserialize_with = "int64")]
    log_index: i64,
    log_id: LogId,
    /// In seconds of the Unix epoch; zero where the log says no time.
    #[serde(default, deserialize_with = "int64")]
    integrated_time: i64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    inclusion_promise: Option<Promise>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    inclusion_proof: Option<Proof>,
    canonicalized_body: Base64,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct LogId {
    key_id: Base64,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Promise {
    signed_entry_timestamp: Base64,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Proof {
    #[serde(default, deserialize_with = "int64")]
    log_index: i64,
    root_hash: Base64,
    #[serde(deserialize_with = "int64")]
    tree_size: i64,
    #[serde(default)]
    hashes: Vec<Base64>,
    #[serde(default)]
    checkpoint: Checkpoint,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
struct Checkpoint {
    envelope: String,
}

impl Entry {
    /// An entry of which nothing came along but the log's promise to keep it.
    pub fn promised(log_id: Vec<u8>, log_index: i64, integrated_time: i64, promise: Vec<u8>, body: Vec<u8>) -> Self {
        Self {
            log_index,
            log_id: LogId { key_id: Base64(log_id) },
            integrated_time,
            inclusion_promise: Some(Promise {
                signed_entry_timestamp: Base64(promise),
            }),
            inclusion_proof: None,
            canonicalized_body: Base64(body),
        }
    }

    /// That a log of `trust` holds the entry, and that the entry is of this signature by this certificate. Gives the time
    /// at which the log took it, where the log vouches for one.
    ///
    /// The log must count at that time. A proof of inclusion alone vouches for none (Rekor v2): then it must count at each
    /// time of `stamped`, at which authorities saw the signature.
    pub fn verify(
        &self,
        signed: &SignedContent,
        certificate: &Certificate,
        trust: &TrustedRoot,
        stamped: &[Timestamp],
    ) -> Result<Option<Timestamp>, String> {
        let id = &self.log_id.key_id.0;
        let mut reason = "its log entry is of no transparency log of the trusted root".to_owned();
        // A key may be listed once for each of its periods.
        for log in trust.logs.iter().filter(|log| log.id == *id) {
            match self.held_by(log, stamped) {
                Ok(time) if is_of(&self.canonicalized_body.0, signed, certificate) => return Ok(time),
                Ok(_) => reason = "its log entry is of another signature".to_owned(),
                Err(why) => reason = why,
            }
        }
        Err(reason)
    }

    /// That `log` holds the entry and counted when it took it.
    fn held_by(&self, log: &Log, stamped: &[Timestamp]) -> Result<Option<Timestamp>, String> {
        let time = self.promised_time(log)?;
        if let Some(proof) = &self.inclusion_proof {
            proof.verify(log, &self.canonicalized_body.0)?;
        }
        if time.is_none() && self.inclusion_proof.is_none() {
            return Err("its log entry has neither a promise nor a proof of the log".to_owned());
        }
        let counted = match time {
            Some(time) => log.valid.holds(time),
            None => stamped.iter().all(|time| log.valid.holds(*time)),
        };
        match counted {
            true => Ok(time),
            false => Err("its log entry is from a time at which the log did not count".to_owned()),
        }
    }

    /// The time that the log's promise covers, which the tree does not.
    fn promised_time(&self, log: &Log) -> Result<Option<Timestamp>, String> {
        let Some(promise) = &self.inclusion_promise else {
            return Ok(None);
        };
        // Canonical JSON (RFC 8785) of four fields that need no escapes, in the order of their names.
        let promised = format!(
            r#"{{"body":"{}","integratedTime":{},"logID":"{}","logIndex":{}}}"#,
            encoding::encode(&self.canonicalized_body.0),
            self.integrated_time,
            hex::encode(&self.log_id.key_id.0),
            self.log_index,
        );
        let set = &promise.signed_entry_timestamp.0;
        let time = Timestamp::from_second(self.integrated_time).ok();
        let kept = log
            .key
            .as_ref()
            .is_some_and(|key| key.verifies(promised.as_bytes(), set));
        match time.filter(|_| kept) {
            Some(time) => Ok(Some(time)),
            None => Err("its log entry has a promise that the log did not give".to_owned()),
        }
    }
}

impl Proof {
    /// That the leaf `body` leads to the root of the tree, and that the log signed that root.
    fn verify(&self, log: &Log, body: &[u8]) -> Result<(), String> {
        let wrong = || "its log entry has a proof that does not lead to the log's root".to_owned();
        let index = u64::try_from(self.log_index).map_err(|_| wrong())?;
        let size = u64::try_from(self.tree_size).map_err(|_| wrong())?;
        let path: Vec<&[u8]> = self.hashes.iter().map(|hash| hash.0.as_slice()).collect();
        let root = root(index, size, body, &path).ok_or_else(wrong)?;
        if root != self.root_hash.0 {
            return Err(wrong());
        }
        match is_checkpoint(&self.checkpoint.envelope, log, size, &root) {
            true => Ok(()),
            false => Err("its log entry has a checkpoint that the log did not sign".to_owned()),
        }
    }
}

/// The root that a leaf leads to (RFC 9162, section 2.1.3.2).
fn root(index: u64, size: u64, leaf: &[u8], path: &[&[u8]]) -> Option<Vec<u8>> {
    if index >= size || path.len() > DEPTH {
        return None;
    }
    let (mut node, mut last) = (index, size - 1);
    let mut hash = Sha256::new().chain_update([0]).chain_update(leaf).finalize();
    for sibling in path {
        if last == 0 {
            return None;
        }
        let pair = Sha256::new().chain_update([1]);
        if node % 2 == 1 || node == last {
            hash = pair.chain_update(sibling).chain_update(hash).finalize();
            while node % 2 == 0 && node != 0 {
                node >>= 1;
                last >>= 1;
            }
        } else {
            hash = pair.chain_update(hash).chain_update(sibling).finalize();
        }
        node >>= 1;
        last >>= 1;
    }
    (last == 0).then(|| hash.to_vec())
}

/// Whether a signed note says, by the key of the log, that the tree of `size` leaves has this root (C2SP,
/// `tlog-checkpoint` and `signed-note`).
fn is_checkpoint(envelope: &str, log: &Log, size: u64, root: &[u8]) -> bool {
    let Some((text, signatures)) = envelope.split_once("\n\n") else {
        return false;
    };
    let mut lines = text.lines().skip(1);
    let says_size = lines.next().and_then(|line| line.parse().ok()) == Some(size);
    let says_root = lines.next().and_then(encoding::decode).as_deref() == Some(root);
    let text = format!("{text}\n");
    let signed = signatures.lines().filter_map(|line| {
        let (_, signature) = line.strip_prefix("\u{2014} ")?.split_once(' ')?;
        // Four bytes that only tell keys apart come first.
        Some(encoding::decode(signature)?.get(4..)?.to_vec())
    });
    let Some(key) = &log.key else {
        return false;
    };
    says_size
        && says_root
        && signed
            .take(16)
            .any(|signature| key.verifies(text.as_bytes(), &signature))
}

/// Whether the body of an entry is of this signature, over this content, by this certificate.
fn is_of(body: &[u8], signed: &SignedContent, certificate: &Certificate) -> bool {
    let Ok(body) = decode::json::<Value>(body) else {
        return false;
    };
    let of = ExpectedEntry { signed, certificate };
    let spec = &body["spec"];
    match (body["kind"].as_str(), body["apiVersion"].as_str()) {
        (Some("hashedrekord"), Some("0.0.1")) => {
            of.hex_hash(&spec["data"]["hash"], &signed.message)
                && of.signature(&spec["signature"]["content"])
                && of.pem(&spec["signature"]["publicKey"]["content"])
        }
        (Some("hashedrekord"), Some("0.0.2")) => {
            let spec = &spec["hashedRekordV002"];
            of.hash(&spec["data"], &signed.message)
                && of.signature(&spec["signature"]["content"])
                && of.verifier(&spec["signature"]["verifier"])
        }
        (Some("dsse"), Some("0.0.1")) => {
            let one = only(&spec["signatures"]);
            of.hex_hash(&spec["payloadHash"], signed.payload.as_deref().unwrap_or_default())
                && one.is_some_and(|one| of.signature(&one["signature"]) && of.pem(&one["verifier"]))
        }
        (Some("dsse"), Some("0.0.2")) => {
            let spec = &spec["dsseV002"];
            let one = only(&spec["signatures"]);
            of.hash(&spec["payloadHash"], signed.payload.as_deref().unwrap_or_default())
                && one.is_some_and(|one| of.signature(&one["content"]) && of.verifier(&one["verifier"]))
        }
        (Some("intoto"), Some("0.0.2")) => {
            let content = &spec["content"];
            let one = only(&content["envelope"]["signatures"]);
            of.hex_hash(&content["payloadHash"], signed.payload.as_deref().unwrap_or_default())
                && one.is_some_and(|one| of.doubly_encoded(&one["sig"]) && of.pem(&one["publicKey"]))
        }
        _ => false,
    }
}

fn only(list: &Value) -> Option<&Value> {
    match list.as_array()?.as_slice() {
        [one] => Some(one),
        _ => None,
    }
}

/// What an entry has to be of.
struct ExpectedEntry<'a> {
    signed: &'a SignedContent,
    certificate: &'a Certificate,
}

impl ExpectedEntry<'_> {
    fn bytes(value: &Value) -> Option<Vec<u8>> {
        encoding::decode(value.as_str()?)
    }

    /// `{algorithm: sha256, value: hex}`.
    fn hex_hash(&self, value: &Value, content: &[u8]) -> bool {
        let hash = hex::encode(Sha256::digest(content));
        value["algorithm"] == "sha256" && value["value"].as_str() == Some(&hash)
    }

    /// `{algorithm: SHA2_256, digest: base64}`.
    fn hash(&self, value: &Value, content: &[u8]) -> bool {
        let hash = Sha256::digest(content);
        value["algorithm"] == "SHA2_256" && Self::bytes(&value["digest"]).as_deref() == Some(hash.as_slice())
    }

    fn signature(&self, value: &Value) -> bool {
        Self::bytes(value).is_some_and(|bytes| bytes == self.signed.signature)
    }

    fn doubly_encoded(&self, value: &Value) -> bool {
        let inner = Self::bytes(value).and_then(|bytes| String::from_utf8(bytes).ok());
        inner
            .and_then(|text| encoding::decode(&text))
            .is_some_and(|bytes| bytes == self.signed.signature)
    }

    /// The certificate as the base64 of its PEM.
    fn pem(&self, value: &Value) -> bool {
        let pem = Self::bytes(value).unwrap_or_default();
        let read = x509_cert::der::pem::decode_vec(pem.trim_ascii());
        read.is_ok_and(|(_, der)| der == self.certificate.der())
    }

    fn verifier(&self, value: &Value) -> bool {
        Self::bytes(&value["x509Certificate"]["rawBytes"]).is_some_and(|der| der == self.certificate.der())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn leaf(text: &[u8]) -> Vec<u8> {
        Sha256::new().chain_update([0]).chain_update(text).finalize().to_vec()
    }

    fn pair(left: &[u8], right: &[u8]) -> Vec<u8> {
        Sha256::new()
            .chain_update([1])
            .chain_update(left)
            .chain_update(right)
            .finalize()
            .to_vec()
    }

    #[test]
    fn a_leaf_leads_to_the_root_of_its_tree_only() {
        // Seven leaves, as the specification draws them.
        let hashes: Vec<Vec<u8>> = (0..7u8).map(|each| leaf(&[each])).collect();
        let (g, h, i) = (
            pair(&hashes[0], &hashes[1]),
            pair(&hashes[2], &hashes[3]),
            pair(&hashes[4], &hashes[5]),
        );
        let (k, l) = (pair(&g, &h), pair(&i, &hashes[6]));
        let whole = pair(&k, &l);
        let paths: [(u64, Vec<&[u8]>); 4] = [
            (0, vec![&hashes[1], &h, &l]),
            (3, vec![&hashes[2], &g, &l]),
            (4, vec![&hashes[5], &hashes[6], &k]),
            (6, vec![&i, &k]),
        ];
        for (index, path) in &paths {
            let text = [u8::try_from(*index).unwrap()];
            assert_eq!(root(*index, 7, &text, path).as_ref(), Some(&whole), "{index}");
            assert_ne!(root(*index, 7, b"other", path).as_ref(), Some(&whole));
            assert_eq!(root(*index, 7, &text, &path[1..]), None);
        }
        assert_eq!(root(0, 1, &[0], &[]), Some(leaf(&[0])));
        assert_eq!(root(1, 1, &[0], &[]), None);
        assert_eq!(root(0, 0, &[0], &[]), None);
    }
}

//! Offline verification of transparency log entries (Rekor; RFC 6962 for the tree).

use jiff::Timestamp;
use serde_json::Value;
use sha2::{Digest as _, Sha256};

use super::certificate::Certificate;
use super::encoding;
use super::log_entry::{InclusionProof, LogEntry};
use super::signed_content::SignedContent;
use super::trusted_root::{Log, TrustedRoot};
use crate::decode;

/// The greatest depth of a tree: that of 2^64 leaves.
const DEPTH: usize = 64;

impl LogEntry {
    /// Checks that a log of `trust` contains the entry, and that the entry is for this signature by this certificate. Returns
    /// the time at which the log added it, if the log attests one.
    ///
    /// The log must be valid at that time. An inclusion proof alone does not attest a time (Rekor v2): then the log must be
    /// valid at each of `timestamps`, at which timestamp authorities saw the signature.
    pub fn verify(
        &self,
        signed: &SignedContent,
        certificate: &Certificate,
        trust: &TrustedRoot,
        timestamps: &[Timestamp],
    ) -> Result<Option<Timestamp>, String> {
        let id = &self.log_id.key_id.0;
        let mut reason = "its log entry is not from a transparency log of the trusted root".to_owned();
        // A key may be listed several times, once for each period.
        for log in trust.logs.iter().filter(|log| log.id == *id) {
            match self.verify_in(log, timestamps) {
                Ok(time) if is_for(&self.canonicalized_body.0, signed, certificate) => return Ok(time),
                Ok(_) => reason = "its log entry is for another signature".to_owned(),
                Err(why) => reason = why,
            }
        }
        Err(reason)
    }

    /// Checks that `log` contains the entry and was valid when it added it.
    fn verify_in(&self, log: &Log, timestamps: &[Timestamp]) -> Result<Option<Timestamp>, String> {
        let time = self.promised_time(log)?;
        if let Some(proof) = &self.inclusion_proof {
            proof.verify(log, &self.canonicalized_body.0)?;
        }
        if time.is_none() && self.inclusion_proof.is_none() {
            return Err("its log entry has neither an inclusion promise nor an inclusion proof".to_owned());
        }
        let was_valid = match time {
            Some(time) => log.valid.contains(time),
            None => timestamps.iter().all(|time| log.valid.contains(*time)),
        };
        match was_valid {
            true => Ok(time),
            false => Err("its log entry is from a time at which the log was not valid".to_owned()),
        }
    }

    /// The time in the log's inclusion promise; the tree does not contain it.
    fn promised_time(&self, log: &Log) -> Result<Option<Timestamp>, String> {
        let Some(promise) = &self.inclusion_promise else {
            return Ok(None);
        };
        // Canonical JSON (RFC 8785) of four fields that need no escapes, in the order of their names.
        let signed = format!(
            r#"{{"body":"{}","integratedTime":{},"logID":"{}","logIndex":{}}}"#,
            encoding::encode(&self.canonicalized_body.0),
            self.integrated_time,
            hex::encode(&self.log_id.key_id.0),
            self.log_index,
        );
        let set = &promise.signed_entry_timestamp.0;
        let time = Timestamp::from_second(self.integrated_time).ok();
        let is_valid = log.key.as_ref().is_some_and(|key| key.verifies(signed.as_bytes(), set));
        match time.filter(|_| is_valid) {
            Some(time) => Ok(Some(time)),
            None => Err("its log entry has an inclusion promise that the log did not sign".to_owned()),
        }
    }
}

impl InclusionProof {
    /// Checks that the leaf `body` leads to the root of the tree, and that the log signed that root.
    fn verify(&self, log: &Log, body: &[u8]) -> Result<(), String> {
        let wrong = || "its log entry has an inclusion proof that does not lead to the log's root".to_owned();
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

/// The root of the tree, computed from a leaf and its path (RFC 9162, section 2.1.3.2).
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

/// Whether a note signed with the key of the log states that the tree of `size` leaves has this root (C2SP,
/// `tlog-checkpoint` and `signed-note`).
fn is_checkpoint(envelope: &str, log: &Log, size: u64, root: &[u8]) -> bool {
    let Some((text, signatures)) = envelope.split_once("\n\n") else {
        return false;
    };
    let mut lines = text.lines().skip(1);
    let has_size = lines.next().and_then(|line| line.parse().ok()) == Some(size);
    let has_root = lines.next().and_then(encoding::decode).as_deref() == Some(root);
    let text = format!("{text}\n");
    let signed = signatures.lines().filter_map(|line| {
        let (_, signature) = line.strip_prefix("\u{2014} ")?.split_once(' ')?;
        // The first four bytes are a hint for selecting the key.
        Some(encoding::decode(signature)?.get(4..)?.to_vec())
    });
    let Some(key) = &log.key else {
        return false;
    };
    has_size
        && has_root
        && signed
            .take(16)
            .any(|signature| key.verifies(text.as_bytes(), &signature))
}

/// Whether the body of an entry is for this signature, content and certificate.
fn is_for(body: &[u8], signed: &SignedContent, certificate: &Certificate) -> bool {
    let Ok(body) = decode::json::<Value>(body) else {
        return false;
    };
    let expected = ExpectedEntry { signed, certificate };
    let spec = &body["spec"];
    match (body["kind"].as_str(), body["apiVersion"].as_str()) {
        (Some("hashedrekord"), Some("0.0.1")) => {
            expected.hex_hash(&spec["data"]["hash"], &signed.message)
                && expected.signature(&spec["signature"]["content"])
                && expected.pem(&spec["signature"]["publicKey"]["content"])
        }
        (Some("hashedrekord"), Some("0.0.2")) => {
            let spec = &spec["hashedRekordV002"];
            expected.hash(&spec["data"], &signed.message)
                && expected.signature(&spec["signature"]["content"])
                && expected.verifier(&spec["signature"]["verifier"])
        }
        (Some("dsse"), Some("0.0.1")) => {
            let one = only(&spec["signatures"]);
            expected.hex_hash(&spec["payloadHash"], signed.payload.as_deref().unwrap_or_default())
                && one.is_some_and(|one| expected.signature(&one["signature"]) && expected.pem(&one["verifier"]))
        }
        (Some("dsse"), Some("0.0.2")) => {
            let spec = &spec["dsseV002"];
            let one = only(&spec["signatures"]);
            expected.hash(&spec["payloadHash"], signed.payload.as_deref().unwrap_or_default())
                && one.is_some_and(|one| expected.signature(&one["content"]) && expected.verifier(&one["verifier"]))
        }
        (Some("intoto"), Some("0.0.2")) => {
            let content = &spec["content"];
            let one = only(&content["envelope"]["signatures"]);
            expected.hex_hash(&content["payloadHash"], signed.payload.as_deref().unwrap_or_default())
                && one.is_some_and(|one| expected.doubly_encoded(&one["sig"]) && expected.pem(&one["publicKey"]))
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

/// The signature and certificate that an entry must contain.
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

    /// Whether `value` is the base64 of the certificate's PEM.
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
    fn a_path_leads_only_to_the_root_of_its_tree() {
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

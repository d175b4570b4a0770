//! Whether what is signed satisfies what is required.

use jiff::Timestamp;

use super::certificate::Certificate;
use super::dsse::{SIGN_PREDICATE, Statement};
use super::identity::Identity;
use super::log::Entry;
use super::public_key::PublicKey;
use super::simple::SimpleSignature;
use super::trusted_root::TrustedRoot;
use super::{Bundle, BundleError, encoding, timestamp};
use crate::oci::{Digest, Hasher};

/// A signature as it was found, not verified yet.
#[derive(Clone, Debug)]
pub enum Signature {
    /// The JSON of a bundle.
    Bundle(Vec<u8>),
    /// A layer of cosign 2.
    Simple(SimpleSignature),
}

/// A signature and where it was found, for people.
#[derive(Clone, Debug)]
pub struct FoundSignature {
    /// The digest of the manifest, or of the layer, that holds it.
    pub at: Digest,
    /// What was found there.
    pub signature: Signature,
}

/// A signature with what was signed, whatever form it came in.
#[derive(Clone, Debug)]
pub struct Signed {
    /// The bytes that were signed.
    pub(super) message: Vec<u8>,
    /// Of an envelope, the payload in it.
    pub(super) payload: Option<Vec<u8>>,
    pub(super) signature: Vec<u8>,
    pub(super) claim: SignatureClaim,
    /// The DER of the certificate of the key that signed.
    pub(super) certificate: Option<Vec<u8>>,
    /// Those between it and an authority, as far as they came along.
    pub(super) intermediates: Vec<Vec<u8>>,
    pub(super) entries: Vec<Entry>,
    /// DER of responses of a timestamp authority (RFC 3161).
    pub(super) timestamps: Vec<Vec<u8>>,
}

/// What a signature says.
#[derive(Clone, Debug)]
pub(super) enum SignatureClaim {
    /// An in-toto statement.
    Statement(Statement),
    /// That the image of this digest is meant.
    Image(Digest),
    /// Nothing beyond the file itself.
    Blob,
}

/// What at least one signature has to satisfy: any of the keys, or any of the identities.
#[derive(Clone, Debug, Default)]
pub struct Requirement {
    /// The keys that may have signed.
    pub keys: Vec<PublicKey>,
    /// The identities that may have signed; their certificates are verified against `trust`.
    pub identities: Vec<Identity>,
    /// Whom to believe about certificates and times. Without it no identity counts.
    pub trust: Option<TrustedRoot>,
}

impl Requirement {
    /// A digest of all that it asks for: two of the same ask for the same.
    pub fn fingerprint(&self) -> Digest {
        let mut hasher = Hasher::sha256();
        let mut part = |bytes: &[u8]| {
            hasher.update(&(bytes.len() as u64).to_be_bytes());
            hasher.update(bytes);
        };
        for key in &self.keys {
            part(key.spki());
        }
        for identity in &self.identities {
            part(identity.to_string().as_bytes());
        }
        if let Some(trust) = &self.trust {
            part(trust.digest().as_str().as_bytes());
        }
        hasher.finish()
    }

    /// Whether one of `found` says, by somebody who may, that the image of `digest` is signed. The error says for people
    /// what is wrong with each, in their order.
    pub fn image(&self, digest: &Digest, found: &[FoundSignature]) -> Result<(), String> {
        let mut evaluation = Evaluation::of(self);
        found.iter().for_each(|found| evaluation.add(digest, found));
        evaluation.result()
    }

    /// Whether `bundle` signs the file `content` by somebody who may.
    pub fn blob(&self, content: &[u8], bundle: &[u8]) -> Result<(), String> {
        let bundle = Bundle::parse(bundle).map_err(|error| error.to_string())?;
        self.signer(&bundle.signed(Some(content)).map_err(|error| error.to_string())?)
    }

    /// Whether `signature`, the base64 text that `cosign sign-blob` printed before there were bundles, signs the file `content` by one
    /// of the keys. It has no certificate, so identities do not count.
    pub fn detached(&self, content: &[u8], signature: &[u8]) -> Result<(), String> {
        let text = std::str::from_utf8(signature).ok();
        let signature = text.and_then(encoding::decode).ok_or("it is not base64")?;
        self.signer(&Signed {
            message: content.to_vec(),
            payload: None,
            signature,
            claim: SignatureClaim::Blob,
            certificate: None,
            intermediates: Vec::new(),
            entries: Vec::new(),
            timestamps: Vec::new(),
        })
    }

    fn one(&self, digest: &Digest, signature: Signature) -> Result<(), String> {
        let signed = match signature {
            Signature::Bundle(json) => Bundle::parse(&json)
                .and_then(|bundle| bundle.signed(None))
                .map_err(|error| error.to_string())?,
            Signature::Simple(simple) => simple.signed().map_err(str::to_owned)?,
        };
        match &signed.claim {
            SignatureClaim::Statement(statement) if statement.predicate_type != SIGN_PREDICATE => {
                let kind: String = statement.predicate_type.chars().take(100).collect();
                return Err(format!("it attests `{kind}` and signs nothing"));
            }
            SignatureClaim::Statement(statement) if !statement.is_about(digest) => {
                return Err("it is about another digest".to_owned());
            }
            SignatureClaim::Image(claimed) if claimed != digest => return Err("it is about another digest".to_owned()),
            SignatureClaim::Blob => return Err(BundleError::File.to_string()),
            SignatureClaim::Statement(_) | SignatureClaim::Image(_) => {}
        }
        self.signer(&signed)
    }

    /// Whether one of those who may have signed did.
    fn signer(&self, signed: &Signed) -> Result<(), String> {
        if self
            .keys
            .iter()
            .any(|key| key.verifies(&signed.message, &signed.signature))
        {
            return Ok(());
        }
        let by_key = match self.keys.as_slice() {
            [] => None,
            [key] => Some(format!("it is not by the {} key {}", key.kind(), key.short())),
            keys => Some(format!("it is by none of the {} keys", keys.len())),
        };
        if self.identities.is_empty() {
            return Err(by_key.unwrap_or_else(|| "nobody may have made it: no key and no identity is named".to_owned()));
        }
        let by_identity = match (&signed.certificate, &self.trust) {
            (None, _) => "it was made by a key and not by an identity".to_owned(),
            (Some(_), None) => "there is no trusted root to verify its certificate by".to_owned(),
            (Some(certificate), Some(trust)) => match self.identity(signed, certificate, trust) {
                Ok(()) => return Ok(()),
                Err(reason) => reason,
            },
        };
        match by_key {
            // A signature with a certificate was never meant to be by the key.
            Some(by_key) if signed.certificate.is_none() => Err(by_key),
            _ => Err(by_identity),
        }
    }

    /// Whether a certificate of one of the identities was valid when the signature was made, by what others say of the
    /// time: the clock of who signs proves nothing.
    fn identity(&self, signed: &Signed, certificate: &[u8], trust: &TrustedRoot) -> Result<(), String> {
        let certificate = Certificate::read(certificate)?;
        if !certificate.key.verifies(&signed.message, &signed.signature) {
            return Err("it does not fit what it is said to sign, or its certificate is another's".to_owned());
        }
        if !self.identities.iter().any(|identity| identity.fits(&certificate)) {
            return Err(format!("it is by {certificate}, who is none of the identities"));
        }
        let mut times: Vec<Timestamp> = Vec::new();
        let mut doubts = Vec::new();
        for token in &signed.timestamps {
            match timestamp::verify(token, &signed.signature, trust) {
                Ok(time) => times.push(time),
                Err(doubt) => doubts.push(doubt),
            }
        }
        let stamped = times.clone();
        let mut logged = false;
        // Why no entry counts is told before why no timestamp does.
        let mut refused = Vec::new();
        for entry in &signed.entries {
            match entry.verify(signed, &certificate, trust, &stamped) {
                Ok(time) => {
                    logged = true;
                    times.extend(time);
                }
                Err(doubt) => refused.push(doubt),
            }
        }
        if !trust.logs.is_empty() && !logged {
            return Err(refused
                .into_iter()
                .next()
                .unwrap_or_else(|| "it is in no transparency log, and the trusted root has one".to_owned()));
        }
        refused.append(&mut doubts);
        if times.is_empty() {
            let doubt = refused.into_iter().next();
            return Err(doubt.unwrap_or_else(|| {
                "nobody says when it was made: it has neither a log entry with a time nor a timestamp".to_owned()
            }));
        }
        // Each of them, for the least of several proofs must not be chosen by who signs.
        for time in times {
            certificate.verify(&signed.intermediates, trust, time)?;
        }
        Ok(())
    }
}

/// What is known of a requirement while signatures are found one by one, none of which is kept.
pub struct Evaluation<'r> {
    requirement: &'r Requirement,
    satisfied: bool,
    /// What is wrong with the first ones.
    reasons: Vec<String>,
    refused: usize,
}

impl<'r> Evaluation<'r> {
    /// Of `requirement`, before any signature was found.
    pub fn of(requirement: &'r Requirement) -> Self {
        Self {
            requirement,
            satisfied: false,
            reasons: Vec::new(),
            refused: 0,
        }
    }

    /// Takes a signature of the image of `digest` into account.
    pub fn add(&mut self, digest: &Digest, found: &FoundSignature) {
        if self.satisfied {
            return;
        }
        match self.requirement.one(digest, found.signature.clone()) {
            Ok(()) => self.satisfied = true,
            Err(reason) => {
                self.refused += 1;
                if self.reasons.len() < SHOWN {
                    self.reasons
                        .push(format!("the signature {}: {reason}", found.at.short_form()));
                }
            }
        }
    }

    /// Whether a signature satisfied it.
    pub fn is_satisfied(&self) -> bool {
        self.satisfied
    }

    /// Whether a signature satisfied it; the error says for people what is wrong with those that were found.
    pub fn result(self) -> Result<(), String> {
        match self.refused - self.reasons.len() {
            _ if self.satisfied => Ok(()),
            _ if self.refused == 0 => Err("it has no signature".to_owned()),
            0 => Err(self.reasons.join("; ")),
            more => Err(format!("{}; and {more} more", self.reasons.join("; "))),
        }
    }
}

/// Signatures whose faults are told one by one.
const SHOWN: usize = 4;

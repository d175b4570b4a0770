//! Decides whether signatures satisfy a requirement.

use jiff::Timestamp;

use super::certificate::Certificate;
use super::dsse::SIGN_PREDICATE;
use super::identity::{Identity, SubjectMatch};
use super::public_key::PublicKey;
use super::signed_content::{SignatureClaim, SignedContent};
use super::simple::SimpleSignature;
use super::trusted_root::TrustedRoot;
use super::{Bundle, BundleError, encoding, timestamp};
use crate::oci::{Digest, Hasher};

/// A signature in its stored format, not verified yet.
#[derive(Clone, Debug)]
pub enum Signature {
    /// The JSON of a bundle.
    Bundle(Vec<u8>),
    /// A layer written by cosign 2.
    Simple(SimpleSignature),
}

/// A signature and where it was found.
#[derive(Clone, Debug)]
pub struct FoundSignature {
    /// The digest of the manifest or layer that contains it, for messages.
    pub at: Digest,
    /// The signature.
    pub signature: Signature,
}

/// A requirement that at least one signature must satisfy: it was made with one of the keys or by one of the identities.
#[derive(Clone, Debug, Default)]
pub struct Requirement {
    /// The keys that may have signed.
    pub keys: Vec<PublicKey>,
    /// The identities that may have signed; their certificates are verified against `trust`.
    pub identities: Vec<Identity>,
    /// The trusted authorities and logs. Without it no identity is accepted.
    pub trust: Option<TrustedRoot>,
}

impl Requirement {
    /// A digest of the requirement: equal requirements have equal fingerprints.
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
            let (kind, subject) = match &identity.subject {
                SubjectMatch::Exact(subject) => ("exact", subject.as_str()),
                SubjectMatch::Pattern(pattern) => ("pattern", pattern.as_str()),
            };
            for text in [kind, subject, &identity.issuer] {
                part(text.as_bytes());
            }
        }
        if let Some(trust) = &self.trust {
            part(trust.digest().as_str().as_bytes());
        }
        hasher.finish()
    }

    /// Checks that one of `found` is a valid signature of the image `digest`. The error says what is wrong with each, in
    /// their order.
    pub fn verify_image(&self, digest: &Digest, found: &[FoundSignature]) -> Result<(), String> {
        let mut evaluation = Evaluation::of(self);
        found.iter().for_each(|found| evaluation.add(digest, found));
        evaluation.result()
    }

    /// Checks that `bundle` is a valid signature of the file `content`.
    pub fn verify_blob(&self, content: &[u8], bundle: &[u8]) -> Result<(), String> {
        let bundle = Bundle::parse(bundle).map_err(|error| error.to_string())?;
        self.check_signer(&bundle.signed(Some(content)).map_err(|error| error.to_string())?)
    }

    /// Checks that `signature`, the base64 text that `cosign sign-blob` printed before there were bundles, was made of the file `content`
    /// with one of the keys. It has no certificate, so identities do not count.
    pub fn verify_detached(&self, content: &[u8], signature: &[u8]) -> Result<(), String> {
        let text = std::str::from_utf8(signature).ok();
        let signature = text.and_then(encoding::decode).ok_or("it is not base64")?;
        self.check_signer(&SignedContent {
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

    fn check(&self, digest: &Digest, signature: Signature) -> Result<(), String> {
        let signed = match signature {
            Signature::Bundle(json) => Bundle::parse(&json)
                .and_then(|bundle| bundle.signed(None))
                .map_err(|error| error.to_string())?,
            Signature::Simple(simple) => simple.signed().map_err(str::to_owned)?,
        };
        match &signed.claim {
            SignatureClaim::Statement(statement) if statement.predicate_type != SIGN_PREDICATE => {
                let kind: String = statement.predicate_type.chars().take(100).collect();
                return Err(format!("it is an attestation of type `{kind}`, not a signature"));
            }
            SignatureClaim::Statement(statement) if !statement.is_about(digest) => {
                return Err("it is for another digest".to_owned());
            }
            SignatureClaim::Image(claimed) if claimed != digest => return Err("it is for another digest".to_owned()),
            SignatureClaim::Blob => return Err(BundleError::File.to_string()),
            SignatureClaim::Statement(_) | SignatureClaim::Image(_) => {}
        }
        self.check_signer(&signed)
    }

    /// Checks that a key or an identity of the requirement signed the content.
    fn check_signer(&self, signed: &SignedContent) -> Result<(), String> {
        if self
            .keys
            .iter()
            .any(|key| key.verifies(&signed.message, &signed.signature))
        {
            return Ok(());
        }
        let key_reason = match self.keys.as_slice() {
            [] => None,
            [key] => Some(format!("it was not made with the {} key {}", key.kind(), key.short())),
            keys => Some(format!("it was not made with any of the {} keys", keys.len())),
        };
        if self.identities.is_empty() {
            return Err(key_reason.unwrap_or_else(|| "the requirement has no key and no identity".to_owned()));
        }
        let identity_reason = match (&signed.certificate, &self.trust) {
            (None, _) => "it was made with a key and not by an identity".to_owned(),
            (Some(_), None) => "there is no trusted root to verify its certificate".to_owned(),
            (Some(certificate), Some(trust)) => match self.check_identity(signed, certificate, trust) {
                Ok(()) => return Ok(()),
                Err(reason) => reason,
            },
        };
        match key_reason {
            // A signature with a certificate was made by an identity.
            Some(reason) if signed.certificate.is_none() => Err(reason),
            _ => Err(identity_reason),
        }
    }

    /// Checks that a certificate of one of the identities was valid when the signature was made. The time must be proven by
    /// a log or a timestamp authority, because the signer's clock proves nothing.
    fn check_identity(&self, signed: &SignedContent, certificate: &[u8], trust: &TrustedRoot) -> Result<(), String> {
        let certificate = Certificate::read(certificate)?;
        if !certificate.key.verifies(&signed.message, &signed.signature) {
            return Err("it does not match the signed content or its certificate".to_owned());
        }
        if !self.identities.iter().any(|identity| identity.matches(&certificate)) {
            return Err(format!(
                "it was made by {certificate}, which is not one of the identities"
            ));
        }
        let mut times: Vec<Timestamp> = Vec::new();
        let mut timestamp_reasons = Vec::new();
        for token in &signed.timestamps {
            match timestamp::verify(token, &signed.signature, trust) {
                Ok(time) => times.push(time),
                Err(reason) => timestamp_reasons.push(reason),
            }
        }
        let timestamps = times.clone();
        let mut logged = false;
        // The reasons of log entries come before those of timestamps.
        let mut reasons = Vec::new();
        for entry in &signed.entries {
            match entry.verify(signed, &certificate, trust, &timestamps) {
                Ok(time) => {
                    logged = true;
                    times.extend(time);
                }
                Err(reason) => reasons.push(reason),
            }
        }
        if !trust.logs.is_empty() && !logged {
            return Err(reasons
                .into_iter()
                .next()
                .unwrap_or_else(|| "it is not in a transparency log of the trusted root".to_owned()));
        }
        reasons.append(&mut timestamp_reasons);
        if times.is_empty() {
            let reason = reasons.into_iter().next();
            return Err(reason.unwrap_or_else(|| {
                "its time is not proven: it has neither a log entry with a time nor a timestamp".to_owned()
            }));
        }
        // The certificate must be valid at each time, because the signer could add a proof of a wrong time.
        for time in times {
            certificate.verify(&signed.intermediates, trust, time)?;
        }
        Ok(())
    }
}

/// Evaluates a requirement while signatures are found one after the other. It keeps none of them.
pub struct Evaluation<'r> {
    requirement: &'r Requirement,
    satisfied: bool,
    /// What is wrong with the first refused signatures.
    reasons: Vec<String>,
    refused: usize,
}

impl<'r> Evaluation<'r> {
    /// An evaluation of `requirement` without any signature.
    pub fn of(requirement: &'r Requirement) -> Self {
        Self {
            requirement,
            satisfied: false,
            reasons: Vec::new(),
            refused: 0,
        }
    }

    /// Evaluates a signature of the image `digest`.
    pub fn add(&mut self, digest: &Digest, found: &FoundSignature) {
        if self.satisfied {
            return;
        }
        match self.requirement.check(digest, found.signature.clone()) {
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

    /// Whether a signature satisfied it; the error says what is wrong with those that were found.
    pub fn result(self) -> Result<(), String> {
        match self.refused - self.reasons.len() {
            _ if self.satisfied => Ok(()),
            _ if self.refused == 0 => Err("it has no signature".to_owned()),
            0 => Err(self.reasons.join("; ")),
            more => Err(format!("{}; and {more} more", self.reasons.join("; "))),
        }
    }
}

/// The number of signatures whose errors are listed.
const SHOWN: usize = 4;

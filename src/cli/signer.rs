//! Who must have signed.

use std::path::PathBuf;

use clap::Args;

use super::{UsageError, key};
use crate::signing::{Identity, PublicKey, Requirement, SubjectMatch, TrustedRoot};

/// The flags that say it.
#[derive(Debug, Args)]
pub(super) struct SignerFlags {
    /// A public key (PEM file), repeatable; a signature by any of them is sufficient.
    #[arg(long, value_name = "FILE")]
    key: Vec<PathBuf>,
    /// The exact subject in the certificate of a keyless signature.
    #[arg(long, value_name = "SUBJECT", requires_all = ["issuer", "trust_root"], conflicts_with = "identity_pattern")]
    identity: Option<String>,
    /// A regular expression that must match the whole subject in the certificate of a keyless signature.
    #[arg(long, value_name = "REGEX", requires_all = ["issuer", "trust_root"])]
    identity_pattern: Option<String>,
    /// The issuer of the identity, such as `https://token.actions.githubusercontent.com`.
    #[arg(long, value_name = "URL")]
    issuer: Option<String>,
    /// The Sigstore trusted root (`trusted_root.json`) for verifying certificates, logs and timestamps.
    #[arg(long, value_name = "FILE")]
    trust_root: Option<PathBuf>,
}

impl SignerFlags {
    /// Whether they name a key or an identity.
    pub fn is_given(&self) -> bool {
        !self.key.is_empty() || self.identity.is_some() || self.identity_pattern.is_some()
    }

    /// What they require; `None` without any.
    ///
    /// # Errors
    /// Where a file is not what the flag asks for.
    pub async fn requirement(&self) -> Result<Option<Requirement>, UsageError> {
        if !self.is_given() {
            return match (&self.issuer, &self.trust_root) {
                (None, None) => Ok(None),
                _ => Err(UsageError(
                    "--issuer and --trust-root say nothing alone: set --identity or --identity-pattern too".to_owned(),
                )),
            };
        }
        let mut requirement = Requirement::default();
        for path in &self.key {
            let pem = key::file(path).await?;
            let key = PublicKey::from_pem(&pem);
            let key = key.map_err(|error| UsageError(format!("the key {}: {error}", path.display())))?;
            requirement.keys.push(key);
        }
        let subject = match (&self.identity, &self.identity_pattern) {
            (Some(subject), _) => Some(SubjectMatch::Exact(subject.clone())),
            (None, Some(pattern)) => Some(
                SubjectMatch::pattern(pattern).map_err(|error| UsageError(format!("--identity-pattern: {error}")))?,
            ),
            (None, None) => None,
        };
        if let (Some(subject), Some(issuer)) = (subject, &self.issuer) {
            let issuer = issuer.clone();
            requirement.identities.push(Identity { issuer, subject });
        }
        if let Some(path) = &self.trust_root {
            let root = TrustedRoot::parse(&key::file(path).await?);
            let root = root.map_err(|error| UsageError(format!("{}: {error}", path.display())))?;
            requirement.trust = Some(root);
        }
        Ok(Some(requirement))
    }
}

//! `verify`: verifies signatures in a registry or OCI layout.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{ArgGroup, Args};
use tokio_util::sync::CancellationToken;

use super::stored::StoredFlags;
use super::{UsageError, examples, key, print, until};
use crate::package::verify;
use crate::signing::{Identity, PublicKey, Requirement, SubjectMatch, TrustedRoot};

/// Verify the signatures of an image or a package in a registry or an OCI layout.
///
/// It must be signed by one of the given keys or by the given identity. Signatures are cosign 3 bundles that refer to it, or signatures that cosign 2 stores under
/// a tag. Identities are verified offline against a trusted root in a file.
///
/// Exit codes: 0 signed, 1 not signed, or the signatures cannot be read, 2 invalid key or flag, 130 interrupted.
#[derive(Debug, Args)]
#[command(after_help = examples::VERIFY)]
#[command(group = ArgGroup::new("signer").required(true).multiple(true).args(["key", "identity", "identity_pattern"]))]
pub(super) struct Verify {
    #[command(flatten)]
    stored: StoredFlags,
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

impl Verify {
    pub(super) async fn run(self, stop: CancellationToken) -> ExitCode {
        until(stop, "verify", self.verify()).await
    }

    async fn verify(&self) -> anyhow::Result<()> {
        let requirement = self.requirement().await?;
        let stored = self.stored.open().await?;
        let digest = stored.document.digest();
        verify(&*stored.repository, digest, &[requirement], &stored.name).await?;
        print::line(format_args!("{} is signed", stored.name));
        Ok(())
    }

    async fn requirement(&self) -> Result<Requirement, UsageError> {
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
        Ok(requirement)
    }
}

//! `verify`: verifies signatures in a registry or OCI layout, and the content of package files.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{ArgGroup, Args};
use tokio_util::sync::CancellationToken;

use super::progress::Output;
use super::stored::StoredFlags;
use super::verify_file::{file_of, verify_file};
use super::{UsageError, examples, key, print, until};
use crate::package::verify;
use crate::signing::{Identity, PublicKey, Requirement, SubjectMatch, TrustedRoot};

/// What the argument names.
const NAMES: &str = "`[registry/]repository[:tag][@digest]`, `oci:DIR:NAME` in an OCI layout, or a package file";

/// Verify the signatures of an image or a package in a registry or an OCI layout, or the content of a package file.
///
/// An image or a package must be signed by one of the given keys or by the given identity. Signatures are cosign 3 bundles that refer to it, or signatures that cosign 2 stores under
/// a tag. Identities are verified offline against a trusted root in a file.
///
/// A file is read to its end: every part has its digest, and every file in it the digest of the package's manifest. Of an archive
/// in parts name FILE.part000; any other part is compared with this list alone. What ends with .tar.zst, .tar, .partNNN or
/// .parityNNN, or begins with / or ./, is a file.
///
/// Exit codes: 0 signed, or the file is sound, 1 not signed, or something cannot be read, 2 the file is damaged, or the key or a flag is invalid, 130 interrupted.
#[derive(Debug, Args)]
#[command(after_help = examples::VERIFY)]
#[command(mut_arg("reference", |name| name.value_name("REFERENCE|FILE").help(NAMES).long_help(NAMES)))]
#[command(group = ArgGroup::new("signer").multiple(true).args(["key", "identity", "identity_pattern"]))]
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
    /// How the result is printed.
    #[arg(short, long, value_enum, default_value = "text")]
    output: Output,
}

impl Verify {
    pub(super) async fn run(self, stop: CancellationToken) -> ExitCode {
        until(stop, "verify", self.verify()).await
    }

    async fn verify(&self) -> anyhow::Result<()> {
        let signed = !self.key.is_empty() || self.identity.is_some() || self.identity_pattern.is_some();
        if let Some(file) = file_of(self.stored.reference()) {
            if signed {
                let message =
                    "--key and --identity verify signatures in registries and layouts; leave them out for a file";
                return Err(UsageError(message.to_owned()).into());
            }
            return verify_file(&file, self.output).await;
        }
        if !signed {
            let message = "name the keys or the identity that may have signed: --key, --identity or --identity-pattern";
            return Err(UsageError(message.to_owned()).into());
        }
        let requirement = self.requirement().await?;
        let stored = self.stored.open().await?;
        let digest = stored.document.digest();
        verify(&*stored.repository, digest, &[requirement], &stored.name).await?;
        match self.output {
            Output::Text => print::line(format_args!("{} is signed", stored.name)),
            Output::Json => {
                let report = serde_json::json!({ "name": stored.name, "digest": digest.as_str(), "signed": true });
                print::line(format_args!("{report:#}"));
            }
        }
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

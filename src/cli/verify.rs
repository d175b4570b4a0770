//! `verify`: verifies signatures in a registry or OCI layout, and the content of package files.

use std::process::ExitCode;

use clap::{ArgGroup, Args};
use tokio_util::sync::CancellationToken;

use super::progress::Output;
use super::signer::SignerFlags;
use super::stored::StoredFlags;
use super::verify_file::{file_of, verify_file};
use super::{UsageError, examples, print, until};
use crate::package::verify;

/// What the argument names.
const NAMES: &str = "`[registry/]repository[:tag][@digest]`, `oci:DIR:NAME` in an OCI layout, or a package file";

/// Verify the signatures of an image or a package in a registry or an OCI layout, or the content of a package file.
///
/// An image or a package must be signed by one of the given keys or by the given identity. Signatures are cosign 3 bundles that refer to it, or signatures that cosign 2 stores under
/// a tag. Identities are verified offline against a trusted root in a file.
///
/// A file is read to its end: every part has its digest, and every file in it the digest of the package's manifest. Of an archive
/// in parts name FILE.part000; any other part is compared with this list alone. What ends with .tar.zst, .tar, .partNNN or
/// .parityNNN, or begins with / or ./, is a file. With --key or --identity, its packages must be signed so in themselves, as `load`
/// requires it.
///
/// Exit codes: 0 signed, or the file is sound, 1 not signed, or something cannot be read, 2 the file is damaged or not signed as required, or the key or a flag is invalid, 130 interrupted.
#[derive(Debug, Args)]
#[command(after_help = examples::VERIFY)]
#[command(mut_arg("reference", |name| name.value_name("REFERENCE|FILE").help(NAMES).long_help(NAMES)))]
#[command(group = ArgGroup::new("signer").multiple(true).args(["key", "identity", "identity_pattern"]))]
pub(super) struct Verify {
    #[command(flatten)]
    stored: StoredFlags,
    #[command(flatten)]
    signer: SignerFlags,
    /// How the result is printed.
    #[arg(short, long, value_enum, default_value = "text")]
    output: Output,
}

impl Verify {
    pub(super) async fn run(self, stop: CancellationToken) -> ExitCode {
        until(stop, "verify", self.verify()).await
    }

    async fn verify(&self) -> anyhow::Result<()> {
        if let Some(file) = file_of(self.stored.reference()) {
            let requirement = self.signer.requirement().await?;
            return verify_file(&file, requirement.as_ref(), self.output).await;
        }
        let requirement = self.signer.requirement().await?.ok_or_else(|| {
            let message = "name the keys or the identity that may have signed: --key, --identity or --identity-pattern";
            UsageError(message.to_owned())
        })?;
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
}

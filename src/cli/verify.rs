//! `verify`: verifies signatures in a registry or OCI layout.

use std::process::ExitCode;

use clap::{ArgGroup, Args};
use tokio_util::sync::CancellationToken;

use super::signer::SignerFlags;
use super::stored::StoredFlags;
use super::{examples, print, until};
use crate::package::{Stored, verify};

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
    #[command(flatten)]
    signer: SignerFlags,
}

impl Verify {
    pub(super) async fn run(self, stop: CancellationToken) -> ExitCode {
        until(stop, "verify", self.verify()).await
    }

    async fn verify(&self) -> anyhow::Result<()> {
        let requirement = self.signer.requirement().await?.unwrap_or_default();
        let stored = self.stored.open().await?;
        let digest = stored.document.digest();
        verify(&Stored(&*stored.repository), digest, &[requirement], &stored.name).await?;
        print::line(format_args!("{} is signed", stored.name));
        Ok(())
    }
}

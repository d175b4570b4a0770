//! `sign`: signs an image or package in a registry or OCI layout with a key.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Args;
use tokio_util::sync::CancellationToken;

use super::stored::StoredFlags;
use super::{examples, key, print, until};
use crate::package::sign;

/// Sign an image or a package in a registry or an OCI layout.
///
/// The result is as of `cosign sign --key`: a cosign 3 bundle that refers to the image or package, without transparency log and timestamp. Signing again with the
/// same key changes nothing. COSIGN_PASSWORD is the password of an encrypted key.
///
/// Exit codes: 0 success, 1 failure that may be temporary, 2 invalid key or flag, 130 interrupted.
#[derive(Debug, Args)]
#[command(after_help = examples::SIGN)]
pub(super) struct Sign {
    #[command(flatten)]
    stored: StoredFlags,
    /// The private key: an encrypted PEM of cosign, or an unencrypted ECDSA P-256 key (PKCS#8 PEM).
    #[arg(long, value_name = "FILE")]
    key: PathBuf,
}

impl Sign {
    pub(super) async fn run(self, stop: CancellationToken) -> ExitCode {
        until(stop, "sign", self.sign()).await
    }

    async fn sign(&self) -> anyhow::Result<()> {
        let key = key::read(&self.key).await?;
        let stored = self.stored.open_for_writing().await?;
        let new = sign(&key, &stored.document.descriptor, &*stored.repository).await?;
        let how = if new { "is signed" } else { "is already signed" };
        print::line(format_args!("{} {how} by {:?}", stored.name, key.public()));
        Ok(())
    }
}

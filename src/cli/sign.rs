//! `sign`: what stands in a registry or layout, by a key.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Args;
use tokio_util::sync::CancellationToken;

use super::stored::StoredFlags;
use super::{examples, key, print, until};
use crate::package::sign;

/// Sign an image or a package in a registry or an OCI layout.
///
/// It is done as `cosign sign --key` does it: the signature is a bundle of cosign 3 that refers to it, in no transparency log and without a timestamp. Signing again
/// by the same key changes nothing. The password of an encrypted key is taken from COSIGN_PASSWORD.
///
/// Exit codes: 0 done, 1 something failed and may succeed another time, 2 the key or a flag cannot be used, 130 interrupted.
#[derive(Debug, Args)]
#[command(after_help = examples::SIGN)]
pub(super) struct Sign {
    #[command(flatten)]
    stored: StoredFlags,
    /// The private key: cosign's encrypted PEM, or an ECDSA key over P-256 as a plain PKCS#8 PEM.
    #[arg(long, value_name = "FILE")]
    key: PathBuf,
}

impl Sign {
    pub(super) async fn run(self, stop: CancellationToken) -> ExitCode {
        until(stop, "sign", self.sign()).await
    }

    async fn sign(&self) -> anyhow::Result<()> {
        let key = key::read(&self.key).await?;
        let stored = self.stored.open().await?;
        let new = sign(&key, &stored.document.descriptor, &*stored.repository).await?;
        let how = if new { "is signed" } else { "was signed before" };
        print::line(format_args!("{} {how} by {:?}", stored.name, key.public()));
        Ok(())
    }
}

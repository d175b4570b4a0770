//! Receipts: what was loaded, where, when and by whom, in a file.

use std::path::PathBuf;

use anyhow::Context as _;
use clap::Args;
use serde::Serialize;

use super::build::target::Target;
use super::cluster::hostname;
use super::inventory::time;
use super::output_file::{OutputFile, signature_path, write_signature};
use super::{UsageError, key};
use crate::archive::{Loaded, LoadedImage};
use crate::oci::Digest;
use crate::signing::SigningKey;

/// The version of the form.
const VERSION: u32 = 1;

/// The flags of a receipt.
#[derive(Debug, Args)]
pub(super) struct ReceiptFlags {
    /// Write a receipt (JSON) when everything is loaded: packages and images with digests, bytes sent, time, and who loaded it.
    #[arg(long, value_name = "FILE")]
    receipt: Option<PathBuf>,
    /// Sign the receipt by this private key (as of `sign`). The signature is written to FILE.sigstore.json.
    #[arg(long, value_name = "FILE", requires = "receipt")]
    receipt_key: Option<PathBuf>,
    /// Who loads it, in the receipt; USER@HOST unless it is set.
    #[arg(long, value_name = "NAME", requires = "receipt")]
    receipt_identity: Option<String>,
}

/// A receipt that is to be written: its file can be created, and its key is open.
pub(super) struct PendingReceipt {
    path: PathBuf,
    file: OutputFile,
    key: Option<SigningKey>,
    identity: String,
}

/// What was loaded from where.
pub(super) struct Load<'a> {
    /// The file, or `-`.
    pub file: &'a str,
    /// The destination.
    pub target: &'a Target,
    /// The destination as the flag names it.
    pub to: &'a str,
    /// Whether the packages had to be signed.
    pub is_verified: bool,
    /// The packages.
    pub packages: &'a [Loaded],
    /// The images.
    pub images: Vec<&'a LoadedImage>,
    /// Bytes that were sent.
    pub sent: u64,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Receipt<'a> {
    version: u32,
    tool_version: &'a str,
    time: String,
    identity: &'a str,
    file: &'a str,
    destination: &'a str,
    /// Whether the signatures of the packages were verified.
    signatures_verified: bool,
    sent_bytes: u64,
    packages: Vec<PackageReceipt>,
    images: Vec<ImageReceipt>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct PackageReceipt {
    name: String,
    /// The digest of the index under the tag.
    digest: Digest,
    /// The digest of the package's own manifest.
    manifest: Digest,
}

#[derive(Serialize)]
struct ImageReceipt {
    name: String,
    digest: Digest,
}

impl ReceiptFlags {
    /// Opens the key and the file, so that nothing is loaded for which no receipt can be written.
    pub async fn prepare(&self) -> anyhow::Result<Option<PendingReceipt>> {
        let Some(path) = &self.receipt else { return Ok(None) };
        let key = match &self.receipt_key {
            Some(path) => Some(key::read(path).await?),
            None => None,
        };
        let identity = match &self.receipt_identity {
            Some(identity) if identity.trim().is_empty() => {
                return Err(UsageError("--receipt-identity: it is empty".to_owned()).into());
            }
            Some(identity) => identity.clone(),
            None => {
                let user = std::env::var("USER").ok().filter(|user| !user.is_empty());
                let user = user.unwrap_or_else(|| rustix::process::getuid().as_raw().to_string());
                format!("{user}@{}", hostname())
            }
        };
        Ok(Some(PendingReceipt {
            path: path.clone(),
            file: OutputFile::beside(path)?,
            key,
            identity,
        }))
    }
}

impl PendingReceipt {
    /// Writes the receipt of `load`, which is complete. The signature is written before it.
    pub async fn write(self, load: &Load<'_>) -> anyhow::Result<()> {
        let shown = self.path.display().to_string();
        let text = self.text(load)?;
        let written = self.write_files(&text).await;
        written.with_context(|| format!("everything is loaded, and the receipt {shown} is not written; run load again"))
    }

    fn text(&self, load: &Load<'_>) -> anyhow::Result<Vec<u8>> {
        let packages = load.packages.iter().map(|package| PackageReceipt {
            name: load.target.name_of(&package.repository, &package.tag),
            digest: package.digest.clone(),
            manifest: package.manifest.clone(),
        });
        let images = load.images.iter().flat_map(|image| {
            let names = load.target.names_of(&image.location).into_iter();
            names.map(|name| ImageReceipt {
                name,
                digest: image.digest.clone(),
            })
        });
        let receipt = Receipt {
            version: VERSION,
            tool_version: env!("CARGO_PKG_VERSION"),
            time: time(None)?.to_string(),
            identity: &self.identity,
            file: load.file,
            destination: load.to,
            signatures_verified: load.is_verified,
            sent_bytes: load.sent,
            packages: packages.collect(),
            images: images.collect(),
        };
        let mut text = serde_json::to_vec_pretty(&receipt)?;
        text.push(b'\n');
        Ok(text)
    }

    async fn write_files(self, text: &[u8]) -> anyhow::Result<()> {
        // One of an earlier receipt would not fit.
        match tokio::fs::remove_file(signature_path(&self.path)).await {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(error.into()),
            _ => {}
        }
        if let Some(key) = &self.key {
            write_signature(key, &Digest::of(text), &self.path).await?;
        }
        self.file.write(text).await
    }
}

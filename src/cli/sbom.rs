//! `sbom`, and the flags of all commands that generate SBOMs.

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use clap::Args;
use tokio_util::sync::CancellationToken;

use super::authorities::AuthorityFlags;
use super::cluster::duration;
use super::limits::LimitFlags;
use super::registry_clients::RegistryClients;
use super::{UsageError, examples, files, print, until};
use crate::decode;
use crate::oci::{Index, Reference};
use crate::package::{PackageSboms, TransferredImage};
use crate::sbom::{Isolation, Limits, Syft, unable};
use crate::source::RepositoryReader as _;
use crate::transfer::{LayoutDestination, RegistryDestination};

/// How long a registry may make no progress.
const IDLE: Duration = Duration::from_secs(60);

/// The flags of the commands that generate SBOMs.
#[derive(Clone, Debug, Args)]
pub(super) struct SbomFlags {
    /// The path of syft (1.x), which generates SBOMs. Default: no SBOMs are generated.
    #[arg(long, env = "JACKAL_SYFT", value_name = "PATH")]
    syft: Option<PathBuf>,
    /// The memory limit of a syft process in bytes, or with Ki, Mi or Gi. It fails if it needs more.
    #[arg(long, env = "JACKAL_SBOM_MEMORY", default_value = "1Gi", value_name = "BYTES", value_parser = bytes)]
    sbom_memory: u64,
    /// The timeout of a syft process.
    #[arg(long, env = "JACKAL_SBOM_TIMEOUT", default_value = "10m", value_name = "DURATION", value_parser = duration)]
    sbom_timeout: Duration,
    /// The number of concurrent syft processes.
    #[arg(long, env = "JACKAL_SBOM_CONCURRENCY", default_value_t = 1, value_name = "COUNT")]
    sbom_concurrency: usize,
    /// The directory in which syft unpacks images, each in a subdirectory that is removed afterwards. Default: the directory
    /// for temporary files.
    #[arg(long, env = "JACKAL_SBOM_SCRATCH", value_name = "PATH")]
    sbom_scratch: Option<PathBuf>,
    /// The disk space that a syft process may use there, which is the unpacked size of an image, in bytes, or with Ki, Mi
    /// or Gi.
    #[arg(long, env = "JACKAL_SBOM_SCRATCH_LIMIT", default_value = "8Gi", value_name = "BYTES", value_parser = bytes)]
    sbom_scratch_limit: u64,
    /// How syft, which reads untrusted images, is isolated from the credentials and the network of this process. landlock
    /// requires Linux 5.13; without it no SBOMs are generated.
    #[arg(long, env = "JACKAL_SBOM_ISOLATION", default_value = "landlock", value_name = "MODE")]
    sbom_isolation: Isolation,
}

impl SbomFlags {
    /// The SBOM generator; none without --syft.
    pub async fn open(&self) -> Option<Arc<Syft>> {
        let program = self.syft.clone()?;
        let limits = Limits {
            memory: self.sbom_memory,
            time: self.sbom_timeout,
            scratch: self.sbom_scratch_limit,
            concurrency: self.sbom_concurrency,
            isolation: self.sbom_isolation,
        };
        let root = self.sbom_scratch.clone().unwrap_or_else(std::env::temp_dir);
        Some(Arc::new(Syft::new(program, root, limits).await))
    }
}

/// Generate the SBOMs of an image and store them as its referrers.
///
/// The formats are SPDX 2.3, CycloneDX 1.6 and syft JSON, one of each for each platform. They refer to the manifest of the
/// platform. Existing SBOMs are not generated again.
///
/// Exit codes: 0 success, 1 failure that may be temporary, 2 invalid image or flag, 130 interrupted.
#[derive(Debug, Args)]
#[command(after_help = examples::SBOM)]
pub(super) struct Sbom {
    /// The reference of an image in a registry, or `oci:DIR` for all images in an OCI layout.
    #[arg(value_name = "REFERENCE|oci:DIR")]
    image: String,
    /// Use plain HTTP for the registry.
    #[arg(long)]
    insecure: bool,
    #[command(flatten)]
    sbom: SbomFlags,
    #[command(flatten)]
    authorities: AuthorityFlags,
    #[command(flatten)]
    limits: LimitFlags,
}

impl Sbom {
    pub(super) async fn run(self, stop: CancellationToken) -> ExitCode {
        until(stop, "sbom", self.make()).await
    }

    async fn make(&self) -> anyhow::Result<()> {
        let syft = self.sbom.open().await.ok_or_else(unable)?;
        let mut images = match self.image.strip_prefix("oci:").filter(|rest| !rest.starts_with("//")) {
            Some(directory) => in_layout(Path::new(directory)).await?,
            None => vec![self.in_registry().await?],
        };
        let mut sboms = PackageSboms::find(&mut images, None).await?;
        sboms.accept_claimed();
        sboms.generate_missing(&syft).await?;
        for (name, digest, made) in sboms.rows() {
            for content in made.iter().flat_map(|made| made.contents.values()) {
                print::line(format_args!(
                    "{name} {digest} {} {}",
                    content.media_type, content.digest
                ));
            }
        }
        Ok(())
    }

    async fn in_registry(&self) -> anyhow::Result<TransferredImage> {
        let reference: Reference = self.image.parse().map_err(|error| UsageError(format!("{error}")))?;
        let access = RegistryClients::new(&self.authorities, &self.limits, IDLE).await?;
        let registry = access.source(&reference, self.insecure).await?;
        let destination = RegistryDestination::new(registry.repository(reference.repository()));
        let document = destination.document(reference.identifier()).await?;
        let document =
            document.ok_or_else(|| UsageError(format!("{reference} does not exist; check the name and the tag")))?;
        Ok(TransferredImage {
            reference,
            digest: document.digest().clone(),
            destination: Arc::new(destination),
            documents: vec![document],
            origin: None,
        })
    }
}

/// All images in the `index.json` of a layout.
async fn in_layout(directory: &Path) -> anyhow::Result<Vec<TransferredImage>> {
    let unusable =
        |why: &dyn std::fmt::Display| UsageError(format!("{} is not an OCI layout: {why}", directory.display()));
    let index = files::read(&directory.join("index.json")).await;
    let index = index.map_err(|error| unusable(&format_args!("cannot read its index.json: {error:#}")))?;
    let index: Index = decode::json(&index).map_err(|error| unusable(&error))?;
    let named = index
        .manifests
        .into_iter()
        .filter(|entry| entry.artifact_type.is_none());
    let images = named.map(|entry| {
        let name = entry.annotations.values().find_map(|name| name.parse().ok());
        let plain = || format!("localhost/image@{}", entry.digest).parse();
        Ok(TransferredImage {
            reference: name.map_or_else(plain, Ok)?,
            digest: entry.digest.clone(),
            destination: Arc::new(LayoutDestination::new(directory, "image")),
            documents: Vec::new(),
            origin: None,
        })
    });
    images.collect()
}

/// Parses a size such as `512Mi` or `2Gi`, or a number of bytes.
fn bytes(text: &str) -> Result<u64, String> {
    let digits = text.trim_end_matches(|letter: char| letter.is_ascii_alphabetic());
    let power = match &text[digits.len()..] {
        "" => 0,
        "Ki" => 10,
        "Mi" => 20,
        "Gi" => 30,
        _ => return Err("write a size such as 512Mi or 2Gi".to_owned()),
    };
    let number: u64 = digits
        .parse()
        .map_err(|_| "write a size such as 512Mi or 2Gi".to_owned())?;
    number
        .checked_mul(1 << power)
        .filter(|bytes| *bytes > 0)
        .ok_or_else(|| "the size is 0 or too large: write a size such as 512Mi or 2Gi".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_parsed() {
        assert_eq!(bytes("1Gi"), Ok(1 << 30));
        assert_eq!(bytes("512Mi"), Ok(512 << 20));
        assert_eq!(bytes("123"), Ok(123));
        for bad in ["", "Gi", "1G", "-1Mi", "1.5Gi", "0", "99999999999Gi"] {
            assert!(bytes(bad).is_err(), "{bad}");
        }
    }
}

//! `load`: publishes a package file in a registry or an OCI layout.

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use clap::{Args, ValueEnum};
use serde::Serialize;
use tokio_util::sync::CancellationToken;

use super::build::target::Target;
use super::cluster::duration;
use super::connection::ConnectionFlags;
use super::progress::{Display, Output, bytes};
use super::receipt::{self, ReceiptFlags};
use super::signer::SignerFlags;
use super::state::state_folder;
use super::{UsageError, examples, print, until};
use crate::archive::{self, Loaded, LoadedImage, LoadedImages, Missing, Reader, Retries};
use crate::fault::{Fault, Reason};
use crate::oci::{Naming, Reference};
use crate::registry::UploadRecords;
use crate::transfer::{Destination, LayoutDestination, Progress, RegistryDestination};

/// How images are named in the registry.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(super) enum NamingFlag {
    /// By their own repositories and tags.
    Plain,
    /// As Jackal's webhook names them.
    Jackal,
    /// As Zarf's webhook names them.
    Zarf,
}

impl From<NamingFlag> for Naming {
    fn from(flag: NamingFlag) -> Self {
        match flag {
            NamingFlag::Plain => Self::Plain,
            NamingFlag::Jackal => Self::Jackal,
            NamingFlag::Zarf => Self::Zarf,
        }
    }
}

/// Publish the packages and images of an archive in a registry or an OCI layout.
///
/// The archive is a file that `pack` wrote, a package of Jackal or Zarf (.tar.zst or .tar), an OCI archive, the directory of an
/// OCI layout, a file of `docker save` or an archive of hauler. Its format is told by its content. It is read without a temporary
/// copy. Every digest is verified before a tag is written. Content that exists in the registry already is not sent, so a repeat
/// after an interruption sends the rest.
/// An upload that broke off, even with the process, continues where the registry has it.
///
/// With --key or --identity, the packages must be signed so in themselves, as `build --key` and `zarf package sign` do it, and the
/// signature covers every file; else nothing is loaded.
///
/// Exit codes: 0 done, 1 something failed and may succeed another time, 2 the file or a flag cannot be used, 130 interrupted.
#[derive(Debug, Args)]
#[command(after_help = examples::LOAD)]
pub(super) struct Load {
    /// The file or directory; FILE.part000 for a file in parts, - for a file of `pack` on standard input.
    #[arg(value_name = "FILE")]
    file: PathBuf,
    /// The name of the image, in an archive that has one image.
    #[arg(long, value_name = "REFERENCE")]
    name: Option<Reference>,
    /// The registry, `HOST[:PORT][/PREFIX]`, or `oci:DIR` for an OCI layout.
    #[arg(long, value_name = "DESTINATION")]
    to: String,
    /// The naming of the images.
    #[arg(long, value_enum, default_value = "plain")]
    naming: NamingFlag,
    #[command(flatten)]
    signer: SignerFlags,
    #[command(flatten)]
    receipt: ReceiptFlags,
    #[command(flatten)]
    connection: ConnectionFlags,
    /// How long a broken connection to the registry is tried again without progress, as of a port-forward that ended.
    #[arg(long, default_value = "5m", value_name = "DURATION", value_parser = duration)]
    retry_timeout: Duration,
    /// How the result is printed.
    #[arg(short, long, value_enum, default_value = "text")]
    output: Output,
}

/// The result, as `--output json` prints it.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Report {
    /// The package; absent for an archive without packages.
    #[serde(flatten)]
    package: Option<PackageReport>,
    images: Vec<String>,
    sent_bytes: u64,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct PackageReport {
    package: String,
    digest: String,
}

impl Load {
    pub(super) async fn run(self, stop: CancellationToken) -> ExitCode {
        until(stop, "load", self.load()).await
    }

    async fn load(&self) -> anyhow::Result<()> {
        let target = Target::parse(&self.to)?;
        let requirement = self.signer.requirement().await?;
        let receipt = self.receipt.prepare().await?;
        let open = self.destinations(&target).await?;
        let (address, prefix) = (target.address(), target.prefix().unwrap_or_default());
        let within = |fault: Fault| unpublished(fault).with_context(self.file.display());
        let progress = Arc::new(Progress::default());
        let retries = Retries::new(match target {
            // Files do not come back.
            Target::Layout(_) => Duration::ZERO,
            _ => self.retry_timeout,
        });
        let to = archive::Target {
            address: &address,
            prefix: &prefix,
            naming: self.naming.into(),
            open: &*open,
            retries: &retries,
        };
        let display = Display::new(self.output, false);
        let name = self.file.display().to_string();
        let is_verified = requirement.is_some();
        let about = |packages, images, sent| receipt::Load {
            file: &name,
            target: &target,
            to: &self.to,
            is_verified,
            packages,
            images,
            sent,
        };
        let loaded = if self.file == Path::new("-") {
            if self.name.is_some() {
                return Err(UsageError("--name names the image of a file, not of standard input".to_owned()).into());
            }
            let reader = Reader::open(std::io::stdin()).await.map_err(within)?;
            let work = archive::load_stream(reader, &to, requirement.as_ref(), &progress);
            display.follow(&name, &progress, work).await.map_err(unpublished)?
        } else {
            let mut archive = archive::open(&self.file).await?;
            if let Some(name) = &self.name {
                archive = archive.with_name(name.clone()).map_err(within)?;
            }
            let archive = Arc::new(archive);
            if let Some(requirement) = &requirement {
                let verified = archive::verify_signatures(&archive, requirement);
                verified.await.map_err(within)?;
            }
            if archive.packages().is_empty() {
                let work = archive::load_images(&archive, &to, &progress);
                let loaded = display.follow(&name, &progress, work).await.map_err(within)?;
                self.report(&Report::of_images(&target, &loaded));
                if let Some(receipt) = receipt {
                    let images = loaded.images.iter().collect();
                    let load = about(&[], images, loaded.sent);
                    receipt.write(&load).await?;
                }
                return Ok(());
            }
            if self.output == Output::Json {
                report_missing(&archive::missing(&archive, &to).await?);
            }
            display
                .follow(&name, &progress, archive::load(&archive, &to, &progress))
                .await
                .map_err(within)?
        };
        for loaded in &loaded {
            self.report(&Report::of_package(&target, loaded));
        }
        if let Some(receipt) = receipt {
            let images = loaded.iter().flat_map(|package| &package.images).collect();
            let sent = loaded.iter().fold(0, |sum, package| package.sent.saturating_add(sum));
            receipt.write(&about(&loaded, images, sent)).await?;
        }
        Ok(())
    }

    /// Opens repositories of the destination.
    async fn destinations(
        &self,
        target: &Target,
    ) -> anyhow::Result<Box<dyn Fn(&str) -> Arc<dyn Destination> + Sync + Send>> {
        Ok(match target {
            Target::Layout(directory) => {
                let directory = directory.clone();
                Box::new(move |repository| Arc::new(LayoutDestination::new(&directory, repository)))
            }
            Target::Registry { host, prefix } => {
                let clients = self.connection.clients().await?;
                let registry = clients.destination(host, prefix, self.connection.insecure).await?;
                let records = upload_records();
                Box::new(move |repository| {
                    let destination = RegistryDestination::new(registry.repository(repository));
                    match &records {
                        Some(records) => Arc::new(destination.with_records(Arc::clone(records))),
                        None => Arc::new(destination),
                    }
                })
            }
            Target::Archive(_) | Target::Nowhere => {
                return Err(UsageError(format!("--to {}: it names no destination", self.to)).into());
            }
        })
    }

    fn report(&self, report: &Report) {
        if self.output == Output::Json {
            print::line(serde_json::to_string_pretty(report).unwrap_or_default());
            return;
        }
        for image in &report.images {
            print::line(image);
        }
        let sent = format!("({} sent)", bytes(report.sent_bytes));
        match &report.package {
            Some(package) => print::line(format_args!("{}@{} {sent}", package.package, package.digest)),
            None => print::line(sent),
        }
    }
}

impl Report {
    fn of_package(target: &Target, loaded: &Loaded) -> Self {
        Self {
            package: Some(PackageReport {
                package: target.name_of(&loaded.repository, &loaded.tag),
                digest: loaded.digest.to_string(),
            }),
            images: names(target, &loaded.images),
            sent_bytes: loaded.sent,
        }
    }

    fn of_images(target: &Target, loaded: &LoadedImages) -> Self {
        Self {
            package: None,
            images: names(target, &loaded.images),
            sent_bytes: loaded.sent,
        }
    }
}

/// The names of `images` in the target.
fn names(target: &Target, images: &[LoadedImage]) -> Vec<String> {
    images
        .iter()
        .flat_map(|image| target.names_of(&image.location))
        .collect()
}

/// Says what a signature that is not as required means for `load`.
fn unpublished(mut fault: Fault) -> Fault {
    if fault.reason == Reason::VerificationError {
        fault.message.push_str(". Nothing is published");
    }
    fault
}

/// The records of uploads that are not complete; none without a home.
fn upload_records() -> Option<Arc<UploadRecords>> {
    Some(Arc::new(UploadRecords::new(state_folder("uploads")?)))
}

/// Content that the file leaves out and the destination does not hold, as `--output json` prints it.
#[derive(Serialize)]
struct MissingReport<'a> {
    missing: Vec<MissingBlob<'a>>,
}

#[derive(Serialize)]
struct MissingBlob<'a> {
    digest: &'a str,
    size: u64,
    /// The repository that held it when the inventory was made.
    repository: &'a str,
    images: &'a [String],
}

/// Prints what is missing; the error that follows says what to do.
fn report_missing(missing: &[Missing]) {
    if missing.is_empty() {
        return;
    }
    let missing = missing.iter().map(|blob| MissingBlob {
        digest: blob.digest.as_str(),
        size: blob.size,
        repository: &blob.repository,
        images: &blob.images,
    });
    let report = MissingReport {
        missing: missing.collect(),
    };
    print::line(serde_json::to_string_pretty(&report).unwrap_or_default());
}

//! `pack`: a package of a registry or an OCI layout as one file.

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;

use anyhow::Context as _;
use clap::Args;
use serde::Serialize;
use tokio::io::AsyncWriteExt as _;
use tokio_util::sync::CancellationToken;

use super::have::HaveFlags;
use super::output_file::{OutputFile, standard_output};
use super::part_flags::{PartFiles, PartFlags};
use super::progress::{Display, Output, bytes};
use super::stored::StoredFlags;
use super::{UsageError, examples, print, until};
use crate::archive::inventory::Holdings;
use crate::archive::parts::write_in_parts;
use crate::archive::{Written, write};
use crate::oci::{Descriptor, Document};
use crate::transfer::{Destination, Progress};

/// The ends of names that Zarf's and Jackal's commands take for a package.
const SUFFIX: &str = ".tar.zst";

/// Write a package of a registry or an OCI layout into one file.
///
/// The file carries the package into a network without internet: `zarf package inspect|deploy|mirror-resources FILE` reads it.
/// It is written while the package is read, without a temporary copy, and the same package gives the same bytes. It appears
/// under its name when it is complete; its parts, with --max-part-size, when all of them are.
///
/// Exit codes: 0 done, 1 something failed and may succeed another time, 2 a flag cannot be used or the reference is not a package, 130 interrupted.
#[derive(Debug, Args)]
#[command(after_help = examples::PACK)]
pub(super) struct Pack {
    #[command(flatten)]
    stored: StoredFlags,
    /// The file to write, whose name ends with .tar.zst; - for standard output.
    #[arg(short = 'o', long = "output", value_name = "FILE")]
    file: PathBuf,
    /// The architecture to pack, where the reference has packages of several.
    #[arg(long, value_name = "ARCHITECTURE")]
    architecture: Option<String>,
    #[command(flatten)]
    have: HaveFlags,
    #[command(flatten)]
    parts: PartFlags,
    /// How the result is printed on standard output; on standard error where the package goes to standard output.
    #[arg(long, value_enum, default_value = "text")]
    format: Output,
}

/// The result, as `--format json` prints it.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Report<'a> {
    file: &'a Path,
    package: &'a str,
    digest: &'a str,
    size: u64,
    files: usize,
    omitted_blobs: usize,
    /// Its parts, where it is in parts.
    #[serde(flatten, skip_serializing_if = "Option::is_none")]
    parts: Option<PartFiles>,
}

impl Pack {
    pub(super) async fn run(self, stop: CancellationToken) -> ExitCode {
        until(stop, "pack", self.pack()).await
    }

    async fn pack(&self) -> anyhow::Result<()> {
        let pipe = self.file == Path::new("-");
        if !pipe && !self.file.to_string_lossy().ends_with(SUFFIX) {
            let message = format!(
                "--output {}: name the file *{SUFFIX}, by which Zarf knows a package",
                self.file.display()
            );
            return Err(UsageError(message).into());
        }
        let into = self.parts.parts();
        if pipe && into.is_some() {
            return Err(UsageError("--max-part-size needs a file as --output".to_owned()).into());
        }
        let stored = self.stored.open().await?;
        let manifest = self.select(&*stored.repository, &stored.document, &stored.name).await?;
        let layers = manifest.manifest().into_iter().flat_map(|manifest| &manifest.layers);
        let wanted = layers.map(|layer| layer.digest.clone()).collect();
        let holdings = self.have.read(&wanted).await?;
        let progress = Arc::new(Progress::default());
        let display = Display::new(self.format, pipe);
        let work = async {
            if let Some(into) = into {
                let write = |out| write(&*stored.repository, &manifest, &holdings, out, &progress);
                let (written, list) = write_in_parts(&self.file, into, &progress, write).await?;
                return Ok((written, Some(PartFiles::of(&self.file, &list))));
            }
            let written = match pipe {
                true => write(&*stored.repository, &manifest, &holdings, standard_output()?, &progress).await?,
                false => {
                    self.write_file(&*stored.repository, &manifest, &holdings, &progress)
                        .await?
                }
            };
            anyhow::Ok((written, None))
        };
        let (written, parts) = display.follow(&stored.name, &progress, work).await?;
        if written.omitted > 0 {
            print::note(format_args!(
                "jackal-operator pack: {} blobs that {} holds are left out: only `load` reads this file, Zarf does not",
                written.omitted, holdings.registry
            ));
        }
        self.report(&stored.name, &written, parts, pipe);
        Ok(())
    }

    /// The manifest of the one package that is meant.
    async fn select(&self, repository: &dyn Destination, found: &Document, name: &str) -> anyhow::Result<Document> {
        let Some(index) = found.index().filter(|_| found.is_package()) else {
            return Ok(found.clone());
        };
        let architecture = |entry: &Descriptor| entry.platform.as_ref().map(|platform| platform.architecture.clone());
        let all: Vec<String> = index.manifests.iter().filter_map(architecture).collect();
        let mut entries = index.manifests.iter().filter(|entry| match &self.architecture {
            Some(asked) => architecture(entry).as_ref() == Some(asked),
            None => true,
        });
        let entry = match (entries.next(), entries.next()) {
            (Some(entry), None) => entry,
            _ => {
                let message = format!(
                    "{name} has packages for {}; choose one by --architecture",
                    all.join(", ")
                );
                return Err(UsageError(message).into());
            }
        };
        let document = repository.document(entry.digest.as_str()).await?;
        document.with_context(|| {
            format!(
                "{name} lists {}, which does not exist; publish the package again",
                entry.digest
            )
        })
    }

    /// Writes to a file beside the one that is meant, which takes its name at the end.
    async fn write_file(
        &self,
        repository: &dyn Destination,
        manifest: &Document,
        holdings: &Holdings,
        progress: &Progress,
    ) -> anyhow::Result<Written> {
        let file = OutputFile::beside(&self.file)?;
        let mut out = file.open()?;
        let written = write(repository, manifest, holdings, &mut out, progress).await?;
        let flushed = out.flush().await;
        flushed.with_context(|| format!("{} cannot be written", self.file.display()))?;
        file.finish().await?;
        Ok(written)
    }

    fn report(&self, name: &str, written: &Written, parts: Option<PartFiles>, pipe: bool) {
        let text = match self.format {
            Output::Text => format!(
                "{}: {name}, {} files{}, {} ({})",
                self.file.display(),
                written.files,
                parts.map_or_else(String::new, |parts| format!(" in {}", parts.text())),
                bytes(written.size),
                written.digest
            ),
            Output::Json => {
                let report = Report {
                    file: &self.file,
                    package: name,
                    digest: written.digest.as_str(),
                    size: written.size,
                    files: written.files,
                    omitted_blobs: written.omitted,
                    parts,
                };
                serde_json::to_string_pretty(&report).unwrap_or_default()
            }
        };
        match pipe {
            true => print::note(text),
            false => print::line(text),
        }
    }
}

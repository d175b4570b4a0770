//! `split`: an archive in parts.

use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;

use clap::Args;
use serde::Serialize;
use tokio_util::sync::CancellationToken;

use super::part_flags::{PartFiles, PartFlags};
use super::progress::{Display, Output, bytes};
use super::{UsageError, examples, print, until};
use crate::archive::parts::{PartName, split};
use crate::oci::Digest;
use crate::transfer::Progress;

/// Split a package file into parts, for media that do not take the whole.
///
/// The parts are written beside the file, which stays: FILE.part001 and so on, and FILE.part000 with their list. They replace parts
/// that are there. Name FILE.part000 to read them: `load`, `join` and Zarf's commands do so.
///
/// Exit codes: 0 done, 1 something failed and may succeed another time, 2 the file or a flag cannot be used, 130 interrupted.
#[derive(Debug, Args)]
#[command(after_help = examples::SPLIT)]
#[command(mut_arg("max_part_size", |flag| flag.required(true)))]
pub(super) struct Split {
    /// The file.
    #[arg(value_name = "FILE")]
    file: PathBuf,
    #[command(flatten)]
    parts: PartFlags,
    /// How the result is printed.
    #[arg(short, long, value_enum, default_value = "text")]
    output: Output,
}

/// The result, as `--output json` prints it.
#[derive(Serialize)]
struct Report<'a> {
    size: u64,
    digest: &'a str,
    #[serde(flatten)]
    files: PartFiles,
}

impl Split {
    pub(super) async fn run(self, stop: CancellationToken) -> ExitCode {
        until(stop, "split", self.split()).await
    }

    async fn split(&self) -> anyhow::Result<()> {
        let file = &self.file;
        if PartName::of(file).is_some() {
            return Err(UsageError(format!("{} is a part already; join the parts first", file.display())).into());
        }
        let Some(into) = self.parts.parts() else {
            return Err(UsageError("--max-part-size is missing".to_owned()).into());
        };
        let progress = Arc::new(Progress::default());
        let display = Display::new(self.output, false);
        let work = split(file, into, &progress);
        let list = display.follow(&file.display().to_string(), &progress, work).await?;
        let digest = list.digest.as_ref().map(Digest::as_str).unwrap_or_default();
        let files = PartFiles::of(file, &list);
        match self.output {
            Output::Text => print::line(format_args!(
                "{}: {}, {} ({digest})",
                file.display(),
                files.text(),
                bytes(list.size)
            )),
            Output::Json => {
                let report = Report {
                    size: list.size,
                    digest,
                    files,
                };
                print::line(serde_json::to_string_pretty(&report).unwrap_or_default());
            }
        }
        Ok(())
    }
}

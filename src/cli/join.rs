//! `join`: the parts of an archive as one file.

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;

use clap::Args;
use serde::Serialize;
use tokio_util::sync::CancellationToken;

use super::output_file::standard_output;
use super::part_flags::archive_of;
use super::progress::{Display, Output, bytes};
use super::{examples, print, until};
use crate::archive::parts::{join, join_to};
use crate::transfer::Progress;

/// Write the parts of a package file as one file.
///
/// The digest of each part is verified. The file appears under its name when it is complete; the parts stay. No other command
/// needs the file: `load`, `verify` and Zarf's commands read parts.
///
/// Exit codes: 0 done, 1 something failed and may succeed another time, 2 a part is missing or damaged or a flag cannot be used, 130 interrupted.
#[derive(Debug, Args)]
#[command(after_help = examples::JOIN)]
pub(super) struct Join {
    /// The list of the parts: FILE.part000.
    #[arg(value_name = "FILE.part000")]
    file: PathBuf,
    /// The file to write; - for standard output.
    #[arg(short = 'o', long = "output", value_name = "FILE")]
    to: PathBuf,
    /// How the result is printed on standard output; on standard error where the file goes to standard output.
    #[arg(long, value_enum, default_value = "text")]
    format: Output,
}

/// The result, as `--format json` prints it.
#[derive(Serialize)]
struct Report<'a> {
    file: &'a Path,
    parts: usize,
    size: u64,
    digest: &'a str,
}

impl Join {
    pub(super) async fn run(self, stop: CancellationToken) -> ExitCode {
        until(stop, "join", self.join()).await
    }

    async fn join(&self) -> anyhow::Result<()> {
        let archive = archive_of(&self.file)?;
        let pipe = self.to == Path::new("-");
        let progress = Arc::new(Progress::default());
        let display = Display::new(self.format, pipe);
        let work = async {
            match pipe {
                true => Ok(join(&archive, standard_output()?, "standard output", &progress).await?),
                false => anyhow::Ok(join_to(&archive, &self.to, &progress).await?),
            }
        };
        let name = archive.display().to_string();
        let joined = display.follow(&name, &progress, work).await?;
        let text = match self.format {
            Output::Text => format!(
                "{}: {} of {} parts ({})",
                self.to.display(),
                bytes(joined.size),
                joined.parts,
                joined.digest
            ),
            Output::Json => {
                let report = Report {
                    file: &self.to,
                    parts: joined.parts,
                    size: joined.size,
                    digest: joined.digest.as_str(),
                };
                serde_json::to_string_pretty(&report).unwrap_or_default()
            }
        };
        match pipe {
            true => print::note(text),
            false => print::line(text),
        }
        Ok(())
    }
}

//! `repair`: computes lost parts of an archive anew.

use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;

use clap::Args;
use serde::Serialize;
use tokio_util::sync::CancellationToken;

use super::part_flags::archive_of;
use super::progress::{Display, Output};
use super::{examples, print, until};
use crate::archive::parts::repair;
use crate::transfer::Progress;

/// Write lost and damaged parts of a package file anew.
///
/// All parts are read and compared with their digests. Those that are missing or damaged are computed from the parity parts, which
/// `--parity` of `pack` and `split` writes: as many parts as there are parity parts. Lost parity parts are written anew too, and the
/// list from its copy FILE.parity000.
///
/// Exit codes: 0 all parts are sound now, 1 something failed and may succeed another time, 2 too many parts are lost, 130 interrupted.
#[derive(Debug, Args)]
#[command(after_help = examples::REPAIR)]
pub(super) struct Repair {
    /// The list of the parts: FILE.part000.
    #[arg(value_name = "FILE.part000")]
    file: PathBuf,
    /// How the result is printed.
    #[arg(short, long, value_enum, default_value = "text")]
    output: Output,
}

/// The result, as `--output json` prints it.
#[derive(Serialize)]
struct Report {
    written: Vec<String>,
    foreign: Vec<String>,
}

impl Repair {
    pub(super) async fn run(self, stop: CancellationToken) -> ExitCode {
        until(stop, "repair", self.repair()).await
    }

    async fn repair(&self) -> anyhow::Result<()> {
        let archive = archive_of(&self.file)?;
        let progress = Arc::new(Progress::default());
        let display = Display::new(self.output, false);
        let name = self.file.display().to_string();
        let repaired = display.follow(&name, &progress, repair(&archive, &progress)).await;
        let repaired = repaired.map_err(|fault| fault.with_context(archive.display()))?;
        let report = Report {
            written: repaired.written,
            foreign: repaired.foreign,
        };
        match self.output {
            Output::Json => print::line(serde_json::to_string_pretty(&report).unwrap_or_default()),
            Output::Text => {
                for file in &report.foreign {
                    print::note(format_args!("{file} does not belong to the archive; delete it"));
                }
                for file in &report.written {
                    print::line(format_args!("{file} is written anew"));
                }
                if report.written.is_empty() {
                    print::line(format_args!("{name}: all parts are sound"));
                }
            }
        }
        Ok(())
    }
}

//! `bootstrap`: installs the operator in a cluster that has no registry.

use std::process::ExitCode;

use clap::{Args, Subcommand};
use tokio_util::sync::CancellationToken;

use super::bootstrap_export::Export;
use super::examples;

/// Prepare a cluster that has no registry, from one archive.
///
/// Exit codes: 0 done, 1 something failed and may succeed another time, 2 the file or a flag cannot be used, 130 interrupted.
#[derive(Debug, Args)]
#[command(after_help = examples::BOOTSTRAP_EXPORT)]
pub(super) struct Bootstrap {
    #[command(subcommand)]
    step: Step,
}

#[derive(Debug, Subcommand)]
enum Step {
    Export(Export),
}

impl Bootstrap {
    pub(super) async fn run(self, stop: CancellationToken) -> ExitCode {
        match self.step {
            Step::Export(command) => command.run(stop).await,
        }
    }
}

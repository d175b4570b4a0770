//! `idle`: does nothing until it is stopped, in pods that keep an image on their node.

use std::process::ExitCode;

use clap::Args;
use tokio_util::sync::CancellationToken;

use super::examples;

/// Do nothing until a signal: for pods that keep an image on their node.
///
/// Exit codes: 0 stopped by a signal.
#[derive(Debug, Args)]
#[command(hide = true, after_help = examples::IDLE)]
pub(super) struct Idle;

impl Idle {
    pub(super) async fn run(self, stop: CancellationToken) -> ExitCode {
        stop.cancelled().await;
        ExitCode::SUCCESS
    }
}

//! `idle`: does nothing until it is stopped, in pods that keep an image on their node.

use std::process::ExitCode;

use clap::Args;
use tokio_util::sync::CancellationToken;

/// Do nothing until a signal: for pods that keep an image on their node.
#[derive(Debug, Args)]
#[command(hide = true)]
pub(super) struct Idle;

impl Idle {
    pub(super) async fn run(self, stop: CancellationToken) -> ExitCode {
        stop.cancelled().await;
        ExitCode::SUCCESS
    }
}

//! `controller`.

use std::process::ExitCode;
use std::time::Duration;

use clap::Args;
use tokio_util::sync::CancellationToken;

use super::cluster::{ClusterFlags, duration, hostname};
use super::sbom::SbomFlags;
use crate::controller::{self, Terms};

/// Run the controller.
#[derive(Debug, Args)]
pub(super) struct Controller {
    #[command(flatten)]
    cluster: ClusterFlags,
    #[command(flatten)]
    sbom: SbomFlags,
    /// How this process is called in claims and in the lease. Default: the machine's name and the process id.
    #[arg(long, env = "POD_NAME", value_name = "NAME")]
    identity: Option<String>,
    /// How long the leader's lease lasts.
    #[arg(long, env = "JACKAL_LEASE_DURATION", default_value = "15s", value_name = "DURATION", value_parser = duration)]
    lease_duration: Duration,
    /// How long an artifact that `retention` does not keep stands in status.garbage before it is deleted.
    #[arg(long, env = "JACKAL_GARBAGE_DELAY", default_value = "10m", value_name = "DURATION", value_parser = duration)]
    garbage_delay: Duration,
}

impl Controller {
    pub(super) async fn run(self, stop: CancellationToken) -> ExitCode {
        let opened = async {
            let (client, settings) = self.cluster.open().await?;
            let serving = self.cluster.serve(&settings, &stop).await?;
            anyhow::Ok((client, settings, serving))
        };
        let (client, mut settings, serving) = match opened.await {
            Ok(opened) => opened,
            Err(error) => {
                eprintln!("jackal-operator controller: {error:#}");
                return ExitCode::FAILURE;
            }
        };
        settings.garbage_delay = self.garbage_delay;
        settings.syft = self.sbom.open().await;
        let identity = self
            .identity
            .unwrap_or_else(|| format!("{}-{}", hostname(), std::process::id()));
        let duration = self.lease_duration.max(Duration::from_secs(1));
        let terms = Terms {
            duration,
            renew: (duration / 7).max(Duration::from_millis(100)),
        };
        controller::run(client, &identity, settings, terms, stop).await;
        serving.end().await;
        ExitCode::SUCCESS
    }
}

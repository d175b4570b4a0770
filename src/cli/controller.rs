//! `controller`.

use std::process::ExitCode;
use std::time::Duration;

use clap::Args;
use k8s_openapi::api::core::v1::ServiceAccount;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;
use kube::{Api, Client, Resource as _};
use tokio_util::sync::CancellationToken;
use tracing::warn;

use super::cluster::{ClusterFlags, duration, hostname};
use super::sbom::SbomFlags;
use super::{examples, print};
use crate::controller::{self, LeaseTiming};
use crate::runtime::with_timeout;

/// Run the controller: plans packages and moves images from registries.
#[derive(Debug, Args)]
#[command(after_help = examples::CONTROLLER)]
pub(super) struct Controller {
    #[command(flatten)]
    cluster: ClusterFlags,
    #[command(flatten)]
    sbom: SbomFlags,
    /// How this process is called in claims and in the lease. Default: the machine's name and the process id.
    #[arg(long, env = "POD_NAME", value_name = "NAME")]
    identity: Option<String>,
    /// The ServiceAccount that it runs as, in its own namespace: the leader's lease is deleted with it. Default: the lease
    /// stays.
    #[arg(long, env = "POD_SERVICE_ACCOUNT", value_name = "NAME")]
    service_account: Option<String>,
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
                print::note(format_args!("jackal-operator controller: {error:#}"));
                return ExitCode::FAILURE;
            }
        };
        settings.garbage_delay = self.garbage_delay;
        settings.syft = self.sbom.open().await;
        if let Some(name) = &self.service_account {
            settings.owner = owner(&client, &settings.defaults.namespace, name).await;
        }
        let identity = self
            .identity
            .unwrap_or_else(|| format!("{}-{}", hostname(), std::process::id()));
        let duration = self.lease_duration.max(Duration::from_secs(1));
        let terms = LeaseTiming {
            duration,
            renew: (duration / 7).max(Duration::from_millis(100)),
        };
        controller::run(client, &identity, settings, terms, stop).await;
        serving.end().await;
        ExitCode::SUCCESS
    }
}

/// The ServiceAccount as an owner. Without one there is a Lease that nobody deletes, which is no reason not to work.
async fn owner(client: &Client, namespace: &str, name: &str) -> Option<OwnerReference> {
    let api: Api<ServiceAccount> = Api::namespaced(client.clone(), namespace);
    match with_timeout(api.get(name)).await {
        Ok(account) => account.owner_ref(&()),
        Err(error) => {
            warn!(%error, name, "the ServiceAccount could not be read, so the leader's lease will not be deleted with it");
            None
        }
    }
}

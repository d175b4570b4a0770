//! How a command that names one registry reaches it.

use std::time::Duration;

use clap::Args;

use super::UsageError;
use super::authorities::AuthorityFlags;
use super::cluster::duration;
use super::limits::LimitFlags;
use super::registry_clients::RegistryClients;

/// The flags of `sign`, `verify`, `pack` and `load`.
#[derive(Debug, Args)]
pub(super) struct ConnectionFlags {
    /// Use plain HTTP for the registry.
    #[arg(long)]
    pub insecure: bool,
    #[command(flatten)]
    pub authorities: AuthorityFlags,
    #[command(flatten)]
    pub limits: LimitFlags,
    /// How long a request may make no progress.
    #[arg(long, default_value = "2m", value_name = "DURATION", value_parser = duration)]
    pub stall_timeout: Duration,
}

impl ConnectionFlags {
    /// The clients that the flags describe.
    pub async fn clients(&self) -> Result<RegistryClients, UsageError> {
        RegistryClients::new(&self.authorities, &self.limits, self.stall_timeout).await
    }
}

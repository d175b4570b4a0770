//! The cluster of commands that a user runs.

use std::path::PathBuf;
use std::time::Duration;

use clap::Args;
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Client, Config};

use super::UsageError;

/// How long a connection to the API server may take.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// The flags that name the cluster.
#[derive(Clone, Debug, Default, Args)]
pub(super) struct KubeconfigFlags {
    /// The kubeconfig. Default: the files of KUBECONFIG, or ~/.kube/config.
    #[arg(long, value_name = "FILE")]
    kubeconfig: Option<PathBuf>,
    /// The context in the kubeconfig. Default: its current context.
    #[arg(long, value_name = "NAME")]
    context: Option<String>,
}

impl KubeconfigFlags {
    /// A client of the cluster, and the address of its API server. Nothing is requested.
    pub async fn open(&self) -> Result<(Client, String), UsageError> {
        let options = KubeConfigOptions {
            context: self.context.clone(),
            ..KubeConfigOptions::default()
        };
        let read = match &self.kubeconfig {
            Some(path) => Kubeconfig::read_from(path),
            None => Kubeconfig::read(),
        };
        let unusable = |error: anyhow::Error| {
            let path = self.kubeconfig.as_ref().map(|path| path.display().to_string());
            let path = path.unwrap_or_else(|| "of KUBECONFIG or ~/.kube/config".to_owned());
            UsageError(format!(
                "the kubeconfig {path} cannot be used: {error:#}; name one with --kubeconfig"
            ))
        };
        let read = read.map_err(|error| unusable(error.into()))?;
        let config = Config::from_custom_kubeconfig(read, &options).await;
        let mut config = config.map_err(|error| unusable(error.into()))?;
        config.connect_timeout = Some(CONNECT_TIMEOUT);
        // The commands repeat requests themselves. A node whose kube-proxy does not answer is not asked for seconds.
        config.default_retry = false;
        let server = config.cluster_url.to_string();
        let client = Client::try_from(config).map_err(|error| unusable(error.into()))?;
        Ok((client, server.trim_end_matches('/').to_owned()))
    }
}

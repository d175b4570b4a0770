//! `agent`.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Args;
use tokio_util::sync::CancellationToken;

use super::cluster::{ClusterFlags, hostname};
use crate::agent;
use crate::source::docker::{Docker, Engine};

/// Run the agent of a node.
#[derive(Debug, Args)]
pub(super) struct Agent {
    #[command(flatten)]
    cluster: ClusterFlags,
    /// The node's name in the cluster. Default: the machine's name.
    #[arg(long, env = "NODE_NAME", value_name = "NAME")]
    node_name: Option<String>,
    /// Where the docker engine listens: unix:///path or tcp://host:port.
    #[arg(
        long,
        env = "DOCKER_HOST",
        default_value = "unix:///var/run/docker.sock",
        value_name = "ADDRESS"
    )]
    docker_host: String,
    /// Where the engine's root is mounted in the agent's container, if not where the engine says that it is.
    /// Layers are read there, and only what cannot be is exported by the engine.
    #[arg(long, env = "JACKAL_DOCKER_ROOT", value_name = "PATH")]
    docker_root: Option<PathBuf>,
}

impl Agent {
    pub(super) async fn run(self, stop: CancellationToken) -> ExitCode {
        let opened = async {
            let (client, settings) = self.cluster.open().await?;
            let engine = Engine::new(Some(&self.docker_host), settings.idle)?;
            anyhow::Ok((client, settings, engine))
        };
        let (client, settings, engine) = match opened.await {
            Ok(opened) => opened,
            Err(error) => {
                eprintln!("jackal-operator agent: {error:#}");
                return ExitCode::FAILURE;
            }
        };
        let node = self.node_name.unwrap_or_else(hostname);
        agent::run(client, &node, Docker::new(engine, self.docker_root), settings, stop).await;
        ExitCode::SUCCESS
    }
}

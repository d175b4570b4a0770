//! `agent`.

use std::process::ExitCode;

use clap::Args;
use tokio_util::sync::CancellationToken;

use super::cluster::{ClusterFlags, hostname, optional};
use super::engine::EngineFlags;
use crate::agent;
use crate::worker::{Admission, Admissions};

/// Run the agent of a node.
#[derive(Debug, Args)]
pub(super) struct Agent {
    #[command(flatten)]
    cluster: ClusterFlags,
    /// The node's name in the cluster. Default: the machine's name.
    #[arg(long, env = "NODE_NAME", value_name = "NAME")]
    node_name: Option<String>,
    /// Images that the node hands out, and to whom: NAMESPACE=IMAGE, such as
    /// `team-a=registry.example.com/team-a/*` or `*=docker.io/library/*`; repeatable. The image is named in full,
    /// without tag; `*` stands for any characters. Default: every image to every namespace; with one, nothing else.
    #[arg(long, env = "JACKAL_ADMIT", value_name = "NAMESPACE=IMAGE", value_delimiter = ',', value_parser = optional::<Admission>)]
    admit: Vec<Option<Admission>>,
    #[command(flatten)]
    engine: EngineFlags,
}

impl Agent {
    pub(super) async fn run(self, stop: CancellationToken) -> ExitCode {
        let opened = async {
            let (client, settings) = self.cluster.open().await?;
            let engines = agent::Engines {
                docker: self.engine.docker(settings.idle)?,
                containerd: self.engine.containerd(settings.idle)?,
            };
            let serving = self.cluster.serve(&settings, &stop).await?;
            anyhow::Ok((client, settings, engines, serving))
        };
        let (client, settings, engines, serving) = match opened.await {
            Ok(opened) => opened,
            Err(error) => {
                eprintln!("jackal-operator agent: {error:#}");
                return ExitCode::FAILURE;
            }
        };
        let node = self.node_name.unwrap_or_else(hostname);
        let admissions = Admissions(self.admit.into_iter().flatten().collect());
        agent::run(client, &node, engines, admissions, settings, stop).await;
        serving.end().await;
        ExitCode::SUCCESS
    }
}

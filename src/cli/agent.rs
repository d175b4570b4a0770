//! `agent`.

use std::process::ExitCode;

use clap::Args;
use k8s_openapi::Resource as _;
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;
use tokio_util::sync::CancellationToken;
use tracing::warn;

use super::cluster::{ClusterFlags, hostname, optional};
use super::engine::EngineFlags;
use super::{examples, print};
use crate::agent;
use crate::runtime::{AdmitRule, AdmitRules};

/// Run the agent of a node: moves the images of its docker engine and its containerd.
#[derive(Debug, Args)]
#[command(after_help = examples::AGENT)]
pub(super) struct Agent {
    #[command(flatten)]
    cluster: ClusterFlags,
    /// The node's name in the cluster. Default: the machine's name.
    #[arg(long, env = "NODE_NAME", value_name = "NAME")]
    node_name: Option<String>,
    /// The pod that it runs in: its lease is deleted with it.
    #[arg(long, env = "POD_NAME", value_name = "NAME", requires = "pod_uid")]
    pod_name: Option<String>,
    /// The UID of that pod.
    #[arg(long, env = "POD_UID", value_name = "UID", requires = "pod_name")]
    pod_uid: Option<String>,
    /// Images that the node hands out, and to whom: NAMESPACE=IMAGE, such as
    /// `team-a=registry.example.com/team-a/*` or `*=docker.io/library/*`; repeatable. The image is named in full,
    /// without tag; `*` stands for any characters, so `*=*` hands out every image to every namespace. Default: none.
    #[arg(long, env = "JACKAL_ADMIT", value_name = "NAMESPACE=IMAGE", value_delimiter = ',', value_parser = optional::<AdmitRule>)]
    admit: Vec<Option<AdmitRule>>,
    #[command(flatten)]
    engine: EngineFlags,
}

impl Agent {
    pub(super) async fn run(self, stop: CancellationToken) -> ExitCode {
        let opened = async {
            let (client, settings) = self.cluster.open().await?;
            let engines = agent::Engines {
                docker: self.engine.docker(settings.idle)?.of_agent(),
                containerd: self.engine.containerd(settings.idle)?,
            };
            let serving = self.cluster.serve(&settings, &stop).await?;
            anyhow::Ok((client, settings, engines, serving))
        };
        let (client, mut settings, engines, serving) = match opened.await {
            Ok(opened) => opened,
            Err(error) => {
                print::note(format_args!("jackal-operator agent: {error:#}"));
                return ExitCode::FAILURE;
            }
        };
        let node = self.node_name.unwrap_or_else(hostname);
        settings.owner = self.pod_name.zip(self.pod_uid).map(|(name, uid)| OwnerReference {
            api_version: Pod::API_VERSION.to_owned(),
            kind: Pod::KIND.to_owned(),
            name,
            uid,
            ..OwnerReference::default()
        });
        let admissions = AdmitRules(self.admit.into_iter().flatten().collect());
        if admissions.0.is_empty() {
            warn!(
                node,
                "no image leaves this node: --admit says which namespaces may have which"
            );
        }
        agent::run(client, &node, engines, admissions, settings, stop).await;
        serving.end().await;
        ExitCode::SUCCESS
    }
}

//! The engines that a command reads.

use std::path::PathBuf;
use std::time::Duration;

use clap::Args;

use crate::fault::Fault;
use crate::source::containerd::{Client, Containerd};
use crate::source::docker::{ContentStores, Docker, Engine};

/// Flags of the commands that read a docker engine or a containerd.
#[derive(Clone, Debug, Args)]
pub(super) struct EngineFlags {
    /// Where the docker engine listens: unix:///path or tcp://host:port.
    #[arg(
        long,
        env = "DOCKER_HOST",
        default_value = "unix:///var/run/docker.sock",
        value_name = "ADDRESS"
    )]
    docker_host: String,
    /// Where the engine's root is found, such as its mount in the agent's container, if not where the engine says
    /// that it is. Layers are read there, and only what cannot be is exported by the engine.
    #[arg(long, env = "JACKAL_DOCKER_ROOT", value_name = "PATH")]
    docker_root: Option<PathBuf>,
    /// Where the containerd listens whose images `source: Containerd` means: unix:///path.
    #[arg(
        long,
        env = "CONTAINERD_ADDRESS",
        default_value = "unix:///run/containerd/containerd.sock",
        value_name = "ADDRESS"
    )]
    containerd_address: String,
    /// The namespace of those images; k8s.io is that of Kubernetes.
    #[arg(long, env = "CONTAINERD_NAMESPACE", default_value = "k8s.io", value_name = "NAME")]
    containerd_namespace: String,
    /// Where a containerd's root is found, such as its mount in the agent's container, if not where the containerd
    /// says that it is. Blobs are read there, also those of a docker engine with the containerd image store;
    /// otherwise they are asked for over the socket.
    #[arg(long, env = "JACKAL_CONTAINERD_ROOT", value_name = "PATH")]
    containerd_root: Option<PathBuf>,
}

impl EngineFlags {
    /// The docker engine's images; nothing is asked yet. A transfer may stand still for `idle`.
    pub fn docker(&self, idle: Duration) -> Result<Docker, Fault> {
        let engine = Engine::new(Some(&self.docker_host), idle)?;
        let content = ContentStores::new(self.containerd_root.clone());
        Ok(Docker::new(engine, self.docker_root.clone()).with_content(content))
    }

    /// The containerd's images; nothing is asked yet. A transfer may stand still for `idle`.
    pub fn containerd(&self, idle: Duration) -> Result<Containerd, Fault> {
        let client = Client::new(&self.containerd_address, &self.containerd_namespace, idle)?;
        Ok(Containerd::new(client, self.containerd_root.clone()))
    }
}

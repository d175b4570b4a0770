//! The flags of engines.

use std::path::PathBuf;
use std::time::Duration;

use clap::Args;

use crate::fault::Fault;
use crate::source::containerd::{Client, Containerd};
use crate::source::docker::{ContentStores, Docker, Engine};

/// Flags of the commands that read a docker engine or a containerd.
#[derive(Clone, Debug, Args)]
pub(super) struct EngineFlags {
    /// The address of the docker engine: unix:///path or tcp://host:port.
    #[arg(
        long,
        env = "DOCKER_HOST",
        default_value = "unix:///var/run/docker.sock",
        value_name = "ADDRESS"
    )]
    docker_host: String,
    /// The path of the engine's data directory, if it is not the one that the engine reports, such as a mount in the
    /// agent's container. Layers are read there; only layers that cannot be read are exported by the engine.
    #[arg(long, env = "JACKAL_DOCKER_ROOT", value_name = "PATH")]
    docker_root: Option<PathBuf>,
    /// The address of the containerd for images with `source: Containerd`: unix:///path.
    #[arg(
        long,
        env = "CONTAINERD_ADDRESS",
        default_value = "unix:///run/containerd/containerd.sock",
        value_name = "ADDRESS"
    )]
    containerd_address: String,
    /// The containerd namespace of those images; Kubernetes uses k8s.io.
    #[arg(long, env = "CONTAINERD_NAMESPACE", default_value = "k8s.io", value_name = "NAME")]
    containerd_namespace: String,
    /// The path of containerd's root directory, if it is not the one that containerd reports, such as a mount in the
    /// agent's container. Blobs are read there, including those of a docker engine with the containerd image store; blobs
    /// that cannot be read there are requested over the socket.
    #[arg(long, env = "JACKAL_CONTAINERD_ROOT", value_name = "PATH")]
    containerd_root: Option<PathBuf>,
}

impl EngineFlags {
    /// The docker engine as a source, without connecting yet. `idle` is the timeout of a transfer without progress.
    pub fn docker(&self, idle: Duration) -> Result<Docker, Fault> {
        let engine = Engine::new(Some(&self.docker_host), idle)?;
        let content = ContentStores::new(self.containerd_root.clone());
        Ok(Docker::new(engine, self.docker_root.clone()).with_content(content))
    }

    /// The containerd as a source, without connecting yet. `idle` is the timeout of a transfer without progress.
    pub fn containerd(&self, idle: Duration) -> Result<Containerd, Fault> {
        let client = Client::new(&self.containerd_address, &self.containerd_namespace, idle)?;
        Ok(Containerd::new(client, self.containerd_root.clone()))
    }
}

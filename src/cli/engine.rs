//! The docker engine that a command reads.

use std::path::PathBuf;
use std::time::Duration;

use clap::Args;

use crate::fault::Fault;
use crate::source::docker::{Docker, Engine};

/// Flags of the commands that read a docker engine.
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
}

impl EngineFlags {
    /// The engine's images; nothing is asked yet. A transfer may stand still for `idle`.
    pub fn open(&self, idle: Duration) -> Result<Docker, Fault> {
        Ok(Docker::new(
            Engine::new(Some(&self.docker_host), idle)?,
            self.docker_root.clone(),
        ))
    }
}

//! `proxy`: the registry of the cluster at the loopback addresses of a node.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::Args;
use clap::builder::RangedU64ValueParser;
use tokio_util::sync::CancellationToken;

use super::{EXIT_INTERRUPTED, examples, failure, print};
use crate::node_proxy::{Limits, NodeProxy, Settings};
use crate::runtime::{Health, Metrics};
use crate::server;

/// Serve the registry of the cluster at the loopback addresses of a node, for its container runtime.
///
/// The chart runs it on each node with `registry.expose: NodeProxy`. It listens on 127.0.0.1 and ::1, for HTTP and HTTPS on the same
/// port, and forwards requests for pulling to the registry. It waits until no other process has the port.
///
/// Exit codes: 0 stopped after all responses, 1 something failed and may succeed another time, 2 a file or a flag cannot be used, 130
/// stopped before some responses were complete.
#[derive(Debug, Args)]
#[command(after_help = examples::PROXY)]
pub(super) struct Proxy {
    /// The port on 127.0.0.1 and ::1.
    #[arg(long, default_value = "31999", value_parser = clap::value_parser!(u16).range(1..))]
    port: u16,
    /// The registry.
    #[arg(long, value_name = "HOST:PORT")]
    registry: String,
    /// Use plain HTTP for the registry.
    #[arg(long)]
    plain_http: bool,
    /// A file with certificates (PEM) of authorities to trust in addition to the system's; repeatable.
    #[arg(long, value_name = "FILE")]
    ca_file: Vec<PathBuf>,
    /// The certificate for the registry, with its chain, as PEM.
    #[arg(long, requires = "client_key", value_name = "FILE")]
    client_cert: Option<PathBuf>,
    /// The private key of the certificate for the registry, as unencrypted PEM.
    #[arg(long, requires = "client_cert", value_name = "FILE")]
    client_key: Option<PathBuf>,
    /// A docker config.json with the login for requests that have none. Without it, they are forwarded without a login.
    #[arg(long, value_name = "FILE")]
    credentials: Option<PathBuf>,
    /// The host in the names of images, by which the login is found; else it is found by the registry. Default: 127.0.0.1 with the
    /// port.
    #[arg(long, value_name = "HOST[:PORT]")]
    host: Option<String>,
    /// The certificate for runtimes, with its chain, as PEM. Default: generated for the loopback addresses at each start.
    #[arg(long, requires = "tls_key", value_name = "FILE")]
    tls_cert: Option<PathBuf>,
    /// The private key of the certificate for runtimes, as unencrypted PEM.
    #[arg(long, requires = "tls_cert", value_name = "FILE")]
    tls_key: Option<PathBuf>,
    /// Concurrent connections to each loopback address; others wait.
    #[arg(long, default_value_t = 256, value_parser = RangedU64ValueParser::<usize>::new().range(1..=4096))]
    connections: usize,
    /// The IP address and port of health and metrics.
    #[arg(long, default_value = "127.0.0.1:18999", value_name = "ADDRESS")]
    health_listen: SocketAddr,
}

impl Proxy {
    pub(super) async fn run(self, stop: CancellationToken) -> ExitCode {
        let (port, health_listen) = (self.port, self.health_listen);
        let started = tokio::select! {
            started = start(self.settings(), health_listen) => started,
            () = stop.cancelled() => return ExitCode::from(EXIT_INTERRUPTED),
        };
        let (proxy, server) = match started {
            Ok(started) => started,
            Err(error) => return failure("proxy", &error),
        };
        let health = Health::default();
        let serving = server.start(Metrics::default(), health.clone(), stop.clone());
        let complete = proxy.run(port, &health, stop).await;
        serving.end().await;
        match complete {
            true => ExitCode::SUCCESS,
            false => {
                print::note("jackal-operator proxy: stopped before some responses were complete");
                ExitCode::from(EXIT_INTERRUPTED)
            }
        }
    }

    fn settings(self) -> Settings {
        Settings {
            host: self.host.unwrap_or_else(|| format!("127.0.0.1:{}", self.port)),
            registry: self.registry,
            plain_http: self.plain_http,
            credentials: self.credentials,
            authorities: self.ca_file,
            client_identity: self.client_cert.zip(self.client_key),
            identity: self.tls_cert.zip(self.tls_key),
            limits: Limits {
                connections: self.connections,
                ..Limits::default()
            },
        }
    }
}

async fn start(settings: Settings, health_listen: SocketAddr) -> anyhow::Result<(NodeProxy, server::Server)> {
    let proxy = NodeProxy::new(settings).await?;
    Ok((proxy, server::Server::bind(&health_listen.into()).await?))
}

//! Records the requests of a process to the API server, also those that change nothing.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use super::process::Server;
use super::program;

/// A proxy for the API server that records every request.
pub struct ApiProxy {
    /// A kubeconfig that uses the proxy.
    pub kubeconfig: PathBuf,
    log: PathBuf,
    _server: Server,
}

impl ApiProxy {
    /// Starts the proxy; its files are in `folder`.
    pub fn open(folder: &Path) -> Self {
        let log = folder.join("kubectl-proxy.requests");
        let mut server = Server::start(&program("JACKAL_BIN_KUBECTL"), &["proxy", "--port=0", "-v=3"], &log);
        let deadline = Instant::now() + Duration::from_secs(20);
        let address = loop {
            let content = std::fs::read_to_string(&log).unwrap_or_default();
            let serves = content
                .lines()
                .find_map(|line| line.strip_prefix("Starting to serve on "));
            if let Some(address) = serves {
                break address.trim().to_owned();
            }
            let lives = !server.has_ended() && Instant::now() < deadline;
            assert!(lives, "kubectl proxy does not start: {content}");
            std::thread::sleep(Duration::from_millis(20));
        };
        let kubeconfig = folder.join("kubeconfig");
        std::fs::write(&kubeconfig, kubeconfig_to(&address)).expect("a kubeconfig");
        Self {
            kubeconfig,
            log,
            _server: server,
        }
    }

    /// Every request so far, except for Leases, as `METHOD path`.
    pub fn requests(&self) -> Vec<String> {
        let content = std::fs::read_to_string(&self.log).expect("the log");
        content
            .lines()
            .filter_map(|line| line.split_once("Filter accepting "))
            .map(|(_, request)| request.trim().to_owned())
            .filter(|request| !request.contains("/leases"))
            .collect()
    }

    /// Those that are not reads.
    pub fn writes(&self) -> Vec<String> {
        let mut requests = self.requests();
        requests.retain(|request| !request.starts_with("GET "));
        requests
    }
}

/// A kubeconfig for an API server at `address` over plain HTTP without authentication.
pub fn kubeconfig_to(address: &str) -> String {
    format!(
        "apiVersion: v1
kind: Config
current-context: way
clusters: [{{name: way, cluster: {{server: 'http://{address}'}}}}]
users: [{{name: way, user: {{}}}}]
contexts: [{{name: way, context: {{cluster: way, user: way}}}}]
"
    )
}

//! The operator's own processes.

use std::path::PathBuf;
use std::process::ExitStatus;
use std::time::Duration;

use super::process::Server;
use super::wait::eventually;

/// A running command of the real binary.
pub struct Operator {
    server: Server,
    log: PathBuf,
}

impl Operator {
    /// Starts the binary; what it says goes to `log`.
    pub fn start(arguments: &[&str], environment: &[(&str, &str)], log: PathBuf) -> Self {
        let program = PathBuf::from(env!("CARGO_BIN_EXE_jackal-operator"));
        Self {
            server: Server::start_with(&program, arguments, environment, &log),
            log,
        }
    }

    /// All that it has said.
    pub fn log(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap_or_default()
    }

    /// Sends it a signal, such as `TERM`.
    pub fn signal(&self, name: &str) {
        self.server.signal(name);
    }

    /// How it ends, at the latest after `limit`.
    pub async fn ends(&mut self, limit: Duration) -> ExitStatus {
        let log = self.log.display().to_string();
        eventually(limit, &format!("the process of {log} ends"), async || {
            self.server.ended().ok_or_else(|| "it runs".to_owned())
        })
        .await
    }

    /// The most resident memory that it ever had, in bytes.
    pub fn peak_memory(&self) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.server.id())).expect("a running process");
        let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
        let kibibytes = line
            .and_then(|line| line.trim().strip_suffix(" kB"))
            .expect("VmHWM in kB");
        kibibytes.trim().parse::<u64>().expect("a number") * 1024
    }
}

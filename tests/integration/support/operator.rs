//! The operator's own processes.

use std::path::PathBuf;
use std::process::ExitStatus;
use std::time::Duration;

use super::process::Server;
use super::wait::eventually;

/// A running command of the binary.
pub struct Operator {
    server: Server,
    log: PathBuf,
}

impl Operator {
    /// Starts the binary; its output goes to `log`.
    pub fn start(arguments: &[&str], environment: &[(&str, &str)], log: PathBuf) -> Self {
        let program = PathBuf::from(env!("CARGO_BIN_EXE_jackal-operator"));
        Self {
            server: Server::start_with(&program, arguments, environment, &log),
            log,
        }
    }

    /// Its output so far.
    pub fn log(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap_or_default()
    }

    /// Its process id.
    pub fn id(&self) -> u32 {
        self.server.id()
    }

    /// Sends it a signal, such as `TERM`.
    pub fn signal(&self, name: &str) {
        self.server.signal(name);
    }

    /// Its exit status, after at most `limit`.
    pub async fn ends(&mut self, limit: Duration) -> ExitStatus {
        let log = self.log.display().to_string();
        eventually(limit, &format!("the process of {log} ends"), async || {
            self.server.ended().ok_or_else(|| "it runs".to_owned())
        })
        .await
    }

    /// Its exit status, and its observed peak resident memory in bytes.
    pub async fn ends_with_peak(&mut self, limit: Duration) -> (ExitStatus, u64) {
        let mut peak = 0;
        let ended = eventually(limit, "the process ends", async || {
            peak = resident_peak(self.server.id()).unwrap_or(peak);
            self.server.ended().ok_or_else(|| format!("it runs, with {peak} bytes"))
        })
        .await;
        (ended, peak)
    }

    /// Its peak resident memory, in bytes.
    pub fn peak_memory(&self) -> u64 {
        resident_peak(self.server.id()).expect("a running process")
    }
}

/// `VmHWM` of a process in bytes; none if it has ended.
fn resident_peak(process: u32) -> Option<u64> {
    let status = std::fs::read_to_string(format!("/proc/{process}/status")).ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    let kibibytes: u64 = line.trim().strip_suffix(" kB")?.trim().parse().ok()?;
    Some(kibibytes * 1024)
}

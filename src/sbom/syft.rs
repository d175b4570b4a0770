//! Runs syft: the one place that starts a process, and its limits.

use std::io;
use std::os::unix::process::ExitStatusExt as _;
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use rustix::process::{Resource, Rlimit};
use tokio::io::{AsyncRead, AsyncReadExt as _};
use tokio::process::{Child, Command};
use tokio::sync::{Semaphore, SemaphorePermit};
use tokio::time::{sleep, timeout};
use tracing::{debug, warn};

use super::content::{Content, shown};
use super::isolation::{Isolation, Sandbox, StartError};
use super::private_directory::{self, PrivateDirectory};
use super::{Format, SbomCache};
use crate::fault::{Fault, Reason};
use crate::oci::Document;
use crate::process::Group;
use crate::transfer::Destination;

/// After so long an image is tried again that syft failed at: it fails again most times, and works hard before.
const PATIENCE: Duration = Duration::from_secs(600);
/// What is kept of what syft says, in bytes: so much of its beginning and of its end.
const KEPT: usize = 4096;
/// The longest part of it in characters that a message holds.
const SHOWN: usize = 500;
/// How often the folder that syft works in is measured.
const MEASURE: Duration = Duration::from_millis(250);
/// What one run of syft may use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Bytes of memory: it is told to collect before, and gets no more from the system.
    pub memory: u64,
    /// The whole run.
    pub time: Duration,
    /// Bytes of disk, which it needs as many of as the unpacked layers of an image have.
    pub scratch: u64,
    /// Runs at once.
    pub concurrency: usize,
    /// What it is kept from.
    pub isolation: Isolation,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            memory: 1 << 30,
            time: Duration::from_secs(600),
            scratch: 8 << 30,
            concurrency: 1,
            isolation: Isolation::default(),
        }
    }
}

/// The program, where it works, and its limits.
#[derive(Debug)]
pub struct Syft {
    program: PathBuf,
    root: PathBuf,
    limits: Limits,
    turns: Semaphore,
    memory: SbomCache,
}

/// What a run wrote. It goes with this value.
pub(super) struct SyftOutput {
    scratch: PrivateDirectory,
}

impl SyftOutput {
    /// The document in `format`, at most `limit` bytes of it and one more.
    pub async fn read(self: &std::sync::Arc<Self>, format: Format, limit: usize) -> io::Result<Vec<u8>> {
        let written = std::sync::Arc::clone(self);
        let read = move || written.scratch.read(format.file(), limit as u64);
        tokio::task::spawn_blocking(read).await.map_err(io::Error::other)?
    }
}

impl Syft {
    /// The syft at `program`, which unpacks images in folders of its own below `root`. Folders that a process left
    /// there which was killed are removed.
    pub async fn new(program: PathBuf, root: PathBuf, limits: Limits) -> Self {
        let below = root.clone();
        let swept = tokio::task::spawn_blocking(move || private_directory::sweep(&below)).await;
        match swept.map_err(io::Error::other) {
            Ok(Ok(0)) => {}
            Ok(Ok(folders)) => debug!(folders, root = %root.display(), "removed what earlier runs of syft left"),
            Ok(Err(error)) | Err(error) => {
                warn!(%error, root = %root.display(), "what earlier runs of syft left could not be removed");
            }
        }
        let turns = Semaphore::new(limits.concurrency.clamp(1, Semaphore::MAX_PERMITS));
        Self {
            program,
            root,
            limits,
            turns,
            memory: SbomCache::default(),
        }
    }

    /// The SBOMs that it made, and others that were proven to be true.
    pub fn cache(&self) -> &SbomCache {
        &self.memory
    }

    /// Waits until another run may begin, and holds its place.
    pub(super) async fn turn(&self) -> Result<SemaphorePermit<'_>, Fault> {
        let turn = self.turns.acquire().await;
        turn.map_err(|error| Fault::retryable(Reason::SbomFailed, error.to_string()))
    }

    /// Has syft look into the image `manifest` of `destination`. When the future is dropped, syft and all that it started
    /// are killed.
    pub(super) async fn run(&self, destination: &dyn Destination, manifest: &Document) -> Result<SyftOutput, Fault> {
        let scratch = PrivateDirectory::new(&self.root).map_err(|error| {
            failed(format!(
                "no folder can be made below {}: {error}; check --sbom-scratch, its owner and the space left",
                self.root.display()
            ))
        })?;
        let content = Content::gather(destination, manifest, &scratch, self.limits.scratch);
        let content = timeout(self.limits.time, content).await.map_err(|_| {
            let seconds = self.limits.time.as_secs();
            failed(format!(
                "the image could not be read within {seconds} s; raise --sbom-timeout"
            ))
        })??;
        let mut child = self.start(content, manifest, &scratch).await?;
        let group = Group::of(child.id());
        limit(&group, self.limits.memory);
        let said = child.stderr.take().map(|pipe| tokio::spawn(heard(pipe)));
        let ended = tokio::select! {
            status = child.wait() => Ok(status),
            () = sleep(self.limits.time) => Err(format!(
                "syft took longer than {} s; raise --sbom-timeout",
                self.limits.time.as_secs()
            )),
            () = overfull(scratch.path(), self.limits.scratch) => Err(format!(
                "syft needed more than {} of disk below {}; raise --sbom-scratch-limit",
                shown(self.limits.scratch),
                self.root.display()
            )),
        };
        // Also what it started and left.
        drop(group);
        let status = match ended {
            Ok(status) => status.map_err(|error| failed(format!("syft could not be waited for: {error}")))?,
            Err(message) => {
                // So that it writes no more where the folder is removed.
                let _ = timeout(MEASURE, child.wait()).await;
                return Err(failed(message));
            }
        };
        if status.success() {
            return Ok(SyftOutput { scratch });
        }
        let said = match said {
            Some(said) => timeout(MEASURE, said)
                .await
                .ok()
                .and_then(Result::ok)
                .unwrap_or_default(),
            None => String::new(),
        };
        debug!(%status, said, "syft failed");
        Err(failed(self.why(status, &said, scratch.path())))
    }

    /// Starts syft with nothing but a folder: it needs no address and no password.
    async fn start(&self, content: Content, manifest: &Document, scratch: &PrivateDirectory) -> Result<Child, Fault> {
        let command = self.command(&content, manifest, scratch);
        let started = match self.limits.isolation {
            Isolation::Landlock => {
                let sandbox = Sandbox {
                    readable: content.readable.into_iter().chain([self.program.clone()]).collect(),
                    folder: scratch.path().to_owned(),
                };
                sandbox.start(command).await
            }
            Isolation::None => {
                let mut command = command;
                command.spawn().map_err(StartError::Program)
            }
        };
        let program = self.program.display();
        started.map_err(|error| match error {
            StartError::Unsupported(why) => failed(format!(
                "syft cannot be isolated here ({why}), and could read the operator's credentials: use nodes with Linux 5.13 or newer that have Landlock, or accept that by --sbom-isolation none"
            )),
            StartError::Program(error) => failed(match error.kind() {
                io::ErrorKind::NotFound => format!("there is no syft at {program}; correct --syft"),
                io::ErrorKind::PermissionDenied => {
                    format!("{program} may not be executed; correct --syft, or the file's mode")
                }
                _ => format!("{program} cannot be started: {error}; check that it is syft for this machine"),
            }),
        })
    }

    fn command(&self, content: &Content, manifest: &Document, scratch: &PrivateDirectory) -> Command {
        let folder = scratch.path();
        let digest = manifest.digest();
        let mut command = Command::new(&self.program);
        command
            .env_clear()
            .args(["scan", "--from", "oci-dir"])
            .arg(&content.layout)
            // Whatever it is called and wherever it lies, an image is the same.
            .args(["--source-name", digest.as_str(), "--source-version", digest.as_str()]);
        for format in Format::ALL {
            let file = folder.join(format.file());
            command
                .arg("--output")
                .arg(format!("{}={}", format.output(), file.display()));
        }
        command
            .envs(["HOME", "TMPDIR", "XDG_CACHE_HOME", "XDG_CONFIG_HOME", "DOCKER_CONFIG"].map(|name| (name, folder)))
            .env("SYFT_CHECK_FOR_APP_UPDATE", "false")
            .env("SYFT_CACHE_TTL", "0")
            // Go's collector works harder the nearer it comes to that.
            .env("GOMEMLIMIT", (self.limits.memory / 10 * 8).to_string())
            .current_dir(folder)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .process_group(0)
            .kill_on_drop(true);
        command
    }

    /// Why a run failed, without anything that differs between two tries.
    fn why(&self, status: ExitStatus, said: &str, folder: &Path) -> String {
        let starved = ["out of memory", "cannot allocate memory"]
            .iter()
            .any(|text| said.contains(text));
        if starved {
            return format!(
                "syft needed more than {} of memory; raise --sbom-memory, and the memory limit of the pod with it",
                shown(self.limits.memory)
            );
        }
        if let Some(signal) = status.signal() {
            return format!(
                "syft was killed by signal {signal}, as by a system without memory; see the log of the node, or lower --sbom-memory"
            );
        }
        let said = gist(said, folder);
        let code = status.code().unwrap_or_default();
        match said.is_empty() {
            true => format!("syft ended with code {code} and said nothing; check that --syft names syft"),
            false => format!("syft ended with code {code}: {said}"),
        }
    }
}

/// Lets the child that leads `group` have `memory` bytes, and be the first whom a system without memory ends. What the
/// system does not know of is left at that: the other limits hold all the same.
fn limit(group: &Group, memory: u64) {
    let Some(pid) = group.leader() else { return };
    let memory = Rlimit {
        current: Some(memory),
        maximum: Some(memory),
    };
    if let Err(error) = rustix::process::prlimit(Some(pid), Resource::Data, memory) {
        debug!(%error, "the memory of syft could not be limited");
    }
    let _ = std::fs::write(format!("/proc/{}/oom_score_adj", pid.as_raw_nonzero()), "1000");
    // The lease is to be renewed in time, whatever syft computes.
    let _ = rustix::process::setpriority_process(Some(pid), 10);
}

/// Ends when `folder` takes more than `limit` bytes.
async fn overfull(folder: &Path, limit: u64) {
    loop {
        sleep(MEASURE).await;
        let path = folder.to_owned();
        let used = tokio::task::spawn_blocking(move || private_directory::used(&path)).await;
        if used.is_ok_and(|used| used > limit) {
            return;
        }
    }
}

/// Reads all that comes and keeps its beginning and its end: a program of Go that breaks down says why first, and then
/// pages of what it was at.
async fn heard(mut pipe: impl AsyncRead + Unpin) -> String {
    let mut kept = Vec::with_capacity(3 * KEPT);
    let mut chunk = [0; KEPT];
    while let Ok(length @ 1..) = pipe.read(&mut chunk).await {
        kept.extend_from_slice(&chunk[..length]);
        let excess = kept.len().saturating_sub(2 * KEPT);
        kept.drain(KEPT.min(kept.len() - excess)..KEPT.min(kept.len() - excess) + excess);
    }
    String::from_utf8_lossy(&kept).into_owned()
}

/// What says why: the first line of a breakdown, else what syft calls an error, else the last line. Without the folder of
/// that try, without colours, and without the ports that differ with each connection.
fn gist(said: &str, folder: &Path) -> String {
    let said = said.replace(&folder.display().to_string(), "the scratch folder");
    let mut lines = said.lines().filter(|line| !line.trim().is_empty());
    let broke = |line: &&str| line.starts_with("panic: ") || line.starts_with("fatal error: ");
    let why = match (lines.clone().find(broke), said.rsplit_once(" ERROR ")) {
        (Some(line), _) => line,
        (None, Some((_, error))) => error,
        (None, None) => lines.next_back().unwrap_or_default(),
    };
    // `ESC [ 3 1 m`
    let plain = why.split('\u{1b}').enumerate().map(|(at, part)| match at {
        0 => part,
        _ => part.split_once('m').map_or(part, |(_, rest)| rest),
    });
    let plain: String = plain.collect();
    let words: Vec<&str> = plain
        .split_whitespace()
        .map(|word| word.split_once("->").map_or(word, |(_, there)| there))
        .collect();
    let words = words.join(" ");
    words
        .chars()
        .filter(|letter| !letter.is_control())
        .take(SHOWN)
        .collect()
}

fn failed(message: String) -> Fault {
    Fault::waiting(Reason::SbomFailed, PATIENCE, message)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_beginning_and_the_end_are_heard() {
        let said = format!("begin{}end", "x".repeat(100_000));
        let kept = heard(said.as_bytes()).await;
        assert_eq!(kept.len(), 2 * KEPT);
        assert!(kept.starts_with("beginx") && kept.ends_with("xend"));
        assert_eq!(heard(&b"short"[..]).await, "short");
        assert_eq!(heard(&b""[..]).await, "");
    }

    #[test]
    fn a_message_has_nothing_of_one_try_alone() {
        let folder = Path::new("/tmp/jackal-sbom-x1");
        let said = "x\nread tcp 10.0.0.7:4711->10.0.0.1:5000: reset in /tmp/jackal-sbom-x1/a\n\n";
        assert_eq!(
            gist(said, folder),
            "read tcp 10.0.0.1:5000: reset in the scratch folder/a"
        );
        assert_eq!(
            gist("panic: nil\n\ngoroutine 1 [running]:\nmain.go:1", folder),
            "panic: nil"
        );
        let error = "[0000]  WARN b\n[0003] ERROR \u{1b}[31mno source 'x':\n  - oci-registry: refused\u{1b}[0m\n";
        assert_eq!(gist(error, folder), "no source 'x': - oci-registry: refused");
        assert_eq!(gist("", folder), "");
    }
}

//! Runs syft with its limits.

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

use super::content::{ImageLayout, human_size};
use super::isolation::{Isolation, Sandbox, StartError};
use super::private_directory::{self, PrivateDirectory};
use super::{Format, SbomCache};
use crate::fault::{Fault, Reason};
use crate::oci::Document;
use crate::process::ProcessGroup;
use crate::transfer::Destination;

/// The time until syft is run again for an image on which it failed: it usually fails again, after much work.
const RETRY_DELAY: Duration = Duration::from_secs(600);
/// The bytes that are kept of the beginning, and of the end, of syft's output.
const KEPT: usize = 4096;
/// The most characters of it in a message.
const SHOWN: usize = 500;
/// The interval at which the disk usage of syft's directory is measured.
const MEASURE: Duration = Duration::from_millis(250);

/// The limits of one run of syft.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Memory in bytes. Its garbage collector works with a lower limit, and the system does not give it more.
    pub memory: u64,
    /// The duration of the whole run.
    pub time: Duration,
    /// Disk space in bytes. It needs the size of the unpacked layers of an image.
    pub scratch: u64,
    /// The number of concurrent runs.
    pub concurrency: usize,
    /// Its isolation.
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

/// The program, its working directory and its limits.
#[derive(Debug)]
pub struct Syft {
    program: PathBuf,
    root: PathBuf,
    limits: Limits,
    permits: Semaphore,
    cache: SbomCache,
}

/// The output of a run. It is removed when dropped.
pub(super) struct SyftOutput {
    scratch: PrivateDirectory,
}

impl SyftOutput {
    /// The document in `format`, or the first `limit` + 1 bytes of a longer one.
    pub async fn read(self: &std::sync::Arc<Self>, format: Format, limit: usize) -> io::Result<Vec<u8>> {
        let written = std::sync::Arc::clone(self);
        let read = move || written.scratch.read(format.file(), limit as u64);
        tokio::task::spawn_blocking(read).await.map_err(io::Error::other)?
    }
}

impl Syft {
    /// The syft at `program`, which unpacks images in private directories in `root`. Directories that killed processes left
    /// there are removed.
    pub async fn new(program: PathBuf, root: PathBuf, limits: Limits) -> Self {
        let below = root.clone();
        let removed = tokio::task::spawn_blocking(move || private_directory::remove_abandoned(&below)).await;
        match removed.map_err(io::Error::other) {
            Ok(Ok(0)) => {}
            Ok(Ok(directories)) => {
                debug!(directories, root = %root.display(), "removed directories of earlier runs of syft")
            }
            Ok(Err(error)) | Err(error) => {
                warn!(%error, root = %root.display(), "cannot remove directories of earlier runs of syft");
            }
        }
        let permits = Semaphore::new(limits.concurrency.clamp(1, Semaphore::MAX_PERMITS));
        Self {
            program,
            root,
            limits,
            permits,
            cache: SbomCache::default(),
        }
    }

    /// The SBOMs that it generated, and others that were proven to be genuine.
    pub fn cache(&self) -> &SbomCache {
        &self.cache
    }

    /// Waits for the permit of a run.
    pub(super) async fn acquire_permit(&self) -> Result<SemaphorePermit<'_>, Fault> {
        let permit = self.permits.acquire().await;
        permit.map_err(|error| Fault::retryable(Reason::SbomFailed, error.to_string()))
    }

    /// Runs syft on the image `manifest` of `destination`. Dropping the future kills syft and all processes that it started.
    pub(super) async fn run(&self, destination: &dyn Destination, manifest: &Document) -> Result<SyftOutput, Fault> {
        let scratch = PrivateDirectory::new(&self.root).map_err(|error| {
            failed(format!(
                "cannot create a directory in {}: {error}; check --sbom-scratch, its owner and the free space",
                self.root.display()
            ))
        })?;
        let content = ImageLayout::create(destination, manifest, &scratch, self.limits.scratch);
        let content = timeout(self.limits.time, content).await.map_err(|_| {
            let seconds = self.limits.time.as_secs();
            failed(format!(
                "the image could not be read within {seconds} s; increase --sbom-timeout"
            ))
        })??;
        let mut child = self.start(content, manifest, &scratch).await?;
        let group = ProcessGroup::with_leader(child.id());
        limit(&group, self.limits.memory);
        let output = child.stderr.take().map(|pipe| tokio::spawn(read_output(pipe)));
        let ended = tokio::select! {
            status = child.wait() => Ok(status),
            () = sleep(self.limits.time) => Err(format!(
                "syft took longer than {} s; increase --sbom-timeout",
                self.limits.time.as_secs()
            )),
            () = disk_usage_exceeded(scratch.path(), self.limits.scratch) => Err(format!(
                "syft needed more than {} of disk space in {}; increase --sbom-scratch-limit",
                human_size(self.limits.scratch),
                self.root.display()
            )),
        };
        // This also ends processes that it left running.
        drop(group);
        let status = match ended {
            Ok(status) => status.map_err(|error| failed(format!("cannot wait for syft: {error}")))?,
            Err(message) => {
                // So that it does not write to the directory while that is removed.
                let _ = timeout(MEASURE, child.wait()).await;
                return Err(failed(message));
            }
        };
        if status.success() {
            return Ok(SyftOutput { scratch });
        }
        let output = match output {
            Some(output) => timeout(MEASURE, output)
                .await
                .ok()
                .and_then(Result::ok)
                .unwrap_or_default(),
            None => String::new(),
        };
        debug!(%status, output, "syft failed");
        Err(failed(self.failure_message(status, &output, scratch.path())))
    }

    /// Starts syft with access to its directory only: it needs no address and no password.
    async fn start(
        &self,
        content: ImageLayout,
        manifest: &Document,
        scratch: &PrivateDirectory,
    ) -> Result<Child, Fault> {
        let command = self.command(&content, manifest, scratch);
        let started = match self.limits.isolation {
            Isolation::Landlock => {
                let sandbox = Sandbox {
                    readable: content.readable.into_iter().chain([self.program.clone()]).collect(),
                    directory: scratch.path().to_owned(),
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
                "syft cannot be isolated here ({why}) and could read the operator's credentials: use nodes with Linux 5.13 or newer and Landlock, or accept this with --sbom-isolation none"
            )),
            StartError::Program(error) => failed(match error.kind() {
                io::ErrorKind::NotFound => format!("{program} does not exist; correct --syft"),
                io::ErrorKind::PermissionDenied => {
                    format!("{program} is not executable; correct --syft, or the file's mode")
                }
                _ => format!("{program} cannot be started: {error}; check that it is syft for this machine"),
            }),
        })
    }

    fn command(&self, content: &ImageLayout, manifest: &Document, scratch: &PrivateDirectory) -> Command {
        let directory = scratch.path();
        let digest = manifest.digest();
        let mut command = Command::new(&self.program);
        command
            .env_clear()
            .args(["scan", "--from", "oci-dir"])
            .arg(&content.layout)
            // The document must not depend on the image's name and location.
            .args(["--source-name", digest.as_str(), "--source-version", digest.as_str()]);
        for format in Format::ALL {
            let file = directory.join(format.file());
            command
                .arg("--output")
                .arg(format!("{}={}", format.output(), file.display()));
        }
        command
            .envs(
                ["HOME", "TMPDIR", "XDG_CACHE_HOME", "XDG_CONFIG_HOME", "DOCKER_CONFIG"].map(|name| (name, directory)),
            )
            .env("SYFT_CHECK_FOR_APP_UPDATE", "false")
            .env("SYFT_CACHE_TTL", "0")
            // The soft limit of Go's garbage collector.
            .env("GOMEMLIMIT", (self.limits.memory / 10 * 8).to_string())
            .current_dir(directory)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .process_group(0)
            .kill_on_drop(true);
        command
    }

    /// Why a run failed, without anything that differs between two attempts.
    fn failure_message(&self, status: ExitStatus, output: &str, directory: &Path) -> String {
        let out_of_memory = ["out of memory", "cannot allocate memory"]
            .iter()
            .any(|text| output.contains(text));
        if out_of_memory {
            return format!(
                "syft needed more than {} of memory; increase --sbom-memory, and the memory limit of the pod with it",
                human_size(self.limits.memory)
            );
        }
        if let Some(signal) = status.signal() {
            return format!(
                "syft was killed by signal {signal}, possibly because the system ran out of memory; see the node's log, or decrease --sbom-memory"
            );
        }
        let reason = error_reason(output, directory);
        let code = status.code().unwrap_or_default();
        match reason.is_empty() {
            true => format!("syft ended with code {code} without output; check that --syft names syft"),
            false => format!("syft ended with code {code}: {reason}"),
        }
    }
}

/// Limits the memory of the child that leads `group` to `memory` bytes, makes it the first process to be killed when the
/// system runs out of memory, and lowers its priority. Limits that the system does not support are skipped; the others apply.
fn limit(group: &ProcessGroup, memory: u64) {
    let Some(pid) = group.leader() else { return };
    let memory = Rlimit {
        current: Some(memory),
        maximum: Some(memory),
    };
    if let Err(error) = rustix::process::prlimit(Some(pid), Resource::Data, memory) {
        debug!(%error, "cannot limit the memory of syft");
    }
    let _ = std::fs::write(format!("/proc/{}/oom_score_adj", pid.as_raw_nonzero()), "1000");
    // So that the operator can renew its lease in time.
    let _ = rustix::process::setpriority_process(Some(pid), 10);
}

/// Returns when the disk usage of `directory` exceeds `limit` bytes.
async fn disk_usage_exceeded(directory: &Path, limit: u64) {
    loop {
        sleep(MEASURE).await;
        let path = directory.to_owned();
        let used = tokio::task::spawn_blocking(move || private_directory::disk_usage(&path)).await;
        if used.is_ok_and(|used| used > limit) {
            return;
        }
    }
}

/// Reads all output and keeps its beginning and its end: a Go program that panics prints the reason first, followed by long
/// stack traces.
async fn read_output(mut pipe: impl AsyncRead + Unpin) -> String {
    let mut kept = Vec::with_capacity(3 * KEPT);
    let mut chunk = [0; KEPT];
    while let Ok(length @ 1..) = pipe.read(&mut chunk).await {
        kept.extend_from_slice(&chunk[..length]);
        let excess = kept.len().saturating_sub(2 * KEPT);
        kept.drain(KEPT.min(kept.len() - excess)..KEPT.min(kept.len() - excess) + excess);
    }
    String::from_utf8_lossy(&kept).into_owned()
}

/// The reason in the output: the first line of a panic, else syft's last error, else the last line. Without the directory of
/// this attempt, without colours, and without the port numbers that differ with each connection.
fn error_reason(output: &str, directory: &Path) -> String {
    let output = output.replace(&directory.display().to_string(), "the scratch directory");
    let mut lines = output.lines().filter(|line| !line.trim().is_empty());
    let is_panic = |line: &&str| line.starts_with("panic: ") || line.starts_with("fatal error: ");
    let why = match (lines.clone().find(is_panic), output.rsplit_once(" ERROR ")) {
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
    Fault::waiting(Reason::SbomFailed, RETRY_DELAY, message)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_beginning_and_the_end_of_the_output_are_kept() {
        let text = format!("begin{}end", "x".repeat(100_000));
        let kept = read_output(text.as_bytes()).await;
        assert_eq!(kept.len(), 2 * KEPT);
        assert!(kept.starts_with("beginx") && kept.ends_with("xend"));
        assert_eq!(read_output(&b"short"[..]).await, "short");
        assert_eq!(read_output(&b""[..]).await, "");
    }

    #[test]
    fn the_message_does_not_differ_between_attempts() {
        let directory = Path::new("/tmp/jackal-sbom-x1");
        let said = "x\nread tcp 10.0.0.7:4711->10.0.0.1:5000: reset in /tmp/jackal-sbom-x1/a\n\n";
        assert_eq!(
            error_reason(said, directory),
            "read tcp 10.0.0.1:5000: reset in the scratch directory/a"
        );
        assert_eq!(
            error_reason("panic: nil\n\ngoroutine 1 [running]:\nmain.go:1", directory),
            "panic: nil"
        );
        let error = "[0000]  WARN b\n[0003] ERROR \u{1b}[31mno source 'x':\n  - oci-registry: refused\u{1b}[0m\n";
        assert_eq!(error_reason(error, directory), "no source 'x': - oci-registry: refused");
        assert_eq!(error_reason("", directory), "");
    }
}

//! Credential helpers of docker: programs `docker-credential-NAME` (docker-credential-helpers, "Development").

use std::io;
use std::process::Stdio;
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::process::Command;
use tokio::time::timeout;

use crate::process::ProcessGroup;
use crate::registry::{Credentials, parse_helper_response};

/// The maximum size of the output in bytes.
const OUTPUT_LIMIT: u64 = 64 * 1024;
/// The maximum length of output in a message, in characters.
const MESSAGE_LIMIT: usize = 300;
/// The output of a helper that has no credentials for the server.
const NOT_FOUND: &str = "credentials not found in native keychain";

/// Why a helper returned no credentials.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Failure {
    /// The program does not exist.
    Missing,
    /// The program failed.
    Failed(String),
}

/// The credentials of the helper `name` for `server`. A helper that runs longer than `limit` is killed with all its child
/// processes.
pub(super) async fn get(name: &str, server: &str, limit: Duration) -> Result<Option<Credentials>, Failure> {
    if name.contains('/') {
        return Err(Failure::Failed("is not a program name".to_owned()));
    }
    let program = format!("docker-credential-{name}");
    let mut child = Command::new(program)
        .arg("get")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .process_group(0)
        .kill_on_drop(true)
        .spawn()
        .map_err(|error| match error.kind() {
            io::ErrorKind::NotFound => Failure::Missing,
            _ => Failure::Failed(format!("cannot be started: {error}")),
        })?;
    let group = ProcessGroup::with_leader(child.id());
    let (mut input, output, errors) = (child.stdin.take(), child.stdout.take(), child.stderr.take());
    let run = async {
        let write = async {
            if let Some(mut input) = input.take() {
                // A helper that does not read its input may still return credentials.
                let _ = input.write_all(server.as_bytes()).await;
            }
        };
        let (mut stdout, mut stderr) = (Vec::new(), Vec::new());
        let read_output = async {
            match output {
                Some(output) => output.take(OUTPUT_LIMIT + 1).read_to_end(&mut stdout).await,
                None => Ok(0),
            }
        };
        let read_errors = async {
            match errors {
                Some(errors) => errors.take(OUTPUT_LIMIT).read_to_end(&mut stderr).await,
                None => Ok(0),
            }
        };
        let ((), read, _) = tokio::join!(write, read_output, read_errors);
        read?;
        io::Result::Ok((child.wait().await?, stdout, stderr))
    };
    let ran = timeout(limit, run).await;
    let ran = ran.map_err(|_| Failure::Failed(format!("did not finish in {} s", limit.as_secs_f32().ceil())))?;
    let (status, stdout, stderr) = ran.map_err(|error| Failure::Failed(format!("cannot be read: {error}")))?;
    // Processes that it left running, such as a password agent, are kept.
    group.release();
    if stdout.len() as u64 > OUTPUT_LIMIT {
        return Err(Failure::Failed(format!("printed more than {OUTPUT_LIMIT} bytes")));
    }
    if status.success() {
        return parse_helper_response(&stdout)
            .map_err(|reason| Failure::Failed(format!("printed output that is {reason}")));
    }
    let stdout = String::from_utf8_lossy(&stdout);
    let stderr = String::from_utf8_lossy(&stderr);
    // It belongs on standard output, but some scripts write it to standard error.
    if [&stdout, &stderr].iter().any(|text| text.contains(NOT_FOUND)) {
        return Ok(None);
    }
    let message = [stdout.trim(), stderr.trim()].into_iter().find(|text| !text.is_empty());
    Err(Failure::Failed(match message {
        Some(message) => format!("failed: {}", line(message)),
        None => format!("failed ({status}) without output"),
    }))
}

/// `text` as one line, truncated.
fn line(text: &str) -> String {
    let shown = text.chars().take(MESSAGE_LIMIT);
    shown
        .map(|character| if character.is_control() { ' ' } else { character })
        .collect()
}

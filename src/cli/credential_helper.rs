//! Credential helpers: the programs `docker-credential-NAME` that hold credentials for docker (docker-credential-helpers,
//! "Development").

use std::io;
use std::process::Stdio;
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::process::Command;
use tokio::time::timeout;

use crate::process::ProcessGroup;
use crate::registry::{Credentials, parse_helper_response};

/// The longest answer in bytes that is read.
const ANSWER_LIMIT: u64 = 64 * 1024;
/// The longest part of it in characters that a message repeats.
const SHOWN: usize = 300;
/// How a helper says that it has nothing, whatever else it says.
const NOT_FOUND: &str = "credentials not found in native keychain";

/// Why a helper gave no answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Failure {
    /// There is no such program.
    Missing,
    /// What went wrong.
    Failed(String),
}

/// What the helper `name` has for `server`, asked for at most `limit`. A helper that takes longer is ended with all that
/// it started.
pub(super) async fn get(name: &str, server: &str, limit: Duration) -> Result<Option<Credentials>, Failure> {
    if name.contains('/') {
        return Err(Failure::Failed("is not a program's name".to_owned()));
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
        let asking = async {
            if let Some(mut input) = input.take() {
                // One that does not read it may answer all the same.
                let _ = input.write_all(server.as_bytes()).await;
            }
        };
        let (mut said, mut complained) = (Vec::new(), Vec::new());
        let hearing = async {
            match output {
                Some(output) => output.take(ANSWER_LIMIT + 1).read_to_end(&mut said).await,
                None => Ok(0),
            }
        };
        let complaining = async {
            match errors {
                Some(errors) => errors.take(ANSWER_LIMIT).read_to_end(&mut complained).await,
                None => Ok(0),
            }
        };
        let ((), heard, _) = tokio::join!(asking, hearing, complaining);
        heard?;
        io::Result::Ok((child.wait().await?, said, complained))
    };
    let ran = timeout(limit, run).await;
    let ran = ran.map_err(|_| Failure::Failed(format!("did not answer within {} s", limit.as_secs_f32().ceil())))?;
    let (status, said, complained) = ran.map_err(|error| Failure::Failed(format!("broke off: {error}")))?;
    // What it started on purpose, such as an agent that remembers a password, stays.
    group.release();
    if said.len() as u64 > ANSWER_LIMIT {
        return Err(Failure::Failed(format!("answers more than {ANSWER_LIMIT} bytes")));
    }
    if status.success() {
        return parse_helper_response(&said).map_err(|reason| Failure::Failed(format!("answers what is {reason}")));
    }
    let said = String::from_utf8_lossy(&said);
    let complained = String::from_utf8_lossy(&complained);
    // On standard output, but scripts write what is wrong elsewhere.
    if [&said, &complained].iter().any(|words| words.contains(NOT_FOUND)) {
        return Ok(None);
    }
    let words = [said.trim(), complained.trim()]
        .into_iter()
        .find(|words| !words.is_empty());
    Err(Failure::Failed(match words {
        Some(words) => format!("failed: {}", line(words)),
        None => format!("failed ({status}) and said nothing"),
    }))
}

/// One line of bounded length.
fn line(text: &str) -> String {
    let shown = text.chars().take(SHOWN);
    shown
        .map(|character| if character.is_control() { ' ' } else { character })
        .collect()
}

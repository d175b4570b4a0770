//! A connection to a seed: the client's side of [`jackal_seed::protocol`].

use std::pin::pin;
use std::time::Duration;

use bytes::Bytes;
use futures::StreamExt as _;
use jackal_seed::file_list::to_hex;
use jackal_seed::protocol::{Answer, Command, MAX_LINE, Presence, Refusal, parse_greeting};
use tokio::io::{AsyncBufReadExt as _, AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _, BufReader};
use tokio::io::{ReadHalf, WriteHalf};
use tokio::time::timeout;

use crate::fault::{Fault, Reason};
use crate::oci::Digest;
use crate::source::ByteStream;

/// How long the seed may take to begin. It verifies what its directory has when it starts.
const GREETING_TIMEOUT: Duration = Duration::from_secs(30);
/// How long the seed may take for an answer. It verifies a file when all of it is there.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(120);
/// How long the connection may take nothing, and how long the source of a file may give nothing.
const STALL_TIMEOUT: Duration = Duration::from_secs(30);
/// Bytes that are given to the connection at once.
const PIECE: usize = 256 * 1024;

/// Why a delivery stopped.
#[derive(Debug)]
pub(super) enum Failure {
    /// Another connection may continue.
    Broken(Fault),
    /// The seed has discarded the file with this position in the list, because it has another digest.
    Digest(usize),
    /// Another connection has the same result.
    Final(Fault),
}

impl From<Fault> for Failure {
    fn from(fault: Fault) -> Self {
        match fault.is_stalled() || fault.reason == Reason::NodeUnavailable {
            true => Self::Final(fault),
            false => Self::Broken(fault),
        }
    }
}

/// A connection whose greeting was read.
pub(super) struct Connection<S> {
    from: BufReader<ReadHalf<S>>,
    to: WriteHalf<S>,
}

impl<S: AsyncRead + AsyncWrite + Send> Connection<S> {
    /// Reads the greeting of the seed at the other end of `stream`, which must accept the list with the digest `list`.
    pub async fn begin(stream: S, list: &Digest) -> Result<Self, Failure> {
        let (from, to) = tokio::io::split(stream);
        let mut connection = Self {
            from: BufReader::new(from),
            to,
        };
        let line = connection.read_line(GREETING_TIMEOUT).await?;
        let accepted = parse_greeting(&line).ok_or_else(|| {
            let line: String = line.chars().take(80).collect();
            Failure::Final(Fault::stalled(
                Reason::PushFailed,
                format!("another program than the seed answers: {line:?}; end what listens on that port of the node"),
            ))
        })?;
        if to_hex(&accepted) != list.hex() {
            return Err(Failure::Final(Fault::stalled(
                Reason::PushFailed,
                "the seed was started for another archive; delete its namespace, or continue with the archive of before",
            )));
        }
        Ok(connection)
    }

    /// What the seed has of each file of the list, which it gets if it has none.
    pub async fn presence(&mut self, list: &[u8], files: usize) -> Result<Vec<Presence>, Failure> {
        let answer = self.ask(Command::Files).await?;
        let answer = match answer {
            Answer::Refused(Refusal::NoList, _) => {
                let length = list.len() as u64;
                self.write(format!("{}\n", Command::List { length }).as_bytes()).await?;
                self.write(list).await?;
                match self.answer().await? {
                    Answer::Done => self.ask(Command::Files).await?,
                    other => other,
                }
            }
            other => other,
        };
        match answer {
            Answer::Files(count) if count == files as u64 => {}
            Answer::Refused(refusal, explanation) => return Err(refused(refusal, &explanation, 0)),
            Answer::Done | Answer::Files(_) => return Err(unexpected()),
        }
        let mut presence = Vec::with_capacity(files);
        for _ in 0..files {
            let line = self.read_line(ANSWER_TIMEOUT).await?;
            presence.push(Presence::parse(&line).ok_or_else(unexpected)?);
        }
        Ok(presence)
    }

    /// Sends the file with the position `index` in the list from `offset`: `length` bytes of `content`. `sent` is called with what
    /// was given to the connection.
    pub async fn send(
        &mut self,
        index: usize,
        offset: u64,
        content: ByteStream<'_>,
        length: u64,
        sent: impl FnMut(u64),
    ) -> Result<(), Failure> {
        let command = Command::File {
            index: index as u64,
            offset,
        };
        self.write(format!("{command}\n").as_bytes()).await?;
        // The seed may refuse the file before it has all of it, and ends the connection then.
        let mut answer = pin!(read_line(&mut self.from, None));
        let sending = send_content(&mut self.to, content, length, sent);
        let line = tokio::select! {
            biased;
            line = &mut answer => line?,
            done = sending => match done {
                Ok(()) => timeout(ANSWER_TIMEOUT, answer).await.unwrap_or_else(|_| Err(silent()))?,
                // It may have said why before the connection ended.
                Err(Failure::Broken(fault)) => match timeout(STALL_TIMEOUT, answer).await {
                    Ok(Ok(line)) => line,
                    _ => return Err(Failure::Broken(fault)),
                },
                Err(failure) => return Err(failure),
            },
        };
        match Answer::parse(&line).ok_or_else(unexpected)? {
            Answer::Done => Ok(()),
            Answer::Refused(refusal, explanation) => Err(refused(refusal, &explanation, index)),
            Answer::Files(_) => Err(unexpected()),
        }
    }

    async fn ask(&mut self, command: Command) -> Result<Answer, Failure> {
        self.write(format!("{command}\n").as_bytes()).await?;
        self.answer().await
    }

    async fn answer(&mut self) -> Result<Answer, Failure> {
        let line = self.read_line(ANSWER_TIMEOUT).await?;
        Answer::parse(&line).ok_or_else(unexpected)
    }

    async fn read_line(&mut self, limit: Duration) -> Result<String, Failure> {
        read_line(&mut self.from, Some(limit)).await
    }

    async fn write(&mut self, bytes: &[u8]) -> Result<(), Failure> {
        write(&mut self.to, bytes).await
    }
}

/// Reads a line, and returns it without its end.
async fn read_line(
    from: &mut (impl tokio::io::AsyncBufRead + Unpin),
    limit: Option<Duration>,
) -> Result<String, Failure> {
    let mut line = Vec::new();
    let mut limited = from.take(MAX_LINE as u64 + 1);
    let read = limited.read_until(b'\n', &mut line);
    let read = match limit {
        Some(limit) => timeout(limit, read).await.map_err(|_| silent())?,
        None => read.await,
    };
    read.map_err(|error| broken(&error.to_string()))?;
    match line.pop() {
        Some(b'\n') => String::from_utf8(line).map_err(|_| unexpected()),
        Some(_) if line.len() >= MAX_LINE => Err(unexpected()),
        _ => Err(broken("the seed ended the connection")),
    }
}

async fn write(to: &mut (impl AsyncWrite + Unpin), bytes: &[u8]) -> Result<(), Failure> {
    let written = timeout(STALL_TIMEOUT, to.write_all(bytes)).await;
    let written = written.map_err(|_| broken("the connection takes nothing"))?;
    written.map_err(|error| broken(&error.to_string()))
}

async fn send_content(
    to: &mut (impl AsyncWrite + Unpin),
    mut content: ByteStream<'_>,
    length: u64,
    mut sent: impl FnMut(u64),
) -> Result<(), Failure> {
    let mut remaining = length;
    while remaining > 0 {
        let next = timeout(STALL_TIMEOUT, content.next()).await;
        let next = next.map_err(|_| broken("the archive gives nothing"))?;
        let mut chunk: Bytes = match next {
            Some(chunk) => chunk?,
            None => {
                let message = "a file is shorter than the archive says; check it with `verify`";
                return Err(Failure::Final(Fault::stalled(Reason::SourceFailed, message)));
            }
        };
        chunk.truncate(usize::try_from(remaining).unwrap_or(usize::MAX));
        while !chunk.is_empty() {
            let piece = chunk.split_to(chunk.len().min(PIECE));
            write(to, &piece).await?;
            remaining -= piece.len() as u64;
            sent(piece.len() as u64);
        }
    }
    let flushed = timeout(STALL_TIMEOUT, to.flush()).await;
    let flushed = flushed.map_err(|_| broken("the connection takes nothing"))?;
    flushed.map_err(|error| broken(&error.to_string()))
}

/// A refusal for the file with the position `index`.
fn refused(refusal: Refusal, explanation: &str, index: usize) -> Failure {
    let message = format!("the seed refuses the files: {explanation}");
    match refusal {
        Refusal::Digest => Failure::Digest(index),
        Refusal::Offset => Failure::Broken(Fault::retryable(Reason::PushFailed, message)),
        Refusal::NoSpace => Failure::Final(Fault::stalled(
            Reason::PushFailed,
            format!("{message}; free space where the node keeps the volumes of its pods"),
        )),
        Refusal::Command | Refusal::NoList | Refusal::List => {
            Failure::Final(Fault::stalled(Reason::PushFailed, message))
        }
        // A disk that was full may have space again.
        Refusal::Storage => Failure::Broken(Fault::retryable(Reason::PushFailed, message)),
    }
}

fn broken(what: &str) -> Failure {
    Failure::Broken(Fault::retryable(
        Reason::PushFailed,
        format!("the connection to the seed broke: {what}"),
    ))
}

fn silent() -> Failure {
    broken("no answer in time")
}

fn unexpected() -> Failure {
    broken("the answer has an unknown form")
}

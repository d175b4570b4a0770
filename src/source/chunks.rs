//! Content on its way from the thread that reads files to the task that sends it.

use std::fs::File;
use std::io::{self, Read as _};
use std::sync::{Mutex, PoisonError};

use bytes::Bytes;
use tokio::sync::mpsc;

use super::read_ahead::ReadAhead;
use super::unreadable::UnreadableReason;

/// The longest chunk in bytes.
pub(super) const CHUNK: usize = 1024 * 1024;
/// Chunks that wait to be taken.
const WAITING: usize = 2;
/// Buffers of the whole process that are kept for the next chunk. Fresh memory costs the kernel more than reading a
/// warm file does, and what is given back in between the chunks of others stays with the process all the same.
static SPARES: Mutex<Vec<Box<[u8]>>> = Mutex::new(Vec::new());
/// How many are kept.
const KEPT: usize = 24;

/// Why no more is handed on.
#[derive(Debug)]
pub(super) enum Stop {
    /// Nobody takes it any more.
    Closed,
    /// It is not what it should be.
    Doubted(UnreadableReason),
}

impl From<UnreadableReason> for Stop {
    fn from(doubt: UnreadableReason) -> Self {
        Self::Doubted(doubt)
    }
}

/// A buffer of `size` bytes, whatever is in it.
fn buffer(size: usize) -> Box<[u8]> {
    let spare = (size == CHUNK).then(|| SPARES.lock().unwrap_or_else(PoisonError::into_inner).pop());
    spare.flatten().unwrap_or_else(|| vec![0; size].into_boxed_slice())
}

/// The writing end: fills one chunk after the other, in a thread that may wait.
pub(super) struct Chunks {
    sender: mpsc::Sender<Result<Bytes, UnreadableReason>>,
    size: usize,
    buffer: Box<[u8]>,
    filled: usize,
}

impl Chunks {
    /// Both ends for content of `length` bytes.
    pub fn new(length: u64) -> (Self, mpsc::Receiver<Result<Bytes, UnreadableReason>>) {
        let (sender, receiver) = mpsc::channel(WAITING);
        let size = usize::try_from(length).map_or(CHUNK, |length| length.clamp(1, CHUNK));
        let chunks = Self {
            sender,
            size,
            buffer: buffer(size),
            filled: 0,
        };
        (chunks, receiver)
    }

    /// Where the next bytes go; never empty. [`Chunks::filled`] says how many came.
    pub fn space(&mut self) -> &mut [u8] {
        &mut self.buffer[self.filled..]
    }

    /// `length` bytes were written to the beginning of [`Chunks::space`].
    pub fn filled(&mut self, length: usize) -> Result<(), Stop> {
        self.filled += length;
        if self.filled == self.buffer.len() {
            self.flush()
        } else {
            Ok(())
        }
    }

    /// Copies `content`.
    pub fn write(&mut self, mut content: &[u8]) -> Result<(), Stop> {
        while !content.is_empty() {
            let space = self.space();
            let length = space.len().min(content.len());
            space[..length].copy_from_slice(&content[..length]);
            content = &content[length..];
            self.filled(length)?;
        }
        Ok(())
    }

    /// Reads `file` from where it stands, at most `length` bytes, and shows them to `seen` on their way. Gives how
    /// many there were, or what kept the file from being read.
    pub fn read(&mut self, mut file: &File, length: u64, mut seen: impl FnMut(&[u8])) -> Result<io::Result<u64>, Stop> {
        let mut ahead = ReadAhead::of(file, length);
        let mut done = 0;
        while done < length {
            ahead.at(done);
            let space = self.space();
            let most = usize::try_from(length - done).map_or(space.len(), |left| left.min(space.len()));
            match file.read(&mut space[..most]) {
                Ok(0) => break,
                Ok(read) => {
                    seen(&space[..read]);
                    done += read as u64;
                    self.filled(read)?;
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Ok(Err(error)),
            }
        }
        Ok(Ok(done))
    }

    /// Hands the last chunk on, and why it is the last when that is not the end.
    pub fn end(mut self, result: Result<(), Stop>) {
        // Nobody listens any more when this fails, and then nobody needs it.
        match result {
            Ok(()) if self.filled > 0 => drop(self.flush()),
            Err(Stop::Doubted(doubt)) => drop(self.sender.blocking_send(Err(doubt))),
            Ok(()) | Err(Stop::Closed) => {}
        }
    }

    fn flush(&mut self) -> Result<(), Stop> {
        let chunk = Chunk {
            buffer: std::mem::replace(&mut self.buffer, buffer(self.size)),
            filled: std::mem::take(&mut self.filled),
        };
        let sent = self.sender.blocking_send(Ok(Bytes::from_owner(chunk)));
        sent.map_err(|_| Stop::Closed)
    }
}

/// Keeps a buffer for who comes next.
fn keep(buffer: Box<[u8]>) {
    let mut spares = SPARES.lock().unwrap_or_else(PoisonError::into_inner);
    if buffer.len() == CHUNK && spares.len() < KEPT {
        spares.push(buffer);
    }
}

impl Drop for Chunks {
    fn drop(&mut self) {
        keep(std::mem::take(&mut self.buffer));
    }
}

/// A buffer that goes back where it came from.
struct Chunk {
    buffer: Box<[u8]>,
    filled: usize,
}

impl AsRef<[u8]> for Chunk {
    fn as_ref(&self) -> &[u8] {
        &self.buffer[..self.filled]
    }
}

impl Drop for Chunk {
    fn drop(&mut self) {
        keep(std::mem::take(&mut self.buffer));
    }
}

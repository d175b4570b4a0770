//! Passes content from the thread that reads files to the task that sends it.

use std::fs::File;
use std::io::{self, Read as _};

use bytes::Bytes;
use tokio::sync::mpsc;

use super::buffers::{BUFFER, Buffer};
use super::read_ahead::ReadAhead;
use super::unreadable::UnreadableReason;

/// The longest chunk in bytes.
pub(super) const CHUNK: usize = BUFFER;
/// Chunks that wait for the receiver.
const QUEUE_LENGTH: usize = 2;
/// Why no more chunks are sent.
#[derive(Debug)]
pub(super) enum Stop {
    /// The receiver was dropped.
    Closed,
    /// The content cannot be read, or is not what it should be.
    Unreadable(UnreadableReason),
}

/// Why a file was not sent to its end.
#[derive(Debug)]
pub(super) enum ReadError {
    /// The file cannot be read.
    File(io::Error),
    /// No more chunks are sent.
    Stop(Stop),
}

impl From<Stop> for ReadError {
    fn from(stop: Stop) -> Self {
        Self::Stop(stop)
    }
}

impl From<UnreadableReason> for Stop {
    fn from(reason: UnreadableReason) -> Self {
        Self::Unreadable(reason)
    }
}

/// The sender: fills one chunk after the other, in a thread that may block.
pub(super) struct Chunks {
    sender: mpsc::Sender<Result<Bytes, UnreadableReason>>,
    size: usize,
    buffer: Buffer,
    filled: usize,
}

impl Chunks {
    /// Both ends for content of `length` bytes.
    pub fn new(length: u64) -> (Self, mpsc::Receiver<Result<Bytes, UnreadableReason>>) {
        let (sender, receiver) = mpsc::channel(QUEUE_LENGTH);
        let size = usize::try_from(length).map_or(CHUNK, |length| length.clamp(1, CHUNK));
        let chunks = Self {
            sender,
            size,
            buffer: Buffer::new(size),
            filled: 0,
        };
        (chunks, receiver)
    }

    /// Where the next bytes are written; never empty. [`Chunks::advance`] says how many were.
    pub fn unfilled(&mut self) -> &mut [u8] {
        &mut self.buffer[self.filled..]
    }

    /// `length` bytes were written to the beginning of [`Chunks::unfilled`].
    pub fn advance(&mut self, length: usize) -> Result<(), Stop> {
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
            let space = self.unfilled();
            let length = space.len().min(content.len());
            space[..length].copy_from_slice(&content[..length]);
            content = &content[length..];
            self.advance(length)?;
        }
        Ok(())
    }

    /// Reads `file` from its current position, at most `length` bytes, and passes them to `observe` too. Returns the
    /// number of bytes.
    pub fn read(&mut self, mut file: &File, length: u64, mut observe: impl FnMut(&[u8])) -> Result<u64, ReadError> {
        let mut ahead = ReadAhead::new(file, length);
        let mut done = 0;
        while done < length {
            ahead.advance_to(done);
            let space = self.unfilled();
            let most = usize::try_from(length - done).map_or(space.len(), |left| left.min(space.len()));
            match file.read(&mut space[..most]) {
                Ok(0) => break,
                Ok(read) => {
                    observe(&space[..read]);
                    done += read as u64;
                    self.advance(read)?;
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(ReadError::File(error)),
            }
        }
        Ok(done)
    }

    /// Sends the last chunk, or why the content is incomplete.
    pub fn finish(mut self, result: Result<(), Stop>) {
        // This fails only when the receiver was dropped.
        match result {
            Ok(()) if self.filled > 0 => drop(self.flush()),
            Err(Stop::Unreadable(reason)) => drop(self.sender.blocking_send(Err(reason))),
            Ok(()) | Err(Stop::Closed) => {}
        }
    }

    fn flush(&mut self) -> Result<(), Stop> {
        let filled = std::mem::take(&mut self.filled);
        let buffer = std::mem::replace(&mut self.buffer, Buffer::new(self.size));
        let sent = self.sender.blocking_send(Ok(buffer.into_bytes(filled)));
        sent.map_err(|_| Stop::Closed)
    }
}

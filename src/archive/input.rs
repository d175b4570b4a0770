//! The bytes of a file that can be read at any offset.

use std::fs::File;
use std::io;
use std::num::NonZeroU64;
use std::os::unix::fs::FileExt as _;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use rustix::fs::{Advice, fadvise};
use rustix::io::{ReadWriteFlags, preadv2};

/// Bytes that can be read at any offset: a file, or several files that are one behind the other. Reads block the thread.
pub trait RandomAccess: Send + Sync {
    /// The length in bytes.
    fn length(&self) -> u64;

    /// Fills `buffer` with the bytes at `offset`.
    ///
    /// # Errors
    /// `UnexpectedEof` where there are fewer bytes, and errors of the file system, which name the file.
    fn read_exact_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()>;

    /// The names of the parts that hold the `length` bytes at `offset`, for messages; `None` where there are no parts.
    fn parts_of(&self, _offset: u64, _length: u64) -> Option<String> {
        None
    }

    /// The same without waiting for a disk: whether `buffer` was filled with what is in memory.
    fn read_cached_at(&self, buffer: &mut [u8], offset: u64) -> bool {
        let _ = (buffer, offset);
        false
    }

    /// Says that the `length` bytes at `offset` are read soon.
    fn prefetch(&self, offset: u64, length: u64) {
        let _ = (offset, length);
    }
}

/// A file on disk.
#[derive(Debug)]
pub struct DiskFile {
    file: File,
    length: u64,
}

impl DiskFile {
    /// Opens `path`, which must be a regular file.
    ///
    /// # Errors
    /// When it cannot be opened, or is not a regular file.
    pub fn open(path: &Path) -> io::Result<Self> {
        let file = File::open(path)?;
        let metadata = file.metadata()?;
        if !metadata.is_file() {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "it is not a regular file"));
        }
        Ok(Self {
            file,
            length: metadata.len(),
        })
    }
}

impl RandomAccess for DiskFile {
    fn length(&self) -> u64 {
        self.length
    }

    fn read_exact_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()> {
        self.file.read_exact_at(buffer, offset)
    }

    fn read_cached_at(&self, buffer: &mut [u8], mut offset: u64) -> bool {
        let mut rest = buffer;
        while !rest.is_empty() {
            // A file system that cannot tell, and a short read at the end, are left to the read that waits.
            let into = &mut [io::IoSliceMut::new(rest)];
            let Ok(read @ 1..) = preadv2(&self.file, into, offset, ReadWriteFlags::NOWAIT) else {
                return false;
            };
            rest = &mut rest[read..];
            offset += read as u64;
        }
        true
    }

    fn prefetch(&self, offset: u64, length: u64) {
        let _ = fadvise(&self.file, offset, NonZeroU64::new(length), Advice::WillNeed);
    }
}

/// Reads an input from its beginning.
pub(super) struct FromStart {
    input: Arc<dyn RandomAccess>,
    at: Arc<AtomicU64>,
}

impl FromStart {
    pub fn new(input: Arc<dyn RandomAccess>) -> Self {
        Self {
            input,
            at: Arc::default(),
        }
    }

    /// Bytes that were read.
    pub fn position(&self) -> Arc<AtomicU64> {
        Arc::clone(&self.at)
    }
}

impl io::Read for FromStart {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let at = self.at.load(Ordering::Relaxed);
        let rest = self.input.length().saturating_sub(at);
        let length = usize::try_from(rest).map_or(buffer.len(), |rest| rest.min(buffer.len()));
        self.input.read_exact_at(&mut buffer[..length], at)?;
        self.at.store(at + length as u64, Ordering::Relaxed);
        Ok(length)
    }
}

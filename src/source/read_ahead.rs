//! Asks the disk for what is read next. The kernel's own window (mostly 128 KiB) leaves a fast disk waiting for the
//! reader, which hashes and sends between two reads, and the kernel does not know which small file is next.

use std::fs::File;
use std::num::NonZeroU64;

/// How far the disk is ahead of the reader, in bytes.
const WINDOW: u64 = 16 * 1024 * 1024;
/// How much is asked for in one call, in bytes.
const STEP: u64 = 4 * 1024 * 1024;

/// The part of a file that the disk was asked for.
pub(super) struct ReadAhead<'a> {
    file: &'a File,
    size: u64,
    asked: u64,
}

impl<'a> ReadAhead<'a> {
    /// A file of at most one step is not asked for: the kernel's window covers it, or [`prefetch`] did.
    pub fn new(file: &'a File, size: u64) -> Self {
        let asked = if size > STEP { 0 } else { size };
        Self { file, size, asked }
    }

    /// The next read begins at `offset`.
    pub fn advance_to(&mut self, offset: u64) {
        while self.asked < self.size && self.asked < offset + WINDOW {
            advise(self.file, self.asked, STEP.min(self.size - self.asked));
            self.asked += STEP;
        }
    }
}

/// Asks the disk for `file`, of `size` bytes, which is read soon.
pub(super) fn prefetch(file: &File, size: u64) {
    advise(file, 0, size.min(STEP));
}

// Only a hint: errors do not matter.
fn advise(file: &File, offset: u64, length: u64) {
    let _ = rustix::fs::fadvise(file, offset, NonZeroU64::new(length), rustix::fs::Advice::WillNeed);
}

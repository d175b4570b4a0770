//! Asking the disk for what is read next. The kernel's own window (128 KiB as a rule) leaves a fast disk waiting for
//! the reader, which checks and hands on between two reads, and it does not know which small file comes next.

use std::fs::File;
use std::num::NonZeroU64;

/// Bytes that the disk is ahead.
const WINDOW: u64 = 16 * 1024 * 1024;
/// Bytes that are asked for at once.
const STEP: u64 = 4 * 1024 * 1024;

/// The part of a file that the disk was asked for before it is read.
pub(super) struct ReadAhead<'a> {
    file: &'a File,
    size: u64,
    asked: u64,
}

impl<'a> ReadAhead<'a> {
    /// Nothing is asked for of a file that the kernel's own window covers, or [`soon`].
    pub fn of(file: &'a File, size: u64) -> Self {
        let asked = if size > STEP { 0 } else { size };
        Self { file, size, asked }
    }

    /// The next read begins at `offset`.
    pub fn at(&mut self, offset: u64) {
        while self.asked < self.size && self.asked < offset + WINDOW {
            ask(self.file, self.asked, STEP.min(self.size - self.asked));
            self.asked += STEP;
        }
    }
}

/// `file`, of `size` bytes, is read soon.
pub(super) fn soon(file: &File, size: u64) {
    ask(file, 0, size.min(STEP));
}

// A hint: a file system that does not take it is read all the same.
fn ask(file: &File, offset: u64, length: u64) {
    let _ = rustix::fs::fadvise(file, offset, NonZeroU64::new(length), rustix::fs::Advice::WillNeed);
}

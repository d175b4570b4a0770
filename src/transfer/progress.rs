//! The progress of a transfer.

use std::sync::atomic::{AtomicU64, Ordering};

/// The bytes of one transfer. The sink writes it; status and progress bars read it.
#[derive(Debug, Default)]
pub struct Progress {
    done: AtomicU64,
    total: AtomicU64,
    moved: AtomicU64,
}

impl Progress {
    /// Bytes in the destination, including those that existed before.
    pub fn done(&self) -> u64 {
        self.done.load(Ordering::Relaxed)
    }

    /// The size of the image at its source in bytes; 0 while unknown, never less than [`Progress::done`].
    pub fn total(&self) -> u64 {
        self.total.load(Ordering::Relaxed).max(self.done())
    }

    /// Bytes that were read from the source.
    pub fn moved(&self) -> u64 {
        self.moved.load(Ordering::Relaxed)
    }

    /// Resets the bytes that are done, because the transfer starts again.
    pub(super) fn restart(&self) {
        self.done.store(0, Ordering::Relaxed);
    }

    pub(crate) fn set_total(&self, total: u64) {
        self.total.store(total, Ordering::Relaxed);
    }

    pub(crate) fn add_existing(&self, bytes: u64) {
        self.done.fetch_add(bytes, Ordering::Relaxed);
    }

    /// Subtracts `bytes` that were sent in a failed upload.
    pub(crate) fn subtract_failed(&self, bytes: u64) {
        self.done.fetch_sub(bytes, Ordering::Relaxed);
    }

    pub(crate) fn add_moved(&self, bytes: u64) {
        self.done.fetch_add(bytes, Ordering::Relaxed);
        self.moved.fetch_add(bytes, Ordering::Relaxed);
    }
}

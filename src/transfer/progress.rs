//! How far a transfer is, for whoever watches it.

use std::sync::atomic::{AtomicU64, Ordering};

/// Bytes of one transfer. Written by the sink while blobs pass, read by status and progress bars.
#[derive(Debug, Default)]
pub struct Progress {
    done: AtomicU64,
    total: AtomicU64,
    moved: AtomicU64,
}

impl Progress {
    /// Bytes that are in the destination, those included that were there before.
    pub fn done(&self) -> u64 {
        self.done.load(Ordering::Relaxed)
    }

    /// Bytes that the image has at its source; 0 while unknown, never less than [`Progress::done`].
    pub fn total(&self) -> u64 {
        self.total.load(Ordering::Relaxed).max(self.done())
    }

    /// Bytes that were read from the source for the destination.
    pub fn moved(&self) -> u64 {
        self.moved.load(Ordering::Relaxed)
    }

    /// The transfer begins anew; nothing of what was done counts.
    pub(super) fn restart(&self) {
        self.done.store(0, Ordering::Relaxed);
    }

    pub(crate) fn expect(&self, total: u64) {
        self.total.store(total, Ordering::Relaxed);
    }

    pub(crate) fn found(&self, bytes: u64) {
        self.done.fetch_add(bytes, Ordering::Relaxed);
    }

    /// `bytes` that passed did not arrive; they pass again.
    pub(super) fn lost(&self, bytes: u64) {
        self.done.fetch_sub(bytes, Ordering::Relaxed);
    }

    pub(crate) fn passed(&self, bytes: u64) {
        self.done.fetch_add(bytes, Ordering::Relaxed);
        self.moved.fetch_add(bytes, Ordering::Relaxed);
    }
}

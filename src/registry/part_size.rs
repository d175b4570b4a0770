//! Learns how many bytes one request to a registry, or through its proxy, may carry.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

const MEBIBYTE: u64 = 1024 * 1024;
/// The first limit after a request was too large.
const INITIAL: u64 = 64 * MEBIBYTE;
/// The smallest limit for size.
const MIN: u64 = MEBIBYTE;
/// The smallest limit for time. Registries write a part to disk before they respond, so smaller parts are not useful.
const MIN_BY_TIME: u64 = 16 * MEBIBYTE;
/// The largest part, also after a connection broke.
pub(super) const MAX: u64 = 512 * MEBIBYTE;
/// Target duration of a part where requests are cut off by time.
const TARGET_TIME: Duration = Duration::from_secs(20);
/// A request that broke after this time may have been cut off for its duration.
const MIN_TIME: Duration = Duration::from_secs(10);

/// The limits of one registry. In memory only.
#[derive(Debug, Default)]
pub(super) struct PartSize {
    /// Bytes that one request may carry; 0 for no limit.
    limit: AtomicU64,
    /// Blobs are sent by PATCH before they are committed.
    separate_commit: AtomicBool,
}

impl PartSize {
    /// Bytes that one request may carry; `None` for no limit.
    pub fn limit(&self) -> Option<u64> {
        Some(self.limit.load(Ordering::Relaxed)).filter(|limit| *limit > 0)
    }

    /// Whether content is sent before the request that commits it, as docker does: some registries accept nothing else.
    pub fn uses_separate_commit(&self) -> bool {
        self.separate_commit.load(Ordering::Relaxed)
    }

    /// Records that it must be.
    pub fn use_separate_commit(&self) {
        self.separate_commit.store(true, Ordering::Relaxed);
    }

    /// Records that a request of `length` bytes was refused for its size. Returns false if there is no smaller limit to
    /// try.
    pub fn record_too_large(&self, length: u64) -> bool {
        let next = INITIAL.min(length / 2);
        if next < MIN {
            return false;
        }
        self.reduce_to(next);
        true
    }

    /// Records that a request broke after it had carried `carried` bytes in `elapsed`. `timed_out` tells whether it
    /// certainly exceeded a time limit.
    pub fn record_broken(&self, carried: u64, elapsed: Duration, timed_out: bool) {
        if !timed_out && elapsed < MIN_TIME {
            return;
        }
        let rate = carried as f64 / elapsed.as_secs_f64().max(0.001);
        let target_time = TARGET_TIME.min(elapsed / 3);
        // The cast saturates.
        let next = (rate * target_time.as_secs_f64()) as u64;
        self.reduce_to(next.clamp(MIN_BY_TIME, MAX));
    }

    fn reduce_to(&self, limit: u64) {
        let current = self.limit().unwrap_or(u64::MAX);
        self.limit.store(limit.min(current), Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn too_large_parts_are_halved() {
        let part_size = PartSize::default();
        assert_eq!(part_size.limit(), None);
        let mut tried = Vec::new();
        let mut length = 1024 * MEBIBYTE;
        while part_size.record_too_large(length) {
            length = part_size.limit().unwrap();
            tried.push(length / MEBIBYTE);
        }
        assert_eq!(tried, [64, 32, 16, 8, 4, 2, 1]);
        let small = PartSize::default();
        assert!(small.record_too_large(20 * MEBIBYTE));
        assert_eq!(small.limit(), Some(10 * MEBIBYTE));
        assert!(
            small.record_too_large(100 * MEBIBYTE),
            "a larger request was sent before the limit was known"
        );
        assert_eq!(small.limit(), Some(10 * MEBIBYTE));
    }

    #[test]
    fn parts_fit_the_time_limit_of_requests() {
        let seconds = Duration::from_secs;
        let limit = |carried: u64, elapsed: Duration, timed_out| {
            let part_size = PartSize::default();
            part_size.record_broken(carried * MEBIBYTE, elapsed, timed_out);
            part_size.limit().map(|limit| limit / MEBIBYTE)
        };
        assert_eq!(limit(600, seconds(60), false), Some(200), "20 s of 10 MiB/s");
        assert_eq!(
            limit(300, seconds(30), true),
            Some(100),
            "a third of the request that was cut off"
        );
        assert_eq!(limit(60, seconds(60), true), Some(20));
        assert_eq!(limit(6, seconds(60), true), Some(16));
        assert_eq!(limit(60_000, seconds(60), true), Some(512));
        assert_eq!(limit(600, seconds(2), false), None, "it broke early");
        assert_eq!(limit(0, Duration::ZERO, true), Some(16));
    }
}

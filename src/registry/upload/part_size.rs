//! How much a registry, or the proxy before it, lets one request carry.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

const MEBIBYTE: u64 = 1024 * 1024;
/// What is tried first after a request was too large.
const FIRST: u64 = 64 * MEBIBYTE;
/// Below this no registry is of use.
const SMALLEST: u64 = MEBIBYTE;
/// Registries write a part to the disk before they answer, so parts are not made smaller than this for their time.
const SMALLEST_BY_TIME: u64 = 16 * MEBIBYTE;
/// The largest part, also of what is sent after a connection broke.
pub(super) const LARGEST: u64 = 512 * MEBIBYTE;
/// How long a part may take where requests are cut by time.
const AIM: Duration = Duration::from_secs(20);
/// A request that broke after this time may have been cut for its length.
const LONG: Duration = Duration::from_secs(10);

/// What was learned of one registry. In memory only.
#[derive(Debug, Default)]
pub(in crate::registry) struct PartSize {
    /// Bytes that one request may carry; 0 while any number is taken.
    part: AtomicU64,
    /// A blob is sent by PATCH before it is committed.
    apart: AtomicBool,
}

impl PartSize {
    /// Bytes that one request may carry; none while any number is taken.
    pub fn part(&self) -> Option<u64> {
        Some(self.part.load(Ordering::Relaxed)).filter(|part| *part > 0)
    }

    /// Whether content is sent before the request that commits it, as docker does: there are registries that take it no
    /// other way.
    pub fn sends_apart(&self) -> bool {
        self.apart.load(Ordering::Relaxed)
    }

    /// Notes that it is.
    pub fn send_apart(&self) {
        self.apart.store(true, Ordering::Relaxed);
    }

    /// A request that was to carry `length` bytes was refused for that. False when there is no smaller part to try.
    pub fn too_large(&self, length: u64) -> bool {
        let next = FIRST.min(length / 2);
        if next < SMALLEST {
            return false;
        }
        self.at_most(next);
        true
    }

    /// A request broke off after it had carried `carried` bytes in `took`; `surely` when it is known that its time was
    /// over.
    pub fn broke(&self, carried: u64, took: Duration, surely: bool) {
        if !surely && took < LONG {
            return;
        }
        let rate = carried as f64 / took.as_secs_f64().max(0.001);
        let aim = AIM.min(took / 3);
        // At most what u64 takes; a cast saturates.
        let next = (rate * aim.as_secs_f64()) as u64;
        self.at_most(next.clamp(SMALLEST_BY_TIME, LARGEST));
    }

    fn at_most(&self, part: u64) {
        let now = self.part().unwrap_or(u64::MAX);
        self.part.store(part.min(now), Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn too_large_parts_are_halved_until_they_pass() {
        let pace = PartSize::default();
        assert_eq!(pace.part(), None);
        let mut tried = Vec::new();
        let mut length = 1024 * MEBIBYTE;
        while pace.too_large(length) {
            length = pace.part().unwrap();
            tried.push(length / MEBIBYTE);
        }
        assert_eq!(tried, [64, 32, 16, 8, 4, 2, 1]);
        let small = PartSize::default();
        assert!(small.too_large(20 * MEBIBYTE));
        assert_eq!(small.part(), Some(10 * MEBIBYTE));
        assert!(
            small.too_large(100 * MEBIBYTE),
            "what is larger was sent before it was known"
        );
        assert_eq!(small.part(), Some(10 * MEBIBYTE));
    }

    #[test]
    fn parts_fit_the_time_that_requests_have() {
        let seconds = Duration::from_secs;
        let part = |carried: u64, took: Duration, surely| {
            let pace = PartSize::default();
            pace.broke(carried * MEBIBYTE, took, surely);
            pace.part().map(|part| part / MEBIBYTE)
        };
        assert_eq!(part(600, seconds(60), false), Some(200), "20 s of 10 MiB/s");
        assert_eq!(part(300, seconds(30), true), Some(100), "a third of what was cut");
        assert_eq!(part(60, seconds(60), true), Some(20));
        assert_eq!(part(6, seconds(60), true), Some(16));
        assert_eq!(part(60_000, seconds(60), true), Some(512));
        assert_eq!(part(600, seconds(2), false), None, "it only broke");
        assert_eq!(part(0, Duration::ZERO, true), Some(16));
    }
}

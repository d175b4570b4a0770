//! The memory for documents of registries: manifests, indexes and signatures, which are held completely, unlike layers.
//! Their size is chosen by whoever writes to the registry, so one limit applies to all of them together.
//!
//! A holder of documents (an image transfer, a package publication) has a [`Reservation`]. A reservation includes a
//! base amount, which is enough for nearly all images. More is available while the pool has free memory. A holder never
//! waits for memory, so holders cannot block each other: the work fails, releases its memory and is retried.

use std::sync::{Arc, LazyLock, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::decode;
use crate::fault::{Fault, Reason};

/// When work is tried again that found no room.
const PAUSE: Duration = Duration::from_secs(10);
/// Bytes that each permit of a pool stands for.
const UNIT: usize = 1024;

/// The memory of images that are moved.
pub static IMAGES: LazyLock<Pool> = LazyLock::new(|| Pool::new(2 << 20, 64 << 20));
/// The memory of packages that are put together, each with the manifests of all its images.
pub static PACKAGES: LazyLock<Pool> = LazyLock::new(|| Pool::new(4 << 20, 96 << 20));

/// The memory of documents that are read one by one and not kept, such as signatures; each has a reservation of its own.
pub static DOCUMENTS: LazyLock<Pool> = LazyLock::new(|| Pool::new(128 << 10, 32 << 20));

/// Bytes that one JSON value takes in memory, with what is allocated for it.
const VALUE_BYTES: usize = 160;

/// Bytes of memory that the JSON in `raw` takes at most, itself and once it was read.
pub fn memory_of_json(raw: &[u8]) -> usize {
    2 * raw.len() + VALUE_BYTES * decode::json_values(raw)
}

/// Memory that is shared.
#[derive(Debug)]
pub struct Pool {
    share: usize,
    size: usize,
    permits: Arc<Semaphore>,
}

impl Pool {
    /// One of `size` bytes, besides the `share` in bytes that each reservation has.
    pub fn new(share: usize, size: usize) -> Self {
        Self {
            share,
            size,
            permits: Arc::new(Semaphore::new(size / UNIT)),
        }
    }

    /// A reservation of nothing yet.
    pub fn reserve(&self) -> Reservation {
        Reservation {
            share: self.share,
            limit: self.share + self.size,
            permits: Arc::clone(&self.permits),
            held: Mutex::default(),
        }
    }
}

/// Memory that one piece of work holds until it is dropped.
#[derive(Debug)]
pub struct Reservation {
    share: usize,
    limit: usize,
    permits: Arc<Semaphore>,
    held: Mutex<Held>,
}

#[derive(Debug, Default)]
struct Held {
    bytes: usize,
    permits: Option<OwnedSemaphorePermit>,
}

/// Why memory cannot be had.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exhausted {
    /// It would be more than all of the pool: this many bytes.
    Always(usize),
    /// Others hold it now.
    Now,
}

impl Exhausted {
    /// The failure of the work on `what`, which is told in a condition of the reason `reason`.
    pub fn fault(self, reason: Reason, what: &str) -> Fault {
        match self {
            Self::Always(limit) => Fault::retryable(
                reason,
                format!(
                    "the manifests of {what} would take more than the {} MiB of memory that they may; choose some of its platforms, or use a smaller image",
                    limit >> 20
                ),
            ),
            Self::Now => Fault::waiting(
                reason,
                PAUSE,
                format!(
                    "the manifests of {what} are large, and those of others take the memory for them now; it is tried again by itself"
                ),
            ),
        }
    }
}

impl Reservation {
    /// Adds `bytes`.
    ///
    /// # Errors
    /// Where the pool has no room for them, now or ever. What was held stays held.
    pub fn add(&self, bytes: usize) -> Result<(), Exhausted> {
        let mut held = self.held.lock().unwrap_or_else(PoisonError::into_inner);
        let wanted = held.bytes.saturating_add(bytes);
        if wanted > self.limit {
            return Err(Exhausted::Always(self.limit));
        }
        let units = wanted.saturating_sub(self.share).div_ceil(UNIT);
        let lacking = units.saturating_sub(held.permits.as_ref().map_or(0, OwnedSemaphorePermit::num_permits));
        if lacking > 0 {
            let count = u32::try_from(lacking).map_err(|_| Exhausted::Always(self.limit))?;
            let more = Arc::clone(&self.permits).try_acquire_many_owned(count);
            let more = more.map_err(|_| Exhausted::Now)?;
            match &mut held.permits {
                Some(permits) => permits.merge(more),
                none => *none = Some(more),
            }
        }
        held.bytes = wanted;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_share_is_free_and_what_is_beyond_it_is_shared() {
        let pool = Pool::new(10 * UNIT, 20 * UNIT);
        let (one, other) = (pool.reserve(), pool.reserve());
        assert_eq!(one.add(10 * UNIT), Ok(()));
        assert_eq!(one.add(15 * UNIT), Ok(()));
        assert_eq!(other.add(10 * UNIT), Ok(()));
        assert_eq!(other.add(6 * UNIT), Err(Exhausted::Now));
        assert_eq!(other.add(5 * UNIT), Ok(()));
        drop(one);
        assert_eq!(other.add(15 * UNIT), Ok(()));
        assert_eq!(other.add(1), Err(Exhausted::Always(30 * UNIT)));
        drop(other);
        assert_eq!(pool.reserve().add(30 * UNIT), Ok(()));
    }

    #[test]
    fn what_is_larger_than_the_pool_never_fits() {
        let pool = Pool::new(UNIT, UNIT);
        let reservation = pool.reserve();
        assert_eq!(reservation.add(usize::MAX), Err(Exhausted::Always(2 * UNIT)));
        assert_eq!(reservation.add(2 * UNIT), Ok(()));
        assert_eq!(reservation.add(usize::MAX), Err(Exhausted::Always(2 * UNIT)));
    }
}

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

/// Delay before a task that found no memory is retried.
const RETRY_DELAY: Duration = Duration::from_secs(10);
/// Bytes per semaphore permit.
const PERMIT_BYTES: usize = 1024;

/// The memory for image transfers.
pub static IMAGES: LazyLock<Pool> = LazyLock::new(|| Pool::new(2 << 20, 64 << 20));
/// The memory for package builds, each with the manifests of all its images.
pub static PACKAGES: LazyLock<Pool> = LazyLock::new(|| Pool::new(4 << 20, 96 << 20));

/// The memory for documents that are read one at a time and not kept, such as signatures; each has its own reservation.
pub static DOCUMENTS: LazyLock<Pool> = LazyLock::new(|| Pool::new(128 << 10, 32 << 20));

/// The memory for listings: of tags, referrers and repositories. The largest that is read has 32 MiB.
pub static LISTINGS: LazyLock<Pool> = LazyLock::new(|| Pool::new(512 << 10, 64 << 20));

/// Bytes of memory per JSON value, including allocations.
const VALUE_BYTES: usize = 160;

/// Maximum memory in bytes of the JSON in `raw`, for the text and the decoded value.
pub fn json_memory(raw: &[u8]) -> usize {
    2 * raw.len() + VALUE_BYTES * decode::json_values(raw)
}

/// Shared memory.
#[derive(Debug)]
pub struct Pool {
    share: usize,
    size: usize,
    permits: Arc<Semaphore>,
}

impl Pool {
    /// A pool of `size` bytes, in addition to the `share` in bytes of each reservation.
    pub fn new(share: usize, size: usize) -> Self {
        Self {
            share,
            size,
            permits: Arc::new(Semaphore::new(size / PERMIT_BYTES)),
        }
    }

    /// An empty reservation.
    pub fn reserve(&self) -> Reservation {
        Reservation {
            share: self.share,
            limit: self.share + self.size,
            permits: Arc::clone(&self.permits),
            allocation: Mutex::default(),
        }
    }
}

/// The memory of one task, until it is dropped.
#[derive(Debug)]
pub struct Reservation {
    share: usize,
    limit: usize,
    permits: Arc<Semaphore>,
    allocation: Mutex<Allocation>,
}

#[derive(Debug, Default)]
struct Allocation {
    bytes: usize,
    permits: Option<OwnedSemaphorePermit>,
}

/// Why memory cannot be allocated.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exhausted {
    /// It exceeds the whole pool: the limit in bytes.
    TooLarge(usize),
    /// Other tasks use it now.
    InUse,
}

impl Exhausted {
    /// The fault of the task for `what`, with the reason `reason`.
    pub fn fault(self, reason: Reason, what: &str) -> Fault {
        match self {
            Self::TooLarge(limit) => Fault::retryable(
                reason,
                format!(
                    "the manifests of {what} need more than the limit of {} MiB of memory; select fewer platforms, or use a smaller image",
                    limit >> 20
                ),
            ),
            Self::InUse => Fault::waiting(
                reason,
                RETRY_DELAY,
                format!(
                    "the manifests of {what} are large, and other manifests use the available memory; it is retried automatically"
                ),
            ),
        }
    }
}

impl Reservation {
    /// Allocates `bytes`.
    ///
    /// # Errors
    /// If the pool has not enough memory, now or in general. The reservation is unchanged then.
    pub fn add(&self, bytes: usize) -> Result<(), Exhausted> {
        let mut allocation = self.allocation.lock().unwrap_or_else(PoisonError::into_inner);
        let total = allocation.bytes.saturating_add(bytes);
        if total > self.limit {
            return Err(Exhausted::TooLarge(self.limit));
        }
        let required = total.saturating_sub(self.share).div_ceil(PERMIT_BYTES);
        let missing = required.saturating_sub(allocation.permits.as_ref().map_or(0, OwnedSemaphorePermit::num_permits));
        if missing > 0 {
            let count = u32::try_from(missing).map_err(|_| Exhausted::TooLarge(self.limit))?;
            let additional = Arc::clone(&self.permits).try_acquire_many_owned(count);
            let additional = additional.map_err(|_| Exhausted::InUse)?;
            match &mut allocation.permits {
                Some(permits) => permits.merge(additional),
                none => *none = Some(additional),
            }
        }
        allocation.bytes = total;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_beyond_the_share_comes_from_the_pool() {
        let pool = Pool::new(10 * PERMIT_BYTES, 20 * PERMIT_BYTES);
        let (one, other) = (pool.reserve(), pool.reserve());
        assert_eq!(one.add(10 * PERMIT_BYTES), Ok(()));
        assert_eq!(one.add(15 * PERMIT_BYTES), Ok(()));
        assert_eq!(other.add(10 * PERMIT_BYTES), Ok(()));
        assert_eq!(other.add(6 * PERMIT_BYTES), Err(Exhausted::InUse));
        assert_eq!(other.add(5 * PERMIT_BYTES), Ok(()));
        drop(one);
        assert_eq!(other.add(15 * PERMIT_BYTES), Ok(()));
        assert_eq!(other.add(1), Err(Exhausted::TooLarge(30 * PERMIT_BYTES)));
        drop(other);
        assert_eq!(pool.reserve().add(30 * PERMIT_BYTES), Ok(()));
    }

    #[test]
    fn more_than_the_pool_is_too_large() {
        let pool = Pool::new(PERMIT_BYTES, PERMIT_BYTES);
        let reservation = pool.reserve();
        assert_eq!(reservation.add(usize::MAX), Err(Exhausted::TooLarge(2 * PERMIT_BYTES)));
        assert_eq!(reservation.add(2 * PERMIT_BYTES), Ok(()));
        assert_eq!(reservation.add(usize::MAX), Err(Exhausted::TooLarge(2 * PERMIT_BYTES)));
    }
}

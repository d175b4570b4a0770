//! Repeats what failed because the connection to the destination broke, as a port-forward does.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tokio::time::{Instant, sleep};

use crate::fault::{Fault, Reason};
use crate::transfer::Progress;

/// The first and the longest delay between two attempts.
const DELAYS: [Duration; 2] = [Duration::from_millis(500), Duration::from_secs(10)];

/// How long failures are repeated.
#[derive(Debug)]
pub struct Retries {
    limit: Duration,
    /// Whether anything succeeded yet: a destination that was never reached is probably a wrong name.
    reached: AtomicBool,
}

impl Retries {
    /// Repeats what fails until it has made no progress for `limit`.
    pub fn new(limit: Duration) -> Self {
        Self {
            limit,
            reached: AtomicBool::new(false),
        }
    }

    /// Runs `work` until it succeeds, or fails for another reason than the connection. `progress` shows whether an attempt got further
    /// than those before; what a failed attempt counted is taken back.
    ///
    /// # Errors
    /// The last fault.
    pub async fn run<T>(&self, progress: &Progress, work: impl AsyncFn() -> Result<T, Fault>) -> Result<T, Fault> {
        let start = progress.done();
        let (mut best, mut since, mut delay) = (start, None::<Instant>, DELAYS[0]);
        loop {
            let fault = match work().await {
                Ok(done) => {
                    self.reached.store(true, Ordering::Relaxed);
                    return Ok(done);
                }
                Err(fault) => fault,
            };
            let done = progress.done();
            progress.subtract_failed(done.saturating_sub(start));
            if done > best {
                // Bytes passed, so the destination was there.
                self.reached.store(true, Ordering::Relaxed);
                (best, since, delay) = (done, None, DELAYS[0]);
            }
            let first = *since.get_or_insert_with(Instant::now);
            let is_over = first.elapsed() + delay >= self.limit;
            if !is_transient(&fault) || is_over || !self.reached.load(Ordering::Relaxed) {
                return Err(fault);
            }
            tracing::warn!("{}; trying again for {} s at most", fault.message, self.limit.as_secs());
            sleep(delay).await;
            delay = (2 * delay).min(DELAYS[1]);
        }
    }
}

/// Whether a repeat may succeed because the connection, or what serves it, comes back.
fn is_transient(fault: &Fault) -> bool {
    let is_connection = matches!(
        fault.reason,
        Reason::RegistryUnavailable | Reason::PushFailed | Reason::TimedOut | Reason::RateLimited
    );
    is_connection && !fault.is_stalled()
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use super::*;

    fn broken() -> Fault {
        Fault::retryable(Reason::RegistryUnavailable, "refused")
    }

    /// Runs work that fails `failures` times by `fault`, each time after `bytes` more than before. The result and the attempts.
    async fn attempts(retries: &Retries, failures: u64, bytes: u64, fault: &Fault) -> (Result<(), Fault>, u64) {
        let (progress, count) = (Progress::default(), Cell::new(0));
        let result = retries.run(&progress, async || {
            count.set(count.get() + 1);
            progress.add_moved(bytes * count.get());
            match count.get() > failures {
                true => Ok(()),
                false => Err(fault.clone()),
            }
        });
        let result = result.await;
        if result.is_ok() {
            assert_eq!(progress.done(), bytes * count.get(), "failed attempts do not count");
        }
        (result, count.get())
    }

    #[tokio::test(start_paused = true)]
    async fn a_broken_connection_is_retried_as_long_as_there_is_progress() {
        let retries = Retries::new(Duration::from_secs(60));
        // A destination that was never reached.
        assert_eq!(attempts(&retries, 1, 0, &broken()).await, (Err(broken()), 1));
        assert_eq!(attempts(&retries, 0, 0, &broken()).await, (Ok(()), 1));
        assert_eq!(attempts(&retries, 5, 0, &broken()).await, (Ok(()), 6));
        let (result, count) = attempts(&retries, 100, 0, &broken()).await;
        assert!(result.is_err() && (8..14).contains(&count), "{count}");
        assert_eq!(attempts(&retries, 100, 1, &broken()).await, (Ok(()), 101));
        for other in [
            Fault::stalled(Reason::PushFailed, "no"),
            Fault::retryable(Reason::AuthenticationFailed, "no"),
            Fault::retryable(Reason::SourceFailed, "no"),
        ] {
            assert_eq!(attempts(&retries, 1, 1, &other).await, (Err(other.clone()), 1));
        }
        let none = Retries::new(Duration::ZERO);
        assert_eq!(attempts(&none, 1, 1, &broken()).await, (Err(broken()), 1));
    }
}

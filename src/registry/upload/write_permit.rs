//! The permit to write to a registry, which an upload holds while its content flows.

use std::time::{Duration, Instant};

use tokio::sync::OwnedSemaphorePermit;

use crate::registry::client::Registry;
use crate::registry::error::Error;

/// Time without content after which the permit is released to other uploads.
pub(super) const MAX_IDLE: Duration = Duration::from_secs(1);
/// The period over which throughput is measured.
const PERIOD: Duration = Duration::from_secs(2);
/// Bytes per period that an upload needs to keep its permit. A slower upload uses little capacity of the registry, and
/// would block others for as long as it runs, for example with a source that sends a byte now and then.
const MIN_BYTES: u64 = 128 * 1024;

/// The permit of one upload.
pub(super) struct WritePermit {
    registry: Registry,
    permit: Option<OwnedSemaphorePermit>,
    throughput: ThroughputMeter,
}

impl WritePermit {
    /// Acquires a permit.
    pub async fn acquire(registry: &Registry) -> Result<Self, Error> {
        Ok(Self {
            permit: Some(registry.write_permit().await?),
            registry: registry.clone(),
            throughput: ThroughputMeter::start(Instant::now()),
        })
    }

    /// Releases the permit while no content arrives.
    pub fn release(&mut self) {
        self.permit = None;
        self.throughput = ThroughputMeter::start(Instant::now());
    }

    /// Records that `bytes` arrived, and acquires a permit again if the throughput is sufficient.
    pub async fn record(&mut self, bytes: u64) -> Result<(), Error> {
        match self.throughput.record(bytes, Instant::now()) {
            Some(true) if self.permit.is_none() => {
                self.permit = Some(self.registry.write_permit().await?);
                self.throughput = ThroughputMeter::start(Instant::now());
            }
            Some(false) => self.permit = None,
            Some(true) | None => {}
        }
        Ok(())
    }
}

/// Measures throughput per period.
#[derive(Debug)]
struct ThroughputMeter {
    since: Instant,
    bytes: u64,
}

impl ThroughputMeter {
    fn start(now: Instant) -> Self {
        Self { since: now, bytes: 0 }
    }

    /// Whether the throughput is sufficient, at the end of each period.
    fn record(&mut self, bytes: u64, now: Instant) -> Option<bool> {
        self.bytes += bytes;
        let elapsed = now.saturating_duration_since(self.since);
        if elapsed < PERIOD {
            return None;
        }
        let min_bytes = (MIN_BYTES as f64 * elapsed.as_secs_f64() / PERIOD.as_secs_f64()) as u64;
        let is_sufficient = self.bytes >= min_bytes;
        *self = Self::start(now);
        Some(is_sufficient)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::registry::Endpoint;

    #[test]
    fn slow_content_is_not_sufficient() {
        let start = Instant::now();
        let mut throughput = ThroughputMeter::start(start);
        assert_eq!(throughput.record(MIN_BYTES, start + PERIOD / 2), None);
        assert_eq!(throughput.record(1, start + PERIOD), Some(true));
        assert_eq!(throughput.record(MIN_BYTES - 1, start + PERIOD * 2), Some(false));
        assert_eq!(
            throughput.record(MIN_BYTES, start + PERIOD * 4),
            Some(false),
            "in twice the time"
        );
        assert_eq!(throughput.record(2 * MIN_BYTES, start + PERIOD * 6), Some(true));
    }

    #[tokio::test]
    async fn a_released_permit_goes_to_another_upload() {
        let _ = rustls::crypto::ring::default_provider().install_default();
        let registry = Registry::new(Endpoint {
            connections: 1,
            ..Endpoint::new("permits.test:5000")
        })
        .unwrap();
        let mut first = WritePermit::acquire(&registry).await.unwrap();
        let mut second = std::pin::pin!(WritePermit::acquire(&registry));
        assert!(futures::poll!(&mut second).is_pending());
        first.release();
        let second = second.await.unwrap();
        // Slow content continues without a permit.
        first.record(1).await.unwrap();
        drop(second);
    }
}

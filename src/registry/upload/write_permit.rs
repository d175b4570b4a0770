//! The right to write to a registry, which an upload has while its content flows.

use std::time::{Duration, Instant};

use tokio::sync::OwnedSemaphorePermit;

use crate::registry::client::Registry;
use crate::registry::error::Error;

/// How long content may fail to come before the permit is given to another upload.
pub(super) const PAUSE: Duration = Duration::from_secs(1);
/// How long is measured whether content flows.
const MEASURED: Duration = Duration::from_secs(2);
/// Bytes in that time of which an upload keeps its permit. What is slower takes little of a registry, and would hold up others
/// for as long as it lasts, as a source can that sends a byte now and then.
const FLOWING: u64 = 128 * 1024;

/// The permit of one upload.
pub(super) struct WritePermit {
    registry: Registry,
    permit: Option<OwnedSemaphorePermit>,
    flow: ThroughputMeter,
}

impl WritePermit {
    /// Waits for a permit.
    pub async fn acquire(registry: &Registry) -> Result<Self, Error> {
        Ok(Self {
            permit: Some(registry.writing().await?),
            registry: registry.clone(),
            flow: ThroughputMeter::begin(Instant::now()),
        })
    }

    /// Nothing comes: others may write meanwhile.
    pub fn pause(&mut self) {
        self.permit = None;
        self.flow = ThroughputMeter::begin(Instant::now());
    }

    /// Notes that `bytes` came, and waits for a permit where content flows and there is none.
    pub async fn carry(&mut self, bytes: u64) -> Result<(), Error> {
        match self.flow.note(bytes, Instant::now()) {
            Some(true) if self.permit.is_none() => {
                self.permit = Some(self.registry.writing().await?);
                self.flow = ThroughputMeter::begin(Instant::now());
            }
            Some(false) => self.permit = None,
            Some(true) | None => {}
        }
        Ok(())
    }
}

/// How much came lately.
#[derive(Debug)]
struct ThroughputMeter {
    since: Instant,
    bytes: u64,
}

impl ThroughputMeter {
    fn begin(now: Instant) -> Self {
        Self { since: now, bytes: 0 }
    }

    /// Whether content flows, at the end of each time that is measured.
    fn note(&mut self, bytes: u64, now: Instant) -> Option<bool> {
        self.bytes += bytes;
        let measured = now.saturating_duration_since(self.since);
        if measured < MEASURED {
            return None;
        }
        let least = (FLOWING as f64 * measured.as_secs_f64() / MEASURED.as_secs_f64()) as u64;
        let flows = self.bytes >= least;
        *self = Self::begin(now);
        Some(flows)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::registry::Endpoint;

    #[test]
    fn what_comes_slowly_does_not_flow() {
        let begin = Instant::now();
        let mut flow = ThroughputMeter::begin(begin);
        assert_eq!(flow.note(FLOWING, begin + MEASURED / 2), None);
        assert_eq!(flow.note(1, begin + MEASURED), Some(true));
        assert_eq!(flow.note(FLOWING - 1, begin + MEASURED * 2), Some(false));
        assert_eq!(
            flow.note(FLOWING, begin + MEASURED * 4),
            Some(false),
            "in twice the time"
        );
        assert_eq!(flow.note(2 * FLOWING, begin + MEASURED * 6), Some(true));
    }

    #[tokio::test]
    async fn who_pauses_leaves_room_for_another() {
        let _ = rustls::crypto::ring::default_provider().install_default();
        let registry = Registry::new(Endpoint {
            connections: 1,
            ..Endpoint::new("permits.test:5000")
        })
        .unwrap();
        let mut first = WritePermit::acquire(&registry).await.unwrap();
        let mut second = std::pin::pin!(WritePermit::acquire(&registry));
        assert!(futures::poll!(&mut second).is_pending());
        first.pause();
        let second = second.await.unwrap();
        // Slow content goes on without.
        first.carry(1).await.unwrap();
        drop(second);
    }
}

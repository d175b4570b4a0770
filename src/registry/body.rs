//! Bodies of answers that are held as a whole. Who answers decides how long they are, so only a few long ones are read at the
//! same time in a process, whatever registries they come from.

use std::time::Duration;

use bytes::Bytes;
use tokio::sync::{Semaphore, SemaphorePermit};
use tokio::time::{Instant, timeout_at};

use super::error::{Error, Kind};

/// Bytes of a body that are read without a permit. Nearly all manifests and listings are shorter.
const SHORT: usize = 64 * 1024;
/// Bytes of a body that are read with the first permit: those of a manifest.
const LONG: usize = 4 * 1024 * 1024;

/// For bodies longer than [`SHORT`].
static LONG_BODIES: Semaphore = Semaphore::const_new(4);
/// For those longer than [`LONG`] besides: indexes of chart repositories, charts, listings of many tags. Always acquired after
/// the other one.
static LONGEST_BODIES: Semaphore = Semaphore::const_new(1);

/// The body of an answer.
#[derive(Debug)]
pub struct Body {
    /// Its bytes.
    pub bytes: Bytes,
    /// What a long one has been read with: as long as it is held, few other long ones are.
    _permits: BodyPermits,
}

/// The permits of one body that grows, held until it is dropped.
#[derive(Debug, Default)]
pub struct BodyPermits {
    long: Option<SemaphorePermit<'static>>,
    longest: Option<SemaphorePermit<'static>>,
}

impl BodyPermits {
    /// Waits for what a body of `length` bytes needs.
    pub async fn grow(&mut self, length: usize) {
        // They are never closed.
        if length > SHORT && self.long.is_none() {
            self.long = LONG_BODIES.acquire().await.ok();
        }
        if length > LONG && self.longest.is_none() {
            self.longest = LONGEST_BODIES.acquire().await.ok();
        }
    }
}

/// The body of an answer of at most `limit` bytes, which has to be there within `time`; waiting for others' bodies does not
/// count.
pub(super) async fn body_within(
    response: &mut reqwest::Response,
    limit: usize,
    time: Duration,
    label: &str,
) -> Result<Body, Error> {
    let mut permits = BodyPermits::default();
    let mut deadline = Instant::now() + time;
    let mut body = Vec::new();
    loop {
        let chunk = timeout_at(deadline, response.chunk()).await;
        let chunk = chunk.map_err(|_| Error::timed_out(label, time))?;
        let Some(chunk) = chunk.map_err(|error| Error::transport(label, &error.without_url()))? else {
            return Ok(Body {
                bytes: body.into(),
                _permits: permits,
            });
        };
        let length = body.len() + chunk.len();
        if length > limit {
            let detail = format!("the answer has more than the {limit} bytes that are read");
            return Err(Error::new(Kind::TooLarge, label, detail));
        }
        let waited = Instant::now();
        permits.grow(length).await;
        deadline += waited.elapsed();
        body.extend_from_slice(&chunk);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn few_long_bodies_are_read_at_the_same_time() {
        let mut held = Vec::new();
        for _ in 0..4 {
            let mut permits = BodyPermits::default();
            permits.grow(SHORT + 1).await;
            held.push(permits);
        }
        let (mut short, mut long) = (BodyPermits::default(), BodyPermits::default());
        short.grow(SHORT).await;
        let mut waiting = std::pin::pin!(long.grow(SHORT + 1));
        assert!(futures::poll!(&mut waiting).is_pending());
        held.pop();
        waiting.await;
        drop(held);
        let (mut first, mut second) = (BodyPermits::default(), BodyPermits::default());
        first.grow(LONG + 1).await;
        let mut waiting = std::pin::pin!(second.grow(LONG + 1));
        assert!(futures::poll!(&mut waiting).is_pending());
        drop(first);
        waiting.await;
    }
}

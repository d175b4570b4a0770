//! Response bodies that are read into memory. The server decides how long they are, so a process reads only a few long
//! ones at a time, whatever registries they come from.

use std::borrow::Cow;
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::{Semaphore, SemaphorePermit};
use tokio::time::{Instant, timeout_at};

use super::error::{Error, Kind};
use super::explanation::{decompress, is_gzip};

/// Bytes of a body that are read without a permit. Nearly all manifests and listings are shorter.
const SHORT_BODY: usize = 64 * 1024;
/// Bytes of a body that are read with the first permit: the size limit of a manifest.
const MANIFEST_SIZE: usize = 4 * 1024 * 1024;

/// How long a body with a permit may take, beside [`MIN_RATE`].
const GRACE: Duration = Duration::from_secs(60);
/// Bytes per second that a body with a permit must have: others wait for the permit, whatever timeout this one has.
const MIN_RATE: u64 = 128 * 1024;

/// Permits for bodies longer than [`SHORT_BODY`].
static LONG_BODIES: Semaphore = Semaphore::const_new(4);
/// Additional permit for bodies longer than [`MANIFEST_SIZE`]: indexes of chart repositories, charts, long tag
/// listings. Always acquired after the other permit.
static LONGEST_BODIES: Semaphore = Semaphore::const_new(1);

/// The body of a response.
#[derive(Debug)]
pub struct Body {
    /// The content.
    pub bytes: Bytes,
    /// Limits the number of long bodies for as long as this one is in memory.
    _permits: BodyPermits,
}

impl Body {
    /// The content, decompressed if it is gzip: some servers compress responses although no request allows it. A compressed
    /// content of more than `limit` bytes, or a damaged one, gives nothing.
    pub fn decompressed(&self, limit: usize) -> Option<Bytes> {
        match decompress(&self.bytes, limit.saturating_add(1)) {
            (Cow::Borrowed(_), _) => Some(self.bytes.clone()),
            (Cow::Owned(content), is_whole) => is_whole.then(|| content.into()),
        }
    }
}

/// The permits of one growing body, held until they are dropped.
#[derive(Debug, Default)]
pub struct BodyPermits {
    long: Option<SemaphorePermit<'static>>,
    longest: Option<SemaphorePermit<'static>>,
    /// When the last permit was acquired, and the length of the body then.
    acquired: Option<(Instant, usize)>,
}

impl BodyPermits {
    /// Acquires the permits that a body of `length` bytes needs.
    pub async fn grow(&mut self, length: usize) {
        // The semaphores are never closed.
        if length > SHORT_BODY && self.long.is_none() {
            self.long = LONG_BODIES.acquire().await.ok();
            self.acquired = Some((Instant::now(), length));
        }
        if length > MANIFEST_SIZE && self.longest.is_none() {
            self.longest = LONGEST_BODIES.acquire().await.ok();
            self.acquired = Some((Instant::now(), length));
        }
    }

    /// When a body of `length` bytes must have more, if it must end before `deadline`.
    pub fn deadline(&self, length: usize, deadline: Instant) -> Instant {
        let Some((at, known)) = self.acquired else {
            return deadline;
        };
        let received = u64::try_from(length.saturating_sub(known)).unwrap_or(u64::MAX);
        deadline.min(at + GRACE + Duration::from_millis(received.saturating_mul(1000) / MIN_RATE))
    }
}

/// Reads a response body of at most `limit` bytes within `time_limit`. Waiting for permits does not count.
pub(super) async fn read_body(
    response: &mut reqwest::Response,
    limit: usize,
    time_limit: Duration,
    label: &str,
) -> Result<Body, Error> {
    let mut permits = BodyPermits::default();
    let mut deadline = Instant::now() + time_limit;
    let mut body = Vec::new();
    loop {
        let chunk = timeout_at(permits.deadline(body.len(), deadline), response.chunk()).await;
        let chunk = chunk.map_err(|_| Error::timed_out(label, time_limit.min(GRACE)))?;
        let Some(chunk) = chunk.map_err(|error| Error::transport(label, &error.without_url()))? else {
            return Ok(Body {
                bytes: body.into(),
                _permits: permits,
            });
        };
        let length = body.len() + chunk.len();
        if length > limit {
            let detail = format!("the response is longer than the limit of {limit} bytes");
            return Err(Error::new(Kind::TooLarge, label, detail));
        }
        let waited = Instant::now();
        permits.grow(length).await;
        deadline += waited.elapsed();
        body.extend_from_slice(&chunk);
    }
}

/// Like [`read_body`], for a document, which is decompressed if it is gzip; `limit` applies to both forms.
pub(super) async fn read_document(
    response: &mut reqwest::Response,
    limit: usize,
    time_limit: Duration,
    label: &str,
) -> Result<Bytes, Error> {
    let mut body = read_body(response, limit, time_limit, label).await?;
    if !is_gzip(&body.bytes) {
        return Ok(body.bytes);
    }
    body._permits.grow(limit).await;
    let detail = || format!("the response is compressed, and is damaged or longer than the limit of {limit} bytes");
    let content = body.decompressed(limit);
    content.ok_or_else(|| Error::new(Kind::Protocol, label, detail()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_body_with_a_permit_must_keep_flowing() {
        let now = Instant::now();
        let (soon, late) = (now + Duration::from_secs(10), now + Duration::from_secs(900));
        let mut permits = BodyPermits::default();
        assert_eq!(permits.deadline(1000, late), late);
        permits.acquired = Some((now, 70_000));
        assert_eq!(permits.deadline(70_000, late), now + GRACE);
        assert_eq!(permits.deadline(70_000, soon), soon);
        let rate = usize::try_from(MIN_RATE).unwrap();
        assert_eq!(
            permits.deadline(70_000 + 5 * rate, late),
            now + GRACE + Duration::from_secs(5)
        );
        assert_eq!(permits.deadline(usize::MAX, late), late);
    }

    #[tokio::test]
    async fn long_bodies_wait_for_a_permit() {
        let mut held = Vec::new();
        for _ in 0..4 {
            let mut permits = BodyPermits::default();
            permits.grow(SHORT_BODY + 1).await;
            held.push(permits);
        }
        let (mut short, mut long) = (BodyPermits::default(), BodyPermits::default());
        short.grow(SHORT_BODY).await;
        let mut waiting = std::pin::pin!(long.grow(SHORT_BODY + 1));
        assert!(futures::poll!(&mut waiting).is_pending());
        held.pop();
        waiting.await;
        drop(held);
        let (mut first, mut second) = (BodyPermits::default(), BodyPermits::default());
        first.grow(MANIFEST_SIZE + 1).await;
        let mut waiting = std::pin::pin!(second.grow(MANIFEST_SIZE + 1));
        assert!(futures::poll!(&mut waiting).is_pending());
        drop(first);
        waiting.await;
    }
}

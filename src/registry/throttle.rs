//! Delays requests to a registry: by its own `Retry-After`, and by the configured rate.

use std::num::NonZeroU32;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use governor::clock::{Clock as _, DefaultClock};
use governor::{DefaultDirectRateLimiter, Quota, RateLimiter};
use reqwest::header::{HeaderMap, RETRY_AFTER};
use tokio::time::Instant;

use super::error::{Error, Kind, MAX_RETRY_DELAY};

/// Maximum of an accepted `Retry-After`.
const MAX_RETRY_AFTER: Duration = Duration::from_secs(3600);
/// Random extra delay, so that waiting requests do not start at the same moment.
const MAX_JITTER: Duration = Duration::from_millis(100);

/// Delays all requests to one registry.
#[derive(Debug, Default)]
pub(super) struct Throttle {
    requested: Mutex<Option<RequestedDelay>>,
    rate: Option<Rate>,
}

/// A number of requests per second, which is also the burst size (GCRA).
#[derive(Debug)]
struct Rate {
    limiter: DefaultDirectRateLimiter,
    clock: DefaultClock,
}

#[derive(Clone, Debug)]
struct RequestedDelay {
    until: Instant,
    /// The message of the response, for requests that fail without being sent.
    message: String,
}

impl Throttle {
    /// Allows at most `rate` requests per second.
    pub fn new(rate: Option<NonZeroU32>) -> Self {
        let rate = rate.map(|rate| Rate {
            limiter: RateLimiter::direct(Quota::per_second(rate)),
            clock: DefaultClock::default(),
        });
        Self {
            requested: Mutex::default(),
            rate,
        }
    }

    /// Records the `Retry-After` of an error response.
    pub fn record_retry_after(&self, error: &Error) {
        let Kind::RateLimited { after: Some(after) } = error.kind() else {
            return;
        };
        let until = Instant::now() + (*after).min(MAX_RETRY_AFTER);
        let mut requested = self.requested.lock().unwrap_or_else(PoisonError::into_inner);
        if requested.as_ref().is_none_or(|requested| requested.until < until) {
            *requested = Some(RequestedDelay {
                until,
                message: error.detail().to_owned(),
            });
        }
    }

    /// Waits until a request may be sent. The caller holds a permit, so few requests wait here.
    ///
    /// # Errors
    /// When the registry requests a longer delay than [`MAX_RETRY_DELAY`].
    pub async fn wait(&self, label: &str) -> Result<(), Error> {
        self.wait_for_retry_after(label).await?;
        if let Some(Rate { limiter, clock }) = &self.rate {
            while let Err(early) = limiter.check() {
                tokio::time::sleep(early.wait_time_from(clock.now())).await;
            }
        }
        Ok(())
    }

    async fn wait_for_retry_after(&self, label: &str) -> Result<(), Error> {
        let limit = Instant::now() + MAX_RETRY_DELAY;
        loop {
            let requested = self.requested.lock().unwrap_or_else(PoisonError::into_inner).clone();
            let Some(RequestedDelay { until, message }) =
                requested.filter(|requested| requested.until > Instant::now())
            else {
                return Ok(());
            };
            if until > limit {
                let after = Some(until - Instant::now());
                return Err(Error::new(Kind::RateLimited { after }, label, message));
            }
            tokio::time::sleep_until(until + MAX_JITTER.mul_f64(fastrand::f64())).await;
        }
    }
}

/// `Retry-After`, in seconds or as a date (RFC 9110), at most an hour.
pub(super) fn retry_after(headers: &HeaderMap) -> Option<Duration> {
    let text = headers.get(RETRY_AFTER)?.to_str().ok()?.trim();
    let seconds = match text.parse::<u64>() {
        Ok(seconds) => seconds,
        Err(_) => {
            let at = jiff::fmt::rfc2822::parse(text).ok()?.timestamp();
            u64::try_from(at.as_second() - jiff::Timestamp::now().as_second()).unwrap_or(0)
        }
    };
    Some(Duration::from_secs(seconds).min(MAX_RETRY_AFTER))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn retry_after_is_parsed_and_bounded() {
        let read = |text: &str| {
            let mut headers = HeaderMap::new();
            headers.insert(RETRY_AFTER, text.parse().unwrap());
            retry_after(&headers).map(|after| after.as_secs())
        };
        assert_eq!(read("7"), Some(7));
        assert_eq!(read("99999999999"), Some(3600));
        assert_eq!(read("Sun, 06 Nov 1994 08:49:37 GMT"), Some(0));
        assert_eq!(read("Fri, 31 Dec 2100 23:59:59 GMT"), Some(3600));
        assert_eq!(read("soon"), None);
    }

    #[tokio::test]
    async fn the_rate_applies_after_the_burst() {
        let throttle = Throttle::new(NonZeroU32::new(20));
        let begin = std::time::Instant::now();
        for _ in 0..20 {
            throttle.wait("GET y").await.unwrap();
        }
        for _ in 0..10 {
            throttle.wait("GET y").await.unwrap();
        }
        // 20 at once, and then one every 50 ms.
        assert!(begin.elapsed() >= Duration::from_millis(450), "{:?}", begin.elapsed());
    }

    fn rate_limit_error(seconds: u64) -> Error {
        Error::from_status("GET x", 429, Some(Duration::from_secs(seconds)), b"")
    }

    #[tokio::test(start_paused = true)]
    async fn requests_wait_for_retry_after_or_fail() {
        let throttle = Throttle::default();
        let begin = Instant::now();
        throttle.wait("GET y").await.unwrap();
        assert_eq!(begin.elapsed(), Duration::ZERO);
        throttle.record_retry_after(&rate_limit_error(5));
        throttle.record_retry_after(&rate_limit_error(2));
        throttle.wait("GET y").await.unwrap();
        assert!(begin.elapsed() >= Duration::from_secs(5) && begin.elapsed() < Duration::from_secs(6));
        throttle.record_retry_after(&rate_limit_error(120));
        let error = throttle.wait("GET y").await.unwrap_err();
        assert_eq!(error.to_string(), "GET y: the registry answered 429");
        let after = Some(Duration::from_secs(120));
        assert_eq!(error.kind(), &Kind::RateLimited { after });
        tokio::time::sleep(Duration::from_secs(121)).await;
        throttle.wait("GET y").await.unwrap();
    }
}

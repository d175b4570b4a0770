//! How often a registry is asked: what it wants itself (`Retry-After`), and what its operator allows.

use std::num::NonZeroU32;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use governor::clock::{Clock as _, DefaultClock};
use governor::{DefaultDirectRateLimiter, Quota, RateLimiter};
use reqwest::header::{HeaderMap, RETRY_AFTER};
use tokio::time::Instant;

use super::error::{Error, Kind, LONGEST_PAUSE};

/// No registry is waited for longer, whatever it asks.
const LONGEST_PATIENCE: Duration = Duration::from_secs(3600);
/// All who wait do not begin in the same moment.
const SPREAD: Duration = Duration::from_millis(100);

/// When one registry may be asked again, for all who ask it something.
#[derive(Debug, Default)]
pub(super) struct Throttle {
    asked: Mutex<Option<Asked>>,
    rate: Option<Rate>,
}

/// So many requests a second, as many at once after a pause (GCRA).
#[derive(Debug)]
struct Rate {
    limiter: DefaultDirectRateLimiter,
    clock: DefaultClock,
}

#[derive(Clone, Debug)]
struct Asked {
    until: Instant,
    /// In which words, for the messages of those who are not even sent.
    words: String,
}

impl Throttle {
    /// With at most `rate` requests a second.
    pub fn new(rate: Option<NonZeroU32>) -> Self {
        let rate = rate.map(|rate| Rate {
            limiter: RateLimiter::direct(Quota::per_second(rate)),
            clock: DefaultClock::default(),
        });
        Self {
            asked: Mutex::default(),
            rate,
        }
    }

    /// Notes what `error`, an answer of the registry, asks for.
    pub fn note(&self, error: &Error) {
        let Kind::RateLimited { after: Some(after) } = error.kind() else {
            return;
        };
        let until = Instant::now() + (*after).min(LONGEST_PATIENCE);
        let mut asked = self.asked.lock().unwrap_or_else(PoisonError::into_inner);
        if asked.as_ref().is_none_or(|asked| asked.until < until) {
            *asked = Some(Asked {
                until,
                words: error.detail().to_owned(),
            });
        }
    }

    /// Waits until the registry may be asked again. Who waits has a connection's turn, so few do.
    ///
    /// # Errors
    /// When the registry asks for more than a request waits.
    pub async fn keep(&self, call: &str) -> Result<(), Error> {
        self.listen(call).await?;
        if let Some(Rate { limiter, clock }) = &self.rate {
            while let Err(early) = limiter.check() {
                tokio::time::sleep(early.wait_time_from(clock.now())).await;
            }
        }
        Ok(())
    }

    async fn listen(&self, call: &str) -> Result<(), Error> {
        let limit = Instant::now() + LONGEST_PAUSE;
        loop {
            let asked = self.asked.lock().unwrap_or_else(PoisonError::into_inner).clone();
            let Some(Asked { until, words }) = asked.filter(|asked| asked.until > Instant::now()) else {
                return Ok(());
            };
            if until > limit {
                let after = Some(until - Instant::now());
                return Err(Error::new(Kind::RateLimited { after }, call, words));
            }
            tokio::time::sleep_until(until + SPREAD.mul_f64(fastrand::f64())).await;
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
    Some(Duration::from_secs(seconds).min(LONGEST_PATIENCE))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patience_is_read_and_bounded() {
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
    async fn a_rate_is_kept_after_its_burst() {
        let patience = Throttle::new(NonZeroU32::new(20));
        let begin = std::time::Instant::now();
        for _ in 0..20 {
            patience.keep("GET y").await.unwrap();
        }
        for _ in 0..10 {
            patience.keep("GET y").await.unwrap();
        }
        // 20 at once, and one every 50 ms.
        assert!(begin.elapsed() >= Duration::from_millis(450), "{:?}", begin.elapsed());
    }

    fn asks(seconds: u64) -> Error {
        Error::status("GET x", 429, Some(Duration::from_secs(seconds)), b"")
    }

    #[tokio::test(start_paused = true)]
    async fn nobody_asks_before_the_time_and_nobody_waits_for_long() {
        let patience = Throttle::default();
        let begin = Instant::now();
        patience.keep("GET y").await.unwrap();
        assert_eq!(begin.elapsed(), Duration::ZERO);
        patience.note(&asks(5));
        patience.note(&asks(2));
        patience.keep("GET y").await.unwrap();
        assert!(begin.elapsed() >= Duration::from_secs(5) && begin.elapsed() < Duration::from_secs(6));
        patience.note(&asks(120));
        let error = patience.keep("GET y").await.unwrap_err();
        assert_eq!(error.to_string(), "GET y: the registry answered 429");
        let after = Some(Duration::from_secs(120));
        assert_eq!(error.kind(), &Kind::RateLimited { after });
        tokio::time::sleep(Duration::from_secs(121)).await;
        patience.keep("GET y").await.unwrap();
    }
}

//! Claims: which process transfers an image. They are taken by optimistic concurrency, and stale if they do not change.

use std::time::{Duration, Instant};

use crate::api::v1alpha1::Claim;

/// How often a holder renews its claim, with the progress.
pub const CLAIM_RENEW_INTERVAL: Duration = Duration::from_secs(5);
/// How long a claim may stay unchanged, by the observer's own clock, before another process may take it. The clocks of
/// two machines are never compared.
pub const CLAIM_STALE_AFTER: Duration = Duration::from_secs(40);

/// A claim as this process last saw it.
#[derive(Clone, Debug)]
pub struct ObservedClaim {
    claim: Claim,
    since: Instant,
}

/// How long `me` still has to wait for another process's claim; `None` if the image is free. `seen` is the claim as this
/// process last saw it, and is updated.
pub fn remaining_hold(
    seen: &mut Option<ObservedClaim>,
    claim: Option<&Claim>,
    me: &str,
    now: Instant,
) -> Option<Duration> {
    let Some(claim) = claim.filter(|claim| claim.holder != me) else {
        *seen = None;
        return None;
    };
    match seen {
        Some(known) if known.claim == *claim => {
            let left = CLAIM_STALE_AFTER.saturating_sub(now.saturating_duration_since(known.since));
            (left > Duration::ZERO).then_some(left)
        }
        _ => {
            *seen = Some(ObservedClaim {
                claim: claim.clone(),
                since: now,
            });
            Some(CLAIM_STALE_AFTER)
        }
    }
}

#[cfg(test)]
mod tests {
    use k8s_openapi::apimachinery::pkg::apis::meta::v1::MicroTime;

    use super::*;

    fn claim(holder: &str, second: i64) -> Claim {
        Claim {
            holder: holder.to_owned(),
            renew_time: MicroTime(jiff::Timestamp::from_second(second).unwrap()),
        }
    }

    #[test]
    fn an_unchanged_claim_becomes_stale() {
        let (mut seen, start) = (None, Instant::now());
        assert_eq!(remaining_hold(&mut seen, None, "me", start), None);
        assert_eq!(remaining_hold(&mut seen, Some(&claim("me", 1)), "me", start), None);
        assert_eq!(
            remaining_hold(&mut seen, Some(&claim("other", 1)), "me", start),
            Some(CLAIM_STALE_AFTER)
        );
        let later = start + Duration::from_secs(30);
        assert_eq!(
            remaining_hold(&mut seen, Some(&claim("other", 1)), "me", later),
            Some(Duration::from_secs(10))
        );
        assert_eq!(
            remaining_hold(&mut seen, Some(&claim("other", 2)), "me", later),
            Some(CLAIM_STALE_AFTER),
            "a renewal counts"
        );
        assert_eq!(
            remaining_hold(&mut seen, Some(&claim("other", 2)), "me", later + CLAIM_STALE_AFTER),
            None
        );
    }

    #[test]
    fn the_renew_time_of_a_claim_is_ignored() {
        let start = Instant::now();
        for second in [i64::MIN, -1, 0, i64::MAX] {
            let second = second.clamp(jiff::Timestamp::MIN.as_second(), jiff::Timestamp::MAX.as_second());
            let mut seen = None;
            let claim = claim("other", second);
            assert_eq!(
                remaining_hold(&mut seen, Some(&claim), "me", start),
                Some(CLAIM_STALE_AFTER),
                "{second}"
            );
            assert_eq!(
                remaining_hold(&mut seen, Some(&claim), "me", start + CLAIM_STALE_AFTER),
                None,
                "{second}"
            );
        }
    }
}

//! Who moves an image: claims, taken by optimistic concurrency and stale when they stand still.

use std::time::{Duration, Instant};

use crate::api::v1alpha1::Claim;

/// How often a holder renews its claim, with the progress.
pub const CLAIM_RENEW_INTERVAL: Duration = Duration::from_secs(5);
/// How long a claim may stand unchanged, by the observer's own clock, before another may take it. Clocks of
/// two machines are never compared.
pub const CLAIM_STALE_AFTER: Duration = Duration::from_secs(40);

/// A claim as this process saw it last.
#[derive(Clone, Debug)]
pub struct ObservedClaim {
    claim: Claim,
    since: Instant,
}

/// How long another's claim still keeps `me` from the image; `None` when the image is free. `seen` is this
/// process's memory of the claim and is brought up to date.
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
    fn goes_stale_by_standing_still() {
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
    fn what_a_claim_says_of_the_time_means_nothing() {
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

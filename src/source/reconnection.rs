//! The wait before a watch connects again, and whether its loss was reported.

use std::time::Duration;

/// The first wait after a lost connection; it doubles up to [`LAST_WAIT`].
const FIRST_WAIT: Duration = Duration::from_millis(250);
const LAST_WAIT: Duration = Duration::from_secs(30);

/// The attempts of one watch to connect.
#[derive(Debug, Default)]
pub(super) struct Reconnection {
    wait: Option<Duration>,
    lost: bool,
}

impl Reconnection {
    /// Waits before the next attempt. The first is made at once.
    pub async fn wait(&self) {
        if let Some(wait) = self.wait {
            // Watches on many nodes may lose their connection at the same time.
            tokio::time::sleep(wait.mul_f64(0.5 + fastrand::f64() / 2.0)).await;
        }
    }

    /// The watch is connected.
    pub fn record_success(&mut self) {
        *self = Self::default();
    }

    /// An attempt failed, or the connection was lost. Returns whether this is the first failure since the last connection.
    pub fn record_failure(&mut self) -> bool {
        self.wait = Some(self.wait.map_or(FIRST_WAIT, |wait| (wait * 2).min(LAST_WAIT)));
        !std::mem::replace(&mut self.lost, true)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_double_and_the_first_failure_is_reported() {
        let mut reconnection = Reconnection::default();
        assert_eq!(reconnection.wait, None);
        assert!(reconnection.record_failure());
        assert_eq!(reconnection.wait, Some(FIRST_WAIT));
        for _ in 0..20 {
            assert!(!reconnection.record_failure());
        }
        assert_eq!(reconnection.wait, Some(LAST_WAIT));
        reconnection.record_success();
        assert!(reconnection.record_failure());
        assert_eq!(reconnection.wait, Some(FIRST_WAIT));
    }
}

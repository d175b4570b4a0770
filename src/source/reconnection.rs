//! Watching something that may go away: how long until the next try, and who was told.

use std::time::Duration;

/// The first wait after a lost connection; it doubles up to [`LAST_WAIT`].
const FIRST_WAIT: Duration = Duration::from_millis(250);
const LAST_WAIT: Duration = Duration::from_secs(30);

/// The tries of one watch to be connected.
#[derive(Debug, Default)]
pub(super) struct Reconnection {
    wait: Option<Duration>,
    lost: bool,
}

impl Reconnection {
    /// Waits for the next try; not before the very first.
    pub async fn pause(&self) {
        if let Some(wait) = self.wait {
            // Watches on many nodes may have lost what they watch at the same moment.
            tokio::time::sleep(wait.mul_f64(0.5 + fastrand::f64() / 2.0)).await;
        }
    }

    /// The connection stands.
    pub fn connected(&mut self) {
        *self = Self::default();
    }

    /// A try failed, or the connection broke. Whether that is news.
    pub fn lost(&mut self) -> bool {
        self.wait = Some(self.wait.map_or(FIRST_WAIT, |wait| (wait * 2).min(LAST_WAIT)));
        !std::mem::replace(&mut self.lost, true)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_longer_each_time_and_tells_once() {
        let mut reconnection = Reconnection::default();
        assert_eq!(reconnection.wait, None);
        assert!(reconnection.lost());
        assert_eq!(reconnection.wait, Some(FIRST_WAIT));
        for _ in 0..20 {
            assert!(!reconnection.lost());
        }
        assert_eq!(reconnection.wait, Some(LAST_WAIT));
        reconnection.connected();
        assert!(reconnection.lost());
        assert_eq!(reconnection.wait, Some(FIRST_WAIT));
    }
}

//! Warnings that clients can cause, of which the log takes few.

use std::sync::Mutex;
use std::sync::PoisonError;
use std::time::{Duration, Instant};

/// The time between two lines.
const INTERVAL: Duration = Duration::from_secs(10);

/// One kind of warning.
#[derive(Debug, Default)]
pub(super) struct LogLimit(Mutex<Option<(Instant, u64)>>);

impl LogLimit {
    /// Whether to write a line now, with the number of those that were left out since the last one.
    pub fn admits(&self) -> Option<u64> {
        let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        match &mut *state {
            Some((last, omitted)) if last.elapsed() < INTERVAL => {
                *omitted += 1;
                None
            }
            other => {
                let omitted = other.map_or(0, |(_, omitted)| omitted);
                *other = Some((Instant::now(), 0));
                Some(omitted)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_counted_that_are_left_out() {
        let limit = LogLimit::default();
        assert_eq!(limit.admits(), Some(0));
        assert_eq!((limit.admits(), limit.admits()), (None, None));
        let past = Instant::now().checked_sub(INTERVAL).unwrap();
        limit.0.lock().unwrap().as_mut().unwrap().0 = past;
        assert_eq!(limit.admits(), Some(2));
    }
}

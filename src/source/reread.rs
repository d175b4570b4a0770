//! Reading content again for a destination that lost what it had of it.

use crate::fault::{Disposition, Fault};

/// How often one content is read in all.
const READINGS: u32 = 3;

/// The readings of one content.
#[derive(Debug, Default)]
pub(crate) struct Rereads(u32);

impl Rereads {
    /// That it is to be read again after `fault`.
    ///
    /// # Errors
    /// `fault`, where that is of no use, or was done often enough.
    pub fn again(&mut self, fault: Fault) -> Result<(), Fault> {
        if fault.disposition != Disposition::Reread {
            return Err(fault);
        }
        self.0 += 1;
        if self.0 < READINGS {
            tracing::debug!(%fault, "reading content again");
            return Ok(());
        }
        Err(Fault {
            disposition: Disposition::Retryable,
            ..fault
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fault::Reason;

    #[test]
    fn content_is_read_again_where_that_is_of_use_and_not_for_ever() {
        let lost = Fault::retryable(Reason::PushFailed, "the session is gone").with_reread();
        let mut readings = Rereads::default();
        assert_eq!(readings.again(lost.clone()), Ok(()));
        assert_eq!(readings.again(lost.clone()), Ok(()));
        let last = readings.again(lost).unwrap_err();
        assert_eq!(last.disposition, Disposition::Retryable);
        let other = Fault::retryable(Reason::PushFailed, "no");
        assert_eq!(Rereads::default().again(other.clone()), Err(other));
        let waiting = Fault::waiting(Reason::RateLimited, std::time::Duration::from_secs(9), "wait");
        assert_eq!(waiting.clone().with_reread(), waiting);
    }
}

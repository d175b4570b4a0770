//! Reads content again when the destination lost what was sent.

use crate::fault::{Disposition, Fault};

/// How many times a blob is read at most.
const READS_LIMIT: u32 = 3;

/// Counts the reads of one blob.
#[derive(Debug, Default)]
pub(crate) struct Rereads(u32);

impl Rereads {
    /// Allows another read after `fault`.
    ///
    /// # Errors
    /// `fault`, if another read does not help, or the limit is reached.
    pub fn retry_after(&mut self, fault: Fault) -> Result<(), Fault> {
        if fault.disposition != Disposition::Reread {
            return Err(fault);
        }
        self.0 += 1;
        if self.0 < READS_LIMIT {
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
    fn a_reread_fault_is_retried_up_to_the_limit() {
        let lost = Fault::retryable(Reason::PushFailed, "the session is gone").with_reread();
        let mut rereads = Rereads::default();
        assert_eq!(rereads.retry_after(lost.clone()), Ok(()));
        assert_eq!(rereads.retry_after(lost.clone()), Ok(()));
        let last = rereads.retry_after(lost).unwrap_err();
        assert_eq!(last.disposition, Disposition::Retryable);
        let other = Fault::retryable(Reason::PushFailed, "no");
        assert_eq!(Rereads::default().retry_after(other.clone()), Err(other));
        let waiting = Fault::waiting(Reason::RateLimited, std::time::Duration::from_secs(9), "wait");
        assert_eq!(waiting.clone().with_reread(), waiting);
    }
}

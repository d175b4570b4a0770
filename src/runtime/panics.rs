//! Panics as faults, so that a panic fails only the object that it concerns.

use std::panic::AssertUnwindSafe;

use futures::FutureExt as _;

use crate::fault::{Fault, Reason};

/// The result of `work`; a panic in it becomes a fault. Shared state may be left half changed, so `work` may hold only
/// locks whose poisoning is ignored.
pub async fn catch_panic<T, E: From<Fault>>(work: impl Future<Output = Result<T, E>>) -> Result<T, E> {
    AssertUnwindSafe(Box::pin(work))
        .catch_unwind()
        .await
        .unwrap_or_else(|panic| {
            let message = panic
                .downcast_ref::<&str>()
                .copied()
                .or_else(|| panic.downcast_ref::<String>().map(String::as_str))
                .unwrap_or("no message");
            let message: String = message.chars().take(200).collect();
            tracing::error!(message, "a task panicked");
            Err(E::from(Fault::retryable(
                Reason::InternalError,
                "internal error of the operator; its log has the details: please report it with the log",
            )))
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_panic_becomes_a_fault() {
        let failed = catch_panic::<_, Fault>(async {
            let empty: Vec<u8> = Vec::new();
            Ok(empty[std::hint::black_box(3)])
        });
        assert_eq!(failed.await.unwrap_err().reason, Reason::InternalError);
        assert_eq!(catch_panic::<_, Fault>(async { Ok(1) }).await, Ok(1));
    }
}

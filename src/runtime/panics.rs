//! Work whose panic is a failure of its own object and of nothing else.

use std::panic::AssertUnwindSafe;

use futures::FutureExt as _;

use crate::fault::{Fault, Reason};

/// What `work` gives; a panic in it is a fault. What it shared with other work may be left as the panic found it, so only locks
/// that do not mind are to be held there.
pub async fn catch_panic<T, E: From<Fault>>(work: impl Future<Output = Result<T, E>>) -> Result<T, E> {
    AssertUnwindSafe(Box::pin(work))
        .catch_unwind()
        .await
        .unwrap_or_else(|panic| {
            let said = panic
                .downcast_ref::<&str>()
                .copied()
                .or_else(|| panic.downcast_ref::<String>().map(String::as_str))
                .unwrap_or("no reason is known");
            let said: String = said.chars().take(200).collect();
            tracing::error!(said, "a task panicked");
            Err(E::from(Fault::retryable(
                Reason::InternalError,
                "the operator met an error of its own, which its log names; please report it with the log",
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

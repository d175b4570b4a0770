//! Tables of cases: each case runs even if another fails, and the table fails with a list of all failures.

use std::any::Any;
use std::panic::AssertUnwindSafe;

use futures::FutureExt as _;
use futures::StreamExt as _;
use futures::future::BoxFuture;

/// Cases of one table that run concurrently.
const CONCURRENCY: usize = 4;

/// The future that `make` returns, on its own thread with its own runtime: a future that waits for a cluster is not
/// Send.
pub fn on_one_thread<F: Future<Output = ()>>(make: impl FnOnce() -> F + Send + 'static) -> BoxFuture<'static, ()> {
    let run = move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        runtime.expect("a runtime").block_on(make());
    };
    async move {
        if let Err(error) = tokio::task::spawn_blocking(run).await {
            std::panic::resume_unwind(error.into_panic());
        }
    }
    .boxed()
}

/// The message of a panic.
fn message(panic: &(dyn Any + Send)) -> &str {
    let text = panic.downcast_ref::<String>().map(String::as_str);
    text.or_else(|| panic.downcast_ref::<&str>().copied())
        .unwrap_or("a panic without a text")
}

/// Runs all `cases`, each a description and a future.
pub async fn run(cases: impl IntoIterator<Item = (String, BoxFuture<'static, ()>)>) {
    let runs: Vec<_> = cases
        .into_iter()
        .map(|(description, run)| async move {
            let result = AssertUnwindSafe(run).catch_unwind().await;
            result
                .err()
                .map(|panic| format!("{description}\n    {}", message(&*panic)))
        })
        .collect();
    let count = runs.len();
    let failed: Vec<String> = futures::stream::iter(runs)
        .buffer_unordered(CONCURRENCY)
        .filter_map(|failed| async { failed })
        .collect()
        .await;
    assert!(
        failed.is_empty(),
        "{} of {count} cases failed:\n{}",
        failed.len(),
        failed.join("\n")
    );
}

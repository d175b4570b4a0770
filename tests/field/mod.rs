//! Inputs from public bug reports of other tools, and what we do with them: one table for each kind of input.
//!
//! A [`Case`] names the report, the input and the expected result. It runs against a real registry, or against a small
//! server that shows the reported behaviour where no real registry can be made to show it.

mod answers;
mod certificates;
mod challenges;
mod columns;
mod commands;
mod contents;
mod credentials;
mod documents;
mod errors;
mod moved_tags;
mod objects;
mod optional;
mod platforms;
mod pull_secrets;
mod redirects;
mod references;
mod referrer_lists;
mod tag_lists;
mod tags;

use std::panic::AssertUnwindSafe;

use futures::FutureExt as _;
use futures::StreamExt as _;
use futures::future::BoxFuture;

use crate::support::folder;

/// Cases of one table that run at the same time.
const CONCURRENCY: usize = 4;

/// One row of a table.
pub struct Case {
    /// The report that the input comes from, as `owner/repository#number`.
    pub report: &'static str,
    /// What the registry, engine or client sends.
    pub input: &'static str,
    /// What must come of it.
    pub expected: &'static str,
    /// Produces the input and asserts the result.
    pub run: fn() -> BoxFuture<'static, ()>,
}

/// The future that `make` gives, on a thread and in a runtime of its own: one that waits for a cluster may not move.
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

/// Runs every case of a table and fails with a list of all that failed.
pub async fn check(cases: &[Case]) {
    let runs = cases.iter().map(|case| async move {
        let result = AssertUnwindSafe((case.run)()).catch_unwind().await;
        result
            .err()
            .map(|_| format!("{}: {} (expected: {})", case.report, case.input, case.expected))
    });
    let failed: Vec<String> = futures::stream::iter(runs)
        .buffer_unordered(CONCURRENCY)
        .filter_map(|failed| async { failed })
        .collect()
        .await;
    assert!(
        failed.is_empty(),
        "{} of {} cases failed; each panic above says why:\n{}",
        failed.len(),
        cases.len(),
        failed.join("\n")
    );
}

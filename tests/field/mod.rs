//! Inputs from public bug reports of other tools, and our behaviour: one table for each kind of input.
//!
//! A [`Case`] names the report, the input and the expected result. It runs against a real registry, or against a small
//! server that shows the reported behaviour if no real registry can be made to show it.

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
mod responses;
mod tag_lists;
mod tags;

use futures::future::BoxFuture;

use crate::support::table;
pub use crate::support::table::on_one_thread;
use crate::support::workspace;

/// One row of a table.
pub struct Case {
    /// The report that the input comes from, as `owner/repository#number`.
    pub report: &'static str,
    /// What the registry, engine or client sends.
    pub input: &'static str,
    /// The required result.
    pub expected: &'static str,
    /// Produces the input and asserts the result.
    pub run: fn() -> BoxFuture<'static, ()>,
}

/// Runs every case of a table and fails with a list of all failures.
pub async fn check(cases: &[Case]) {
    let runs = cases.iter().map(|case| {
        let description = format!("{}: {} (expected: {})", case.report, case.input, case.expected);
        (description, (case.run)())
    });
    table::run(runs).await;
}

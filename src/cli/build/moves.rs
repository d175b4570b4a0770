//! The images of a package on their way: in which order, how many at once, and what comes of each.

use std::cmp::Reverse;

use futures::StreamExt as _;

use super::{Build, Failure, Report, Works};
use crate::cli::progress::Display;
use crate::fault::Fault;
use crate::oci::{Compression, ReferrersPolicy};
use crate::package::Plan;
use crate::transfer::Standing;

/// Images that are looked at at once, which costs small answers only.
const CHECKED_AT_ONCE: usize = 8;

impl Build {
    /// Brings every image, or says what that would move; one that fails keeps none of the others.
    pub(super) async fn move_all(
        &self,
        works: &Works,
        forms: (Compression, ReferrersPolicy),
        plan: &Plan,
        display: &Display,
        report: &mut Report,
    ) {
        let at_once = self.concurrency.max(1);
        let images = plan.images.iter().enumerate();
        // All are looked at first, so that the largest can be begun first: begun last, it would be what the rest
        // waits for.
        let looks = images.map(|(at, planned)| async move {
            let transfer = works.transfer(planned, forms);
            let standing = match &transfer {
                Ok(transfer) if !self.dry_run => Some(transfer.check().await),
                _ => None,
            };
            (at, planned, transfer, standing)
        });
        let looks = futures::stream::iter(looks).buffer_unordered(at_once.max(CHECKED_AT_ONCE));
        let mut looked: Vec<_> = looks.collect().await;
        looked.sort_by_key(|(at, _, _, standing)| (Reverse(size(standing.as_ref())), *at));
        let moves = looked.into_iter().map(|(at, planned, transfer, standing)| async move {
            let result = match transfer {
                Ok(transfer) => self.one(planned, &transfer, standing, display).await,
                Err(fault) => Err(fault),
            };
            (at, planned, result)
        });
        let mut moves = futures::stream::iter(moves).buffer_unordered(at_once);
        // Told in the plan's order, so that two runs print the same.
        let (mut done, mut failed) = (Vec::new(), Vec::new());
        while let Some((at, planned, result)) = moves.next().await {
            let place = |known: &Vec<usize>| known.partition_point(|other| *other < at);
            match result {
                Ok(row) => {
                    report.changed |= !row.current;
                    report.moved_bytes += row.moved_bytes;
                    report.images.insert(place(&done), row);
                    done.insert(place(&done), at);
                }
                Err(fault) => {
                    let failure = Failure::of(&planned.spec.image, fault);
                    report.failures.insert(place(&failed), failure);
                    failed.insert(place(&failed), at);
                }
            }
        }
    }
}

/// What is to be moved at most, in bytes. A size that nobody knows may be the largest.
fn size(standing: Option<&Result<Standing, Fault>>) -> u64 {
    match standing {
        Some(Ok(Standing::Differs(resolved))) => resolved.size.unwrap_or(u64::MAX),
        _ => 0,
    }
}

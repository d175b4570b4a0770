//! The transfers of a package's images: their order, concurrency and results.

use std::cmp::Reverse;

use futures::StreamExt as _;

use super::{Build, BuildContext, Failure, Report, Row};
use crate::cli::progress::Display;
use crate::fault::Fault;
use crate::oci::{Compression, ReferrersPolicy};
use crate::package::{Plan, PlannedImage};
use crate::transfer::DestinationState;

/// Images that are checked concurrently; a check reads only small responses.
const CHECKED_AT_ONCE: usize = 8;

impl Build {
    /// Copies all images, or shows what would be copied. The failure of one image does not stop the others.
    pub(super) async fn move_all(
        &self,
        works: &BuildContext,
        forms: (Compression, ReferrersPolicy),
        plan: &Plan,
        display: &Display,
        report: &mut Report,
    ) {
        let at_once = self.concurrency.max(1);
        let images = plan.images.iter().enumerate();
        // All images are checked first, so that the largest transfer starts first and does not delay the end.
        let looks = images.map(|(at, planned)| async move {
            let transfer = works.transfer(planned, forms);
            let standing = match &transfer {
                Ok(transfer) if !self.dry_run => Some(transfer.check().await),
                _ => None,
            };
            (at, planned, transfer, standing)
        });
        let mut looks = futures::stream::iter(looks).buffer_unordered(at_once.max(CHECKED_AT_ONCE));
        let mut told = ImageResults::new(report, display);
        let mut looked = Vec::with_capacity(plan.images.len());
        while let Some((at, planned, transfer, standing)) = looks.next().await {
            match (transfer, standing.transpose()) {
                (Ok(transfer), Ok(standing)) => looked.push((at, planned, transfer, standing)),
                (Err(fault), _) | (_, Err(fault)) => told.failed(at, planned, fault),
            }
        }
        looked.sort_by_key(|(at, _, _, standing)| (Reverse(size(standing.as_ref())), *at));
        let moves = looked.into_iter().map(|(at, planned, transfer, standing)| async move {
            let result = self.one(works, planned, &transfer, standing, display).await;
            (at, planned, result)
        });
        let mut moves = futures::stream::iter(moves).buffer_unordered(at_once);
        while let Some((at, planned, result)) = moves.next().await {
            match result {
                Ok(row) => told.done(at, row),
                Err(fault) => told.failed(at, planned, fault),
            }
        }
    }
}

/// The results of the images. Failures are printed immediately; the report lists all results in the order of the plan, so
/// that it is deterministic.
struct ImageResults<'a> {
    report: &'a mut Report,
    display: &'a Display,
    done: Vec<usize>,
    failed: Vec<usize>,
}

impl<'a> ImageResults<'a> {
    fn new(report: &'a mut Report, display: &'a Display) -> Self {
        Self {
            report,
            display,
            done: Vec::new(),
            failed: Vec::new(),
        }
    }

    fn done(&mut self, at: usize, row: Row) {
        self.report.changed |= !row.current;
        self.report.moved_bytes += row.moved_bytes;
        let place = self.done.partition_point(|other| *other < at);
        self.report.images.insert(place, row);
        self.done.insert(place, at);
    }

    fn failed(&mut self, at: usize, planned: &PlannedImage, fault: Fault) {
        let failure = Failure::of(&planned.spec.image, fault);
        self.report.tell(&failure, self.display);
        let place = self.failed.partition_point(|other| *other < at);
        self.report.failures.insert(place, failure);
        self.failed.insert(place, at);
    }
}

/// The maximum number of bytes to copy. An unknown size is treated as the largest.
fn size(standing: Option<&DestinationState>) -> u64 {
    match standing {
        Some(DestinationState::Differs(resolved)) => resolved.size.unwrap_or(u64::MAX),
        _ => 0,
    }
}

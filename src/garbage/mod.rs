//! Frees the space of blobs that no manifest names, in the files of a distribution registry that keeps running.
//!
//! distribution deletes a manifest by removing its link from the repository; its blobs stay. Its own `garbage-collect` deletes blobs,
//! but is only safe while nobody writes: a blob that a client has uploaded, or has found to exist, may be deleted before the client
//! sends the manifest, or even after the registry has checked the manifest (distribution issues 2881 and 3045). So the registry
//! would have to be read-only for as long as it takes to read all manifests and to delete all blobs.
//!
//! # How this is safe while clients write
//!
//! 1. *Mark.* All manifests that a repository links are read. Every digest in them, wherever it is, is in use.
//! 2. *Set aside.* A blob that is not in use, and that was neither uploaded nor linked in a repository within the minimum age, is
//!    moved to the quarantine: a rename in the same file system. From now on the registry does not have it, so a manifest that names
//!    it is refused (MANIFEST_BLOB_UNKNOWN), and a client that asks for it (HEAD) uploads it again.
//! 3. *Watch.* A manifest whose blobs the registry had checked just before the move may be stored just after it. So the manifests are
//!    listed again at once, and then at growing intervals; a blob that a new manifest names is moved back.
//! 4. *Delete.* After the quarantine, which is far longer than the registry needs to store a manifest, all manifests are read once
//!    more. What none names is deleted.
//!
//! There is no moment at which the registry refuses writes. What is deleted was not in the registry for the whole quarantine.
//!
//! # Interruptions
//!
//! All state is in the files: the quarantine is a folder beside the registry's. A process that was killed is continued by the next
//! one: what is in the quarantine is moved back or deleted by the same rules, by a new reading of all manifests. Several processes may
//! collect at the same time, such as those of several replicas with one volume.
//!
//! # What is never touched
//!
//! Manifests, tags, and links of repositories. A link to a blob that is gone is no blob for the registry: the client uploads it again.
//! If a manifest cannot be read, nothing is moved and nothing is deleted, because it may name anything.

mod marks;
mod quarantine;
mod references;
mod store;

use std::path::PathBuf;
use std::time::{Duration, SystemTime};

use serde::Serialize;
use tokio_util::sync::CancellationToken;

use crate::fault::{Fault, Reason};
use marks::Marks;
use quarantine::Quarantine;
use store::Store;

/// The first delay before the manifests are listed again; each further one is twice as long.
const FIRST_WATCH: Duration = Duration::from_secs(1);
/// The most blobs that are set aside at once; the rest waits for the next run.
const BATCH: usize = 100_000;

/// What is collected, and when.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// The root directory of the registry's storage, which contains `docker/registry/v2`.
    pub root: PathBuf,
    /// A younger blob stays, and one with a younger link.
    pub min_age: Duration,
    /// How long a blob is set aside before it is deleted.
    pub quarantine: Duration,
    /// Only say what would be set aside.
    pub dry_run: bool,
}

/// What a run did, in blobs and bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Report {
    /// The manifests of all repositories.
    pub manifests: u64,
    /// The blobs in the storage at the begin.
    pub blobs: u64,
    /// What was set aside; with `dry_run`, what would be.
    pub set_aside: Amount,
    /// What was moved back, because a manifest names it.
    pub restored: Amount,
    /// What was deleted.
    pub deleted: Amount,
}

/// Blobs and their size.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Amount {
    /// The number of blobs.
    pub blobs: u64,
    /// The sum of their sizes.
    pub bytes: u64,
}

impl Amount {
    fn add(&mut self, bytes: u64) {
        self.blobs += 1;
        self.bytes = self.bytes.saturating_add(bytes);
    }
}

/// Why a run ended early.
#[derive(Debug, thiserror::Error)]
enum Failure {
    /// A file of the storage.
    #[error("{}: {error}", path.display())]
    File { path: PathBuf, error: std::io::Error },
    /// A manifest that may name any blob.
    #[error(
        "the manifest {digest} of {repository} cannot be read: {why}; nothing is deleted while it may name blobs: push its image again, or delete it"
    )]
    Manifest {
        repository: String,
        digest: String,
        why: String,
    },
    /// More digests than fit in memory.
    #[error("the registry has more than {0} blobs in use, which is the most that can be collected; nothing is deleted")]
    TooMany(usize),
    /// The process is ending.
    #[error("interrupted")]
    Stopped,
}

impl Failure {
    fn into_fault(self) -> Fault {
        let message = format!("the registry's storage cannot be collected: {self}");
        Fault::retryable(Reason::InternalError, message)
    }

    fn file(path: impl Into<PathBuf>) -> impl FnOnce(std::io::Error) -> Self {
        let path = path.into();
        |error| Self::File { path, error }
    }
}

/// Collects once: sets blobs aside, waits for the quarantine, and deletes what is due. Ends early with what it did when `stop` is
/// cancelled; the next run continues.
///
/// # Errors
/// When the storage cannot be read or changed, or a manifest cannot be read.
pub async fn collect(settings: &Settings, stop: &CancellationToken) -> Result<Report, Fault> {
    let mut report = Report::default();
    let (begun, token) = (settings.clone(), stop.clone());
    let (mut marks, moved) = in_thread(stop, move || begin(&begun, &token), &mut report).await?;
    if !moved {
        return Ok(report);
    }
    // Watch until the quarantine is over. Its time is counted from the last move.
    let ends = tokio::time::Instant::now() + settings.quarantine;
    let mut delay = FIRST_WATCH;
    // At once: manifests that were stored during the moves.
    let mut next = tokio::time::Instant::now();
    while next < ends {
        tokio::select! {
            () = tokio::time::sleep_until(next) => {}
            () = stop.cancelled() => return Ok(report),
        }
        let (root, token) = (settings.root.clone(), stop.clone());
        marks = in_thread(stop, move || watch(root, marks, &token), &mut report).await?;
        next = tokio::time::Instant::now() + delay;
        delay *= 2;
    }
    tokio::select! {
        () = tokio::time::sleep_until(ends) => {}
        () = stop.cancelled() => return Ok(report),
    }
    let (settings, token) = (settings.clone(), stop.clone());
    in_thread(stop, move || finish(&settings, &token), &mut report).await?;
    Ok(report)
}

/// When the last run ended, if one did.
pub fn last_run(root: &std::path::Path) -> Option<SystemTime> {
    Quarantine::of(root).last_run()
}

/// Runs `step`, which uses the file system, and adds what it did to `report`.
async fn in_thread<T: Send + 'static>(
    stop: &CancellationToken,
    step: impl FnOnce() -> Result<(T, Report), Failure> + Send + 'static,
    report: &mut Report,
) -> Result<T, Fault> {
    let stepped = tokio::task::spawn_blocking(step).await;
    let (value, more) = match stepped {
        Ok(Ok(done)) => done,
        Ok(Err(Failure::Stopped)) if stop.is_cancelled() => {
            return Err(Fault::retryable(
                Reason::InternalError,
                "interrupted; the next run continues",
            ));
        }
        Ok(Err(failure)) => return Err(failure.into_fault()),
        Err(error) => return Err(Fault::retryable(Reason::InternalError, error.to_string())),
    };
    report.manifests = report.manifests.max(more.manifests);
    report.blobs = report.blobs.max(more.blobs);
    for (sum, part) in [
        (&mut report.set_aside, more.set_aside),
        (&mut report.restored, more.restored),
        (&mut report.deleted, more.deleted),
    ] {
        sum.blobs += part.blobs;
        sum.bytes = sum.bytes.saturating_add(part.bytes);
    }
    Ok(value)
}

/// Marks, finishes what an earlier run left, and sets blobs aside. Returns whether any were.
fn begin(settings: &Settings, stop: &CancellationToken) -> Result<((Marks, bool), Report), Failure> {
    let mut report = Report::default();
    let (store, quarantine) = (Store::of(&settings.root), Quarantine::of(&settings.root));
    let mut marks = Marks::default();
    marks.update(&store, &quarantine, stop)?;
    report.manifests = marks.manifests();
    if !settings.dry_run {
        settle(settings, &marks, &mut report, stop)?;
    }
    let now = SystemTime::now();
    let (garbage, blobs) = store.garbage(&marks, now, settings.min_age, BATCH, stop)?;
    report.blobs = blobs;
    let batch = quarantine.batch(now);
    for blob in &garbage {
        if stop.is_cancelled() {
            return Err(Failure::Stopped);
        }
        if settings.dry_run || batch.set_aside(&store, &blob.digest)? {
            report.set_aside.add(blob.size);
        }
    }
    let moved = !settings.dry_run && report.set_aside.blobs > 0;
    if moved {
        batch.complete()?;
    }
    if !moved && !settings.dry_run {
        quarantine.record_run()?;
    }
    Ok(((marks, moved), report))
}

/// Moves back what manifests name that were stored since `marks`.
fn watch(root: PathBuf, mut marks: Marks, stop: &CancellationToken) -> Result<(Marks, Report), Failure> {
    let mut report = Report::default();
    let (store, quarantine) = (Store::of(&root), Quarantine::of(&root));
    marks.update(&store, &quarantine, stop)?;
    quarantine.restore(&store, &marks, &mut report.restored)?;
    Ok((marks, report))
}

/// Marks again, and deletes what is due.
fn finish(settings: &Settings, stop: &CancellationToken) -> Result<((), Report), Failure> {
    let mut report = Report::default();
    let (store, quarantine) = (Store::of(&settings.root), Quarantine::of(&settings.root));
    let mut marks = Marks::default();
    marks.update(&store, &quarantine, stop)?;
    settle(settings, &marks, &mut report, stop)?;
    quarantine.record_run()?;
    Ok(((), report))
}

/// Moves back what is in use, then deletes what was set aside for long enough before `marks` were made.
fn settle(settings: &Settings, marks: &Marks, report: &mut Report, stop: &CancellationToken) -> Result<(), Failure> {
    let (store, quarantine) = (Store::of(&settings.root), Quarantine::of(&settings.root));
    let due = match marks.begun().checked_sub(settings.quarantine) {
        Some(time) => quarantine.due(time)?,
        None => Vec::new(),
    };
    quarantine.restore(&store, marks, &mut report.restored)?;
    quarantine.delete(due, &mut report.deleted, stop)
}

#[cfg(test)]
mod tests;

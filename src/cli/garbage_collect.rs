//! `garbage-collect`: frees space in the storage of a distribution registry.

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, SystemTime};

use clap::Args;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use super::cluster::duration;
use super::progress::{Output, bytes};
use super::{EXIT_INTERRUPTED, EXIT_USAGE, examples, failure, print};
use crate::garbage::{Amount, Report, Settings, collect, last_run};

/// The delay after a failed run, unless the interval is shorter.
const RETRY_DELAY: Duration = Duration::from_secs(600);

/// Delete the blobs that no manifest names from the files of a distribution registry, which keeps running.
///
/// Blobs are first set aside, and moved back if a manifest names them; so clients may write at any time. A run that was interrupted is
/// continued by the next one.
///
/// Exit codes: 0 done, 1 something failed and may succeed another time, 2 a flag cannot be used, 130 interrupted.
#[derive(Debug, Args)]
#[command(after_help = examples::GARBAGE_COLLECT)]
pub(super) struct GarbageCollect {
    /// The root directory of the registry's storage, which contains docker/registry/v2.
    #[arg(value_name = "DIR")]
    root: PathBuf,
    /// How long a blob stays after its upload and after it was linked in a repository. Longer than the longest upload of an image.
    #[arg(long, default_value = "24h", value_name = "DURATION", value_parser = duration)]
    min_age: Duration,
    /// How long a blob is set aside before it is deleted. Longer than the registry may need to store a manifest.
    #[arg(long, default_value = "1h", value_name = "DURATION", value_parser = duration)]
    quarantine: Duration,
    /// Run again at this interval, until a signal.
    #[arg(long, value_name = "DURATION", value_parser = duration, conflicts_with = "dry_run")]
    interval: Option<Duration>,
    /// Only say what would be set aside.
    #[arg(long)]
    dry_run: bool,
    /// How the result of a single run is printed.
    #[arg(short, long, value_enum, default_value = "text")]
    output: Output,
}

impl GarbageCollect {
    pub(super) async fn run(self, stop: CancellationToken) -> ExitCode {
        if !self.root.is_dir() {
            print::note(format_args!(
                "jackal-operator garbage-collect: {}: not a directory; name the root directory of the registry's storage",
                self.root.display()
            ));
            return ExitCode::from(EXIT_USAGE);
        }
        let settings = Settings {
            root: self.root,
            min_age: self.min_age,
            quarantine: self.quarantine,
            dry_run: self.dry_run,
        };
        if let Some(interval) = self.interval {
            repeat(&settings, interval, &stop).await;
            return ExitCode::SUCCESS;
        }
        let report = collect(&settings, &stop).await;
        if stop.is_cancelled() {
            print::note("jackal-operator garbage-collect: interrupted; the next run continues");
            return ExitCode::from(EXIT_INTERRUPTED);
        }
        match report {
            Ok(report) => {
                report_result(&report, self.output, settings.dry_run);
                ExitCode::SUCCESS
            }
            Err(fault) => failure("garbage-collect", &fault.into()),
        }
    }
}

/// Runs at the interval, counted from the last run of any process, until `stop`.
async fn repeat(settings: &Settings, interval: Duration, stop: &CancellationToken) {
    loop {
        let mut delay = remaining(&settings.root, interval);
        if delay.is_zero() {
            match collect(settings, stop).await {
                Ok(Report {
                    manifests,
                    blobs,
                    set_aside,
                    restored,
                    deleted,
                }) => {
                    info!(
                        manifests,
                        blobs,
                        ?set_aside,
                        ?restored,
                        ?deleted,
                        "collected the garbage of the registry"
                    );
                    delay = remaining(&settings.root, interval);
                }
                Err(_) if stop.is_cancelled() => return,
                Err(fault) => {
                    warn!("{}", fault.message);
                    delay = interval.min(RETRY_DELAY);
                }
            }
        }
        tokio::select! {
            // Not in a loop without a delay, whatever the clock of the storage says.
            () = tokio::time::sleep(delay.max(Duration::from_secs(1))) => {}
            () = stop.cancelled() => return,
        }
    }
}

/// The time until the next run.
fn remaining(root: &Path, interval: Duration) -> Duration {
    match last_run(root) {
        Some(last) => interval.saturating_sub(SystemTime::now().duration_since(last).unwrap_or_default()),
        None => Duration::ZERO,
    }
}

fn report_result(report: &Report, output: Output, dry_run: bool) {
    if output == Output::Json {
        return print::line(serde_json::to_string_pretty(report).unwrap_or_default());
    }
    let amount = |amount: &Amount| format!("{} blobs with {}", amount.blobs, bytes(amount.bytes));
    let Report {
        manifests,
        blobs,
        set_aside,
        restored,
        deleted,
    } = report;
    print::line(format_args!("{manifests} manifests, {blobs} blobs"));
    if dry_run {
        return print::line(format_args!("{} would be set aside", amount(set_aside)));
    }
    print::line(format_args!(
        "deleted {}; set aside {}, moved back {}",
        amount(deleted),
        amount(set_aside),
        amount(restored)
    ));
}

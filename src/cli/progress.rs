//! The output of a build: lines, progress bars, or one JSON document.

use std::fmt::Display as Shown;
use std::io::IsTerminal as _;
use std::sync::Arc;
use std::time::Duration;

use clap::ValueEnum;
use indicatif::{MultiProgress, ProgressBar, ProgressStyle};
use tokio::time::{Instant, MissedTickBehavior};

use super::print;
use crate::transfer::Progress;

/// How often progress bars are updated.
const UPDATE_INTERVAL: Duration = Duration::from_millis(100);
/// How often a line is printed where there are no bars.
const LINE_INTERVAL: Duration = Duration::from_secs(10);

/// How results are printed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(super) enum Output {
    /// Lines of text, with progress bars on a terminal.
    Text,
    /// One JSON document at the end, on standard output.
    Json,
}

/// Shows progress on standard error: bars on a terminal, else a line every ten seconds; nothing with JSON.
pub(super) struct Display {
    lines: bool,
    bars: Option<MultiProgress>,
}

impl Display {
    /// With `quiet`, only failures are shown.
    pub fn new(output: Output, quiet: bool) -> Self {
        let lines = output == Output::Text && !quiet;
        Self {
            lines,
            bars: (lines && std::io::stderr().is_terminal()).then(MultiProgress::new),
        }
    }

    /// Prints a line on standard output, above the bars.
    pub fn say(&self, line: impl Shown) {
        if self.lines {
            self.above(|| print::line(line));
        }
    }

    /// Prints a line on standard error, above the bars.
    pub fn note(&self, line: impl Shown) {
        self.above(|| print::note(line));
    }

    /// Prints a message of `build` on standard error, above the bars, with the command's name before each line.
    pub fn warn(&self, text: impl Shown) {
        let text = text.to_string();
        self.above(|| {
            for line in text.lines() {
                print::note(format_args!("jackal-operator build: {line}"));
            }
        });
    }

    fn above(&self, print: impl FnOnce()) {
        match &self.bars {
            Some(bars) => bars.suspend(print),
            None => print(),
        }
    }

    /// Shows `progress` while `work` runs.
    pub async fn follow<T>(&self, name: &str, progress: &Arc<Progress>, work: impl Future<Output = T>) -> T {
        let Some(bars) = &self.bars else {
            return match self.lines {
                true => follow_in_lines(name, progress, work).await,
                false => work.await,
            };
        };
        let bar = bars.add(ProgressBar::new(0));
        if let Ok(style) =
            ProgressStyle::with_template("{msg:40!} {bar:30} {bytes:>10}/{total_bytes:10} {bytes_per_sec:>12} {eta:>4}")
        {
            bar.set_style(style);
        }
        bar.set_message(name.to_owned());
        let mut ticks = tokio::time::interval(UPDATE_INTERVAL);
        tokio::pin!(work);
        let result = loop {
            tokio::select! {
                result = &mut work => break result,
                _ = ticks.tick() => {
                    bar.set_length(progress.total());
                    bar.set_position(progress.done());
                }
            }
        };
        bar.finish_and_clear();
        bars.remove(&bar);
        result
    }
}

/// Prints how far `progress` is while `work` runs.
async fn follow_in_lines<T>(name: &str, progress: &Progress, work: impl Future<Output = T>) -> T {
    let begin = Instant::now();
    let mut ticks = tokio::time::interval_at(begin + LINE_INTERVAL, LINE_INTERVAL);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Skip);
    tokio::pin!(work);
    loop {
        tokio::select! {
            result = &mut work => return result,
            _ = ticks.tick() => {
                let state = state(progress.done(), progress.moved(), progress.total(), begin.elapsed());
                print::note(format_args!("{name}: {state}"));
            }
        }
    }
}

/// How far a transfer is after `elapsed`: bytes of the total, those that were `moved` in a second, and the time left at that rate.
fn state(done: u64, moved: u64, total: u64, elapsed: Duration) -> String {
    let rate = u128::from(moved) * 1000 / elapsed.as_millis().max(1);
    let rate = u64::try_from(rate).unwrap_or(u64::MAX);
    let left = total.saturating_sub(done);
    let time = match left.checked_div(rate) {
        Some(seconds) => format!("{} left", indicatif::HumanDuration(Duration::from_secs(seconds))),
        None => "the time left is unknown".to_owned(),
    };
    format!("{} of {}, {}/s, {time}", bytes(done), bytes(total), bytes(rate))
}

/// `bytes` with a unit.
pub(super) fn bytes(bytes: u64) -> String {
    indicatif::HumanBytes(bytes).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_have_a_rate_and_the_time_left() {
        let mib = 1 << 20;
        let ten = Duration::from_secs(10);
        assert_eq!(
            state(150 * mib, 100 * mib, 350 * mib, ten),
            "150.00 MiB of 350.00 MiB, 10.00 MiB/s, 20 seconds left"
        );
        assert!(state(5, 0, 10, ten).ends_with("0 B/s, the time left is unknown"));
        assert!(state(20, 20, 10, Duration::ZERO).ends_with("0 seconds left"));
    }
}

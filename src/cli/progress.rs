//! The output of a build: lines, progress bars, or one JSON document.

use std::fmt::Display as Shown;
use std::io::IsTerminal as _;
use std::sync::Arc;
use std::time::Duration;

use clap::ValueEnum;
use indicatif::{MultiProgress, ProgressBar, ProgressStyle};

use super::print;
use crate::transfer::Progress;

/// How often progress bars are updated.
const UPDATE_INTERVAL: Duration = Duration::from_millis(100);

/// How results are printed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(super) enum Output {
    /// Lines of text, with progress bars on a terminal.
    Text,
    /// One JSON document at the end, on standard output.
    Json,
}

/// Shows progress: bars on a terminal, else one line for each image; nothing with JSON.
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
        let Some(bars) = &self.bars else { return work.await };
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

/// `bytes` with a unit.
pub(super) fn bytes(bytes: u64) -> String {
    indicatif::HumanBytes(bytes).to_string()
}

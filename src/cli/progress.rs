//! What a person or a script sees while a package is built.

use std::fmt::Display as Shown;
use std::io::IsTerminal as _;
use std::sync::Arc;
use std::time::Duration;

use clap::ValueEnum;
use indicatif::{MultiProgress, ProgressBar, ProgressStyle};

use super::print;
use crate::transfer::Progress;

/// How often bars follow the bytes.
const FOLLOW: Duration = Duration::from_millis(100);

/// How results are printed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(super) enum Output {
    /// Lines for a person; bars on a terminal.
    Text,
    /// One JSON document on standard output at the end.
    Json,
}

/// Where progress is shown: bars on a terminal, a line at each end otherwise, nothing for JSON.
pub(super) struct Display {
    lines: bool,
    bars: Option<MultiProgress>,
}

impl Display {
    /// With `quiet` nothing but failures is shown.
    pub fn new(output: Output, quiet: bool) -> Self {
        let lines = output == Output::Text && !quiet;
        Self {
            lines,
            bars: (lines && std::io::stderr().is_terminal()).then(MultiProgress::new),
        }
    }

    /// Says a line on standard output, above the bars where there are any.
    pub fn say(&self, line: impl Shown) {
        if self.lines {
            self.above(|| print::line(line));
        }
    }

    /// Says something of `build` on standard error, above the bars where there are any: each of its lines by itself.
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
        let mut ticks = tokio::time::interval(FOLLOW);
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

/// `bytes` as people read them.
pub(super) fn bytes(bytes: u64) -> String {
    indicatif::HumanBytes(bytes).to_string()
}

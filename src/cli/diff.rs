//! `diff`: what differs between two archives.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Args;
use tokio_util::sync::CancellationToken;

use super::progress::{Output, bytes};
use super::{examples, print, until};
use crate::archive::{self, Change, Difference, Overlap};
use crate::oci::Digest;

/// The exit code of `--exit-code` where the archives differ. It is none of the codes of failures.
const DIFFERENT: u8 = 3;

/// Show what differs between two archives: packages, images, layers, and the packages in the SBOMs of images.
///
/// Images are compared by their names, and where only the tag of a repository changed, with each other. SBOMs are read where both
/// archives have one; layers are not read.
///
/// Exit codes: 0 done, 1 something failed and may succeed another time, 2 a file cannot be used, 3 with --exit-code: they differ, 130 interrupted.
#[derive(Debug, Args)]
#[command(after_help = examples::DIFF)]
pub(super) struct Diff {
    /// The old archive.
    #[arg(value_name = "OLD")]
    old: PathBuf,
    /// The new archive.
    #[arg(value_name = "NEW")]
    new: PathBuf,
    /// Exit with code 3 where the archives differ.
    #[arg(long)]
    exit_code: bool,
    /// How the result is printed.
    #[arg(short, long, value_enum, default_value = "text")]
    output: Output,
}

impl Diff {
    pub(super) async fn run(self, stop: CancellationToken) -> ExitCode {
        let mut differ = false;
        let code = until(stop, "diff", self.diff(&mut differ)).await;
        match differ && self.exit_code {
            true => ExitCode::from(DIFFERENT),
            false => code,
        }
    }

    async fn diff(&self, differ: &mut bool) -> anyhow::Result<()> {
        let old = archive::open(&self.old).await?;
        let new = archive::open(&self.new).await?;
        let found = archive::compare(&old, &new).await?;
        let text = match self.output {
            Output::Json => serde_json::to_string_pretty(&found)? + "\n",
            Output::Text => text_of(&found),
        };
        print::document(&text)?;
        *differ = !found.is_empty();
        Ok(())
    }
}

/// The mark of a line.
fn mark(change: Change) -> char {
    match change {
        Change::Added => '+',
        Change::Removed => '-',
        Change::Changed => '~',
    }
}

/// `old`, `new`, or `old -> new` where both are there and differ.
fn arrow(old: Option<&str>, new: Option<&str>) -> String {
    match (old, new) {
        (Some(old), Some(new)) if old != new => format!("{} -> {}", print::shown(old), print::shown(new)),
        (Some(one), _) | (None, Some(one)) => print::shown(one),
        (None, None) => String::new(),
    }
}

fn text_of(found: &Difference) -> String {
    if found.is_empty() {
        return "no difference\n".to_owned();
    }
    let mut text = String::new();
    for package in &found.packages {
        let version = arrow(package.old_version.as_deref(), package.new_version.as_deref());
        let (name, architecture) = (print::shown(&package.name), print::shown(&package.architecture));
        text += &format!("{} package {name} ({architecture}) {version}\n", mark(package.change));
        for component in &package.components {
            text += &format!(
                "  {} component {}\n",
                mark(component.change),
                print::shown(&component.name)
            );
        }
    }
    for image in &found.images {
        let name = arrow(image.old_name.as_deref(), image.new_name.as_deref());
        let short = |digest: &Option<Digest>| digest.as_ref().map(Digest::short_form);
        let (old, new) = (short(&image.old_digest), short(&image.new_digest));
        text += &format!(
            "{} image {name} ({})\n",
            mark(image.change),
            arrow(old.as_deref(), new.as_deref())
        );
        let named = |sbom: &&archive::SbomChange| Some(&sbom.image) == image.new_name.as_ref();
        for sbom in found.sboms.iter().filter(named) {
            let platform = sbom
                .platform
                .as_ref()
                .map(|platform| format!(" ({})", print::shown(platform)));
            for package in &sbom.packages {
                let versions = |versions: &[String]| (!versions.is_empty()).then(|| versions.join(", "));
                let (old, new) = (versions(&package.old_versions), versions(&package.new_versions));
                text += &format!(
                    "  {} {} {}{}\n",
                    mark(package.change),
                    print::shown(&package.name),
                    arrow(old.as_deref(), new.as_deref()),
                    platform.as_deref().unwrap_or_default()
                );
            }
        }
    }
    text += &overlap_text("layers", &found.layers);
    text += &overlap_text("content", &found.content);
    text
}

fn overlap_text(what: &str, overlap: &Overlap) -> String {
    format!(
        "{what}: {} only in the old archive ({}), {} only in the new one ({}), {} in both ({})\n",
        bytes(overlap.old.size),
        overlap.old.count,
        bytes(overlap.new.size),
        overlap.new.count,
        bytes(overlap.shared.size),
        overlap.shared.count
    )
}

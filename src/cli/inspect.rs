//! `inspect`: what an archive has.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Args;
use tokio_util::sync::CancellationToken;

use super::progress::{Output, bytes};
use super::{examples, print, until};
use crate::archive::{self, ImageSummary, Inspection, PackageSummary, SignatureState};

/// The digits of a digest in a table.
const DIGITS: usize = 12;

/// Show the packages, images, SBOMs and sizes of an archive.
///
/// Layers are not read, so it takes less than a second for a file of any size. Nothing is verified but the digests of manifests and
/// configurations.
///
/// Exit codes: 0 done, 1 something failed and may succeed another time, 2 the file cannot be used, 130 interrupted.
#[derive(Debug, Args)]
#[command(after_help = examples::INSPECT)]
pub(super) struct Inspect {
    /// The archive.
    #[arg(value_name = "FILE")]
    file: PathBuf,
    /// Print the names of the images only, one a line.
    #[arg(long, conflicts_with = "output")]
    images: bool,
    /// How the result is printed.
    #[arg(short, long, value_enum, default_value = "text")]
    output: Output,
}

impl Inspect {
    pub(super) async fn run(self, stop: CancellationToken) -> ExitCode {
        until(stop, "inspect", self.inspect()).await
    }

    async fn inspect(&self) -> anyhow::Result<()> {
        let archive = archive::open(&self.file).await?;
        let found = archive::inspect(&archive)
            .await
            .map_err(|fault| fault.with_context(self.file.display()))?;
        let text = match (self.images, self.output) {
            (true, _) => found
                .images
                .iter()
                .flat_map(|image| &image.names)
                .map(|name| format!("{name}\n"))
                .collect(),
            (false, Output::Json) => serde_json::to_string_pretty(&found)? + "\n",
            (false, Output::Text) => text_of(&found),
        };
        print::document(&text)?;
        Ok(())
    }
}

fn text_of(found: &Inspection) -> String {
    let mut text = String::new();
    for package in &found.packages {
        text += &package_text(package);
    }
    if !found.images.is_empty() {
        text += "Images:\n";
        text += &print::table(&image_rows(&found.images));
    }
    text += &format!(
        "Content: {} in {} blobs; {} of images shared by several, which saves {}\n",
        bytes(found.content.size),
        found.content.count,
        bytes(found.shared.amount.size),
        bytes(found.shared.saved)
    );
    text += &format!("SBOMs: {} documents, {}\n", found.sboms.count, bytes(found.sboms.size));
    text
}

fn package_text(package: &PackageSummary) -> String {
    let signature = match package.signature {
        SignatureState::Unsigned => "unsigned",
        SignatureState::Key => "signed by a key",
        SignatureState::Keyless => "signed by an identity",
        SignatureState::Unreadable => "with a signature that cannot be read",
    };
    let mut text = format!(
        "Package {} {} ({}), {signature}, {} in {} files\n",
        print::shown(&package.name),
        print::shown(&package.version),
        print::shown(&package.architecture),
        bytes(package.files.size),
        package.files.count
    );
    text += &format!("  digest {}\n", package.digest);
    for component in &package.components {
        let required = if component.required { ", required" } else { "" };
        let count = component.images.len();
        text += &format!(
            "  component {}{required}, {count} images\n",
            print::shown(&component.name)
        );
    }
    text
}

/// One row for each name of an image.
fn image_rows(images: &[ImageSummary]) -> Vec<Vec<String>> {
    let head = ["  NAME", "DIGEST", "PLATFORMS", "SIZE", "UNIQUE", "SBOM"];
    let mut rows = vec![head.map(str::to_owned).to_vec()];
    for image in images {
        let unnamed = ["-".to_owned()];
        let names = match image.names.as_slice() {
            [] => &unnamed[..],
            names => names,
        };
        let hex = image.digest.hex();
        rows.extend(names.iter().map(|name| {
            vec![
                format!("  {}", print::shown(name)),
                hex.get(..DIGITS).unwrap_or(hex).to_owned(),
                print::shown(&image.platforms.join(",")),
                bytes(image.size),
                bytes(image.unique_size),
                if image.sboms.is_empty() { "no" } else { "yes" }.to_owned(),
            ]
        }));
    }
    rows
}

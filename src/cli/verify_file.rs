//! `verify FILE`: the content of a package file or of one of its parts.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde::Serialize;

use super::progress::{Display, Output, bytes};
use super::{UsageError, print};
use crate::archive;
use crate::archive::parts::{Flaw, PartName, PartSet, has_parts};
use crate::fault::{Fault, Reason};
use crate::signing::Requirement;
use crate::transfer::Progress;

/// The ends of names of archives.
const SUFFIXES: [&str; 2] = [".tar.zst", ".tar"];
/// The beginnings of paths, which no reference has.
const PREFIXES: [&str; 3] = ["/", "./", "../"];

/// The result, as `--output json` prints it.
#[derive(Default, Serialize)]
struct Report {
    file: PathBuf,
    /// Files of packages and blobs of images whose digests were compared; absent for a single part.
    #[serde(skip_serializing_if = "Option::is_none")]
    files: Option<usize>,
    size: u64,
    /// Parts and parity parts whose digests were compared.
    parts: usize,
    /// Whether the packages are signed as required; false where nothing is required.
    signed: bool,
}

/// The file that `text` names; `None` where it is a reference.
pub(super) fn file_of(text: &str) -> Option<PathBuf> {
    let path = Path::new(text);
    if text.starts_with("oci:") {
        return None;
    }
    let is_file = SUFFIXES.iter().any(|suffix| text.ends_with(suffix))
        || PREFIXES.iter().any(|prefix| text.starts_with(prefix))
        || PartName::of(path).is_some();
    is_file.then(|| path.to_owned())
}

/// Verifies the archive or the part `file`. The packages of an archive must be signed as `requirement` says.
pub(super) async fn verify_file(file: &Path, requirement: Option<&Requirement>, output: Output) -> anyhow::Result<()> {
    let part = PartName::of(file).filter(|(_, part)| *part != PartName::List);
    if let (Some((archive, _)), Some(_)) = (&part, requirement) {
        let list = PartName::List.path(archive);
        let message = format!(
            "{}: a part alone has no signature; verify {} with the key, or the part without it",
            file.display(),
            list.display()
        );
        return Err(UsageError(message).into());
    }
    let progress = Arc::new(Progress::default());
    let display = Display::new(output, false);
    let name = file.display().to_string();
    let work = async {
        match part {
            Some((archive, part)) => verify_part(file, &archive, part, &progress).await,
            None => verify_archive(file, requirement, &progress).await,
        }
    };
    let report = display.follow(&name, &progress, work).await?;
    let signed = if report.signed { " and signed as required" } else { "" };
    let text = match (output, report.files, report.parts) {
        (Output::Json, ..) => serde_json::to_string_pretty(&report).unwrap_or_default(),
        (Output::Text, None, _) => format!("{name} is sound"),
        (Output::Text, Some(files), 0) => format!("{name} is sound{signed}: {files} files, {}", bytes(report.size)),
        (Output::Text, Some(files), parts) => {
            format!(
                "{name} is sound{signed}: {parts} parts, {files} files, {}",
                bytes(report.size)
            )
        }
    };
    print::line(text);
    Ok(())
}

/// A part of `archive`, compared with the list.
async fn verify_part(file: &Path, archive: &Path, part: PartName, progress: &Progress) -> Result<Report, Fault> {
    let set = PartSet::open(archive).await?;
    let list = PartName::List.file_name(archive);
    let report = Report {
        file: file.to_owned(),
        parts: 1,
        ..Report::default()
    };
    let listed = match (part, set.part(part)) {
        // The copy of the list: opening the list falls back to it, so it is read for itself.
        (PartName::ListCopy, _) => {
            let copy = PartSet::open_copy(archive).await?;
            return match copy == set.list {
                true => Ok(report),
                false => Err(Fault::stalled(
                    Reason::DigestMismatch,
                    format!("{} differs from {list}; copy both again", file.display()),
                )),
            };
        }
        (_, Some(listed)) => listed,
        (_, None) if set.list.parts.is_empty() => {
            let message = format!("{list} has no digests of parts, as Zarf writes it; verify {list} itself");
            return Err(Fault::stalled(Reason::SourceFailed, message));
        }
        (_, None) => {
            let message = format!("{} is not in {list}; delete it", file.display());
            return Err(Fault::stalled(Reason::SourceFailed, message));
        }
    };
    progress.set_total(listed.size);
    match set.verify(part, listed, progress).await? {
        None => Ok(Report {
            size: listed.size,
            ..report
        }),
        Some(wrong) => {
            let flaw = set.describe(&Flaw { part, wrong });
            let message =
                format!("{flaw}; copy it again, or run `jackal-operator repair {list}` if there are parity parts");
            Err(Fault::stalled(Reason::DigestMismatch, message))
        }
    }
}

/// An archive: its parts, if it is in parts, the signatures of its packages, and everything in it.
async fn verify_archive(file: &Path, requirement: Option<&Requirement>, progress: &Progress) -> Result<Report, Fault> {
    let within = |fault: Fault| fault.with_context(file.display());
    let mut parts = 0;
    if let Some(archive) = has_parts(file).map_err(within)? {
        let set = PartSet::open(&archive).await.map_err(within)?;
        progress.set_total(set.total());
        let flaws = match set.list.parts.is_empty() {
            true => set.flaws().await.map_err(within)?,
            false => set.verify_all(progress).await.map_err(within)?,
        };
        if let Some(fault) = set.fault(&flaws) {
            return Err(within(fault));
        }
        parts = set.listed().count();
    }
    let opened = archive::open(file).await?;
    if let Some(requirement) = requirement {
        archive::verify_signatures(&opened, requirement).await.map_err(within)?;
    }
    let checked = archive::check(&opened, progress).await.map_err(within)?;
    Ok(Report {
        file: file.to_owned(),
        files: Some(checked.files),
        size: checked.size,
        parts,
        signed: requirement.is_some(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_are_told_from_references() {
        for file in [
            "shop.tar.zst",
            "dir/shop.tar",
            "shop.tar.zst.part000",
            "shop.tar.zst.part012",
            "shop.tar.zst.parity001",
            "./shop",
            "../shop",
            "/srv/shop",
        ] {
            assert!(file_of(file).is_some(), "{file}");
        }
        for reference in [
            "registry.example.com/team/shop:1.4.0",
            "shop",
            "shop:1",
            "oci:./out:shop:1.4.0",
            "oci:out:shop.tar",
            "oci://registry.example.com/shop:1",
            "example.com/part000",
        ] {
            assert!(file_of(reference).is_none(), "{reference}");
        }
    }
}

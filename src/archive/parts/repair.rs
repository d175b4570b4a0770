//! Computes lost and damaged parts of an archive anew, of those that are sound.

use std::path::Path;
use std::sync::Arc;

use tempfile::TempPath;

use super::code::{Output, Remaining, decode, encode};
use super::files::PartFile;
use super::flaws::{Flaw, PartSet, Wrong};
use super::list::Part;
use super::name::PartName;
use super::temporary::{WriteLock, temporary};
use super::write::write_list;
use super::{blocking, unwritable};
use crate::fault::{Fault, Reason};
use crate::transfer::Progress;

/// What a repair did.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Repaired {
    /// The names of the files that were written, in order; empty where nothing was lost.
    pub written: Vec<String>,
    /// The names of files beside the parts that do not belong to the archive. They stay.
    pub foreign: Vec<String>,
}

/// Writes the lost and damaged parts of `archive` anew, its lost parity parts and its list. Each gets its name when its digest was
/// compared. `progress` counts bytes that are read.
///
/// # Errors
/// A stalled fault that names the lost parts, where there are more of them than sound parity parts.
pub async fn repair(archive: &Path, progress: &Progress) -> Result<Repaired, Fault> {
    let set = PartSet::open(archive).await?;
    let _lock = WriteLock::acquire(archive)?;
    progress.set_total(set.total());
    let flaws = set.verify_all(progress).await?;
    let (foreign, flaws): (Vec<Flaw>, Vec<Flaw>) = flaws.into_iter().partition(|flaw| flaw.wrong == Wrong::Unlisted);
    let lost = |name: PartName| flaws.iter().any(|flaw| flaw.part == name);
    let names = |parity: bool| -> Vec<PartName> {
        let is_parity = |name: &PartName| matches!(name, PartName::Parity(_));
        let listed = set.listed().map(|(name, _)| name);
        listed.filter(|name| is_parity(name) == parity && lost(*name)).collect()
    };
    let (parts, parity) = (names(false), names(true));
    if set.list.parts.is_empty() {
        let message = format!(
            "{} lists no parity parts; copy damaged parts again",
            PartName::List.file_name(archive)
        );
        return Err(Fault::stalled(Reason::SourceFailed, message));
    }
    if parts.len() > set.list.parity.len() - parity.len() {
        let fault = set.fault(&flaws);
        return Err(fault.unwrap_or_else(|| mismatch(archive, &PartName::List)));
    }
    let work = set
        .list
        .size
        .saturating_mul(u64::from(!parts.is_empty()) + u64::from(!parity.is_empty()));
    progress.set_total(set.total().saturating_add(work));
    let file = |at: usize, name: PartName, part: &Part| PartFile::new(name.path(archive), part.size, at);
    let size = set.list.parity_size().unwrap_or_default();
    if !parts.is_empty() {
        let sound = |(at, (name, part)): (usize, (PartName, &Part))| (!lost(name)).then(|| file(at, name, part));
        let all: Vec<Option<PartFile>> = set.listed().enumerate().map(sound).collect();
        let mut all = all.into_iter();
        let remaining = Remaining {
            parts: all.by_ref().take(set.list.count).collect(),
            parity: all.collect(),
        };
        let (outputs, files) = outputs(&set, &parts)?;
        let written = decode(remaining, size, outputs, progress).await?;
        publish(&set, &parts, written, files).await?;
    }
    if !parity.is_empty() {
        let parts = set.list.parts.iter().enumerate();
        let files: Arc<[PartFile]> = parts.map(|(at, part)| file(at, PartName::Part(at + 1), part)).collect();
        let (outputs, temporary) = outputs(&set, &parity)?;
        let written = encode(files, set.list.parity.len(), size, outputs, progress).await?;
        publish(&set, &parity, written, temporary).await?;
    }
    let mut written = Vec::new();
    let lists = lists(&set).await?;
    for name in lists.iter().chain(&parts).chain(&parity) {
        written.push(name.file_name(archive));
    }
    Ok(Repaired {
        written,
        foreign: foreign.iter().map(|flaw| flaw.part.file_name(archive)).collect(),
    })
}

/// Files under temporary names for the parts `names`.
fn outputs(set: &PartSet, names: &[PartName]) -> Result<(Vec<Output>, Vec<TempPath>), Fault> {
    let (mut outputs, mut files) = (Vec::with_capacity(names.len()), Vec::with_capacity(names.len()));
    for name in names {
        let (PartName::Part(number) | PartName::Parity(number)) = name else {
            continue;
        };
        let (file, path) = temporary(&set.archive)?;
        outputs.push(Output {
            at: number - 1,
            size: set.part(*name).map_or(0, |part| part.size),
            path: name.path(&set.archive),
            file,
        });
        files.push(path);
    }
    Ok((outputs, files))
}

/// Gives computed parts their names, if they are what the list says.
async fn publish(set: &PartSet, names: &[PartName], written: Vec<Part>, files: Vec<TempPath>) -> Result<(), Fault> {
    for ((name, part), file) in names.iter().zip(written).zip(files) {
        if set.part(*name) != Some(&part) {
            return Err(mismatch(&set.archive, name));
        }
        let path = name.path(&set.archive);
        blocking(move || file.persist(&path).map_err(|error| unwritable(&path, error.error))).await?;
    }
    Ok(())
}

fn mismatch(archive: &Path, name: &PartName) -> Fault {
    let message = format!(
        "{} cannot be computed: the result has another digest than {} says; copy it again",
        name.file_name(archive),
        PartName::List.file_name(archive)
    );
    Fault::stalled(Reason::DigestMismatch, message)
}

/// Writes the list and its copy, where they are not what they should be. Returns which were written.
async fn lists(set: &PartSet) -> Result<Vec<PartName>, Fault> {
    let set = set.clone();
    blocking(move || {
        let text = set.list.encode();
        let mut written = Vec::new();
        let copy = (!set.list.parity.is_empty()).then_some(PartName::ListCopy);
        for name in copy.into_iter().chain([PartName::List]) {
            let path = name.path(&set.archive);
            let length = std::fs::metadata(&path).map(|data| data.len());
            let is_same = length.is_ok_and(|length| length == text.len() as u64)
                && std::fs::read(&path).is_ok_and(|found| found == text);
            if !is_same {
                write_list(&set.archive, name, &set.list)?;
                written.push(name);
            }
        }
        Ok(written)
    })
    .await
}

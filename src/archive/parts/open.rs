//! An archive in parts as bytes at any offset.

use std::io;
use std::path::{Path, PathBuf};

use super::files::PartFile;
use super::flaws::PartSet;
use super::name::PartName;
use crate::archive::RandomAccess;
use crate::fault::{Fault, Reason};

/// An archive whose bytes are in parts.
pub struct PartsFile {
    archive: PathBuf,
    parts: Vec<PartFile>,
    /// The offset in the archive at which each part begins.
    begins: Vec<u64>,
    length: u64,
}

impl PartsFile {
    /// Opens the parts of `archive`, all of which must be there.
    ///
    /// # Errors
    /// A stalled fault that names every part which is missing, cut, exchanged or of another archive, and says what to do.
    pub async fn open(archive: &Path) -> Result<Self, Fault> {
        let set = PartSet::open(archive).await?;
        if let Some(fault) = set.fault(&set.flaws().await?) {
            return Err(fault);
        }
        let (mut parts, mut begins) = (Vec::with_capacity(set.list.count), Vec::with_capacity(set.list.count));
        let mut length = 0_u64;
        for number in 1..=set.list.count {
            let path = PartName::Part(number).path(archive);
            let size = match set.list.parts.get(number - 1) {
                Some(part) => part.size,
                // The lengths fit the list: that was found out above.
                None => std::fs::metadata(&path).map(|data| data.len()).map_err(|error| {
                    Fault::stalled(
                        Reason::SourceFailed,
                        format!("{} cannot be read: {error}", path.display()),
                    )
                })?,
            };
            parts.push(PartFile::new(path, size, number - 1));
            begins.push(length);
            length = length.saturating_add(size);
        }
        Ok(Self {
            archive: set.archive,
            parts,
            begins,
            length,
        })
    }
}

impl PartsFile {
    /// The place of the part that holds the byte at `offset`.
    fn place_of(&self, offset: u64) -> usize {
        let after = self.begins.partition_point(|begin| *begin <= offset);
        after.saturating_sub(1)
    }
}

impl RandomAccess for PartsFile {
    fn parts_of(&self, offset: u64, length: u64) -> Option<String> {
        let places = [offset, offset.saturating_add(length.saturating_sub(1))].map(|offset| self.place_of(offset));
        let [first, last] = places.map(|at| PartName::Part(at + 1).file_name(&self.archive));
        Some(match first == last {
            true => first,
            false => format!("{first} to {last}"),
        })
    }

    fn length(&self) -> u64 {
        self.length
    }

    fn read_exact_at(&self, mut buffer: &mut [u8], mut offset: u64) -> io::Result<()> {
        while !buffer.is_empty() {
            let at = self.place_of(offset);
            let (Some(part), Some(begin)) = (self.parts.get(at), self.begins.get(at)) else {
                return Err(io::ErrorKind::UnexpectedEof.into());
            };
            let within = offset - begin;
            let rest = part.size().saturating_sub(within);
            let length = usize::try_from(rest).map_or(buffer.len(), |rest| rest.min(buffer.len()));
            if length == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            let (piece, others) = buffer.split_at_mut(length);
            part.read_exact_at(piece, within)?;
            buffer = others;
            offset += length as u64;
        }
        Ok(())
    }
}

/// The archive whose parts `path` names: by their list, or by the name of the archive where it does not exist and a part does.
///
/// # Errors
/// A stalled fault for a single part, which cannot be read alone.
pub fn has_parts(path: &Path) -> Result<Option<PathBuf>, Fault> {
    match PartName::of(path) {
        Some((archive, PartName::List)) => Ok(Some(archive)),
        Some((archive, _)) => {
            let message = format!(
                "it is one part of an archive; name {}",
                PartName::List.file_name(&archive)
            );
            Err(Fault::stalled(Reason::SourceFailed, message))
        }
        None => {
            let some = [PartName::List, PartName::Part(1)].map(|part| part.path(path));
            let is_split = !path.exists() && some.iter().any(|part| part.exists());
            Ok(is_split.then(|| path.to_owned()))
        }
    }
}

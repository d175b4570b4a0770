//! Parts on disk.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

/// The most parts of an archive that are kept open. Processes may have 1024 files open by default, and there may be 999 parts.
const OPEN_FILES: usize = 128;

/// A part, which is opened when it is read.
pub(super) struct PartFile {
    path: PathBuf,
    size: u64,
    keeps_open: bool,
    open: OnceLock<File>,
}

impl PartFile {
    /// The file `path` of `size` bytes. `at` is its place among the parts.
    pub fn new(path: PathBuf, size: u64, at: usize) -> Self {
        Self {
            path,
            size,
            keeps_open: at < OPEN_FILES,
            open: OnceLock::new(),
        }
    }

    /// Its length in bytes.
    pub fn size(&self) -> u64 {
        self.size
    }

    /// Fills `buffer` with the bytes at `offset`.
    pub fn read_exact_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()> {
        let mut read = || match self.open.get() {
            Some(file) => file.read_exact_at(buffer, offset),
            None => {
                let file = File::open(&self.path)?;
                file.read_exact_at(buffer, offset)?;
                if self.keeps_open {
                    let _ = self.open.set(file);
                }
                Ok(())
            }
        };
        read().map_err(|error| named(&self.path, &error))
    }

    /// The same, with zeros where the file has ended.
    pub fn read_padded(&self, buffer: &mut [u8], offset: u64) -> io::Result<()> {
        let rest = self.size.saturating_sub(offset);
        let length = usize::try_from(rest).map_or(buffer.len(), |rest| rest.min(buffer.len()));
        let (content, padding) = buffer.split_at_mut(length);
        padding.fill(0);
        match content.is_empty() {
            true => Ok(()),
            false => self.read_exact_at(content, offset),
        }
    }
}

/// `error` with the name of the file, which became shorter or disappeared since it was looked at.
fn named(path: &Path, error: &io::Error) -> io::Error {
    let name = path.display();
    match error.kind() {
        io::ErrorKind::UnexpectedEof => io::Error::new(
            io::ErrorKind::InvalidData,
            format!("{name} became shorter while it was read"),
        ),
        kind => io::Error::new(kind, format!("{name} cannot be read: {error}")),
    }
}

//! Parts under temporary names until they are complete. What a process left that was killed is removed by the next one.

use std::fs::File;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use tempfile::TempPath;

use super::unwritable;
use crate::archive::PartialFile;
use crate::fault::{Fault, Reason};

/// The end of a temporary name.
const SUFFIX: &str = ".partial";
/// The random characters in a temporary name.
const RANDOM: usize = 6;

/// The right to write the parts of an archive, which one process has at a time. It is the lock of the archive's [`PartialFile`].
pub(super) struct WriteLock(PartialFile);

impl WriteLock {
    /// Gets the right, and removes what a killed process left of the parts of `archive`.
    ///
    /// # Errors
    /// A retryable fault, where another process has it or a file cannot be written.
    pub fn acquire(archive: &Path) -> Result<Self, Fault> {
        let partial = PartialFile::open(archive).map_err(|error| unwritable(archive, error))?;
        let lock = Self(partial.ok_or_else(|| {
            let message = format!(
                "another process writes {}; wait for it, or write to another file",
                archive.display()
            );
            Fault::retryable(Reason::PushFailed, message)
        })?);
        let folder = folder(archive);
        for entry in std::fs::read_dir(folder).map_err(|error| unwritable(archive, error))? {
            let entry = entry.map_err(|error| unwritable(archive, error))?;
            let is_left = entry
                .file_name()
                .to_str()
                .is_some_and(|name| is_temporary(name, archive));
            if is_left && entry.file_type().is_ok_and(|kind| kind.is_file()) {
                let path = entry.path();
                std::fs::remove_file(&path).map_err(|error| unwritable(&path, error))?;
            }
        }
        Ok(lock)
    }
}

impl Drop for WriteLock {
    fn drop(&mut self) {
        // One with content is that of a `pack` that was interrupted, which continues it.
        if self.0.file().metadata().is_ok_and(|metadata| metadata.len() == 0) {
            let _ = std::fs::remove_file(self.0.path());
        }
    }
}

fn folder(archive: &Path) -> &Path {
    let folder = archive.parent().filter(|folder| !folder.as_os_str().is_empty());
    folder.unwrap_or(Path::new("."))
}

fn prefix(archive: &Path) -> String {
    let name = archive.file_name().unwrap_or_default().to_string_lossy();
    format!(".{name}.part-")
}

/// Whether `name` is a temporary name of a part of `archive`.
fn is_temporary(name: &str, archive: &Path) -> bool {
    let random = name
        .strip_prefix(&prefix(archive))
        .and_then(|rest| rest.strip_suffix(SUFFIX));
    random.is_some_and(|random| random.len() == RANDOM && random.bytes().all(|byte| byte.is_ascii_alphanumeric()))
}

/// A file under a temporary name beside `archive`.
pub(super) fn temporary(archive: &Path) -> Result<(File, TempPath), Fault> {
    // A temporary file is its owner's alone; what is carried on is read by others.
    let file = tempfile::Builder::new()
        .prefix(&prefix(archive))
        .suffix(SUFFIX)
        .rand_bytes(RANDOM)
        .permissions(std::fs::Permissions::from_mode(0o644))
        .tempfile_in(folder(archive));
    Ok(file.map_err(|error| unwritable(archive, error))?.into_parts())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_left_is_removed_by_whoever_has_the_lock() {
        let folder = tempfile::tempdir().unwrap();
        let archive = folder.path().join("a.tar.zst");
        let names = || {
            let entries = std::fs::read_dir(folder.path()).unwrap();
            let mut names: Vec<String> = entries
                .map(|entry| entry.unwrap().file_name().into_string().unwrap())
                .collect();
            names.sort();
            names
        };
        let left = |archive: &Path| temporary(archive).unwrap().1.keep().unwrap();
        left(&archive);
        // Those of another archive, and of no archive.
        let other = left(&folder.path().join("a.tar.zst.part-abc"));
        let kept = [
            ".a.tar.zst.part-.partial",
            ".a.tar.zst.part-abcde/.partial",
            ".b.part-abcdef.partial",
        ];
        for name in [kept[0], kept[2]] {
            std::fs::write(folder.path().join(name), "").unwrap();
        }
        assert_eq!(names().len(), 4);
        let lock = WriteLock::acquire(&archive).unwrap();
        let busy = WriteLock::acquire(&archive).err().unwrap();
        assert!(
            !busy.is_stalled() && busy.message.contains("another process writes"),
            "{busy}"
        );
        let other = other.file_name().unwrap().to_str().unwrap();
        let mut expected = vec![".a.tar.zst.partial", kept[0], kept[2], other];
        expected.sort_unstable();
        assert_eq!(names(), expected);
        drop(lock);
        assert_eq!(names().len(), 3);
        // An interrupted `pack` is continued later.
        std::fs::write(folder.path().join(".a.tar.zst.partial"), "content").unwrap();
        drop(WriteLock::acquire(&archive).unwrap());
        assert_eq!(names().len(), 4);
    }
}

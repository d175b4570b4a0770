//! A package file while it is written: it has a name of its own until it is complete.

use std::ffi::OsString;
use std::fs::{File, OpenOptions, Permissions, TryLockError};
use std::io;
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// The end of the name of a file that is not complete.
const SUFFIX: &str = ".partial";
/// How often the file is opened again because another process completed it at that moment.
const TRIES: usize = 16;

/// The file `.NAME.partial` beside the file NAME. It stays when it is dropped, so that the next process continues it. Only one
/// process writes it: it is locked (flock).
#[derive(Debug)]
pub struct PartialFile {
    file: Arc<File>,
    path: PathBuf,
    target: PathBuf,
}

impl PartialFile {
    /// Opens or creates the file that becomes `target`. `None` where another process writes it.
    ///
    /// # Errors
    /// When it cannot be created, or what has its name is not a file of this user under one name.
    pub fn open(target: &Path) -> io::Result<Option<Self>> {
        let name = target.file_name().ok_or(io::ErrorKind::InvalidInput)?;
        let mut hidden = OsString::from(".");
        hidden.push(name);
        hidden.push(SUFFIX);
        let path = target.with_file_name(hidden);
        for _ in 0..TRIES {
            let mut options = OpenOptions::new();
            options.read(true).write(true).create(true).truncate(false);
            let file = options.custom_flags(libc::O_NOFOLLOW).open(&path)?;
            match file.try_lock() {
                Ok(()) => {}
                Err(TryLockError::WouldBlock) => return Ok(None),
                Err(TryLockError::Error(error)) => return Err(error),
            }
            let opened = file.metadata()?;
            if !opened.is_file() {
                return Err(unusable(&path, "is not a regular file"));
            }
            // Another user may have made it in a folder that both can write to, to change its content later or to have another file
            // overwritten.
            if opened.uid() != rustix::process::geteuid().as_raw() {
                return Err(unusable(&path, "belongs to another user"));
            }
            if opened.nlink() > 1 {
                return Err(unusable(&path, "is a hard link of another file"));
            }
            // Whoever had the lock may have given the file its name.
            let is_same = std::fs::symlink_metadata(&path)
                .is_ok_and(|named| (named.dev(), named.ino()) == (opened.dev(), opened.ino()));
            if is_same {
                return Ok(Some(Self {
                    file: Arc::new(file),
                    path,
                    target: target.to_owned(),
                }));
            }
        }
        Err(io::ErrorKind::ResourceBusy.into())
    }

    /// The file.
    pub fn file(&self) -> &Arc<File> {
        &self.file
    }

    /// Its name.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Bytes that can be written to its file system.
    ///
    /// # Errors
    /// When the file system does not say it.
    pub fn available(&self) -> io::Result<u64> {
        let stat = rustix::fs::fstatvfs(&*self.file)?;
        Ok(stat.f_bavail.saturating_mul(stat.f_frsize))
    }

    /// Gives the file its name, when its content is on the disk.
    ///
    /// # Errors
    /// When that fails.
    pub fn complete(self) -> io::Result<()> {
        // What is carried on is read by others.
        self.file.set_permissions(Permissions::from_mode(0o644))?;
        self.file.sync_all()?;
        std::fs::rename(&self.path, &self.target)?;
        let folder = self.target.parent().filter(|folder| !folder.as_os_str().is_empty());
        File::open(folder.unwrap_or(Path::new(".")))?.sync_all()
    }
}

/// The error for a file that must not be continued.
fn unusable(path: &Path, why: &str) -> io::Error {
    let message = format!("{} {why}; remove it", path.display());
    io::Error::new(io::ErrorKind::InvalidInput, message)
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use super::*;

    #[test]
    fn one_process_writes_and_the_next_continues() {
        let folder = tempfile::tempdir().unwrap();
        let target = folder.path().join("shop.tar.zst");
        let first = PartialFile::open(&target).unwrap().unwrap();
        assert!(PartialFile::open(&target).unwrap().is_none());
        assert_eq!(first.path(), folder.path().join(".shop.tar.zst.partial"));
        (&**first.file()).write_all(b"content").unwrap();
        assert!(first.available().unwrap() > 0);
        drop(first);
        let second = PartialFile::open(&target).unwrap().unwrap();
        assert_eq!(second.file().metadata().unwrap().len(), 7);
        second.complete().unwrap();
        assert_eq!(std::fs::read(&target).unwrap(), b"content");
        assert!(!folder.path().join(".shop.tar.zst.partial").exists());
        std::fs::hard_link(&target, folder.path().join(".shop.tar.zst.partial")).unwrap();
        let linked = PartialFile::open(&target).unwrap_err().to_string();
        assert!(linked.contains("is a hard link"), "{linked}");
        std::fs::remove_file(folder.path().join(".shop.tar.zst.partial")).unwrap();
        std::os::unix::fs::symlink("elsewhere", folder.path().join(".shop.tar.zst.partial")).unwrap();
        assert!(PartialFile::open(&target).is_err());
    }
}

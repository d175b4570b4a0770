//! Blobs that are set aside: `jackal-garbage/BATCH/ALGORITHM/HEX/data` in the root directory of the storage.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use tokio_util::sync::CancellationToken;

use super::marks::Marks;
use super::store::{Store, digests, folders};
use super::{Amount, Failure};
use crate::oci::Digest;

/// The folder, which distribution does not read.
const FOLDER: &str = "jackal-garbage";
/// The file whose time is the end of the last run.
const LAST_RUN: &str = "last-run";

/// The quarantine of a storage.
pub(super) struct Quarantine {
    folder: PathBuf,
}

/// The blobs that one run sets aside.
pub(super) struct Batch {
    folder: PathBuf,
}

/// Whether a file operation succeeded; `false` if the file does not exist.
fn existed(path: &Path, result: io::Result<()>) -> Result<bool, Failure> {
    match result {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(Failure::file(path)(error)),
    }
}

/// The folder of a blob in the folder of a batch.
fn blob(batch: &Path, digest: &Digest) -> PathBuf {
    batch.join(digest.algorithm()).join(digest.hex())
}

impl Quarantine {
    /// The quarantine of the storage in `root`.
    pub fn of(root: &Path) -> Self {
        Self {
            folder: root.join(FOLDER),
        }
    }

    /// A new batch, whose folder is made with its first blob.
    pub fn batch(&self, now: SystemTime) -> Batch {
        let since = now.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        // Another process may begin in the same second.
        let name = format!("{}-{:08x}", since.as_secs(), fastrand::u32(..));
        Batch {
            folder: self.folder.join(name),
        }
    }

    fn batches(&self) -> Result<Vec<PathBuf>, Failure> {
        let names = folders(&self.folder)?;
        Ok(names.iter().map(|name| self.folder.join(name)).collect())
    }

    /// The folders of a blob here.
    pub fn blobs(&self, digest: &Digest) -> Result<Vec<PathBuf>, Failure> {
        let batches = self.batches()?;
        Ok(batches.iter().map(|batch| blob(batch, digest)).collect())
    }

    /// Moves the blobs back that are in use.
    pub fn restore(&self, store: &Store, marks: &Marks, restored: &mut Amount) -> Result<(), Failure> {
        for batch in self.batches()? {
            for digest in digests(&batch)? {
                if !marks.contains(&digest) {
                    continue;
                }
                let (from, to) = (blob(&batch, &digest), store.blob(&digest));
                let size = fs::metadata(from.join("data")).map_or(0, |data| data.len());
                if let Some(parent) = to.parent() {
                    fs::create_dir_all(parent).map_err(Failure::file(parent))?;
                }
                match fs::rename(&from, &to) {
                    Ok(()) => restored.add(size),
                    // A client has uploaded it again.
                    Err(error)
                        if matches!(
                            error.kind(),
                            io::ErrorKind::DirectoryNotEmpty | io::ErrorKind::AlreadyExists
                        ) =>
                    {
                        existed(&from, fs::remove_dir_all(&from))?;
                    }
                    // Another process has moved it.
                    Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                    Err(error) => return Err(Failure::file(from)(error)),
                }
            }
        }
        Ok(())
    }

    /// Deletes the batches to which nothing was moved since `due`. None of their blobs may be in use.
    pub fn delete(&self, due: SystemTime, deleted: &mut Amount, stop: &CancellationToken) -> Result<(), Failure> {
        for batch in self.batches()? {
            // Listed before the time is read: nothing is deleted that another process moves here now.
            let listed = digests(&batch)?;
            let mut is_due = true;
            let algorithms: Vec<PathBuf> = folders(&batch)?.iter().map(|name| batch.join(name)).collect();
            for folder in &algorithms {
                // Each move into the folder sets its time.
                let moved = fs::metadata(folder).and_then(|data| data.modified());
                is_due &= moved.map_err(Failure::file(folder))? < due;
            }
            if !is_due {
                continue;
            }
            for digest in listed {
                if stop.is_cancelled() {
                    return Err(Failure::Stopped);
                }
                let folder = blob(&batch, &digest);
                let size = fs::metadata(folder.join("data")).map_or(0, |data| data.len());
                if existed(&folder, fs::remove_dir_all(&folder))? {
                    deleted.add(size);
                }
            }
            for folder in algorithms.iter().chain([&batch]) {
                match fs::remove_dir(folder) {
                    Err(error) if error.kind() == io::ErrorKind::DirectoryNotEmpty => {}
                    removed => {
                        existed(folder, removed)?;
                    }
                }
            }
        }
        Ok(())
    }

    /// Records that a run ends now.
    pub fn record_run(&self) -> Result<(), Failure> {
        fs::create_dir_all(&self.folder).map_err(Failure::file(&self.folder))?;
        let path = self.folder.join(LAST_RUN);
        fs::write(&path, b"").map_err(Failure::file(path))
    }

    /// When the last run ended.
    pub fn last_run(&self) -> Option<SystemTime> {
        fs::metadata(self.folder.join(LAST_RUN)).ok()?.modified().ok()
    }
}

impl Batch {
    /// Moves a blob out of `store`. Returns whether it was there.
    pub fn set_aside(&self, store: &Store, digest: &Digest) -> Result<bool, Failure> {
        let (from, to) = (store.blob(digest), blob(&self.folder, digest));
        if let Some(parent) = to.parent() {
            fs::create_dir_all(parent).map_err(Failure::file(parent))?;
        }
        existed(&from, fs::rename(&from, &to))
    }
}

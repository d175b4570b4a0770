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

/// The file of a batch whose time is the end of its moves.
const COMPLETE: &str = "complete";

/// The quarantine of a storage.
pub(super) struct Quarantine {
    folder: PathBuf,
}

/// The blobs that one run sets aside.
pub(super) struct Batch {
    folder: PathBuf,
}

/// Blobs of a batch that were set aside for long enough.
pub(super) struct Due {
    folder: PathBuf,
    blobs: Vec<Digest>,
}

/// Whether a file operation succeeded; `false` if the file does not exist.
fn existed(path: &Path, result: io::Result<()>) -> Result<bool, Failure> {
    match result {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(Failure::file(path)(error)),
    }
}

/// Removes a folder if it is empty. Returns whether it is gone.
fn removed(folder: &Path) -> Result<bool, Failure> {
    match fs::remove_dir(folder) {
        Err(error) if error.kind() == io::ErrorKind::DirectoryNotEmpty => Ok(false),
        other => existed(folder, other).map(|_| true),
    }
}

/// When a blob was last moved to the batch. Without the file, because the process was killed: when one was last moved to or from it.
fn last_move(batch: &Path) -> Result<Option<SystemTime>, Failure> {
    let modified = |path: PathBuf| match fs::metadata(&path).and_then(|data| data.modified()) {
        Ok(time) => Ok(Some(time)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(Failure::file(path)(error)),
    };
    if let Some(ended) = modified(batch.join(COMPLETE))? {
        return Ok(Some(ended));
    }
    let mut last = None;
    for algorithm in folders(batch)? {
        last = last.max(modified(batch.join(algorithm))?);
    }
    Ok(last)
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

    /// The blobs of the batches to which nothing was moved since `due`.
    pub fn due(&self, due: SystemTime) -> Result<Vec<Due>, Failure> {
        let mut found = Vec::new();
        for folder in self.batches()? {
            // Listed before the time is read: nothing is due that another process moves here now.
            let blobs = digests(&folder)?;
            if last_move(&folder)?.is_none_or(|moved| moved < due) {
                found.push(Due { folder, blobs });
            }
        }
        Ok(found)
    }

    /// Deletes what is still there of blobs that are due. None of them may be in use.
    pub fn delete(&self, due: Vec<Due>, deleted: &mut Amount, stop: &CancellationToken) -> Result<(), Failure> {
        for Due { folder, blobs } in due {
            for digest in blobs {
                if stop.is_cancelled() {
                    return Err(Failure::Stopped);
                }
                let content = blob(&folder, &digest);
                let size = fs::metadata(content.join("data")).map_or(0, |data| data.len());
                if existed(&content, fs::remove_dir_all(&content))? {
                    deleted.add(size);
                }
            }
            let algorithms: Vec<PathBuf> = folders(&folder)?.iter().map(|name| folder.join(name)).collect();
            let mut is_empty = true;
            for algorithm in &algorithms {
                is_empty &= removed(algorithm)?;
            }
            if is_empty {
                let complete = folder.join(COMPLETE);
                existed(&complete, fs::remove_file(&complete))?;
                removed(&folder)?;
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
    /// Records that nothing more is moved here.
    pub fn complete(&self) -> Result<(), Failure> {
        let path = self.folder.join(COMPLETE);
        fs::write(&path, b"").map_err(Failure::file(path))
    }

    /// Moves a blob out of `store`. Returns whether it was there.
    pub fn set_aside(&self, store: &Store, digest: &Digest) -> Result<bool, Failure> {
        let (from, to) = (store.blob(digest), blob(&self.folder, digest));
        if let Some(parent) = to.parent() {
            fs::create_dir_all(parent).map_err(Failure::file(parent))?;
        }
        existed(&from, fs::rename(&from, &to))
    }
}

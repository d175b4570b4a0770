//! The files of a layout. Each gets its name when it is complete and synced to disk.

use std::fs::{File, TryLockError};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use bytes::Bytes;

/// The longest time to wait for another process that writes `index.json`.
const LOCK_LIMIT: Duration = Duration::from_secs(30);

/// Creates `directory` and locks its `index.json` until the returned file is closed. It waits for other writers.
pub fn lock(directory: &Path) -> io::Result<File> {
    std::fs::create_dir_all(directory)?;
    let file = File::options()
        .create(true)
        .truncate(false)
        .write(true)
        .open(directory.join(".lock"))?;
    let deadline = Instant::now() + LOCK_LIMIT;
    loop {
        match file.try_lock() {
            Ok(()) => return Ok(file),
            Err(TryLockError::WouldBlock) if Instant::now() < deadline => {
                std::thread::sleep(Duration::from_millis(5));
            }
            Err(TryLockError::WouldBlock) => {
                return Err(io::Error::new(
                    io::ErrorKind::TimedOut,
                    "another process holds its .lock",
                ));
            }
            Err(TryLockError::Error(error)) => return Err(error),
        }
    }
}

/// A file that is removed unless it is renamed.
pub struct TemporaryFile(pub PathBuf);

impl TemporaryFile {
    /// A new file with a unique name in `folder`.
    pub fn in_folder(folder: &Path) -> Self {
        Self(folder.join(format!(".unfinished-{:016x}", fastrand::u64(..))))
    }
}

impl Drop for TemporaryFile {
    fn drop(&mut self) {
        // Fails if it was renamed.
        let _ = std::fs::remove_file(&self.0);
    }
}

/// Replaces a file with `content` atomically.
pub fn replace(path: &Path, content: &[u8]) -> io::Result<()> {
    let folder = path.parent().unwrap_or(Path::new("."));
    let unfinished = TemporaryFile::in_folder(folder);
    let mut file = File::create_new(&unfinished.0)?;
    file.write_all(content)?;
    file.sync_all()?;
    std::fs::rename(&unfinished.0, path)?;
    File::open(folder)?.sync_all()
}

/// The content of a file, or `None` if it does not exist. A file longer than `limit` bytes is an error.
pub fn read_within(path: &Path, limit: usize) -> io::Result<Option<Bytes>> {
    let file = match File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error),
    };
    let mut content = Vec::new();
    file.take(limit as u64 + 1).read_to_end(&mut content)?;
    if content.len() > limit {
        let what = format!("{} has more than {limit} bytes", path.display());
        return Err(io::Error::new(io::ErrorKind::FileTooLarge, what));
    }
    Ok(Some(content.into()))
}

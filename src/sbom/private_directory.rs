//! The private directories in which syft works: it unpacks the layers of an image there and writes its documents.

use std::fs::{self, File, TryLockError};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use rustix::io::Errno;
use tempfile::TempDir;

use crate::source::ConfinedDirectory;

/// The prefix of the directories' names.
const PREFIX: &str = "jackal-sbom-";
/// The file that is locked as long as the creating process runs.
const LOCK: &str = ".lock";
/// The age from which a directory without a lock file is not just being created.
const YOUNG: Duration = Duration::from_secs(3600);
/// How often removing a directory is tried while a killed process may still write to it.
const REMOVALS: u32 = 40;
/// The time between two attempts.
const PAUSE: Duration = Duration::from_millis(50);

/// A directory that only this process's user can read. It is removed when dropped, or at the next start.
pub(super) struct PrivateDirectory {
    directory: Option<TempDir>,
    _lock: File,
}

impl PrivateDirectory {
    /// A new directory in `root`.
    pub fn new(root: &Path) -> io::Result<Self> {
        let directory = tempfile::Builder::new()
            .prefix(PREFIX)
            .permissions(fs::Permissions::from_mode(0o700))
            .tempdir_in(root)?;
        let lock = private().open(directory.path().join(LOCK))?;
        lock.lock()?;
        Ok(Self {
            directory: Some(directory),
            _lock: lock,
        })
    }

    /// Its path.
    pub fn path(&self) -> &Path {
        self.directory.as_ref().map_or(Path::new(""), TempDir::path)
    }

    /// Writes a file with mode 0600 and returns its path.
    pub fn write(&self, name: &str, content: &[u8]) -> io::Result<PathBuf> {
        let path = self.path().join(name);
        private().open(&path)?.write_all(content)?;
        Ok(path)
    }

    /// The content of a file of at most `limit` bytes; the first `limit` + 1 bytes of a longer one. The program in the
    /// directory may have put a symbolic link there, or an endless file.
    pub fn read(&self, name: &str, limit: u64) -> io::Result<Vec<u8>> {
        let mut content = Vec::new();
        let mut directory =
            ConfinedDirectory::open(self.path()).map_err(|reason| io::Error::other(reason.to_string()))?;
        let (file, _) = directory.open_file(name.as_bytes()).map_err(|errno| match errno {
            Errno::LOOP | Errno::INVAL => io::Error::other("it is not a regular file"),
            other => other.into(),
        })?;
        file.take(limit.saturating_add(1)).read_to_end(&mut content)?;
        Ok(content)
    }
}

impl Drop for PrivateDirectory {
    fn drop(&mut self) {
        let Some(directory) = self.directory.take() else { return };
        let path = directory.keep();
        let remove = move || {
            for _ in 0..REMOVALS {
                match fs::remove_dir_all(&path) {
                    Ok(()) => return,
                    Err(error) if error.kind() == io::ErrorKind::NotFound => return,
                    Err(_) => std::thread::sleep(PAUSE),
                }
            }
        };
        // Removing the unpacked layers of an image may take long.
        match tokio::runtime::Handle::try_current() {
            Ok(runtime) => drop(runtime.spawn_blocking(remove)),
            Err(_) => remove(),
        }
    }
}

fn private() -> fs::OpenOptions {
    let mut options = File::options();
    options.create(true).write(true).truncate(true).mode(0o600);
    options
}

/// The disk usage of `directory` in bytes, without files that are removed in the meantime.
pub(super) fn disk_usage(directory: &Path) -> u64 {
    let mut bytes = 0;
    let mut open = vec![directory.to_owned()];
    while let Some(path) = open.pop() {
        for entry in fs::read_dir(path).into_iter().flatten().flatten() {
            match entry.metadata() {
                Ok(metadata) if metadata.is_dir() => open.push(entry.path()),
                Ok(metadata) => bytes += metadata.blocks() * 512,
                Err(_) => {}
            }
        }
    }
    bytes
}

/// Removes the directories in `root` whose processes have ended, and returns their number.
pub(super) fn remove_abandoned(root: &Path) -> io::Result<usize> {
    let mut swept = 0;
    for entry in fs::read_dir(root)?.flatten() {
        let ours = entry.file_name().to_str().is_some_and(|name| name.starts_with(PREFIX));
        // A symbolic link of that name was not created by this program.
        if ours && entry.file_type().is_ok_and(|kind| kind.is_dir()) && is_abandoned(&entry.path()) {
            fs::remove_dir_all(entry.path())?;
            swept += 1;
        }
    }
    Ok(swept)
}

fn is_abandoned(directory: &Path) -> bool {
    match File::open(directory.join(LOCK)) {
        Ok(lock) => match lock.try_lock() {
            Ok(()) => true,
            Err(TryLockError::WouldBlock | TryLockError::Error(_)) => false,
        },
        Err(_) => {
            let changed = fs::metadata(directory).and_then(|metadata| metadata.modified());
            let age = changed.map(|changed| SystemTime::now().duration_since(changed).unwrap_or_default());
            age.is_ok_and(|age| age > YOUNG)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_directory_is_private_and_removed_when_dropped() {
        let root = tempfile::tempdir().unwrap();
        let scratch = PrivateDirectory::new(root.path()).unwrap();
        let secret = scratch.write("tls.key", b"secret").unwrap();
        let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
        assert_eq!((mode(scratch.path()), mode(&secret)), (0o700, 0o600));
        assert_eq!(scratch.read("tls.key", 3).unwrap(), b"secr");
        assert!(disk_usage(scratch.path()) >= 512);
        std::os::unix::fs::symlink(&secret, scratch.path().join("link")).unwrap();
        rustix::fs::mkfifoat(rustix::fs::CWD, scratch.path().join("pipe"), rustix::fs::Mode::RWXU).unwrap();
        for name in ["link", "pipe"] {
            let error = scratch.read(name, 3).unwrap_err().to_string();
            assert_eq!(error, "it is not a regular file");
        }
        assert_eq!(scratch.read("absent", 3).unwrap_err().kind(), io::ErrorKind::NotFound);
        drop(scratch);
        assert_eq!(fs::read_dir(root.path()).unwrap().count(), 0);
    }

    #[test]
    fn only_abandoned_directories_are_removed() {
        let root = tempfile::tempdir().unwrap();
        let lives = PrivateDirectory::new(root.path()).unwrap();
        let left = root.path().join("jackal-sbom-left");
        fs::create_dir(&left).unwrap();
        fs::write(left.join(LOCK), b"").unwrap();
        let others = root.path().join("somebody-elses");
        fs::create_dir(&others).unwrap();
        let begun = root.path().join("jackal-sbom-begun");
        fs::create_dir(&begun).unwrap();
        assert_eq!(remove_abandoned(root.path()).unwrap(), 1);
        assert!(!left.exists() && others.exists() && begun.exists() && lives.path().exists());
    }
}

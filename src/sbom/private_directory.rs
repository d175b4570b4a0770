//! The private folders in which syft works: it unpacks the layers of an image there, and writes its documents.

use std::fs::{self, File, TryLockError};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use rustix::io::Errno;
use tempfile::TempDir;

use crate::source::ConfinedDirectory;

/// What the folders' names begin with.
const PREFIX: &str = "jackal-sbom-";
/// The file that is locked as long as the process lives that made the folder.
const LOCK: &str = ".lock";
/// A folder without a lock may just be being made; one as old as that is not.
const YOUNG: Duration = Duration::from_secs(3600);
/// How often a folder is removed into which a process that is just being killed still writes.
const REMOVALS: u32 = 40;
/// Between two of those.
const PAUSE: Duration = Duration::from_millis(50);

/// A folder that only this process's user reads. It goes with its value, or with the next start.
pub(super) struct PrivateDirectory {
    folder: Option<TempDir>,
    _lock: File,
}

impl PrivateDirectory {
    /// A new folder below `root`.
    pub fn new(root: &Path) -> io::Result<Self> {
        let folder = tempfile::Builder::new()
            .prefix(PREFIX)
            .permissions(fs::Permissions::from_mode(0o700))
            .tempdir_in(root)?;
        let lock = private().open(folder.path().join(LOCK))?;
        lock.lock()?;
        Ok(Self {
            folder: Some(folder),
            _lock: lock,
        })
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        self.folder.as_ref().map_or(Path::new(""), TempDir::path)
    }

    /// Writes a file with mode 0600 and says where it is.
    pub fn write(&self, name: &str, content: &[u8]) -> io::Result<PathBuf> {
        let path = self.path().join(name);
        private().open(&path)?.write_all(content)?;
        Ok(path)
    }

    /// The content of a file of at most `limit` bytes; of a longer one its beginning and one byte more. Whoever works in the
    /// folder may have put a link there, or something that never ends.
    pub fn read(&self, name: &str, limit: u64) -> io::Result<Vec<u8>> {
        let mut content = Vec::new();
        let mut folder = ConfinedDirectory::open(self.path()).map_err(|reason| io::Error::other(reason.to_string()))?;
        let (file, _) = folder.open_file(name.as_bytes()).map_err(|errno| match errno {
            Errno::LOOP | Errno::INVAL => io::Error::other("it is no regular file"),
            other => other.into(),
        })?;
        file.take(limit.saturating_add(1)).read_to_end(&mut content)?;
        Ok(content)
    }
}

impl Drop for PrivateDirectory {
    fn drop(&mut self) {
        let Some(folder) = self.folder.take() else { return };
        let path = folder.keep();
        let remove = move || {
            for _ in 0..REMOVALS {
                match fs::remove_dir_all(&path) {
                    Ok(()) => return,
                    Err(error) if error.kind() == io::ErrorKind::NotFound => return,
                    Err(_) => std::thread::sleep(PAUSE),
                }
            }
        };
        // The layers of an image may be large.
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

/// Bytes of the disk that `folder` takes. What goes meanwhile does not count.
pub(super) fn used(folder: &Path) -> u64 {
    let mut bytes = 0;
    let mut open = vec![folder.to_owned()];
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

/// Removes the folders below `root` whose process is gone, and says how many there were.
pub(super) fn sweep(root: &Path) -> io::Result<usize> {
    let mut swept = 0;
    for entry in fs::read_dir(root)?.flatten() {
        let ours = entry.file_name().to_str().is_some_and(|name| name.starts_with(PREFIX));
        // A link of that name would be somebody else's.
        if ours && entry.file_type().is_ok_and(|kind| kind.is_dir()) && is_left(&entry.path()) {
            fs::remove_dir_all(entry.path())?;
            swept += 1;
        }
    }
    Ok(swept)
}

fn is_left(folder: &Path) -> bool {
    match File::open(folder.join(LOCK)) {
        Ok(lock) => match lock.try_lock() {
            Ok(()) => true,
            Err(TryLockError::WouldBlock | TryLockError::Error(_)) => false,
        },
        Err(_) => {
            let changed = fs::metadata(folder).and_then(|metadata| metadata.modified());
            let age = changed.map(|changed| SystemTime::now().duration_since(changed).unwrap_or_default());
            age.is_ok_and(|age| age > YOUNG)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_is_private_and_goes_with_its_value() {
        let root = tempfile::tempdir().unwrap();
        let scratch = PrivateDirectory::new(root.path()).unwrap();
        let secret = scratch.write("tls.key", b"secret").unwrap();
        let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
        assert_eq!((mode(scratch.path()), mode(&secret)), (0o700, 0o600));
        assert_eq!(scratch.read("tls.key", 3).unwrap(), b"secr");
        assert!(used(scratch.path()) >= 512);
        std::os::unix::fs::symlink(&secret, scratch.path().join("link")).unwrap();
        rustix::fs::mkfifoat(rustix::fs::CWD, scratch.path().join("pipe"), rustix::fs::Mode::RWXU).unwrap();
        for name in ["link", "pipe"] {
            let error = scratch.read(name, 3).unwrap_err().to_string();
            assert_eq!(error, "it is no regular file");
        }
        assert_eq!(scratch.read("absent", 3).unwrap_err().kind(), io::ErrorKind::NotFound);
        drop(scratch);
        assert_eq!(fs::read_dir(root.path()).unwrap().count(), 0);
    }

    #[test]
    fn what_a_process_that_is_gone_left_is_swept_and_nothing_else() {
        let root = tempfile::tempdir().unwrap();
        let lives = PrivateDirectory::new(root.path()).unwrap();
        let left = root.path().join("jackal-sbom-left");
        fs::create_dir(&left).unwrap();
        fs::write(left.join(LOCK), b"").unwrap();
        let others = root.path().join("somebody-elses");
        fs::create_dir(&others).unwrap();
        let begun = root.path().join("jackal-sbom-begun");
        fs::create_dir(&begun).unwrap();
        assert_eq!(sweep(root.path()).unwrap(), 1);
        assert!(!left.exists() && others.exists() && begun.exists() && lives.path().exists());
    }
}

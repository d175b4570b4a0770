//! Files that change while the process runs, such as those of a Secret.

use std::io::{self, Read as _};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::Mutex;
use tracing::{info, warn};

/// How often the files are looked at, when they are used.
const INTERVAL: Duration = Duration::from_secs(1);
/// How long reading may take; the old value is used meanwhile.
const READ_TIMEOUT: Duration = Duration::from_secs(5);
/// The maximum size of a file in bytes.
const SIZE: u64 = 4 * 1024 * 1024;

/// Makes a value of the contents of the files, where a file that does not exist is `None`.
type Parse<T> = Box<dyn Fn(&[Option<Vec<u8>>]) -> Result<T, String> + Send + Sync>;

/// What identifies a version of a file: its inode, its size and its time.
type Version = (u64, u64, i64, i64);

/// A value that is made of files.
pub(super) struct Reloaded<T> {
    paths: Arc<[PathBuf]>,
    parse: Parse<T>,
    state: Mutex<State<T>>,
}

struct State<T> {
    looked: Instant,
    versions: Vec<Option<Version>>,
    value: Arc<T>,
}

/// The files at one time.
struct Files {
    versions: Vec<Option<Version>>,
    contents: Vec<Option<Vec<u8>>>,
}

impl<T> Reloaded<T> {
    /// Reads the files.
    ///
    /// # Errors
    /// When a file cannot be read, or `parse` fails.
    pub async fn new(
        paths: Vec<PathBuf>,
        parse: impl Fn(&[Option<Vec<u8>>]) -> Result<T, String> + Send + Sync + 'static,
    ) -> Result<Self, String> {
        let paths: Arc<[PathBuf]> = paths.into();
        let files = read(Arc::clone(&paths), None).await?;
        let files = files.ok_or("cannot be read")?;
        let value = Arc::new(parse(&files.contents)?);
        Ok(Self {
            paths,
            parse: Box::new(parse),
            state: Mutex::new(State {
                looked: Instant::now(),
                versions: files.versions,
                value,
            }),
        })
    }

    /// The value of the files, which were looked at within a second. While they cannot be used, the last value.
    pub async fn current(&self) -> Arc<T> {
        let mut state = self.state.lock().await;
        if state.looked.elapsed() < INTERVAL {
            return Arc::clone(&state.value);
        }
        state.looked = Instant::now();
        let changed = read(Arc::clone(&self.paths), Some(state.versions.clone())).await;
        let parsed = match changed {
            Ok(None) => return Arc::clone(&state.value),
            Ok(Some(files)) => {
                state.versions = files.versions;
                (self.parse)(&files.contents)
            }
            Err(error) => Err(error),
        };
        match parsed {
            Ok(value) => {
                info!(files = ?self.paths, "read again after a change");
                state.value = Arc::new(value);
            }
            Err(error) => {
                warn!(files = ?self.paths, %error, "cannot be used after a change; the previous version stays in use")
            }
        }
        Arc::clone(&state.value)
    }
}

/// The files, or `None` if their versions are still `known`.
async fn read(paths: Arc<[PathBuf]>, known: Option<Vec<Option<Version>>>) -> Result<Option<Files>, String> {
    let reading = tokio::task::spawn_blocking(move || {
        let versions: Result<Vec<_>, String> = paths.iter().map(|path| version(path)).collect();
        let versions = versions?;
        if known.is_some_and(|known| known == versions) {
            return Ok(None);
        }
        let contents: Result<Vec<_>, String> = paths.iter().map(|path| content(path)).collect();
        Ok(Some(Files {
            versions,
            contents: contents?,
        }))
    });
    match tokio::time::timeout(READ_TIMEOUT, reading).await {
        Ok(Ok(read)) => read,
        Ok(Err(error)) => Err(error.to_string()),
        Err(_) => Err(format!("reading took more than {} s", READ_TIMEOUT.as_secs())),
    }
}

fn existing<T>(path: &Path, result: io::Result<T>) -> Result<Option<T>, String> {
    match result {
        Ok(value) => Ok(Some(value)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(format!("{}: {error}", path.display())),
    }
}

fn version(path: &Path) -> Result<Option<Version>, String> {
    let data = existing(path, std::fs::metadata(path))?;
    Ok(data.map(|data| (data.ino(), data.size(), data.mtime(), data.mtime_nsec())))
}

fn content(path: &Path) -> Result<Option<Vec<u8>>, String> {
    let read = || {
        let mut content = Vec::new();
        let size = std::fs::File::open(path)?.take(SIZE + 1).read_to_end(&mut content)?;
        match size as u64 > SIZE {
            true => Err(io::Error::other(format!("it is larger than {SIZE} bytes"))),
            false => Ok(content),
        }
    };
    existing(path, read())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_change_is_noticed_and_a_mistake_is_not_used() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("number");
        let parse = |contents: &[Option<Vec<u8>>]| match contents {
            [Some(text)] => String::from_utf8_lossy(text)
                .parse::<u32>()
                .map_err(|error| error.to_string()),
            _ => Ok(0),
        };
        let number = Reloaded::new(vec![path.clone()], parse).await.unwrap();
        assert_eq!(*number.current().await, 0);
        for (text, expected) in [("1", 1), ("22", 22), ("x", 22), ("333", 333)] {
            // As the kubelet replaces files.
            std::fs::write(folder.path().join("new"), text).unwrap();
            std::fs::rename(folder.path().join("new"), &path).unwrap();
            number.state.lock().await.looked = Instant::now().checked_sub(INTERVAL).unwrap();
            assert_eq!(*number.current().await, expected, "{text}");
        }
        std::fs::remove_file(&path).unwrap();
        assert_eq!(*number.current().await, 333, "not looked at again within the interval");
        number.state.lock().await.looked = Instant::now().checked_sub(INTERVAL).unwrap();
        assert_eq!(*number.current().await, 0);
        assert!(Reloaded::new(vec![folder.path().into()], parse).await.is_err());
    }
}

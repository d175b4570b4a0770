//! Small files that flags and variables name.

use std::io::{self, Read as _};
use std::path::{Path, PathBuf};

/// The longest file in bytes that is read: more than any key, bundle of certificates, trusted root or file of
/// credentials has.
const LIMIT: u64 = 4 * 1024 * 1024;

/// What the file `path` holds. A longer one than 4 MiB is an error.
pub(super) async fn read(path: &Path) -> io::Result<Vec<u8>> {
    let owned: PathBuf = path.to_owned();
    // Where it may block: a path may name a pipe.
    let reading = tokio::task::spawn_blocking(move || {
        let mut content = Vec::new();
        let read = std::fs::File::open(owned)?.take(LIMIT + 1).read_to_end(&mut content)?;
        match read as u64 > LIMIT {
            true => Err(io::Error::other(format!("it is longer than {LIMIT} bytes"))),
            false => Ok(content),
        }
    });
    reading.await.unwrap_or_else(|error| Err(io::Error::other(error)))
}

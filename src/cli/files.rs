//! Small files that flags and environment variables name.

use std::io::{self, Read as _};
use std::path::{Path, PathBuf};

/// The maximum size in bytes: larger than any key, certificate bundle, trusted root or credentials file.
const LIMIT: u64 = 4 * 1024 * 1024;

/// The content of the file `path`. A file larger than 4 MiB is an error.
pub(super) async fn read(path: &Path) -> io::Result<Vec<u8>> {
    let owned: PathBuf = path.to_owned();
    // On a blocking thread, because the path may be a pipe.
    let reading = tokio::task::spawn_blocking(move || {
        let mut content = Vec::new();
        let read = std::fs::File::open(owned)?.take(LIMIT + 1).read_to_end(&mut content)?;
        match read as u64 > LIMIT {
            true => Err(io::Error::other(format!("it is larger than {LIMIT} bytes"))),
            false => Ok(content),
        }
    });
    reading.await.unwrap_or_else(|error| Err(io::Error::other(error)))
}

//! Opens an archive: finds the files that it consists of, and its format.

use std::path::Path;
use std::sync::Arc;

use super::contents::{Archive, packed_contents};
use super::input::{DiskFile, RandomAccess};
use super::parts::{PartsFile, has_parts};
use crate::fault::{Fault, Reason};

/// Opens the archive `path`, which is read at any offset; with `.part000`, or where only its parts exist, from these. Nothing of it is verified before it is read.
///
/// # Errors
/// A stalled fault that names the path, where it cannot be read, is damaged or has an unknown format.
pub async fn open(path: &Path) -> Result<Archive, Fault> {
    let within = |fault: Fault| fault.with_context(path.display());
    let input = input_of(path).await.map_err(within)?;
    let contents = packed_contents(input).await.map_err(within)?;
    Archive::new(contents).await.map_err(within)
}

/// The bytes of the archive `path`.
async fn input_of(path: &Path) -> Result<Arc<dyn RandomAccess>, Fault> {
    if let Some(archive) = has_parts(path)? {
        return Ok(Arc::new(PartsFile::open(&archive).await?));
    }
    let path = path.to_owned();
    let file = tokio::task::spawn_blocking(move || DiskFile::open(&path)).await;
    let file = file.map_err(|error| Fault::retryable(Reason::SourceFailed, error.to_string()))?;
    let file = file.map_err(|error| Fault::stalled(Reason::SourceFailed, format!("it cannot be read: {error}")))?;
    Ok(Arc::new(file))
}

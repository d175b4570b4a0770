//! Writes the parts of an archive as one file.

use std::path::Path;

use bytes::Bytes;
use tokio::io::{AsyncWrite, AsyncWriteExt as _};

use super::flaws::{Flaw, PartSet, READ, Wrong};
use super::name::PartName;
use super::open::PartsFile;
use super::temporary::{WriteLock, temporary};
use super::{blocking, unwritable};
use crate::archive::RandomAccess as _;
use crate::fault::{Fault, Reason};
use crate::hashing::BackgroundHasher;
use crate::oci::Digest;
use crate::transfer::Progress;

/// An archive that was joined.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Joined {
    /// Bytes of the archive.
    pub size: u64,
    /// How many parts it was in.
    pub parts: usize,
    /// The digest of the archive.
    pub digest: Digest,
}

/// Writes the parts of `archive` into the file `to`, which gets its name when it is complete. `progress` counts bytes.
///
/// # Errors
/// A fault that names the parts which are missing or damaged, or says that `to` cannot be written.
pub async fn join_to(archive: &Path, to: &Path, progress: &Progress) -> Result<Joined, Fault> {
    let _lock = WriteLock::acquire(to)?;
    let (file, temporary) = temporary(to)?;
    let mut out = tokio::fs::File::from_std(file);
    out.set_max_buf_size(READ);
    let joined = join(archive, &mut out, &to.display().to_string(), progress).await?;
    out.sync_all().await.map_err(|error| unwritable(to, error))?;
    let path = to.to_owned();
    blocking(move || temporary.persist(&path).map_err(|error| unwritable(&path, error.error))).await?;
    Ok(joined)
}

/// Writes the parts of `archive` to `out`, each of which is verified, and then the whole. `name` names `out` in messages, and
/// `progress` counts bytes.
///
/// # Errors
/// A fault that names the parts which are missing or damaged, or says that `out` cannot be written.
pub async fn join(
    archive: &Path,
    mut out: impl AsyncWrite + Unpin,
    name: &str,
    progress: &Progress,
) -> Result<Joined, Fault> {
    let cannot = |error: std::io::Error| unwritable(Path::new(name), error);
    let set = PartSet::open(archive).await?;
    let mut file = PartsFile::open(archive).await?;
    progress.set_total(file.length());
    let stopped = |error: tokio::task::JoinError| Fault::retryable(Reason::InternalError, error.to_string());
    let mut whole = BackgroundHasher::new(None);
    let mut offset = 0;
    let mut ends: Vec<u64> = Vec::with_capacity(set.list.count);
    for part in &set.list.parts {
        ends.push(ends.last().copied().unwrap_or_default().saturating_add(part.size));
    }
    if ends.is_empty() {
        ends.push(file.length());
    }
    for (at, end) in ends.into_iter().enumerate() {
        let listed = set.list.parts.get(at);
        let mut hasher = listed.map(|part| BackgroundHasher::new(Some(&part.digest)));
        while offset < end {
            let length = usize::try_from(end - offset).map_or(READ, |rest| rest.min(READ));
            let (same, bytes) = blocking(move || {
                let mut bytes = vec![0; length];
                let read = file.read_exact_at(&mut bytes, offset);
                read.map_err(|error| Fault::retryable(Reason::SourceFailed, error.to_string()))?;
                Ok((file, Bytes::from(bytes)))
            })
            .await?;
            file = same;
            whole.update(&bytes).await;
            if let Some(hasher) = &mut hasher {
                hasher.update(&bytes).await;
            }
            out.write_all(&bytes).await.map_err(cannot)?;
            progress.add_moved(length as u64);
            offset += length as u64;
        }
        if let (Some(hasher), Some(listed)) = (hasher, listed)
            && hasher.finish().await.map_err(stopped)? != listed.digest
        {
            let flaw = Flaw {
                part: PartName::Part(at + 1),
                wrong: Wrong::Content,
            };
            return Err(set.fault(&[flaw]).unwrap_or_else(|| differs(archive)));
        }
    }
    out.flush().await.map_err(cannot)?;
    let digest = whole.finish().await.map_err(stopped)?;
    if set.list.digest.as_ref().is_some_and(|expected| *expected != digest) {
        return Err(differs(archive));
    }
    Ok(Joined {
        size: offset,
        parts: set.list.count,
        digest,
    })
}

fn differs(archive: &Path) -> Fault {
    let list = PartName::List.file_name(archive);
    let message = format!(
        "the parts give another archive than {list} says: one of them is damaged, or of another archive; copy them again"
    );
    Fault::stalled(Reason::DigestMismatch, message)
}

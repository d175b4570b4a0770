//! Writes an archive in parts, while it comes: nothing of it is kept but the parts themselves, under temporary names until all are
//! complete.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use tempfile::TempPath;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWriteExt as _, DuplexStream};

use super::code::{Output, encode};
use super::files::PartFile;
use super::flaws::READ;
use super::list::{PARITY_LIMIT, PARTS_LIMIT, Part, PartList, START};
use super::name::PartName;
use super::temporary::{WriteLock, temporary};
use super::{PART_UNIT, blocking, unwritable};
use crate::archive::Written;
use crate::fault::{Fault, Reason};
use crate::hashing::BackgroundHasher;
use crate::oci::Digest;
use crate::transfer::Progress;

/// How an archive is split.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SplitInto {
    /// The most bytes of a part, at least [`PART_UNIT`].
    pub part_size: u64,
    /// How many parity parts are written: as many lost parts can be replaced.
    pub parity: usize,
}

/// The part that is written.
struct Current {
    file: tokio::fs::File,
    path: TempPath,
    hasher: BackgroundHasher,
    start: Vec<u8>,
    size: u64,
}

/// Writes an archive in parts.
pub struct PartWriter {
    archive: PathBuf,
    lock: WriteLock,
    into: SplitInto,
    current: Option<Current>,
    parts: Vec<Part>,
    files: Vec<TempPath>,
}

impl PartWriter {
    /// Writes the archive `archive` in parts. What a killed process left of them is removed.
    ///
    /// # Errors
    /// A stalled fault, where `into` has too short parts or too many parity parts; a retryable one, where another process writes them.
    pub fn new(archive: &Path, into: SplitInto) -> Result<Self, Fault> {
        let unusable = |message: String| Err(Fault::stalled(Reason::InvalidSpec, message));
        let part_size = into.part_size / PART_UNIT * PART_UNIT;
        if part_size == 0 {
            return unusable(format!("parts have at least {PART_UNIT} bytes"));
        }
        if into.parity > PARITY_LIMIT {
            return unusable(format!("there can be {PARITY_LIMIT} parity parts at most"));
        }
        Ok(Self {
            lock: WriteLock::acquire(archive)?,
            archive: archive.to_owned(),
            into: SplitInto { part_size, ..into },
            current: None,
            parts: Vec::new(),
            files: Vec::new(),
        })
    }

    /// Writes the next bytes of the archive.
    ///
    /// # Errors
    /// A fault, where a part cannot be written or there are too many.
    pub async fn write(&mut self, mut bytes: Bytes) -> Result<(), Fault> {
        while !bytes.is_empty() {
            let part = PartName::Part(self.parts.len() + 1).path(&self.archive);
            let current = match &mut self.current {
                Some(current) => current,
                None if self.parts.len() == PARTS_LIMIT => return Err(self.too_many()),
                None => {
                    let (file, path) = temporary(&self.archive)?;
                    self.current.insert(Current {
                        file: tokio::fs::File::from_std(file),
                        path,
                        hasher: BackgroundHasher::new(None),
                        start: Vec::new(),
                        size: 0,
                    })
                }
            };
            let rest = self.into.part_size - current.size;
            let length = usize::try_from(rest).map_or(bytes.len(), |rest| rest.min(bytes.len()));
            let piece = bytes.split_to(length);
            let start = START - current.start.len();
            current.start.extend(piece.iter().take(start));
            current.hasher.update(&piece).await;
            let written = current.file.write_all(&piece).await;
            written.map_err(|error| unwritable(&part, error))?;
            current.size += length as u64;
            if current.size == self.into.part_size {
                self.end_part().await?;
            }
        }
        Ok(())
    }

    async fn end_part(&mut self) -> Result<(), Fault> {
        let Some(mut current) = self.current.take() else {
            return Ok(());
        };
        let part = PartName::Part(self.parts.len() + 1).path(&self.archive);
        current.file.flush().await.map_err(|error| unwritable(&part, error))?;
        current
            .file
            .sync_all()
            .await
            .map_err(|error| unwritable(&part, error))?;
        let digest = current.hasher.finish().await;
        let digest = digest.map_err(|error| Fault::retryable(Reason::InternalError, error.to_string()))?;
        self.parts.push(Part {
            digest,
            size: current.size,
            start: Digest::of(&current.start),
        });
        self.files.push(current.path);
        Ok(())
    }

    fn too_many(&self) -> Fault {
        let message = format!(
            "{} needs more than {PARTS_LIMIT} parts of {} bytes; allow larger parts by --max-part-size",
            self.archive.display(),
            self.into.part_size
        );
        Fault::stalled(Reason::InvalidSpec, message)
    }

    /// Ends the last part and writes the parity parts, of the parts that are read back. `digest` is that of the whole archive.
    ///
    /// # Errors
    /// A fault, where a part cannot be written or read back.
    pub async fn finish(mut self, digest: Digest, progress: &Progress) -> Result<PendingParts, Fault> {
        self.end_part().await?;
        let mut list = PartList {
            digest: Some(digest),
            size: self.parts.iter().map(|part| part.size).sum(),
            count: self.parts.len(),
            parts: self.parts,
            parity: Vec::new(),
        };
        let mut files: Vec<(PartName, TempPath)> = Vec::with_capacity(self.files.len() + self.into.parity);
        let mut outputs = Vec::with_capacity(self.into.parity);
        let mut paths = Vec::with_capacity(self.into.parity);
        let size = list.parity_size().filter(|_| self.into.parity > 0).unwrap_or_default();
        for at in 0..self.into.parity {
            let (file, path) = temporary(&self.archive)?;
            outputs.push(Output {
                at,
                size,
                path: PartName::Parity(at + 1).path(&self.archive),
                file,
            });
            paths.push(path);
        }
        if self.into.parity > 0 {
            let parts = self.files.iter().zip(&list.parts).enumerate();
            let parts: Arc<[PartFile]> = parts
                .map(|(at, (path, part))| PartFile::new(path.to_path_buf(), part.size, at))
                .collect();
            progress.set_total(progress.total().saturating_add(list.size));
            list.parity = encode(parts, self.into.parity, size, outputs, progress).await?;
        }
        let parts = self.files.into_iter().enumerate();
        files.extend(parts.map(|(at, path)| (PartName::Part(at + 1), path)));
        let parity = paths.into_iter().enumerate();
        files.extend(parity.map(|(at, path)| (PartName::Parity(at + 1), path)));
        Ok(PendingParts {
            archive: self.archive,
            lock: self.lock,
            list,
            files,
        })
    }
}

/// Parts that are complete, under temporary names. They are deleted unless they are published.
pub struct PendingParts {
    archive: PathBuf,
    lock: WriteLock,
    list: PartList,
    files: Vec<(PartName, TempPath)>,
}

impl PendingParts {
    /// Gives the parts their names, in place of parts of an earlier archive, of which none remains. The list comes last, so that an
    /// interruption leaves no list of parts that are not there.
    ///
    /// # Errors
    /// A fault that names the file.
    pub async fn publish(self) -> Result<PartList, Fault> {
        blocking(move || {
            let archive = self.archive;
            for name in existing(&archive)? {
                let is_replaced = self.files.iter().any(|(own, _)| *own == name);
                if !is_replaced {
                    let path = name.path(&archive);
                    std::fs::remove_file(&path).map_err(|error| unwritable(&path, error))?;
                }
            }
            for (name, file) in self.files {
                let path = name.path(&archive);
                file.persist(&path).map_err(|error| unwritable(&path, error.error))?;
            }
            if !self.list.parity.is_empty() {
                write_list(&archive, PartName::ListCopy, &self.list)?;
            }
            write_list(&archive, PartName::List, &self.list)?;
            drop(self.lock);
            Ok(self.list)
        })
        .await
    }
}

/// The parts and lists of `archive` that exist, the list first.
fn existing(archive: &Path) -> Result<Vec<PartName>, Fault> {
    let folder = archive.parent().filter(|folder| !folder.as_os_str().is_empty());
    let entries = std::fs::read_dir(folder.unwrap_or(Path::new("."))).map_err(|error| unwritable(archive, error))?;
    let mut found = Vec::new();
    for entry in entries {
        let name = entry.map_err(|error| unwritable(archive, error))?.file_name();
        match PartName::of(Path::new(&name)) {
            Some((of, part)) if of.file_name() == archive.file_name() => found.push(part),
            _ => {}
        }
    }
    found.sort();
    Ok(found)
}

/// Writes the list of parts or its copy.
pub(super) fn write_list(archive: &Path, name: PartName, list: &PartList) -> Result<(), Fault> {
    use std::io::Write as _;
    let path = name.path(archive);
    let cannot = |error: std::io::Error| unwritable(&path, error);
    let (mut file, temporary) = temporary(archive)?;
    file.write_all(&list.encode()).map_err(cannot)?;
    file.sync_all().map_err(cannot)?;
    temporary.persist(&path).map_err(|error| cannot(error.error))?;
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty());
    let folder = std::fs::File::open(folder.unwrap_or(Path::new("."))).map_err(cannot)?;
    folder.sync_all().map_err(cannot)
}

/// Writes the archive that `write` writes in parts, beside each other at `archive`, whose parts they replace.
///
/// # Errors
/// Those of `write`, and a fault where a part cannot be written. Nothing is left then.
pub async fn write_in_parts<F>(
    archive: &Path,
    into: SplitInto,
    progress: &Progress,
    write: impl FnOnce(DuplexStream) -> F,
) -> Result<(Written, PartList), Fault>
where
    F: Future<Output = Result<Written, Fault>>,
{
    let mut parts = PartWriter::new(archive, into)?;
    let (out, input) = tokio::io::duplex(READ);
    let (written, ()) = tokio::try_join!(write(out), copy_into(&mut parts, input))?;
    let pending = parts.finish(written.digest.clone(), progress).await?;
    Ok((written, pending.publish().await?))
}

/// Writes what comes from `input` to `parts`, until it ends.
async fn copy_into(parts: &mut PartWriter, mut input: impl AsyncRead + Unpin) -> Result<(), Fault> {
    loop {
        let mut bytes = BytesMut::with_capacity(READ);
        let read = input.read_buf(&mut bytes).await;
        let read =
            read.map_err(|error| Fault::retryable(Reason::SourceFailed, format!("it cannot be read: {error}")))?;
        if read == 0 {
            return Ok(());
        }
        parts.write(bytes.freeze()).await?;
    }
}

/// Splits the archive `file` into parts beside it, which replace those that are there. The file stays. `progress` counts its bytes.
///
/// # Errors
/// A fault that names the file.
pub async fn split(file: &Path, into: SplitInto, progress: &Progress) -> Result<PartList, Fault> {
    let unreadable = |error: std::io::Error| {
        let message = format!("{} cannot be read: {error}", file.display());
        Fault::stalled(Reason::SourceFailed, message)
    };
    let mut parts = PartWriter::new(file, into)?;
    let mut input = tokio::fs::File::open(file).await.map_err(unreadable)?;
    let metadata = input.metadata().await.map_err(unreadable)?;
    if !metadata.is_file() || metadata.len() == 0 {
        let message = format!("{} is not a file with content", file.display());
        return Err(Fault::stalled(Reason::SourceFailed, message));
    }
    if metadata.len().div_ceil(parts.into.part_size) > PARTS_LIMIT as u64 {
        return Err(parts.too_many());
    }
    progress.set_total(metadata.len());
    input.set_max_buf_size(READ);
    let mut hasher = BackgroundHasher::new(None);
    loop {
        let mut bytes = BytesMut::with_capacity(READ);
        if input.read_buf(&mut bytes).await.map_err(unreadable)? == 0 {
            break;
        }
        let bytes = bytes.freeze();
        hasher.update(&bytes).await;
        progress.add_moved(bytes.len() as u64);
        parts.write(bytes).await?;
    }
    let digest = hasher.finish().await;
    let digest = digest.map_err(|error| Fault::retryable(Reason::InternalError, error.to_string()))?;
    parts.finish(digest, progress).await?.publish().await
}

//! The files of a delivery.

use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use futures::{StreamExt as _, stream};
use jackal_seed::{FileList, ListError, ListedFile, file_list};

use crate::archive::{Archive, DiskFile, PlainTar, TarContent as _};
use crate::fault::{Fault, Reason};
use crate::oci::Digest;
use crate::source::ByteStream;

/// A file that is delivered to a seed.
#[derive(Clone)]
pub struct SeedFile {
    /// Its path below the directory of the seed: letters, digits and `._-`, with `/` between the components.
    pub name: String,
    /// Its length in bytes.
    pub size: u64,
    /// The SHA-256 digest of its content.
    pub digest: Digest,
    /// Its content.
    pub content: Arc<dyn FileContent>,
}

/// Content that can be read from any offset, as often as it is needed.
pub trait FileContent: Send + Sync {
    /// The bytes from `offset` to the end. They need not be verified: the seed does that.
    fn read(&self, offset: u64) -> ByteStream<'static>;
}

impl FileContent for Bytes {
    fn read(&self, offset: u64) -> ByteStream<'static> {
        let begin = usize::try_from(offset).map_or(self.len(), |offset| offset.min(self.len()));
        let rest = self.slice(begin..);
        stream::once(async move { Ok(rest) }).boxed()
    }
}

/// The content of a file on this machine.
pub struct LocalFile(PlainTar);

impl LocalFile {
    /// Opens the regular file `path`. Blocks the thread.
    ///
    /// # Errors
    /// When it cannot be opened, or is not a regular file.
    pub fn open(path: &Path) -> std::io::Result<Self> {
        Ok(Self(PlainTar::new(Arc::new(DiskFile::open(path)?))))
    }
}

impl FileContent for LocalFile {
    fn read(&self, offset: u64) -> ByteStream<'static> {
        self.0.read(offset, u64::MAX)
    }
}

/// A blob of an archive.
pub struct ArchiveBlob {
    /// The archive.
    pub archive: Arc<Archive>,
    /// The digest of the blob.
    pub digest: Digest,
}

impl FileContent for ArchiveBlob {
    fn read(&self, offset: u64) -> ByteStream<'static> {
        match self.archive.read_range(&self.digest, offset, u64::MAX) {
            Some(content) => content,
            None => {
                let message = format!("the archive has no content with the digest {}", self.digest);
                stream::once(async move { Err(Fault::stalled(Reason::SourceNotFound, message)) }).boxed()
            }
        }
    }
}

/// The text of the list of `files`, and its digest, which is an argument of the seed. The order of `files` does not matter.
///
/// # Errors
/// A stalled fault that names a file, if a name cannot be used or a digest is not SHA-256.
pub fn file_list(files: &[SeedFile]) -> Result<(Vec<u8>, Digest), Fault> {
    let text = listed(files)?.to_text().into_bytes();
    let digest = Digest::of(&text);
    Ok((text, digest))
}

/// The list of `files`.
pub(super) fn listed(files: &[SeedFile]) -> Result<FileList, Fault> {
    let stalled = |what: String| Fault::stalled(Reason::InvalidSpec, format!("the files of the seed: {what}"));
    let mut listed = Vec::with_capacity(files.len());
    for file in files {
        let digest = file_list::parse_hex(file.digest.hex())
            .filter(|_| file.digest.algorithm() == "sha256")
            .ok_or_else(|| {
                stalled(format!(
                    "{} has the digest {}, which is not SHA-256",
                    file.name, file.digest
                ))
            })?;
        listed.push(ListedFile {
            name: file.name.clone(),
            size: file.size,
            digest,
        });
    }
    FileList::new(listed).map_err(|error: ListError| stalled(error.to_string()))
}

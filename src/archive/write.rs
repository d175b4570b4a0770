//! Writes a package of a repository as a package file, while it is read: nothing of it is kept anywhere else.

use std::collections::{BTreeMap, BTreeSet};

use bytes::{Bytes, BytesMut};
use futures::StreamExt as _;
use tokio::io::{AsyncWrite, AsyncWriteExt as _};
use zstd::zstd_safe::CParameter;

use super::format::{self, FRAME_CONTENT, SeekTable, TooLong};
use super::header::{Header, Packed};
use super::inventory::Holdings;
use super::omitted::omit;
use super::order::{PackageFile, describe_first, files_of, listed};
use crate::fault::{Fault, Reason};
use crate::hashing::BackgroundHasher;
use crate::oci::{Content, Descriptor, Digest, Document, MANIFEST_LIMIT};
use crate::package::{LAYOUT_INDEX, tar_header};
use crate::transfer::{Destination, Progress};

/// The level at which content is compressed that is not compressed yet: zstd's own default.
const LEVEL: i32 = 3;
/// Content that loses less than one part in this many is stored as it is.
const WORTH: usize = 32;
/// The most documents of a package that are read to find its manifests.
const MANIFESTS: usize = 10_000;

/// A package file that was written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Written {
    /// Bytes of the file.
    pub size: u64,
    /// Bytes of the tar in it.
    pub content: u64,
    /// The files of the package.
    pub files: usize,
    /// Blobs of the package that are left out.
    pub omitted: usize,
    /// The digest of the file.
    pub digest: Digest,
}

/// Writes the package with `manifest`, which `repository` holds, to `out`, without the content of `holdings`. The same package gives
/// the same bytes. At most some frames of content are in memory. `progress` counts bytes of content.
///
/// # Errors
/// A fault that names the file of the package that cannot be read, or says that `out` cannot be written.
pub async fn write(
    repository: &dyn Destination,
    manifest: &Document,
    holdings: &Holdings,
    out: impl AsyncWrite + Unpin,
    progress: &Progress,
) -> Result<Written, Fault> {
    let content = manifest.manifest().filter(|_| manifest.is_package());
    let content = content.ok_or_else(|| {
        Fault::stalled(
            Reason::SourceFailed,
            format!("{} in {} is not a package", manifest.digest(), repository.name()),
        )
    })?;
    let mut files = files_of(content)?;
    let manifests = manifests(repository, &files).await?;
    describe_first(&mut files, &manifests);
    let omitted = omit(&mut files, holdings, &manifests);
    progress.set_total(files.iter().fold(0, |sum, file| file.size.saturating_add(sum)));
    let config = small(repository, &content.config).await?;
    let header = Header {
        packages: vec![Packed {
            manifest: manifest.clone(),
            config,
            omitted,
        }],
    };
    let omitted = header.packages.iter().map(|package| package.omitted.len()).sum();
    let mut writer = Writer::new(out);
    writer.header(&header).await?;
    for file in &files {
        let within = |fault: Fault| fault.with_context(format_args!("file `{}` of the package", file.path));
        writer.file(repository, file, progress).await.map_err(within)?;
    }
    writer.finish(files.len(), omitted).await
}

/// A small document of the package.
async fn small(repository: &dyn Destination, blob: &Descriptor) -> Result<Bytes, Fault> {
    match repository.blob(&blob.digest, MANIFEST_LIMIT).await? {
        Some(content) => Ok(content),
        None => Err(missing(repository, &blob.digest)),
    }
}

fn missing(repository: &dyn Destination, digest: &Digest) -> Fault {
    Fault::stalled(
        Reason::SourceFailed,
        format!(
            "{} does not hold {digest}; publish the package again",
            repository.name()
        ),
    )
}

/// The digests of all manifests of the package's images.
async fn manifests(repository: &dyn Destination, files: &[PackageFile]) -> Result<BTreeSet<Digest>, Fault> {
    let mut found: BTreeMap<Digest, u64> = BTreeMap::new();
    let mut open: Vec<Digest> = files
        .iter()
        .filter(|file| file.path == LAYOUT_INDEX)
        .map(|file| file.digest.clone())
        .collect();
    while let Some(digest) = open.pop() {
        let content = repository.blob(&digest, MANIFEST_LIMIT).await?;
        let content = content.ok_or_else(|| missing(repository, &digest))?;
        let document = Document::parse(None, content).map_err(|error| {
            Fault::stalled(
                Reason::SourceFailed,
                format!("{digest} of {} cannot be read: {error}", repository.name()),
            )
        })?;
        let Content::Index(index) = &document.content else {
            continue;
        };
        for file in listed(files, index) {
            if found.insert(file.digest.clone(), file.size).is_none() {
                open.push(file.digest.clone());
            }
        }
        if found.len() > MANIFESTS {
            return Err(Fault::stalled(
                Reason::SourceFailed,
                format!("the package lists more than {MANIFESTS} manifests; make several packages of it"),
            ));
        }
    }
    Ok(found.into_keys().collect())
}

/// Writes frames, and remembers their lengths.
struct Writer<W> {
    out: W,
    table: SeekTable,
    hasher: BackgroundHasher,
    size: u64,
    /// Blocks of the tar that follow a file's content: they go before the header of the next.
    padding: usize,
}

impl<W: AsyncWrite + Unpin> Writer<W> {
    fn new(out: W) -> Self {
        Self {
            out,
            table: SeekTable::default(),
            hasher: BackgroundHasher::new(None),
            size: 0,
            padding: 0,
        }
    }

    async fn bytes(&mut self, bytes: Bytes) -> Result<(), Fault> {
        self.hasher.update(&bytes).await;
        self.size += bytes.len() as u64;
        let written = self.out.write_all(&bytes).await;
        written.map_err(|error| Fault::retryable(Reason::PushFailed, format!("the file cannot be written: {error}")))
    }

    async fn frame(&mut self, frame: Bytes, content: usize) -> Result<(), Fault> {
        self.table.push(frame.len(), content).map_err(too_long)?;
        self.bytes(frame).await
    }

    async fn header(&mut self, header: &Header) -> Result<(), Fault> {
        let frame = format::header(&header.encode()).map_err(too_long)?;
        self.frame(frame, 0).await
    }

    /// Header and content of one file.
    async fn file(
        &mut self,
        repository: &dyn Destination,
        file: &PackageFile,
        progress: &Progress,
    ) -> Result<(), Fault> {
        let mut start = vec![0; std::mem::take(&mut self.padding)];
        start.extend(tar_header(&file.path, 0o644, file.size).await?);
        self.frame(checked(&start)?, start.len()).await?;

        let descriptor = Descriptor::new("", file.digest.clone(), file.size);
        let content = repository.read(&descriptor).await?;
        let mut content = content.ok_or_else(|| missing(repository, &file.digest))?;
        let mut hasher = BackgroundHasher::new(Some(&file.digest));
        let (mut length, mut buffer) = (0_u64, BytesMut::new());
        let mut compressed = None;
        loop {
            let chunk = content.next().await.transpose()?;
            if let Some(chunk) = &chunk {
                length += chunk.len() as u64;
                if length > file.size {
                    return Err(differs(repository, file));
                }
                hasher.update(chunk).await;
                buffer.extend_from_slice(chunk);
                progress.add_moved(chunk.len() as u64);
            }
            let ended = chunk.is_none();
            while buffer.len() >= FRAME_CONTENT || (ended && !buffer.is_empty()) {
                let piece = buffer.split_to(buffer.len().min(FRAME_CONTENT)).freeze();
                let stored = *compressed.get_or_insert_with(|| is_compressed(&piece));
                let length = piece.len();
                let frame = frame_of(piece, stored).await?;
                self.frame(frame, length).await?;
            }
            if ended {
                break;
            }
        }
        let digest = hasher.finish().await.map_err(stopped)?;
        if length != file.size || digest != file.digest {
            return Err(differs(repository, file));
        }
        self.padding = usize::try_from(file.size.next_multiple_of(512) - file.size).unwrap_or_default();
        Ok(())
    }

    /// The end of the tar, and the seek table.
    async fn finish(mut self, files: usize, omitted: usize) -> Result<Written, Fault> {
        let end = vec![0; std::mem::take(&mut self.padding) + 1024];
        self.frame(checked(&end)?, end.len()).await?;
        let content = self.table.content();
        let table = self.table.frame().map_err(too_long)?;
        self.bytes(table).await?;
        let flushed = self.out.flush().await;
        flushed
            .map_err(|error| Fault::retryable(Reason::PushFailed, format!("the file cannot be written: {error}")))?;
        Ok(Written {
            size: self.size,
            content,
            files,
            omitted,
            digest: self.hasher.finish().await.map_err(stopped)?,
        })
    }
}

/// The frame of tar headers and padding, with a checksum: no digest of the package covers them.
fn checked(content: &[u8]) -> Result<Bytes, Fault> {
    let compress = || {
        let mut compressor = zstd::bulk::Compressor::new(LEVEL)?;
        compressor.set_parameter(CParameter::ChecksumFlag(true))?;
        compressor.compress(content)
    };
    compress().map(Bytes::from).map_err(cannot_compress)
}

/// Whether content that begins like this is compressed: gzip (RFC 1952), Zstandard (RFC 8878), xz or bzip2.
fn is_compressed(start: &[u8]) -> bool {
    let magics: [&[u8]; 4] = [
        &[0x1f, 0x8b],
        &[0x28, 0xb5, 0x2f, 0xfd],
        &[0xfd, b'7', b'z', b'X', b'Z'],
        b"BZh",
    ];
    magics.iter().any(|magic| start.starts_with(magic))
}

/// The frame of `content`, compressed unless it is `stored` or gets no shorter.
pub(super) async fn frame_of(content: Bytes, stored: bool) -> Result<Bytes, Fault> {
    if stored {
        return Ok(format::stored(&content));
    }
    let compressed = tokio::task::spawn_blocking(move || {
        let compressed = zstd::bulk::compress(&content, LEVEL)?;
        Ok(match compressed.len() < content.len() - content.len() / WORTH {
            true => compressed.into(),
            false => format::stored(&content),
        })
    });
    let compressed: std::io::Result<Bytes> = compressed.await.map_err(stopped)?;
    compressed.map_err(cannot_compress)
}

fn cannot_compress(error: std::io::Error) -> Fault {
    Fault::retryable(Reason::PackageFailed, format!("it cannot be compressed: {error}"))
}

fn differs(repository: &dyn Destination, file: &PackageFile) -> Fault {
    Fault::retryable(
        Reason::SourceFailed,
        format!(
            "{} sent content that is not {} of {} bytes; run pack again, and publish the package again if it fails again",
            repository.name(),
            file.digest,
            file.size
        ),
    )
}

fn too_long(error: TooLong) -> Fault {
    Fault::stalled(Reason::PackageFailed, error.to_string())
}

fn stopped(error: tokio::task::JoinError) -> Fault {
    Fault::retryable(Reason::PackageFailed, error.to_string())
}

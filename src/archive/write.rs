//! Writes a package file while its packages are read: nothing of them is kept anywhere else.
//!
//! Reading and hashing the packages, compressing, and writing run at the same time, some frames apart.

use bytes::{Bytes, BytesMut};
use futures::StreamExt as _;
use tokio::io::{AsyncWrite, AsyncWriteExt as _};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

use super::format::{self, SeekTable, WRITTEN_CONTENT};
use super::packing::{LEVEL, PackedFile, Packing, Part, cannot_compress, missing, too_long};
use super::resume::Kept;
use crate::fault::{Fault, Reason};
use crate::hashing::BackgroundHasher;
use crate::oci::{Descriptor, Digest};
use crate::transfer::Progress;

/// Content that loses less than one part in this many is stored as it is.
const WORTH: usize = 32;
/// Frames that are compressed or wait to be written, of [`WRITTEN_CONTENT`] each.
const QUEUED: usize = 3;
/// Bytes that are hashed and written at once.
const PIECE: usize = 1 << 20;

/// A package file that was written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Written {
    /// Bytes of the file.
    pub size: u64,
    /// The number of files of its packages.
    pub files: usize,
    /// Blobs of the packages that are left out.
    pub omitted: usize,
    /// The digest of the file.
    pub digest: Digest,
}

/// Writes what follows `kept` in the file of `packing` to `out`. The same packages give the same bytes. At most some frames of
/// content are in memory. `progress` counts bytes of content.
///
/// # Errors
/// A fault that names the file of the package that cannot be read, or says that `out` cannot be written.
pub async fn write(
    packing: &Packing<'_>,
    kept: Kept,
    out: impl AsyncWrite + Unpin,
    progress: &Progress,
) -> Result<Written, Fault> {
    progress.set_total(packing.size());
    progress.add_existing(kept.content);
    let (frames, queue) = mpsc::channel(QUEUED);
    let mut writer = Writer {
        out,
        table: kept.table,
        hasher: BackgroundHasher::from(kept.hasher),
        size: kept.size,
        missing: packing.size().saturating_sub(kept.content),
    };
    let reader = FrameReader {
        frames,
        progress,
        padding: kept.padding,
    };
    // Both end, whichever fails, so that what was read is written: it need not be read again.
    let (read, written) = futures::join!(reader.read(packing, kept.parts), writer.write(queue));
    written?;
    read?;
    writer.finish(packing).await
}

/// A frame that waits to be written.
struct Queued {
    frame: Compressing,
    /// Bytes of its content in the first tar.
    content: usize,
    /// Bytes of a package's file in it.
    of_file: usize,
}

enum Compressing {
    Done(Bytes),
    Running(JoinHandle<std::io::Result<Bytes>>),
}

/// Reads the files of the packages, and makes frames of them.
struct FrameReader<'p> {
    frames: mpsc::Sender<Queued>,
    progress: &'p Progress,
    padding: usize,
}

impl FrameReader<'_> {
    /// Reads what follows the first `begin` parts; all of it, the header included, where there is `None`.
    async fn read(mut self, packing: &Packing<'_>, begin: Option<usize>) -> Result<(), Fault> {
        if begin.is_none() {
            self.send(Compressing::Done(packing.header.clone()), 0, 0).await?;
        }
        for part in packing.parts.iter().skip(begin.unwrap_or_default()) {
            let (start, length) = part.start(std::mem::take(&mut self.padding)).await?;
            let length = if part.second { 0 } else { length };
            self.send(Compressing::Done(start), length, 0).await?;
            if let Some(packed) = &part.file {
                let within =
                    |fault: Fault| fault.with_context(format_args!("file `{}` of the package", packed.file.path));
                self.file(part, packed).await.map_err(within)?;
            }
            self.padding = part.padding();
        }
        Ok(())
    }

    async fn send(&self, frame: Compressing, content: usize, of_file: usize) -> Result<(), Fault> {
        let queued = Queued {
            frame,
            content,
            of_file,
        };
        // The writer says why it ended.
        let sent = self.frames.send(queued).await;
        sent.map_err(|_| cannot_write(&std::io::ErrorKind::BrokenPipe.into(), 0))
    }

    /// The content of one file.
    async fn file(&self, part: &Part<'_>, packed: &PackedFile<'_>) -> Result<(), Fault> {
        let PackedFile { repository, file, .. } = packed;
        let descriptor = Descriptor::new("", file.digest.clone(), file.size);
        let content = repository.read(&descriptor).await?;
        let mut content = content.ok_or_else(|| missing(*repository, &file.digest))?;
        let mut hasher = BackgroundHasher::new(Some(&file.digest));
        let (mut length, mut buffer) = (0_u64, BytesMut::new());
        let mut stored = None;
        loop {
            let chunk = content.next().await.transpose()?;
            if let Some(chunk) = &chunk {
                length += chunk.len() as u64;
                if length > file.size {
                    return Err(differs(packed));
                }
                hasher.update(chunk).await;
                if buffer.capacity() - buffer.len() < chunk.len() {
                    // One allocation for a frame, and no more than the file needs.
                    let rest = usize::try_from(file.size - length).unwrap_or(WRITTEN_CONTENT);
                    buffer.reserve(chunk.len() + rest.min(WRITTEN_CONTENT));
                }
                buffer.extend_from_slice(chunk);
                self.progress.add_moved(chunk.len() as u64);
            }
            let ended = chunk.is_none();
            while buffer.len() >= WRITTEN_CONTENT || (ended && !buffer.is_empty()) {
                let piece = buffer.split_to(buffer.len().min(WRITTEN_CONTENT)).freeze();
                let stored = *stored.get_or_insert_with(|| is_compressed(&piece));
                let of_file = piece.len();
                let content = if part.second { 0 } else { of_file };
                let wrapped = part.second;
                let frame = tokio::task::spawn_blocking(move || frame_of(&piece, stored, wrapped));
                self.send(Compressing::Running(frame), content, of_file).await?;
            }
            if ended {
                break;
            }
        }
        let digest = hasher.finish().await.map_err(stopped)?;
        if length != file.size || digest != file.digest {
            return Err(differs(packed));
        }
        Ok(())
    }
}

/// Writes frames, and remembers their lengths.
struct Writer<W> {
    out: W,
    table: SeekTable,
    hasher: BackgroundHasher,
    size: u64,
    /// Bytes of the packages' files that were not written yet.
    missing: u64,
}

impl<W: AsyncWrite + Unpin> Writer<W> {
    async fn write(&mut self, mut queue: mpsc::Receiver<Queued>) -> Result<(), Fault> {
        while let Some(queued) = queue.recv().await {
            let frame = match queued.frame {
                Compressing::Done(frame) => frame,
                Compressing::Running(frame) => frame.await.map_err(stopped)?.map_err(cannot_compress)?,
            };
            self.table.push(frame.len(), queued.content).map_err(too_long)?;
            self.bytes(frame).await?;
            self.missing = self.missing.saturating_sub(queued.of_file as u64);
        }
        Ok(())
    }

    async fn bytes(&mut self, mut bytes: Bytes) -> Result<(), Fault> {
        self.size += bytes.len() as u64;
        // In pieces, so that a frame that was written is not kept by the hasher.
        while !bytes.is_empty() {
            let piece = bytes.split_to(bytes.len().min(PIECE));
            self.hasher.update(&piece).await;
            let written = self.out.write_all(&piece).await;
            written.map_err(|error| cannot_write(&error, self.missing))?;
        }
        Ok(())
    }

    /// The seek table.
    async fn finish(mut self, packing: &Packing<'_>) -> Result<Written, Fault> {
        let table = self.table.frame().map_err(too_long)?;
        self.bytes(table).await?;
        let flushed = self.out.flush().await;
        flushed.map_err(|error| cannot_write(&error, 0))?;
        Ok(Written {
            size: self.size,
            files: packing.files(),
            omitted: packing.omitted,
            digest: self.hasher.finish().await.map_err(stopped)?,
        })
    }
}

/// Why the file cannot be written. `missing` is what the packages have that is not in it.
pub(super) fn cannot_write(error: &std::io::Error, missing: u64) -> Fault {
    let message = match error.kind() {
        std::io::ErrorKind::StorageFull | std::io::ErrorKind::QuotaExceeded => format!(
            "the file cannot be written, the disk is full: up to {missing} bytes are missing; free them and repeat the command, or write \
             to another disk"
        ),
        _ => format!("the file cannot be written: {error}"),
    };
    Fault::retryable(Reason::PushFailed, message)
}

/// Whether content that begins like this is compressed: gzip (RFC 1952), Zstandard (RFC 8878), xz or bzip2.
pub(super) fn is_compressed(start: &[u8]) -> bool {
    let magics: [&[u8]; 4] = [
        &[0x1f, 0x8b],
        &[0x28, 0xb5, 0x2f, 0xfd],
        &[0xfd, b'7', b'z', b'X', b'Z'],
        b"BZh",
    ];
    magics.iter().any(|magic| start.starts_with(magic))
}

/// The frame of `content`, compressed unless it is `stored` or gets no shorter.
pub(super) fn frame_of(content: &[u8], stored: bool, wrapped: bool) -> std::io::Result<Bytes> {
    let frame = match stored {
        true => format::stored(content),
        false => match zstd::bulk::compress(content, LEVEL)? {
            compressed if compressed.len() < content.len() - content.len() / WORTH => compressed.into(),
            _ => format::stored(content),
        },
    };
    match wrapped {
        true => format::wrapped(&frame).map_err(std::io::Error::other),
        false => Ok(frame),
    }
}

fn differs(packed: &PackedFile<'_>) -> Fault {
    Fault::retryable(
        Reason::SourceFailed,
        format!(
            "{} sent content that is not {} of {} bytes; run pack again, and publish the package again if it fails again",
            packed.repository.name(),
            packed.file.digest,
            packed.file.size
        ),
    )
}

fn stopped(error: tokio::task::JoinError) -> Fault {
    Fault::retryable(Reason::PackageFailed, error.to_string())
}

//! Continues a package file that is only partly written: finds out how much of it is what `pack` writes.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt as _;
use std::sync::Arc;

use bytes::Bytes;
use zstd::zstd_safe::find_frame_compressed_size;

use super::format::{SKIPPABLE_HEADER, SeekTable, WRITTEN_CONTENT, wrapped_length};
use super::frame_content::decode;
use super::order::PackageFile;
use super::packing::Packing;
use super::tar_content::FRAME_LIMIT;
use crate::fault::{Fault, Reason};
use crate::oci::Hasher;

/// The beginning of a package file that is written already.
#[derive(Debug)]
pub struct Kept {
    /// Bytes of it.
    pub size: u64,
    /// Bytes of the packages' files in it.
    pub content: u64,
    /// The number of parts in it; `None` where it has not even the header.
    pub(super) parts: Option<usize>,
    pub(super) table: SeekTable,
    /// The digest of it.
    pub(super) hasher: Hasher,
    /// The zeros of the tar that follow it.
    pub(super) padding: usize,
}

impl Kept {
    /// Nothing: the file is written from its beginning.
    pub fn nothing() -> Self {
        Self {
            size: 0,
            content: 0,
            parts: None,
            table: SeekTable::default(),
            hasher: Hasher::sha256(),
            padding: 0,
        }
    }

    /// How much of `file` is the beginning of the file of `packing`: whole files whose content has the right digest, read one
    /// frame at a time. Nothing, where it begins with other packages.
    ///
    /// # Errors
    /// When the file cannot be read.
    pub async fn of(packing: &Packing<'_>, file: &Arc<File>) -> Result<Self, Fault> {
        let mut kept = Self::nothing();
        let header = (packing.header.clone(), 0);
        if !kept.add(file, header, None).await? {
            return Ok(Self::nothing());
        }
        kept.parts = Some(0);
        for (at, part) in packing.parts.iter().enumerate() {
            let (start, length) = part.start(kept.padding).await?;
            let length = if part.second { 0 } else { length };
            let content = part.file.as_ref().map(|packed| (packed.file.clone(), part.second));
            let size = content.as_ref().map_or(0, |(file, _)| file.size);
            if !kept.add(file, (start, length), content).await? {
                break;
            }
            kept.parts = Some(at + 1);
            kept.padding = part.padding();
            kept.content += size;
        }
        Ok(kept)
    }

    /// Adds the frame `start`, with the length of its content, and the frames of the file that follows; false where they are
    /// not all in `file`.
    async fn add(
        &mut self,
        file: &Arc<File>,
        start: (Bytes, usize),
        content: Option<(PackageFile, bool)>,
    ) -> Result<bool, Fault> {
        let (file, begin, hasher) = (Arc::clone(file), self.size, self.hasher.clone());
        let read = tokio::task::spawn_blocking(move || {
            let mut reader = Frames {
                file: &file,
                at: begin,
                hasher,
                lengths: Vec::new(),
            };
            let is_there = reader.is(&start.0, start.1)?
                && match &content {
                    Some((content, is_wrapped)) => reader.is_content(content, *is_wrapped)?,
                    None => true,
                };
            Ok(is_there.then_some((reader.at, reader.hasher, reader.lengths)))
        });
        let read: io::Result<Option<_>> = read.await.map_err(|error| cannot_read(&error.into()))?;
        let (at, hasher, lengths) = match read {
            Ok(Some(read)) => read,
            Ok(None) => return Ok(false),
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(false),
            Err(error) => return Err(cannot_read(&error)),
        };
        for (compressed, content) in lengths {
            self.table.push(compressed, content).map_err(super::packing::too_long)?;
        }
        (self.size, self.hasher) = (at, hasher);
        Ok(true)
    }
}

fn cannot_read(error: &io::Error) -> Fault {
    let message = format!("the file of the interrupted pack cannot be read: {error}; delete it");
    Fault::stalled(Reason::SourceFailed, message)
}

/// Reads frames of a file.
struct Frames<'f> {
    file: &'f File,
    at: u64,
    hasher: Hasher,
    /// The lengths of the frames that were read, and of their content in the first tar.
    lengths: Vec<(usize, usize)>,
}

impl Frames<'_> {
    /// Whether `frame` follows.
    fn is(&mut self, frame: &Bytes, content: usize) -> io::Result<bool> {
        let mut found = vec![0; frame.len()];
        self.file.read_exact_at(&mut found, self.at)?;
        if found != *frame {
            return Ok(false);
        }
        self.passed(&found, content);
        Ok(true)
    }

    fn passed(&mut self, frame: &[u8], content: usize) {
        self.hasher.update(frame);
        self.at += frame.len() as u64;
        self.lengths.push((frame.len(), content));
    }

    /// Whether the frames of the content `expected` follow.
    fn is_content(&mut self, expected: &PackageFile, is_wrapped: bool) -> io::Result<bool> {
        let mut hasher = Hasher::like(&expected.digest);
        let mut rest = expected.size;
        while rest > 0 {
            // Every frame but the last is full.
            let length = usize::try_from(rest).map_or(WRITTEN_CONTENT, |rest| rest.min(WRITTEN_CONTENT));
            let Some(frame) = self.next(length, is_wrapped)? else {
                return Ok(false);
            };
            let inner = if is_wrapped { SKIPPABLE_HEADER } else { 0 };
            let Ok(content) = decode(frame.slice(inner..), length as u64) else {
                return Ok(false);
            };
            content.iter().for_each(|piece| hasher.update(piece));
            rest -= length as u64;
            self.passed(&frame, if is_wrapped { 0 } else { length });
        }
        Ok(hasher.finish() == expected.digest)
    }

    /// The frame that follows, whose content is `length` bytes long; `None` where there is none.
    fn next(&self, length: usize, is_wrapped: bool) -> io::Result<Option<Bytes>> {
        // No frame is longer than that of content which is not compressed.
        let longest = (FRAME_LIMIT as usize).min(length + length / 64 + 1024) + SKIPPABLE_HEADER;
        let mut bytes = vec![0; longest];
        let mut known = 0;
        while known < longest {
            match self.file.read_at(&mut bytes[known..], self.at + known as u64)? {
                0 => break,
                read => known += read,
            }
        }
        bytes.truncate(known);
        let frame = match is_wrapped {
            true => wrapped_length(&bytes).map(|inner| inner as usize + SKIPPABLE_HEADER),
            false => find_frame_compressed_size(&bytes).ok(),
        };
        let Some(frame) = frame.filter(|frame| *frame <= known) else {
            return Ok(None);
        };
        Ok(Some(Bytes::from(bytes).slice(..frame)))
    }
}

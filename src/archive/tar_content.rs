//! The tar in an archive, read at any offset: as it is in the file, or in the frames of a seekable Zstandard file.

use std::io;
use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;
use futures::StreamExt as _;
use futures::stream::{self, try_unfold};
use zstd::zstd_safe::get_frame_content_size;

use super::format::{
    FRAME_CONTENT, SEEK_TABLE_FOOTER, SKIPPABLE_HEADER, SeekTable, StoredFrame, WINDOW, wrapped_length,
};
use super::frame_content::decode_read;
use super::input::RandomAccess;
use super::read::invalid;
use crate::fault::Fault;
use crate::source::{BUFFER, Buffer, ByteStream};

/// Bytes that are read first: enough for the header of an entry.
const FIRST_READ: u64 = 4 << 10;
/// Bytes that are read at once after that: they are still in the cache of the processor when they are sent.
const READ: u64 = 512 << 10;
/// Blocks of a stored frame that are read at once; before that, one.
const READ_BLOCKS: usize = 4;
/// Bytes that the disk is asked for ahead, once it was waited for.
const PREFETCH: u64 = 16 << 20;
/// Reads that are in flight ahead of the consumer.
const AHEAD: usize = 2;
/// The longest frame in bytes: that of incompressible content, whose blocks have headers.
pub(super) const FRAME_LIMIT: u64 = FRAME_CONTENT as u64 + (FRAME_CONTENT as u64 >> 6) + 1024;
/// The bytes of a frame that tell the length of its content (RFC 8878, section 3.1.1.1).
const FRAME_START: usize = 18;
/// The longest frame of a seek table in bytes: four million frames.
const SEEK_TABLE_LIMIT: u64 = 32 << 20;

/// A tar whose bytes can be read at any offset.
pub trait TarContent: Send + Sync {
    /// The bytes from `offset`, at most `length` of them. An error ends them; they end early where the tar does, in which `offset`
    /// lies: a file may hold a second one behind the first.
    fn read(&self, offset: u64, length: u64) -> ByteStream<'static>;

    /// Whether what lies before an offset is decompressed to read there.
    fn is_sequential(&self) -> bool {
        false
    }

    /// Keeps the bytes at `offset` for later reads, where that spares reading from the beginning.
    fn keep(&self, _offset: u64, _content: Bytes) {}

    /// The names of the parts of the archive that hold these bytes, for messages; `None` where there are no parts.
    fn parts_of(&self, _offset: u64, _length: u64) -> Option<String> {
        None
    }
}

/// A tar that is a file as it is.
pub struct PlainTar {
    input: Arc<dyn RandomAccess>,
}

impl PlainTar {
    /// The tar `input`.
    pub fn new(input: Arc<dyn RandomAccess>) -> Self {
        Self { input }
    }
}

impl TarContent for PlainTar {
    fn read(&self, offset: u64, length: u64) -> ByteStream<'static> {
        let end = offset.saturating_add(length).min(self.input.length());
        let pieces = std::iter::successors(Some((offset, FIRST_READ)), move |(offset, length)| {
            Some((offset.checked_add(*length)?, READ))
        })
        .take_while(move |(offset, _)| *offset < end)
        .map(move |(offset, length)| (offset, length.min(end - offset)));
        let input = Arc::clone(&self.input);
        in_order(pieces, move |(offset, length)| {
            let read = read_piece(Arc::clone(&input), offset, length);
            async move { Ok(vec![read.await?]) }
        })
    }

    fn parts_of(&self, offset: u64, length: u64) -> Option<String> {
        self.input.parts_of(offset, length)
    }
}

/// A tar in the frames of a file with a seek table (zstd, `contrib/seekable_format`). A second tar may be in wrapped frames
/// ([`super::format::wrapped`]); its bytes have the offsets behind those of the first.
pub struct SeekableTar {
    input: Arc<dyn RandomAccess>,
    frames: Arc<[Frame]>,
    /// Bytes of the first tar.
    first: u64,
}

/// A frame of the file.
#[derive(Clone, Copy, Debug)]
struct Frame {
    /// Its first byte in the file, and its length there.
    offset: u64,
    length: u64,
    /// The first byte of its content in the tar, and the length of the content.
    content_offset: u64,
    content: u64,
}

impl SeekableTar {
    /// Reads the seek table at the end of `input`; `None` where there is none.
    ///
    /// # Errors
    /// A fault, where the table does not fit the file.
    pub async fn open(input: Arc<dyn RandomAccess>) -> Result<Option<Self>, Fault> {
        let table = {
            let input = Arc::clone(&input);
            blocking(move || read_table(&*input)).await?
        };
        let Some((table, end)) = table else { return Ok(None) };
        if table.compressed() != end {
            return Err(invalid("its seek table does not fit its length"));
        }
        let mut frames = Vec::with_capacity(table.frames().len());
        let mut skippable = Vec::new();
        let (mut offset, mut content_offset) = (0, 0);
        for (length, content) in table.frames() {
            match content {
                0 => skippable.push((offset, length)),
                _ => frames.push(Frame {
                    offset,
                    length,
                    content_offset,
                    content,
                }),
            }
            offset += length;
            content_offset += content;
        }
        let first = content_offset;
        let wrapped = {
            let input = Arc::clone(&input);
            blocking(move || wrapped_frames(&*input, &skippable, first)).await?
        };
        frames.extend(wrapped);
        let is_long = |frame: &Frame| frame.content > FRAME_CONTENT as u64 || frame.length > FRAME_LIMIT;
        if frames.iter().any(is_long) {
            return Err(invalid("its seek table has a frame that is too long"));
        }
        Ok(Some(Self {
            input,
            frames: frames.into(),
            first,
        }))
    }

    /// Bytes of the first tar, which is the offset of the second.
    pub fn first_length(&self) -> u64 {
        self.first
    }
}

/// The frames that are wrapped by those of `skippable`, which are given by their offsets and lengths in `input`. Their content
/// begins at `content_offset`.
fn wrapped_frames(
    input: &dyn RandomAccess,
    skippable: &[(u64, u64)],
    mut content_offset: u64,
) -> io::Result<Vec<Frame>> {
    let mut frames = Vec::new();
    for (offset, length) in skippable {
        let mut start = [0; SKIPPABLE_HEADER + FRAME_START];
        let known = usize::try_from(*length).map_or(start.len(), |length| length.min(start.len()));
        let start = &mut start[..known];
        input.read_exact_at(start, *offset)?;
        let Some(inner) = wrapped_length(start) else { continue };
        let content = start.get(SKIPPABLE_HEADER..).map(get_frame_content_size);
        let (Some(Ok(Some(content))), true) = (content, u64::from(inner) + SKIPPABLE_HEADER as u64 == *length) else {
            let message = "a wrapped frame does not say how long it is";
            return Err(io::Error::new(io::ErrorKind::InvalidData, message));
        };
        frames.push(Frame {
            offset: offset + SKIPPABLE_HEADER as u64,
            length: u64::from(inner),
            content_offset,
            content,
        });
        let next = content_offset.checked_add(content);
        content_offset = next.ok_or(io::ErrorKind::InvalidData)?;
    }
    Ok(frames)
}

impl SeekableTar {
    /// The end of a read of `length` bytes at `offset`, which ends where the tar does.
    fn end_of(&self, offset: u64, length: u64) -> u64 {
        match offset.saturating_add(length) {
            end if offset < self.first => end.min(self.first),
            end => end,
        }
    }

    /// The places of the frames that hold the `length` bytes of content at `offset`.
    fn frames_of(&self, offset: u64, length: u64) -> Range<usize> {
        let end = self.end_of(offset, length);
        let first = self
            .frames
            .partition_point(|frame| frame.content_offset + frame.content <= offset);
        let last = self.frames.partition_point(|frame| frame.content_offset < end);
        first..last.max(first)
    }
}

impl TarContent for SeekableTar {
    fn parts_of(&self, offset: u64, length: u64) -> Option<String> {
        let frames = self.frames.get(self.frames_of(offset, length))?;
        let (first, last) = (frames.first()?, frames.last()?);
        self.input
            .parts_of(first.offset, last.offset + last.length - first.offset)
    }

    fn read(&self, offset: u64, length: u64) -> ByteStream<'static> {
        let end = self.end_of(offset, length);
        let (frames, input) = (Arc::clone(&self.frames), Arc::clone(&self.input));
        let range = self.frames_of(offset, length);
        let mut is_first = true;
        let parts = range.flat_map(move |at| {
            let most = if std::mem::take(&mut is_first) { 1 } else { READ_BLOCKS };
            frames[at].parts(offset, end, most)
        });
        in_order(parts, move |part| part.read(Arc::clone(&input), offset, end))
    }
}

/// What `read` makes of each of `parts`. The first is often enough, so the others are read when it was taken.
fn in_order<P: Send + 'static, F>(
    mut parts: impl Iterator<Item = P> + Send + 'static,
    read: impl Fn(P) -> F + Clone + Send + 'static,
) -> ByteStream<'static>
where
    F: Future<Output = Result<Vec<Bytes>, Fault>> + Send + 'static,
{
    let first = stream::iter(parts.next()).then(read.clone());
    let others = stream::iter(parts).map(read).buffered(AHEAD);
    first.chain(others).flat_map(pieces_of).boxed()
}

impl Frame {
    /// The parts that hold the content from `offset` to `end`. The first has `first` blocks.
    fn parts(self, offset: u64, end: u64, first: usize) -> Vec<Part> {
        let Some(stored) = StoredFrame::of_lengths(self.length, self.content) else {
            return vec![Part {
                frame: self,
                blocks: None,
            }];
        };
        let block = |content: u64| usize::try_from(content).map_or(0, |content| content / WINDOW);
        let last = end
            .min(self.content_offset + self.content)
            .saturating_sub(self.content_offset + 1);
        let (mut at, last) = (block(offset.saturating_sub(self.content_offset)), block(last));
        let (mut parts, mut most) = (Vec::new(), first);
        while at <= last {
            let next = (at + most).min(last + 1);
            parts.push(Part {
                frame: self,
                blocks: Some((stored, at, next)),
            });
            (at, most) = (next, READ_BLOCKS);
        }
        parts
    }
}

/// What is read of a frame at once: some of its blocks where it is stored, or all of it.
#[derive(Clone, Copy)]
struct Part {
    frame: Frame,
    blocks: Option<(StoredFrame, usize, usize)>,
}

impl Part {
    /// The content of this part that lies between `offset` and `end` of the tar.
    async fn read(self, input: Arc<dyn RandomAccess>, offset: u64, end: u64) -> Result<Vec<Bytes>, Fault> {
        let Self { frame, blocks } = self;
        let mut begin = frame.content_offset;
        let pieces = match blocks {
            None => decoded(input, frame).await?,
            Some((stored, first, next)) => {
                let (skip, range) = ((first * WINDOW) as u64, stored.bytes(first..next));
                begin += skip;
                let bytes = read_piece(
                    Arc::clone(&input),
                    frame.offset + range.start as u64,
                    range.len() as u64,
                );
                match stored.content(first..next, &bytes.await?) {
                    Some(pieces) => pieces,
                    // It only has the length of a stored frame.
                    None => cut(
                        decoded(input, frame).await?,
                        skip,
                        frame.content.min((next * WINDOW) as u64),
                    ),
                }
            }
        };
        let length: u64 = pieces.iter().map(|piece| piece.len() as u64).sum();
        let keep = end.saturating_sub(begin).min(length);
        Ok(cut(pieces, offset.saturating_sub(begin), keep))
    }
}

/// The whole content of `frame`.
async fn decoded(input: Arc<dyn RandomAccess>, frame: Frame) -> Result<Vec<Bytes>, Fault> {
    blocking(move || {
        let length = usize::try_from(frame.length).unwrap_or_default();
        decode_read(length, frame.content, |buffer| {
            input.read_exact_at(buffer, frame.offset)
        })
    })
    .await
}

/// Reads `length` bytes at `offset`, at most [`BUFFER`]. What is in memory already is read without another thread, which costs
/// more than the copy.
async fn read_piece(input: Arc<dyn RandomAccess>, offset: u64, length: u64) -> Result<Bytes, Fault> {
    let length = usize::try_from(length).map_or(BUFFER, |length| length.min(BUFFER));
    let mut buffer = Buffer::new(if length < BUFFER / 4 { length } else { BUFFER });
    if input.read_cached_at(&mut buffer[..length], offset) {
        return Ok(buffer.into_bytes(length));
    }
    blocking(move || {
        if length as u64 >= READ {
            input.prefetch(offset, PREFETCH);
        }
        input.read_exact_at(&mut buffer[..length], offset)?;
        Ok(buffer.into_bytes(length))
    })
    .await
}

/// The seek table of a file, and the offset at which its frame begins.
fn read_table(input: &dyn RandomAccess) -> io::Result<Option<(SeekTable, u64)>> {
    let Some(at) = input.length().checked_sub(SEEK_TABLE_FOOTER as u64) else {
        return Ok(None);
    };
    let mut footer = [0; SEEK_TABLE_FOOTER];
    input.read_exact_at(&mut footer, at)?;
    let Some(length) = SeekTable::frame_length(&footer) else {
        return Ok(None);
    };
    let Some(begin) = input
        .length()
        .checked_sub(length as u64)
        .filter(|_| length as u64 <= SEEK_TABLE_LIMIT)
    else {
        return Ok(None);
    };
    let mut frame = vec![0; length];
    input.read_exact_at(&mut frame, begin)?;
    Ok(SeekTable::parse(&frame).map(|table| (table, begin)))
}

/// The bytes from `skip` to `keep` of `pieces`.
fn cut(pieces: Vec<Bytes>, skip: u64, keep: u64) -> Vec<Bytes> {
    let mut at = 0;
    let mut kept = Vec::with_capacity(pieces.len());
    for mut piece in pieces {
        let (begin, end) = (at, at + piece.len() as u64);
        at = end;
        if end <= skip || begin >= keep {
            continue;
        }
        // Both lie within the piece.
        piece.truncate(usize::try_from(keep.min(end) - begin).unwrap_or_default());
        kept.push(piece.split_off(usize::try_from(skip.saturating_sub(begin)).unwrap_or_default()));
    }
    kept
}

fn pieces_of(pieces: Result<Vec<Bytes>, Fault>) -> ByteStream<'static> {
    match pieces {
        Ok(pieces) => stream::iter(pieces.into_iter().map(Ok)).boxed(),
        Err(fault) => stream::iter([Err(fault)]).boxed(),
    }
}

pub(super) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> io::Result<T> + Send + 'static,
) -> Result<T, Fault> {
    let done = tokio::task::spawn_blocking(work).await;
    let done = done.map_err(|error| invalid(&error.to_string()))?;
    done.map_err(|error| match error.kind() {
        io::ErrorKind::UnexpectedEof => invalid("it ends early"),
        _ => invalid(&error.to_string()),
    })
}

/// `content`, which ends in an error unless all of it has the digest `expected`. `path` names it in the message.
pub(super) fn verified<'a>(content: ByteStream<'a>, path: &str, expected: &crate::oci::Digest) -> ByteStream<'a> {
    let hasher = crate::hashing::BackgroundHasher::new(Some(expected));
    let named = Arc::new((path.to_owned(), expected.clone()));
    try_unfold(
        (content, Some(hasher), named),
        |(mut content, hasher, named)| async move {
            let Some(mut hasher) = hasher else { return Ok(None) };
            if let Some(chunk) = content.next().await.transpose()? {
                hasher.update(&chunk).await;
                return Ok(Some((chunk, (content, Some(hasher), named))));
            }
            let digest = hasher.finish().await.map_err(|error| invalid(&error.to_string()))?;
            let (path, expected) = &*named;
            if digest == *expected {
                return Ok(None);
            }
            Err(invalid(&format!(
                "{path} has the digest {digest} instead of {expected}"
            )))
        },
    )
    .boxed()
}

#[cfg(test)]
mod tests;

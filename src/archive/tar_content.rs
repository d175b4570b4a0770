//! The tar in an archive, read at any offset: as it is in the file, or in the frames of a seekable Zstandard file.

use std::io;
use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;
use futures::StreamExt as _;
use futures::stream::{self, try_unfold};
use zstd::zstd_safe::get_frame_content_size;

use super::format::{FRAME_CONTENT, SEEK_TABLE_FOOTER, SKIPPABLE_HEADER, SeekTable, stored_blocks, wrapped_length};
use super::input::RandomAccess;
use super::read::invalid;
use crate::fault::Fault;
use crate::source::ByteStream;

/// Bytes that are read first: enough for the header of an entry.
const FIRST_READ: u64 = 4 << 10;
/// Bytes that are read at once after that.
const READ: u64 = 1 << 20;
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
        stream::iter(pieces)
            .map(move |(offset, length)| {
                let input = Arc::clone(&input);
                blocking(move || {
                    let mut bytes = vec![0; usize::try_from(length).unwrap_or_default()];
                    input.read_exact_at(&mut bytes, offset)?;
                    Ok(vec![bytes.into()])
                })
            })
            .buffered(AHEAD)
            .flat_map(pieces_of)
            .boxed()
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
        stream::iter(self.frames_of(offset, length))
            .map(move |at| {
                let (frame, input) = (frames[at], Arc::clone(&input));
                blocking(move || {
                    let mut bytes = vec![0; usize::try_from(frame.length).unwrap_or_default()];
                    input.read_exact_at(&mut bytes, frame.offset)?;
                    let pieces = decode(bytes.into(), frame.content)?;
                    let skip = offset.saturating_sub(frame.content_offset);
                    let keep = end.min(frame.content_offset + frame.content) - frame.content_offset;
                    Ok(cut(pieces, skip, keep))
                })
            })
            .buffered(AHEAD)
            .flat_map(pieces_of)
            .boxed()
    }
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

/// The content of `frame`, which is `length` bytes long. Stored content is not copied.
pub(super) fn decode(frame: Bytes, length: u64) -> io::Result<Vec<Bytes>> {
    let differs = || {
        io::Error::new(
            io::ErrorKind::InvalidData,
            "a frame has another length than its seek table says",
        )
    };
    let length = usize::try_from(length).map_err(|_| differs())?;
    if let Some(blocks) = stored_blocks(&frame) {
        let sum: usize = blocks.iter().map(Bytes::len).sum();
        return if sum == length { Ok(blocks) } else { Err(differs()) };
    }
    let content = zstd::bulk::decompress(&frame, length)?;
    if content.len() == length {
        Ok(vec![content.into()])
    } else {
        Err(differs())
    }
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
mod tests {
    use super::*;
    use crate::archive::format::{header, stored, wrapped};
    use crate::archive::testing::Memory;

    fn content() -> Vec<u8> {
        (0..3_000_000_u32).flat_map(u32::to_le_bytes).collect()
    }

    fn seekable(content: &[u8]) -> Vec<u8> {
        let (mut file, mut table) = (Vec::new(), SeekTable::default());
        let frame = header(b"{}").unwrap();
        table.push(frame.len(), 0).unwrap();
        file.extend_from_slice(&frame);
        for (at, piece) in content.chunks(FRAME_CONTENT / 2 + 3).enumerate() {
            let frame = match at % 2 {
                0 => stored(piece),
                _ => zstd::bulk::compress(piece, 1).unwrap().into(),
            };
            table.push(frame.len(), piece.len()).unwrap();
            file.extend_from_slice(&frame);
        }
        file.extend_from_slice(&table.frame().unwrap());
        file
    }

    async fn all(tar: &dyn TarContent, offset: u64, length: u64) -> Vec<u8> {
        let pieces: Vec<Bytes> = tar.read(offset, length).map(Result::unwrap).collect().await;
        pieces.concat()
    }

    #[tokio::test]
    async fn every_range_is_read() {
        let content = content();
        let plain = PlainTar::new(Arc::new(Memory(content.clone())));
        let file = SeekableTar::open(Arc::new(Memory(seekable(&content))))
            .await
            .unwrap()
            .unwrap();
        let length = content.len();
        let piece = FRAME_CONTENT / 2 + 3;
        for (begin, end) in [
            (0, 0),
            (0, 1),
            (0, length),
            (piece - 1, piece + 1),
            (piece, piece),
            (1, 2 * piece + 5),
            (length - 1, length),
            (length, length + 5),
            (length + 5, length + 9),
        ] {
            let expected = &content[begin.min(length)..end.min(length)];
            let (offset, wanted) = (begin as u64, (end - begin) as u64);
            assert!(all(&plain, offset, wanted).await == expected, "plain {begin}..{end}");
            assert!(all(&file, offset, wanted).await == expected, "seekable {begin}..{end}");
        }
    }

    #[tokio::test]
    async fn a_second_tar_follows_the_first() {
        let (mut file, mut table) = (Vec::new(), SeekTable::default());
        let second: Vec<u8> = (0..100_000_u32).flat_map(u32::to_le_bytes).collect();
        let frames = [
            (header(b"{}").unwrap(), 0),
            (stored(b"the first"), 9),
            (wrapped(&stored(b"the second ")).unwrap(), 0),
            (wrapped(&zstd::bulk::compress(&second, 1).unwrap()).unwrap(), 0),
        ];
        for (frame, content) in &frames {
            table.push(frame.len(), *content).unwrap();
            file.extend_from_slice(frame);
        }
        file.extend_from_slice(&table.frame().unwrap());
        let good = SeekableTar::open(Arc::new(Memory(file.clone())))
            .await
            .unwrap()
            .unwrap();
        assert_eq!(good.first_length(), 9);
        assert_eq!(all(&good, 4, u64::MAX).await, b"first");
        assert_eq!(all(&good, 9, 10).await, b"the second");
        assert_eq!(all(&good, 9 + 11 + 4, u64::MAX).await, second[4..]);
        // The wrapped frame says another length than the seek table.
        let at = frames[0].0.len() + frames[1].0.len() + 4;
        file[at] ^= 1;
        assert!(SeekableTar::open(Arc::new(Memory(file))).await.is_err());
    }

    #[tokio::test]
    async fn wrong_lengths_in_the_seek_table_are_refused() {
        let content = content();
        let good = seekable(&content);
        let mut longer = good.clone();
        longer.insert(good.len() / 2, 0);
        assert!(SeekableTar::open(Arc::new(Memory(longer))).await.is_err());
        assert!(
            SeekableTar::open(Arc::new(Memory(content.clone())))
                .await
                .unwrap()
                .is_none()
        );
        let mut other = good.clone();
        // The length of the content of the second frame.
        let entries = good.len() - SEEK_TABLE_FOOTER - 8 * 4;
        other[entries + 8 + 4] ^= 1;
        let tar = SeekableTar::open(Arc::new(Memory(other))).await.unwrap().unwrap();
        let read: Vec<_> = tar.read(0, u64::MAX).collect().await;
        assert!(read.iter().any(Result::is_err));
    }
}

//! The container of a package file: Zstandard frames (RFC 8878) with a seek table (zstd, `contrib/seekable_format`). No IO.

use std::ops::Range;

use bytes::{BufMut as _, Bytes, BytesMut};

/// The magic number of a frame (RFC 8878, section 3.1.1).
const FRAME: u32 = 0xFD2F_B528;
/// The magic number of the skippable frame with the header; decoders pass over it (RFC 8878, section 3.1.2).
const HEADER: u32 = 0x184D_2A50;
/// The magic number of a skippable frame that wraps a frame of the second tar.
const WRAPPED: u32 = 0x184D_2A51;
/// The magic numbers of skippable frames without their last four bits (RFC 8878, section 3.1.2).
const SKIPPABLE: u32 = 0x184D_2A50;
/// The magic number of the skippable frame with the seek table.
const SEEK_TABLE: u32 = 0x184D_2A5E;
/// The last four bytes of a seek table.
const SEEKABLE: u32 = 0x8F92_EAB1;
/// The window of a frame with raw blocks: 128 KiB, which is the longest block too.
pub(super) const WINDOW: usize = 1 << 17;
/// The window descriptor of [`WINDOW`] (RFC 8878, section 3.1.1.1.2).
const WINDOW_DESCRIPTOR: u8 = 7 << 3;
/// An 8-byte content size, no checksum, no dictionary, a window descriptor (RFC 8878, section 3.1.1.1.1).
const FRAME_DESCRIPTOR: u8 = 0b1100_0000;
/// The bytes of a frame before its first block.
const FRAME_HEADER: usize = 4 + 1 + 1 + 8;
/// The bytes before each block.
const BLOCK_HEADER: usize = 3;
/// The bytes after the entries of a seek table.
pub const SEEK_TABLE_FOOTER: usize = 9;
/// The bytes of an entry of a seek table.
const SEEK_TABLE_ENTRY: usize = 8;
/// The bytes before the content of a skippable frame.
pub const SKIPPABLE_HEADER: usize = 8;

/// The most content of one frame, in bytes. Seek tables count frames in 32 bits.
pub const FRAME_CONTENT: usize = 8 << 20;
/// The content of a frame that is written, in bytes; the last of a file has less. Several frames are in memory at once.
pub const WRITTEN_CONTENT: usize = 2 << 20;

/// `content`, not compressed, in a frame of its own.
pub fn stored(content: &[u8]) -> Bytes {
    let blocks = content.len().div_ceil(WINDOW).max(1);
    let mut frame = BytesMut::with_capacity(FRAME_HEADER + blocks * BLOCK_HEADER + content.len());
    frame.put_u32_le(FRAME);
    frame.put_u8(FRAME_DESCRIPTOR);
    frame.put_u8(WINDOW_DESCRIPTOR);
    frame.put_u64_le(content.len() as u64);
    let mut chunks = content.chunks(WINDOW).peekable();
    if chunks.peek().is_none() {
        frame.put_uint_le(1, BLOCK_HEADER);
    }
    while let Some(chunk) = chunks.next() {
        let last = u64::from(chunks.peek().is_none());
        // The type of a raw block is zero (RFC 8878, section 3.1.1.2).
        frame.put_uint_le((chunk.len() as u64) << 3 | last, BLOCK_HEADER);
        frame.put_slice(chunk);
    }
    frame.freeze()
}

/// The content of a frame that [`stored`] wrote, by its blocks, without copying it; `None` for any other frame.
pub fn stored_blocks(frame: &Bytes) -> Option<Vec<Bytes>> {
    let is_stored = frame.get(..4)? == FRAME.to_le_bytes() && *frame.get(4)? == FRAME_DESCRIPTOR;
    if !is_stored || *frame.get(5)? != WINDOW_DESCRIPTOR {
        return None;
    }
    let length = usize::try_from(u64::from_le_bytes(frame.get(6..FRAME_HEADER)?.try_into().ok()?)).ok()?;
    let (mut at, mut sum, mut blocks) = (FRAME_HEADER, 0_usize, Vec::new());
    loop {
        let header = frame.get(at..at + BLOCK_HEADER)?;
        let header = usize::from(header[0]) | usize::from(header[1]) << 8 | usize::from(header[2]) << 16;
        let (last, kind, size) = (header & 1 == 1, header >> 1 & 3, header >> 3);
        at += BLOCK_HEADER;
        if kind != 0 || size > WINDOW || frame.len() < at + size {
            return None;
        }
        blocks.push(frame.slice(at..at + size));
        (at, sum) = (at + size, sum + size);
        if last {
            return (at == frame.len() && sum == length).then_some(blocks);
        }
    }
}

/// A frame that [`stored`] wrote, as its lengths tell: where its blocks lie, so that a part of them can be read.
#[derive(Clone, Copy, Debug)]
pub struct StoredFrame {
    content: usize,
}

impl StoredFrame {
    /// A frame of `length` bytes with `content` bytes of content; `None` where [`stored`] writes another length.
    pub fn of_lengths(length: u64, content: u64) -> Option<Self> {
        let content = usize::try_from(content)
            .ok()
            .filter(|content| (1..=FRAME_CONTENT).contains(content))?;
        let frame = Self { content };
        (frame.bytes(0..frame.blocks()).end as u64 == length).then_some(frame)
    }

    /// The number of its blocks.
    pub fn blocks(self) -> usize {
        self.content.div_ceil(WINDOW)
    }

    /// Where its `blocks` and their headers lie in the frame.
    pub fn bytes(self, blocks: Range<usize>) -> Range<usize> {
        let at = |block: usize| FRAME_HEADER + block * BLOCK_HEADER + self.content.min(block * WINDOW);
        at(blocks.start)..at(blocks.end)
    }

    /// The content of `blocks`, without copying it, from what [`Self::bytes`] tells; `None` where these are no such blocks.
    pub fn content(self, blocks: Range<usize>, bytes: &Bytes) -> Option<Vec<Bytes>> {
        let (mut at, mut found) = (0, Vec::with_capacity(blocks.len()));
        for block in blocks {
            let size = WINDOW.min(self.content.checked_sub(block * WINDOW)?);
            let header = bytes.get(at..at + BLOCK_HEADER)?;
            let header = usize::from(header[0]) | usize::from(header[1]) << 8 | usize::from(header[2]) << 16;
            // The type of a raw block is zero.
            if header != size << 3 | usize::from(block + 1 == self.blocks()) || bytes.len() < at + BLOCK_HEADER + size {
                return None;
            }
            at += BLOCK_HEADER;
            found.push(bytes.slice(at..at + size));
            at += size;
        }
        Some(found)
    }
}

/// The first frame of a package file: `content`, which decoders pass over.
///
/// # Errors
/// When `content` is longer than 4 GiB.
pub fn header(content: &[u8]) -> Result<Bytes, TooLong> {
    skippable(HEADER, content)
}

fn skippable(magic: u32, content: &[u8]) -> Result<Bytes, TooLong> {
    let length = u32::try_from(content.len()).map_err(|_| TooLong)?;
    let mut frame = BytesMut::with_capacity(SKIPPABLE_HEADER + content.len());
    frame.put_u32_le(magic);
    frame.put_u32_le(length);
    frame.put_slice(content);
    Ok(frame.freeze())
}

/// `frame` in a skippable frame, which decoders pass over: so the file holds content that is not in the tar that they see.
///
/// # Errors
/// When `frame` is longer than 4 GiB.
pub fn wrapped(frame: &[u8]) -> Result<Bytes, TooLong> {
    skippable(WRAPPED, frame)
}

/// The length of the frame that a skippable frame wraps, told by its first [`SKIPPABLE_HEADER`] bytes; `None` for any other frame.
pub fn wrapped_length(start: &[u8]) -> Option<u32> {
    skippable_length(start, WRAPPED)
}

/// The kind of a frame, told by its magic number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FrameKind {
    /// A frame with content.
    Content,
    /// A skippable frame that wraps one.
    Wrapped,
    /// Any other skippable frame.
    Skippable,
}

impl FrameKind {
    /// The kind of the frame that begins with `magic`; `None` where no frame does.
    pub fn of(magic: [u8; 4]) -> Option<Self> {
        match u32::from_le_bytes(magic) {
            FRAME => Some(Self::Content),
            WRAPPED => Some(Self::Wrapped),
            other => (other & !0xF == SKIPPABLE).then_some(Self::Skippable),
        }
    }
}

/// Content that no frame can hold.
#[derive(Debug, thiserror::Error)]
#[error("a frame holds 4 GiB at most")]
pub struct TooLong;

/// The length of the header's content, told by the first [`SKIPPABLE_HEADER`] bytes of a file; `None` where the file does not begin
/// with a header.
pub fn header_length(start: &[u8]) -> Option<u32> {
    skippable_length(start, HEADER)
}

fn skippable_length(start: &[u8], expected: u32) -> Option<u32> {
    let magic = start.get(..4)?.try_into().ok()?;
    let length = start.get(4..8)?.try_into().ok()?;
    (u32::from_le_bytes(magic) == expected).then(|| u32::from_le_bytes(length))
}

/// The lengths of all frames of a file, in order, the skippable frame of the header included.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SeekTable {
    entries: Vec<(u32, u32)>,
}

impl SeekTable {
    /// Adds a frame of `compressed` bytes whose content is `content` bytes long.
    ///
    /// # Errors
    /// When a length does not fit in 32 bits.
    pub fn push(&mut self, compressed: usize, content: usize) -> Result<(), TooLong> {
        let length = |length: usize| u32::try_from(length).map_err(|_| TooLong);
        self.entries.push((length(compressed)?, length(content)?));
        Ok(())
    }

    /// Bytes of all frames in the file.
    pub fn compressed(&self) -> u64 {
        self.entries.iter().map(|(compressed, _)| u64::from(*compressed)).sum()
    }

    /// Bytes of the content of all frames.
    pub fn content(&self) -> u64 {
        self.entries.iter().map(|(_, content)| u64::from(*content)).sum()
    }

    /// The lengths in bytes of each frame in the file and of its content, in order.
    pub fn frames(&self) -> impl ExactSizeIterator<Item = (u64, u64)> {
        self.entries
            .iter()
            .map(|(compressed, content)| (u64::from(*compressed), u64::from(*content)))
    }

    /// The last frame of a file.
    ///
    /// # Errors
    /// When there are too many frames.
    pub fn frame(&self) -> Result<Bytes, TooLong> {
        let mut table = BytesMut::with_capacity(self.entries.len() * SEEK_TABLE_ENTRY + SEEK_TABLE_FOOTER);
        for (compressed, content) in &self.entries {
            table.put_u32_le(*compressed);
            table.put_u32_le(*content);
        }
        table.put_u32_le(u32::try_from(self.entries.len()).map_err(|_| TooLong)?);
        // No checksums of frames: every file of a package has its digest.
        table.put_u8(0);
        table.put_u32_le(SEEKABLE);
        skippable(SEEK_TABLE, &table)
    }

    /// The length of the frame of a seek table, told by the last [`SEEK_TABLE_FOOTER`] bytes of a file; `None` where they are not
    /// those of a seek table.
    pub fn frame_length(footer: &[u8]) -> Option<usize> {
        let magic = footer.get(5..9)?.try_into().ok()?;
        let count = footer.get(..4)?.try_into().ok()?;
        if u32::from_le_bytes(magic) != SEEKABLE || footer[4] != 0 {
            return None;
        }
        let entries = usize::try_from(u32::from_le_bytes(count)).ok()?;
        let entries = entries.checked_mul(SEEK_TABLE_ENTRY)?;
        entries.checked_add(SKIPPABLE_HEADER + SEEK_TABLE_FOOTER)
    }

    /// Reads the frame of a seek table; `None` where it is not one.
    pub fn parse(frame: &[u8]) -> Option<Self> {
        let footer = frame.len().checked_sub(SEEK_TABLE_FOOTER)?;
        if Self::frame_length(&frame[footer..])? != frame.len() || frame.get(..4)? != SEEK_TABLE.to_le_bytes() {
            return None;
        }
        let number = |bytes: &[u8]| bytes.try_into().ok().map(u32::from_le_bytes);
        let entries = frame[SKIPPABLE_HEADER..footer].chunks_exact(SEEK_TABLE_ENTRY);
        let entries = entries.map(|entry| Some((number(&entry[..4])?, number(&entry[4..])?)));
        Some(Self {
            entries: entries.collect::<Option<_>>()?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn decode(frames: &[u8]) -> Vec<u8> {
        zstd::decode_all(frames).unwrap()
    }

    #[test]
    fn zstd_reads_stored_frames_of_every_length() {
        for length in [0, 1, WINDOW - 1, WINDOW, WINDOW + 1, 3 * WINDOW] {
            let content: Vec<u8> = (0..length).map(|at| (at % 251) as u8).collect();
            let frame = stored(&content);
            assert_eq!(decode(&frame), content, "{length}");
            assert_eq!(stored_blocks(&frame).unwrap().concat(), content, "{length}");
            assert_eq!(stored_blocks(&frame.slice(..frame.len() - 1)), None, "{length}");
        }
    }

    #[test]
    fn parts_of_a_stored_frame_are_found() {
        for length in [1, WINDOW, WINDOW + 1, 3 * WINDOW] {
            let content: Vec<u8> = (0..length).map(|at| (at % 251) as u8).collect();
            let frame = stored(&content);
            let lengths = (frame.len() as u64, length as u64);
            let parts = StoredFrame::of_lengths(lengths.0, lengths.1).unwrap();
            for begin in 0..parts.blocks() {
                for end in begin + 1..=parts.blocks() {
                    let bytes = frame.slice(parts.bytes(begin..end));
                    let found = parts.content(begin..end, &bytes).unwrap().concat();
                    assert_eq!(
                        found,
                        content[begin * WINDOW..length.min(end * WINDOW)],
                        "{length} {begin} {end}"
                    );
                    assert_eq!(parts.content(begin..end, &bytes.slice(1..)), None);
                }
            }
            assert!(StoredFrame::of_lengths(lengths.0 - 1, lengths.1).is_none());
        }
        assert!(StoredFrame::of_lengths(u64::MAX, u64::MAX).is_none());
    }

    #[test]
    fn zstd_passes_over_header_and_seek_table() {
        let mut table = SeekTable::default();
        let mut file = Vec::new();
        for (frame, content) in [(header(b"{}").unwrap(), 0), (stored(b"content"), 7)] {
            table.push(frame.len(), content).unwrap();
            file.extend_from_slice(&frame);
        }
        let length = file.len() as u64;
        file.extend_from_slice(&table.frame().unwrap());
        assert_eq!(decode(&file), b"content");
        assert_eq!((table.compressed(), table.content()), (length, 7));
    }

    #[test]
    fn zstd_passes_over_wrapped_frames() {
        let inner = stored(b"second");
        let frame = wrapped(&inner).unwrap();
        assert_eq!(wrapped_length(&frame), Some(inner.len() as u32));
        assert_eq!((wrapped_length(&inner), header_length(&frame)), (None, None));
        assert_eq!(decode(&[&stored(b"first")[..], &frame].concat()), b"first");
    }

    #[test]
    fn a_seek_table_is_read_back() {
        let mut table = SeekTable::default();
        table.push(100, 200).unwrap();
        table.push(7, 0).unwrap();
        let frame = table.frame().unwrap();
        let footer = &frame[frame.len() - SEEK_TABLE_FOOTER..];
        assert_eq!(SeekTable::frame_length(footer), Some(frame.len()));
        assert_eq!(SeekTable::parse(&frame), Some(table));
        for length in 0..frame.len() {
            assert_eq!(SeekTable::parse(&frame[..length]), None, "{length}");
        }
    }

    #[test]
    fn the_header_is_found_at_the_start_alone() {
        let frame = header(b"{\"a\":1}").unwrap();
        assert_eq!(header_length(&frame), Some(7));
        assert_eq!(header_length(&frame[..7]), None);
        assert_eq!(header_length(&stored(b"content")), None);
    }
}

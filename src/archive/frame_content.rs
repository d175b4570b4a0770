//! The content of single frames, decompressed in memory that is used again.

use std::io;
use std::sync::{Mutex, PoisonError};

use bytes::Bytes;

use super::format::stored_blocks;
use crate::source::{BUFFER, Buffer};

/// The content of a frame of `length` bytes, which `read` fills in; the content has `content` bytes. It comes in pieces of [`BUFFER`]:
/// queues count pieces.
///
/// # Errors
/// Those of `read`, and where the frame is damaged or has another length.
pub(super) fn decode_read(
    length: usize,
    content: u64,
    read: impl FnOnce(&mut [u8]) -> io::Result<()>,
) -> io::Result<Vec<Bytes>> {
    let mut stored = FrameMemory::of(length);
    read(stored.first(length))?;
    let stored = Bytes::from_owner(stored).slice(..length);
    if stored_blocks(&stored).is_some() {
        return decode(Bytes::copy_from_slice(&stored), content);
    }
    let length = usize::try_from(content).map_err(|_| differs())?;
    let mut memory = FrameMemory::of(length);
    let content = memory.first(length);
    if zstd::bulk::decompress_to_buffer(&stored[..], content)? != length {
        return Err(differs());
    }
    Ok(content.chunks(BUFFER).map(copied).collect())
}

fn differs() -> io::Error {
    io::Error::new(
        io::ErrorKind::InvalidData,
        "a frame has another length than its seek table says",
    )
}

/// The content of `frame`, which is `length` bytes long. Stored content is not copied.
pub(super) fn decode(frame: Bytes, length: u64) -> io::Result<Vec<Bytes>> {
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

/// `piece` in a buffer that is used again.
fn copied(piece: &[u8]) -> Bytes {
    let length = piece.len();
    let mut buffer = Buffer::new(if length < BUFFER / 4 { length } else { BUFFER });
    buffer[..length].copy_from_slice(piece);
    buffer.into_bytes(length)
}

/// Memory for a whole frame, of which other frames are read when it is dropped: threads whose allocations are that long keep them.
struct FrameMemory(Vec<u8>);

/// The most frames whose memory is kept.
const SPARE_FRAMES: usize = 4;

static SPARE: Mutex<Vec<Vec<u8>>> = Mutex::new(Vec::new());

impl FrameMemory {
    /// Memory of at least `length` bytes with any content.
    fn of(length: usize) -> Self {
        let spare = SPARE.lock().unwrap_or_else(PoisonError::into_inner).pop();
        let mut memory = spare.unwrap_or_default();
        if memory.len() < length {
            memory = vec![0; length];
        }
        Self(memory)
    }

    /// Its first `length` bytes.
    fn first(&mut self, length: usize) -> &mut [u8] {
        let length = length.min(self.0.len());
        &mut self.0[..length]
    }
}

impl AsRef<[u8]> for FrameMemory {
    fn as_ref(&self) -> &[u8] {
        &self.0
    }
}

impl Drop for FrameMemory {
    fn drop(&mut self) {
        let mut spare = SPARE.lock().unwrap_or_else(PoisonError::into_inner);
        if spare.len() < SPARE_FRAMES {
            spare.push(std::mem::take(&mut self.0));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::archive::format::stored;

    fn content_of(frame: &[u8], content: usize) -> io::Result<Vec<Bytes>> {
        decode_read(frame.len(), content as u64, |buffer| {
            buffer.copy_from_slice(frame);
            Ok(())
        })
    }

    #[test]
    fn frames_are_decompressed_in_pieces() {
        for length in [1, BUFFER - 1, BUFFER, 2 * BUFFER + 5, 8 << 20, 3] {
            let content: Vec<u8> = (0..length).map(|at| (at / 3) as u8).collect();
            let compressed = zstd::bulk::compress(&content, 1).unwrap();
            for frame in [&compressed[..], &stored(&content)] {
                let pieces = content_of(frame, length).unwrap();
                assert!(pieces.concat() == content, "{length}");
                assert!(pieces.iter().all(|piece| piece.len() <= BUFFER), "{length}");
                for other in [length - 1, length + 1] {
                    assert!(content_of(frame, other).is_err(), "{length}");
                }
            }
        }
        let spare = SPARE.lock().unwrap();
        assert!(spare.len() <= SPARE_FRAMES, "{}", spare.len());
    }
}

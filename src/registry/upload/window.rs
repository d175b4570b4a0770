//! The most recent bytes of a blob, which can be sent again after a connection broke.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::Bytes;

/// Bytes of all windows of the process.
const TOTAL_BYTES: u64 = 12 * 1024 * 1024;
/// Bytes of one window at most: what is in flight on a fast connection and in the kernel buffers of both ends.
const MAX_BYTES: u64 = 8 * 1024 * 1024;
/// Chunks of one window at most; a small chunk may keep a larger buffer alive.
const MAX_CHUNKS: usize = 1024;

static COUNT: AtomicUsize = AtomicUsize::new(0);

/// The bytes from `start` to `end` of the content, with a read offset between them. The chunks are shared with the
/// request, not copied.
#[derive(Debug)]
pub(super) struct ReplayWindow {
    chunks: VecDeque<Bytes>,
    start: u64,
    offset: u64,
    end: u64,
}

impl ReplayWindow {
    pub fn new() -> Self {
        COUNT.fetch_add(1, Ordering::Relaxed);
        Self {
            chunks: VecDeque::new(),
            start: 0,
            offset: 0,
            end: 0,
        }
    }

    /// The offset of the next byte to read.
    pub fn offset(&self) -> u64 {
        self.offset
    }

    /// Whether all bytes were read.
    pub fn is_at_end(&self) -> bool {
        self.offset == self.end
    }

    /// Appends a chunk, and drops the oldest chunks that were read.
    pub fn push(&mut self, chunk: Bytes) {
        self.end += chunk.len() as u64;
        self.chunks.push_back(chunk);
        let limit = MAX_BYTES.min(TOTAL_BYTES / COUNT.load(Ordering::Relaxed).max(1) as u64);
        while let Some(first) = self.chunks.front() {
            let next = self.start + first.len() as u64;
            let fits = self.end - self.start <= limit && self.chunks.len() <= MAX_CHUNKS;
            if fits || next > self.offset {
                break;
            }
            self.start = next;
            self.chunks.pop_front();
        }
    }

    /// The next bytes, at most `max_length`.
    pub fn take(&mut self, max_length: u64) -> Option<Bytes> {
        let mut from = self.end;
        // The next bytes are usually in the last chunk.
        for chunk in self.chunks.iter().rev() {
            from -= chunk.len() as u64;
            if from <= self.offset && self.offset < self.end {
                // Both are at most the length of the chunk, which is a `usize`.
                let skip = (self.offset - from) as usize;
                let length = max_length.min((chunk.len() - skip) as u64) as usize;
                self.offset += length as u64;
                return Some(chunk.slice(skip..skip + length));
            }
        }
        None
    }

    /// Moves the read offset. Returns false if the window does not contain it.
    pub fn seek(&mut self, offset: u64) -> bool {
        let kept = (self.start..=self.end).contains(&offset);
        if kept {
            self.offset = offset;
        }
        kept
    }
}

impl Drop for ReplayWindow {
    fn drop(&mut self) {
        COUNT.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chunk(from: u64, length: usize) -> Bytes {
        (from..from + length as u64)
            .map(|offset| (offset % 251) as u8)
            .collect()
    }

    #[test]
    fn recent_bytes_are_replayed_within_the_limit() {
        let mut window = ReplayWindow::new();
        let length = 300_000;
        for number in 0..80 {
            let from = number * length as u64;
            window.push(chunk(from, length));
            assert_eq!(window.take(100_000).unwrap(), chunk(from, 100_000));
            assert_eq!(window.take(u64::MAX).unwrap(), chunk(from + 100_000, 200_000));
            assert_eq!(window.take(u64::MAX), None);
        }
        let end = window.offset();
        let kept = window.end - window.start;
        assert!(window.is_at_end() && kept <= MAX_BYTES && kept > 0, "{kept}");
        assert!(!window.seek(0) && !window.seek(end + 1));
        assert_eq!(window.offset(), end, "a refused offset changes nothing");
        let again = window.start + 7;
        assert!(window.seek(again));
        let mut read = Vec::new();
        while let Some(chunk) = window.take(99_999) {
            assert!(chunk.len() <= 99_999);
            read.extend_from_slice(&chunk);
        }
        assert_eq!(read, chunk(again, (end - again) as usize));
    }

    #[test]
    fn unread_bytes_are_kept() {
        let mut window = ReplayWindow::new();
        for number in 0..3 {
            window.push(chunk(number * MAX_BYTES, MAX_BYTES as usize));
        }
        assert!(window.seek(0));
        assert_eq!(window.take(u64::MAX).unwrap().len() as u64, MAX_BYTES);
    }

    #[test]
    fn the_number_of_small_chunks_is_limited() {
        let mut window = ReplayWindow::new();
        for number in 0..3 * MAX_CHUNKS as u64 {
            window.push(chunk(number, 1));
            window.take(1).unwrap();
        }
        assert!(window.chunks.len() <= MAX_CHUNKS);
    }
}

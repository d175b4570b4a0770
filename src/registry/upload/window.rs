//! The bytes of a blob that were handed on last, in case the connection loses them.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::Bytes;

/// Bytes that all windows of the process keep together.
const BUDGET: u64 = 12 * 1024 * 1024;
/// Bytes that one keeps at most: what a fast connection has on its way, and the kernels at its ends.
const LARGEST: u64 = 8 * 1024 * 1024;
/// Pieces that one keeps at most; a small one may hold a larger buffer.
const PIECES: usize = 1024;

static WINDOWS: AtomicUsize = AtomicUsize::new(0);

/// What lies between `start` and `end` of the content, read at a place in between. The pieces are shared with who
/// sends them, not copied.
#[derive(Debug)]
pub(super) struct Window {
    pieces: VecDeque<Bytes>,
    start: u64,
    at: u64,
    end: u64,
}

impl Window {
    pub fn new() -> Self {
        WINDOWS.fetch_add(1, Ordering::Relaxed);
        Self {
            pieces: VecDeque::new(),
            start: 0,
            at: 0,
            end: 0,
        }
    }

    /// The offset in the content of what is taken next.
    pub fn at(&self) -> u64 {
        self.at
    }

    /// Whether nothing is left to take.
    pub fn is_at_end(&self) -> bool {
        self.at == self.end
    }

    /// Adds what follows, and forgets what is taken and too old.
    pub fn push(&mut self, piece: Bytes) {
        self.end += piece.len() as u64;
        self.pieces.push_back(piece);
        let limit = LARGEST.min(BUDGET / WINDOWS.load(Ordering::Relaxed).max(1) as u64);
        while let Some(first) = self.pieces.front() {
            let next = self.start + first.len() as u64;
            let fits = self.end - self.start <= limit && self.pieces.len() <= PIECES;
            if fits || next > self.at {
                break;
            }
            self.start = next;
            self.pieces.pop_front();
        }
    }

    /// The next bytes, at most `most`.
    pub fn take(&mut self, most: u64) -> Option<Bytes> {
        let mut from = self.end;
        // What is taken is mostly the last.
        for piece in self.pieces.iter().rev() {
            from -= piece.len() as u64;
            if from <= self.at && self.at < self.end {
                // Both are at most the piece's length, which is an usize.
                let skip = (self.at - from) as usize;
                let length = most.min((piece.len() - skip) as u64) as usize;
                self.at += length as u64;
                return Some(piece.slice(skip..skip + length));
            }
        }
        None
    }

    /// Goes to an offset. False when what lies there is not kept.
    pub fn seek(&mut self, at: u64) -> bool {
        let kept = (self.start..=self.end).contains(&at);
        if kept {
            self.at = at;
        }
        kept
    }
}

impl Drop for Window {
    fn drop(&mut self) {
        WINDOWS.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn piece(from: u64, length: usize) -> Bytes {
        (from..from + length as u64).map(|at| (at % 251) as u8).collect()
    }

    #[test]
    fn gives_again_what_it_keeps_and_keeps_a_bounded_part() {
        let mut window = Window::new();
        let length = 300_000;
        for number in 0..80 {
            let from = number * length as u64;
            window.push(piece(from, length));
            assert_eq!(window.take(100_000).unwrap(), piece(from, 100_000));
            assert_eq!(window.take(u64::MAX).unwrap(), piece(from + 100_000, 200_000));
            assert_eq!(window.take(u64::MAX), None);
        }
        let end = window.at();
        let kept = window.end - window.start;
        assert!(window.is_at_end() && kept <= LARGEST && kept > 0, "{kept}");
        assert!(!window.seek(0) && !window.seek(end + 1));
        assert_eq!(window.at(), end, "a refused place changes nothing");
        let again = window.start + 7;
        assert!(window.seek(again));
        let mut read = Vec::new();
        while let Some(piece) = window.take(99_999) {
            assert!(piece.len() <= 99_999);
            read.extend_from_slice(&piece);
        }
        assert_eq!(read, piece(again, (end - again) as usize));
    }

    #[test]
    fn keeps_what_was_not_taken() {
        let mut window = Window::new();
        for number in 0..3 {
            window.push(piece(number * LARGEST, LARGEST as usize));
        }
        assert!(window.seek(0));
        assert_eq!(window.take(u64::MAX).unwrap().len() as u64, LARGEST);
    }

    #[test]
    fn keeps_no_crowd_of_small_pieces() {
        let mut window = Window::new();
        for number in 0..3 * PIECES as u64 {
            window.push(piece(number, 1));
            window.take(1).unwrap();
        }
        assert!(window.pieces.len() <= PIECES);
    }
}

//! Lines of an answer that comes piece by piece.

use bytes::{Buf, BytesMut};

/// What came of an answer and was not read as a line yet.
#[derive(Debug, Default)]
pub(super) struct Lines(BytesMut);

impl Lines {
    /// The next whole line, without its end.
    pub fn next(&mut self) -> Option<BytesMut> {
        let end = self.0.iter().position(|&byte| byte == b'\n')?;
        let line = self.0.split_to(end);
        self.0.advance(1);
        Some(line)
    }

    /// Takes a piece, once [`Lines::next`] has no more. False when a line would become longer than `limit` bytes.
    #[must_use]
    pub fn take(&mut self, piece: &[u8], limit: usize) -> bool {
        self.0.extend_from_slice(piece);
        let unended = self.0.iter().rposition(|&byte| byte == b'\n').map_or(0, |end| end + 1);
        self.0.len() - unended <= limit
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pieces_become_lines_of_a_bounded_length() {
        let mut lines = Lines::default();
        assert!(lines.take(b"one\ntw", 4));
        assert_eq!(lines.next().as_deref(), Some(&b"one"[..]));
        assert_eq!(lines.next(), None);
        assert!(lines.take(b"o\n\nlong", 4));
        assert_eq!(lines.next().as_deref(), Some(&b"two"[..]));
        assert_eq!(lines.next().as_deref(), Some(&b""[..]));
        assert_eq!(lines.next(), None);
        assert!(!lines.take(b"e", 4));
    }
}

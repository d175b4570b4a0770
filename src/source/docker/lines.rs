//! Splits an answer into lines as it is received.

use bytes::{Buf, BytesMut};

/// What was received of an answer and not read as a line yet.
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

    /// Adds a chunk, once [`Lines::next`] returned `None`. False if a line is longer than `limit` bytes.
    #[must_use]
    pub fn push(&mut self, chunk: &[u8], limit: usize) -> bool {
        self.0.extend_from_slice(chunk);
        let unended = self.0.iter().rposition(|&byte| byte == b'\n').map_or(0, |end| end + 1);
        self.0.len() - unended <= limit
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn chunks_are_split_into_lines_of_a_limited_length() {
        let mut lines = Lines::default();
        assert!(lines.push(b"one\ntw", 4));
        assert_eq!(lines.next().as_deref(), Some(&b"one"[..]));
        assert_eq!(lines.next(), None);
        assert!(lines.push(b"o\n\nlong", 4));
        assert_eq!(lines.next().as_deref(), Some(&b"two"[..]));
        assert_eq!(lines.next().as_deref(), Some(&b""[..]));
        assert_eq!(lines.next(), None);
        assert!(!lines.push(b"e", 4));
    }
}

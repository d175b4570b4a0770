//! Content of Zstandard frames as a stream, in bounded memory.

use std::io;

use bytes::{Buf as _, Bytes};
use futures::StreamExt as _;
use futures::stream::try_unfold;
use zstd::stream::raw::{Decoder, InBuffer, Operation as _, OutBuffer};
use zstd::zstd_safe::DParameter;

use crate::fault::{Fault, Reason};
use crate::oci::Digest;
use crate::source::ByteStream;

/// Bytes of content that are made at once.
const CHUNK: usize = 256 << 10;
/// The largest window of a frame, as a power of two: 64 MiB. Frames that need more memory are refused.
const WINDOW_LOG: u32 = 26;
/// The most bytes of content of one layer: 1 TiB. More is taken for a decompression bomb.
const CONTENT_LIMIT: u64 = 1 << 40;

/// What is decompressed.
struct State<'a> {
    stored: ByteStream<'a>,
    decoder: Option<Decoder<'static>>,
    /// Stored bytes that were read and not taken yet.
    input: Bytes,
    /// Bytes that the decoder needs to end its frame; 0 between two frames.
    hint: usize,
    /// Whether the decoder may have more content of what it took.
    pending: bool,
    /// Bytes of content until now.
    length: u64,
    digest: Digest,
}

/// The content of the blob `digest`, which `stored` is. It ends in an error where that is not whole.
pub(in crate::archive) fn decompressed<'a>(stored: ByteStream<'a>, digest: &Digest) -> ByteStream<'a> {
    let state = State {
        stored,
        decoder: None,
        input: Bytes::new(),
        hint: 0,
        pending: false,
        length: 0,
        digest: digest.clone(),
    };
    try_unfold(state, |mut state| async move {
        let content = state.next().await?;
        Ok(content.map(|content| (content, state)))
    })
    .boxed()
}

impl State<'_> {
    /// The next content; `None` at its end.
    async fn next(&mut self) -> Result<Option<Bytes>, Fault> {
        loop {
            if self.input.is_empty() && !self.pending {
                match self.stored.next().await.transpose()? {
                    Some(chunk) => self.input = chunk,
                    None if self.hint == 0 => return Ok(None),
                    None => return Err(self.invalid("it ends within a frame")),
                }
            }
            let content = self.decode().await?;
            self.length = self.length.saturating_add(content.len() as u64);
            if self.length > CONTENT_LIMIT {
                return Err(self.invalid("it has more than 1 TiB of content"));
            }
            if !content.is_empty() {
                return Ok(Some(content));
            }
        }
    }

    /// Decompresses some of the input.
    async fn decode(&mut self) -> Result<Bytes, Fault> {
        let (mut input, decoder) = (std::mem::take(&mut self.input), self.decoder.take());
        let done = tokio::task::spawn_blocking(move || -> io::Result<_> {
            let mut decoder = match decoder {
                Some(decoder) => decoder,
                None => {
                    let mut decoder = Decoder::new()?;
                    decoder.set_parameter(DParameter::WindowLogMax(WINDOW_LOG))?;
                    decoder
                }
            };
            let mut content = vec![0; CHUNK];
            let (mut taken, mut output) = (InBuffer::around(&input), OutBuffer::around(&mut content));
            let hint = decoder.run(&mut taken, &mut output)?;
            let (taken, length) = (taken.pos(), output.pos());
            input.advance(taken);
            content.truncate(length);
            Ok((decoder, input, content, hint))
        });
        let done = done.await;
        let done = done.map_err(|error| Fault::retryable(Reason::SourceFailed, error.to_string()))?;
        let (decoder, input, content, hint) = done.map_err(|error| self.invalid(&error.to_string()))?;
        self.decoder = Some(decoder);
        self.input = input;
        self.hint = hint;
        // A full buffer says nothing about what is left, unless a frame ended.
        self.pending = content.len() == CHUNK && hint != 0;
        Ok(content.into())
    }

    fn invalid(&self, what: &str) -> Fault {
        Fault::stalled(
            Reason::SourceFailed,
            format!("{} cannot be decompressed: {what}; build the image again", self.digest),
        )
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use futures::stream;

    use super::*;

    async fn content(stored: &[u8], chunk: usize) -> Result<Vec<u8>, Fault> {
        let chunks: Vec<_> = stored
            .chunks(chunk)
            .map(|chunk| Ok(Bytes::copy_from_slice(chunk)))
            .collect();
        let mut content = Vec::new();
        let mut stream = decompressed(stream::iter(chunks).boxed(), &Digest::of(stored));
        while let Some(chunk) = stream.next().await.transpose()? {
            content.extend_from_slice(&chunk);
        }
        Ok(content)
    }

    fn text() -> Vec<u8> {
        (0..300_000_u32).flat_map(u32::to_le_bytes).collect()
    }

    #[tokio::test]
    async fn frames_of_any_length_are_decompressed() {
        let text = text();
        let one = zstd::bulk::compress(&text, 3).unwrap();
        let exact = zstd::bulk::compress(&text[..CHUNK], 1).unwrap();
        let skippable = [&[0x51, 0x2a, 0x4d, 0x18, 3, 0, 0, 0][..], b"abc"].concat();
        let several = [
            &skippable[..],
            &one,
            &skippable,
            &exact,
            &zstd::bulk::compress(b"", 1).unwrap(),
        ]
        .concat();
        let expected = [&text[..], &text[..CHUNK]].concat();
        for chunk in [4099, 1 << 16, usize::MAX] {
            assert!(content(&one, chunk).await.unwrap() == text, "{chunk}");
            assert!(content(&several, chunk).await.unwrap() == expected, "{chunk}");
        }
        assert!(content(&zstd::bulk::compress(b"text", 1).unwrap(), 1).await.unwrap() == b"text");
        assert!(content(b"", 1).await.unwrap().is_empty());
    }

    #[tokio::test]
    async fn damaged_and_cut_frames_are_refused() {
        let one = zstd::bulk::compress(&text(), 3).unwrap();
        for cut in [1, 3, one.len() / 2, one.len() - 1] {
            let fault = content(&one[..cut], 4096).await.unwrap_err();
            assert!(fault.message.contains("it ends within a frame"), "{cut}: {fault}");
        }
        let trailing = [&one[..], b"trailing"].concat();
        assert!(content(&trailing, 4096).await.unwrap_err().is_stalled());
        // A window of 128 MiB.
        let mut encoder = zstd::stream::write::Encoder::new(Vec::new(), 1).unwrap();
        encoder.window_log(27).unwrap();
        encoder.write_all(b"text").unwrap();
        let fault = content(&encoder.finish().unwrap(), 4096).await.unwrap_err();
        assert!(fault.message.contains("cannot be decompressed"), "{fault}");
    }
}

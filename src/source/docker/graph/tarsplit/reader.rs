//! Reads the entries of a tar-split.

use std::borrow::Cow;
use std::io::{BufRead as _, BufReader, Read};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use flate2::bufread::MultiGzDecoder;
use serde::Deserialize;

use crate::decode;
use crate::source::unreadable::UnreadableReason;

/// The longest line in bytes. Segments have at most 1 MiB of padding and an extension header of at most 1 MiB; base64 adds a
/// third.
pub(super) const LINE_LIMIT: usize = 6 * 1024 * 1024;

/// An entry of the tar-split, in the order of the tar.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum TarSplitEntry<'a> {
    /// Bytes of the tar itself, in base64.
    Segment { base64: &'a str, length: u64 },
    /// The content of a file that is not empty.
    File {
        name: Cow<'a, [u8]>,
        size: u64,
        crc: [u8; 8],
    },
    /// A file, link or directory without content.
    Empty,
}

#[derive(Deserialize)]
struct Line<'a> {
    #[serde(rename = "type")]
    kind: u8,
    #[serde(borrow, default)]
    name: Cow<'a, str>,
    // A name that is not UTF-8, in base64.
    #[serde(default)]
    name_raw: Option<&'a str>,
    #[serde(default)]
    size: i64,
    #[serde(default)]
    payload: Option<&'a str>,
}

pub(super) struct TarSplitReader<R: Read> {
    lines: BufReader<MultiGzDecoder<BufReader<R>>>,
    line: Vec<u8>,
    number: u64,
}

impl<R: Read> TarSplitReader<R> {
    pub fn new(gzip: R) -> Self {
        const BUFFER: usize = 128 * 1024;
        let inflated = MultiGzDecoder::new(BufReader::with_capacity(BUFFER, gzip));
        Self {
            lines: BufReader::with_capacity(BUFFER, inflated),
            line: Vec::new(),
            number: 0,
        }
    }

    pub fn next(&mut self) -> Result<Option<TarSplitEntry<'_>>, UnreadableReason> {
        self.line.clear();
        self.number += 1;
        let number = self.number;
        let malformed =
            |what: &dyn std::fmt::Display| UnreadableReason::new(format!("its tar-split, line {number}: {what}"));
        let mut bounded = (&mut self.lines).take(LINE_LIMIT as u64);
        let read = bounded.read_until(b'\n', &mut self.line);
        if read.map_err(|error| malformed(&error))? == 0 {
            return Ok(None);
        }
        // Every line ends with a newline, also the last.
        if self.line.pop() != Some(b'\n') {
            let what = if self.line.len() + 1 == LINE_LIMIT {
                "it is too long"
            } else {
                "it is cut off"
            };
            return Err(malformed(&what));
        }
        let line = std::str::from_utf8(&self.line).map_err(|error| malformed(&error))?;
        let line: Line<'_> = decode::json_text(line).map_err(|error| malformed(&error))?;
        let size = u64::try_from(line.size).map_err(|_| malformed(&"a negative size"))?;
        match line.kind {
            2 => {
                let base64 = line.payload.unwrap_or_default();
                let length = decoded_length(base64).ok_or_else(|| malformed(&"its payload is not base64"))?;
                Ok(Some(TarSplitEntry::Segment { base64, length }))
            }
            1 if size == 0 => Ok(Some(TarSplitEntry::Empty)),
            1 => {
                let name = match line.name_raw {
                    Some(raw) => STANDARD
                        .decode(raw)
                        .map(Cow::Owned)
                        .map_err(|error| malformed(&error))?,
                    None => match line.name {
                        Cow::Borrowed(name) => Cow::Borrowed(name.as_bytes()),
                        Cow::Owned(name) => Cow::Owned(name.into_bytes()),
                    },
                };
                let crc = STANDARD.decode(line.payload.unwrap_or_default()).ok();
                let crc = crc.and_then(|crc| crc.try_into().ok());
                let crc = crc.ok_or_else(|| malformed(&"it has no checksum of the file"))?;
                Ok(Some(TarSplitEntry::File { name, size, crc }))
            }
            other => Err(malformed(&format_args!("an entry of the unknown type {other}"))),
        }
    }
}

// The length of what padded standard base64 encodes. Invalid text is found when it is decoded.
fn decoded_length(base64: &str) -> Option<u64> {
    let bytes = base64.as_bytes();
    let padding = bytes.iter().rev().take(2).take_while(|&&byte| byte == b'=').count();
    bytes
        .len()
        .is_multiple_of(4)
        .then(|| (bytes.len() / 4 * 3).saturating_sub(padding) as u64)
}

/// The length in bytes of the tar that `gzip` describes.
pub(in crate::source::docker) fn length(gzip: impl Read) -> Result<u64, UnreadableReason> {
    let mut entries = TarSplitReader::new(gzip);
    let mut total: u64 = 0;
    while let Some(entry) = entries.next()? {
        let length = match entry {
            TarSplitEntry::Segment { length, .. } => length,
            TarSplitEntry::File { size, .. } => size,
            TarSplitEntry::Empty => 0,
        };
        // At most the length that a file can have.
        total = total
            .checked_add(length)
            .filter(|total| i64::try_from(*total).is_ok())
            .ok_or_else(|| UnreadableReason::new("its tar-split describes more bytes than a file can have"))?;
    }
    Ok(total)
}

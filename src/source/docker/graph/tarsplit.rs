//! The tar of a layer out of its files and its tar-split (github.com/vbatts/tar-split, `tar/storage`).
//!
//! A tar-split is gzip of one JSON object a line: either bytes of the tar as they were (headers, padding), or
//! a file whose content stands in between, with its length and its CRC-64/ISO. It is read twice, first for the
//! length of the tar and then to assemble it, so that memory does not grow with the number of files.

mod assembly;

use std::borrow::Cow;
use std::io::{BufRead as _, BufReader, Read};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use flate2::bufread::MultiGzDecoder;
use serde::Deserialize;

use super::UnreadableReason;
use crate::decode;

pub(in super::super) use assembly::assemble;

/// Of a line in bytes. Padding is cut into pieces of 1 MiB, and an extension header has at most as much;
/// base64 makes a third more of it.
const LINE_LIMIT: usize = 6 * 1024 * 1024;

/// What the tar consists of, in order.
#[derive(Debug, PartialEq, Eq)]
enum Piece<'a> {
    /// Bytes of the tar itself, in base64.
    Segment { base64: &'a str, length: u64 },
    /// The content of a file that is not empty.
    File {
        name: Cow<'a, [u8]>,
        size: u64,
        crc: [u8; 8],
    },
    /// Something without content.
    Nothing,
}

#[derive(Deserialize)]
struct Line<'a> {
    #[serde(rename = "type")]
    kind: u8,
    #[serde(borrow, default)]
    name: Cow<'a, str>,
    // Of a name that is not UTF-8, in base64.
    #[serde(default)]
    name_raw: Option<&'a str>,
    #[serde(default)]
    size: i64,
    #[serde(default)]
    payload: Option<&'a str>,
}

struct Pieces<R: Read> {
    lines: BufReader<MultiGzDecoder<BufReader<R>>>,
    line: Vec<u8>,
    number: u64,
}

impl<R: Read> Pieces<R> {
    fn new(gzip: R) -> Self {
        const AT_ONCE: usize = 128 * 1024;
        let inflated = MultiGzDecoder::new(BufReader::with_capacity(AT_ONCE, gzip));
        Self {
            lines: BufReader::with_capacity(AT_ONCE, inflated),
            line: Vec::new(),
            number: 0,
        }
    }

    fn next(&mut self) -> Result<Option<Piece<'_>>, UnreadableReason> {
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
        // Every line ends, also the last.
        if self.line.pop() != Some(b'\n') {
            let what = if self.line.len() + 1 == LINE_LIMIT {
                "it is too long"
            } else {
                "it has no end"
            };
            return Err(malformed(&what));
        }
        let line = std::str::from_utf8(&self.line).map_err(|error| malformed(&error))?;
        let line: Line<'_> = decode::json_text(line).map_err(|error| malformed(&error))?;
        let size = u64::try_from(line.size).map_err(|_| malformed(&"a size below zero"))?;
        match line.kind {
            2 => {
                let base64 = line.payload.unwrap_or_default();
                let length = decoded_length(base64).ok_or_else(|| malformed(&"its payload is no base64"))?;
                Ok(Some(Piece::Segment { base64, length }))
            }
            1 if size == 0 => Ok(Some(Piece::Nothing)),
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
                Ok(Some(Piece::File { name, size, crc }))
            }
            other => Err(malformed(&format_args!("a piece of the unknown type {other}"))),
        }
    }
}

// The length of what standard base64 with its padding stands for; whether it is such shows in decoding.
fn decoded_length(base64: &str) -> Option<u64> {
    let bytes = base64.as_bytes();
    let padding = bytes.iter().rev().take(2).take_while(|&&byte| byte == b'=').count();
    bytes
        .len()
        .is_multiple_of(4)
        .then(|| (bytes.len() / 4 * 3).saturating_sub(padding) as u64)
}

/// The length in bytes of the tar that `gzip` describes.
pub(in super::super) fn length(gzip: impl Read) -> Result<u64, UnreadableReason> {
    let mut pieces = Pieces::new(gzip);
    let mut total: u64 = 0;
    while let Some(piece) = pieces.next()? {
        let length = match piece {
            Piece::Segment { length, .. } => length,
            Piece::File { size, .. } => size,
            Piece::Nothing => 0,
        };
        // No longer than a file may be.
        total = total
            .checked_add(length)
            .filter(|total| i64::try_from(*total).is_ok())
            .ok_or_else(|| UnreadableReason::new("its tar-split describes more bytes than there can be"))?;
    }
    Ok(total)
}

#[cfg(test)]
mod tests;

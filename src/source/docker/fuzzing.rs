//! Doors to the two parsers of an engine's content, for the fuzz targets. No other build has them.

use std::io::Read;
use std::path::Path;

use bytes::Bytes;
use futures::StreamExt;

use super::archive::Archive;
use super::graph::tarsplit;
use crate::source::chunks::Chunks;
use crate::source::confined_directory::Beneath;

/// Reads the tar-split `gzip` twice as a transfer does, with the files that lie in `folder`. Gives the length in
/// bytes that the first reading told and the bytes that the second brought, or why one of them was given up.
///
/// # Panics
/// When more bytes come than were told, or another number without a complaint.
pub fn tar_split(gzip: &[u8], folder: &Path) -> Result<u64, String> {
    let length = tarsplit::length(gzip).map_err(|doubt| doubt.to_string())?;
    let mut diff = Beneath::at(folder).map_err(|doubt| doubt.to_string())?;
    let (mut chunks, mut receiver) = Chunks::new(length);
    let reading = std::thread::spawn({
        let gzip = gzip.to_vec();
        move || {
            let result = tarsplit::assemble(gzip.as_slice(), &mut diff, &mut chunks);
            chunks.end(result);
        }
    });
    let mut brought = 0;
    let mut doubted = None;
    while let Some(chunk) = receiver.blocking_recv() {
        match chunk {
            Ok(chunk) => brought += chunk.len() as u64,
            Err(doubt) => doubted = Some(doubt.to_string()),
        }
        assert!(brought <= length, "{brought} bytes of {length}");
    }
    assert!(reading.join().is_ok(), "the reader panicked");
    match doubted {
        Some(doubt) => Err(doubt),
        None => {
            assert_eq!(brought, length);
            Ok(length)
        }
    }
}

/// Reads `tar`, which arrives in pieces of `piece` bytes, to its end. Gives the number of entries and the bytes
/// of their content.
///
/// # Panics
/// When an entry has more content than it says, or another length without a complaint.
pub async fn archive(tar: &[u8], piece: usize) -> Result<(usize, u64), String> {
    let pieces: Vec<_> = tar
        .chunks(piece.max(1))
        .map(|part| Ok(Bytes::copy_from_slice(part)))
        .collect();
    let mut archive = Archive::new(futures::stream::iter(pieces).boxed());
    let (mut entries, mut total) = (0, 0);
    while let Some(entry) = archive.next().await.map_err(|fault| fault.message)? {
        entries += 1;
        let mut length = 0;
        // Every third is passed over, as content is that nobody needs.
        while entries % 3 != 0 {
            match archive.chunk().await.map_err(|fault| fault.message)? {
                Some(chunk) => length += chunk.len() as u64,
                None => {
                    assert_eq!(length, entry.size);
                    break;
                }
            }
        }
        total += length;
    }
    Ok((entries, total))
}

/// `lines` as the engine keeps them.
pub fn gzip(lines: &[u8]) -> Vec<u8> {
    let mut gzip = Vec::new();
    // Reading from memory does not fail.
    let _ = flate2::read::GzEncoder::new(lines, flate2::Compression::fast()).read_to_end(&mut gzip);
    gzip
}

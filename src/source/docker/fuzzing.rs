//! Access to the two parsers of an engine's content for the fuzz targets. Other builds do not have it.

use std::io::Read;
use std::path::Path;

use bytes::Bytes;
use futures::StreamExt;

use super::archive::Archive;
use super::graph::tarsplit;
use crate::source::chunks::Chunks;
use crate::source::confined_directory::ConfinedDirectory;

/// Reads the tar-split `gzip` twice as a transfer does, with the files in `folder`. Returns the length in bytes, or why one
/// of the reads failed.
///
/// # Panics
/// If the second read gives another length than the first without an error.
pub fn tar_split(gzip: &[u8], folder: &Path) -> Result<u64, String> {
    let length = tarsplit::length(gzip).map_err(|reason| reason.to_string())?;
    let mut diff = ConfinedDirectory::open(folder).map_err(|reason| reason.to_string())?;
    let (mut chunks, mut receiver) = Chunks::new(length);
    let reading = std::thread::spawn({
        let gzip = gzip.to_vec();
        move || {
            let result = tarsplit::assemble(gzip.as_slice(), &diff, &mut chunks);
            chunks.finish(result);
        }
    });
    let mut received = 0;
    let mut failed = None;
    while let Some(chunk) = receiver.blocking_recv() {
        match chunk {
            Ok(chunk) => received += chunk.len() as u64,
            Err(reason) => failed = Some(reason.to_string()),
        }
        assert!(received <= length, "{received} bytes of {length}");
    }
    assert!(reading.join().is_ok(), "the reader panicked");
    match failed {
        Some(reason) => Err(reason),
        None => {
            assert_eq!(received, length);
            Ok(length)
        }
    }
}

/// Reads `tar`, in chunks of `piece` bytes, to its end. Returns the number of entries and the bytes of their content.
///
/// # Panics
/// If the content of an entry has another length than its header says, without an error.
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
        // The content of every third is skipped, as a transfer skips blobs.
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

/// `lines`, compressed as the engine stores them.
pub fn gzip(lines: &[u8]) -> Vec<u8> {
    let mut gzip = Vec::new();
    // Reading from memory does not fail.
    let _ = flate2::read::GzEncoder::new(lines, flate2::Compression::fast()).read_to_end(&mut gzip);
    gzip
}

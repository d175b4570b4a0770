//! Opens archives in memory, for the fuzz targets. Other builds do not have it.

use std::io;
use std::sync::Arc;

use futures::StreamExt as _;

use super::contents::Archive;
use super::input::RandomAccess;
use super::open::contents_of;
use crate::oci::Digest;

struct Memory(Vec<u8>);

impl RandomAccess for Memory {
    fn length(&self) -> u64 {
        self.0.len() as u64
    }

    fn read_exact_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()> {
        let at = usize::try_from(offset).map_err(|_| io::ErrorKind::UnexpectedEof)?;
        let end = at.checked_add(buffer.len());
        let from = end.and_then(|end| self.0.get(at..end));
        buffer.copy_from_slice(from.ok_or(io::ErrorKind::UnexpectedEof)?);
        Ok(())
    }
}

/// Opens the archive `bytes` and reads all of its content. Returns the bytes of content that had their digests, or why it cannot be
/// opened.
///
/// # Panics
/// If content ends with another length than the archive said, without an error.
pub async fn open(bytes: &[u8]) -> Result<u64, String> {
    let contents = contents_of(Arc::new(Memory(bytes.to_vec()))).await;
    let archive = Archive::new(contents.map_err(|fault| fault.message)?).await;
    let archive = archive.map_err(|fault| fault.message)?;
    for image in archive.images() {
        archive.manifests(&image.root.digest);
    }
    let mut blobs: Vec<(Digest, u64)> = archive.blobs().map(|(digest, size)| (digest.clone(), size)).collect();
    blobs.sort_by_key(|(digest, _)| archive.offset(digest));
    let mut verified = 0;
    for (digest, size) in blobs {
        let Some(mut content) = archive.read(&digest) else {
            continue;
        };
        let mut length = 0;
        let failed = loop {
            match content.next().await {
                Some(Ok(chunk)) => length += chunk.len() as u64,
                Some(Err(_)) => break true,
                None => break false,
            }
        };
        assert!(failed || length == size, "{digest} has {length} bytes of {size}");
        verified += if failed { 0 } else { length };
    }
    Ok(verified)
}

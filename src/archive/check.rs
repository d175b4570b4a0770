//! Reads an archive to its end, to find what is damaged in it.

use std::collections::HashMap;

use futures::StreamExt as _;

use super::contents::Archive;
use super::order::files_of;
use crate::fault::{Fault, Reason};
use crate::oci::Digest;
use crate::transfer::Progress;

/// Damaged files that a message lists.
const SHOWN: usize = 5;

/// What was read.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Checked {
    /// Contents with a digest: blobs of images, and files of packages.
    pub files: usize,
    /// Their bytes.
    pub size: u64,
}

/// Reads all content of `archive` and compares its digests. `progress` counts bytes.
///
/// # Errors
/// A stalled fault that names the damaged files.
pub async fn check(archive: &Archive, progress: &Progress) -> Result<Checked, Fault> {
    let mut blobs: Vec<(&Digest, u64)> = archive.blobs().collect();
    blobs.sort_unstable();
    let expected = blobs
        .iter()
        .fold(progress.done(), |sum, (_, size)| size.saturating_add(sum));
    progress.set_total(expected);
    let mut paths: HashMap<Digest, String> = HashMap::new();
    for package in archive.packages() {
        let files = package.manifest.manifest().map(files_of).transpose()?;
        paths.extend(files.into_iter().flatten().map(|file| (file.digest, file.path)));
    }
    let mut checked = Checked::default();
    let (mut damaged, mut count) = (Vec::new(), 0);
    for (digest, size) in blobs {
        let Some(mut content) = archive.read(digest) else {
            continue;
        };
        let (mut length, mut failed) = (0, false);
        while let Some(chunk) = content.next().await {
            match chunk {
                Ok(chunk) => {
                    length += chunk.len() as u64;
                    progress.add_moved(chunk.len() as u64);
                }
                // The digest differs, or the frame cannot be decompressed; the stream has ended.
                Err(fault) if fault.is_stalled() => failed = true,
                Err(fault) => return Err(fault),
            }
        }
        if failed || length != size {
            count += 1;
            if damaged.len() < SHOWN {
                damaged.push(paths.get(digest).map_or_else(|| digest.to_string(), Clone::clone));
            }
        }
        checked.files += 1;
        checked.size += size;
    }
    if damaged.is_empty() {
        return Ok(checked);
    }
    let more = match count - damaged.len() {
        0 => String::new(),
        more => format!(" and {more} more"),
    };
    let message = format!("damaged content: {}{more}; copy the file again", damaged.join(", "));
    Err(Fault::stalled(Reason::DigestMismatch, message))
}

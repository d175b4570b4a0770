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
    // A tar that is compressed as one stream is decompressed once in this order. Content outside of the tar has no offset.
    blobs.sort_unstable_by_key(|(digest, _)| (archive.offset(digest), *digest));
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

#[cfg(test)]
mod tests {
    use std::io;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicU64, Ordering};

    use super::*;
    use crate::archive::contents::Contents;
    use crate::archive::input::RandomAccess;
    use crate::archive::members::{by_path, list};
    use crate::archive::stream_tar::{StreamCompression, StreamTar};
    use crate::archive::testing::{Memory, Tar, gzip};

    /// Counts the bytes that are read.
    struct Counted(Memory, Arc<AtomicU64>);

    impl RandomAccess for Counted {
        fn length(&self) -> u64 {
            self.0.length()
        }

        fn read_exact_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()> {
            self.1.fetch_add(buffer.len() as u64, Ordering::Relaxed);
            self.0.read_exact_at(buffer, offset)
        }
    }

    #[tokio::test]
    async fn a_compressed_tar_is_decompressed_once() {
        let blob = |seed| {
            let mut random = fastrand::Rng::with_seed(seed);
            let content: Vec<u8> = std::iter::repeat_with(|| random.u8(..)).take(1 << 20).collect();
            (Digest::of(&content), content)
        };
        let mut blobs: Vec<_> = (0..4).map(blob).collect();
        // Against the order of their digests, so that reading by digest would begin anew for each.
        blobs.sort_by(|left, right| right.0.cmp(&left.0));
        let tar = blobs
            .iter()
            .fold(Tar::default(), |tar, (digest, content)| tar.file(digest.hex(), content));
        let (file, read) = (Memory(gzip(&tar.end())), Arc::new(AtomicU64::new(0)));
        let length = file.length();
        let tar = StreamTar::new(Arc::new(Counted(file, Arc::clone(&read))), StreamCompression::Gzip);
        let members = by_path(list(&tar).await.unwrap()).unwrap();
        let contents = Contents {
            tar: Arc::new(tar),
            packages: Vec::new(),
            blobs: blobs
                .iter()
                .map(|(digest, _)| (digest.clone(), members[digest.hex()].extent))
                .collect(),
            inline: HashMap::new(),
            images: Vec::new(),
        };
        let archive = Archive::new(contents).await.unwrap();
        read.store(0, Ordering::Relaxed);
        let checked = check(&archive, &Progress::default()).await.unwrap();
        assert_eq!((checked.files, checked.size), (4, 4 << 20));
        let read = read.load(Ordering::Relaxed);
        assert!(read <= length, "{read} of {length} bytes");
    }
}

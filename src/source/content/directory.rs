//! The directory of a content store: `<root>/io.containerd.content.v1.content/blobs/<algorithm>/<hex>`, in containerd 1.x
//! and 2.x. Blobs never change, and one that is open can be read to its end after its deletion.

use std::fs::File;
use std::io::Read as _;
use std::path::Path;
use std::sync::{Mutex, PoisonError};

use bytes::Bytes;
use tokio::sync::mpsc;

use crate::oci::Digest;
use crate::source::chunks::{Chunks, ReadError, Stop};
use crate::source::confined_directory::ConfinedDirectory;
use crate::source::unreadable::UnreadableReason;

/// The directory of the content plugin in a containerd's root.
pub(super) const PLUGIN: &str = "io.containerd.content.v1.content";

/// The blobs of one containerd.
#[derive(Debug)]
pub(super) struct BlobDirectory {
    blobs: Mutex<ConfinedDirectory>,
}

/// A blob that was read into memory.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum SmallBlob {
    /// All of it.
    Content(Bytes),
    /// It is longer than the limit: its length in bytes.
    TooLong(u64),
}

impl BlobDirectory {
    /// The content store in the containerd's root directory `root`, if that holds the blob `proof`: another
    /// containerd's does not.
    pub fn open_with(root: &Path, proof: &Digest) -> Result<Self, UnreadableReason> {
        let blobs = ConfinedDirectory::open(root)?.directory(&format!("{PLUGIN}/blobs"))?;
        let directory = Self {
            blobs: Mutex::new(blobs),
        };
        match directory.open(proof)? {
            Some(_) => Ok(directory),
            None => Err(UnreadableReason::new(format!(
                "{} does not hold {}, so it is another containerd's",
                root.display(),
                proof.short_form()
            ))),
        }
    }

    /// A blob and its length in bytes, if it exists.
    pub fn open(&self, digest: &Digest) -> Result<Option<(File, u64)>, UnreadableReason> {
        let name = format!("{}/{}", digest.algorithm(), digest.hex());
        self.blobs.lock().unwrap_or_else(PoisonError::into_inner).find(&name)
    }

    /// A blob of at most `limit` bytes, if it exists.
    pub fn read_small(&self, digest: &Digest, limit: u64) -> Result<Option<SmallBlob>, UnreadableReason> {
        let Some((file, length)) = self.open(digest)? else {
            return Ok(None);
        };
        if length > limit {
            return Ok(Some(SmallBlob::TooLong(length)));
        }
        let mut content = Vec::with_capacity(usize::try_from(length).unwrap_or_default());
        file.take(limit)
            .read_to_end(&mut content)
            .map_err(|error| unreadable(digest, &error))?;
        Ok(Some(SmallBlob::Content(content.into())))
    }
}

/// Reads `file`, the blob `digest` of `length` bytes, in a thread of its own.
pub(super) fn read(file: File, digest: Digest, length: u64) -> mpsc::Receiver<Result<Bytes, UnreadableReason>> {
    let (mut chunks, receiver) = Chunks::new(length);
    tokio::task::spawn_blocking(move || {
        let result = read_into(&mut chunks, &file, &digest, length);
        chunks.finish(result);
    });
    receiver
}

fn read_into(chunks: &mut Chunks, file: &File, digest: &Digest, length: u64) -> Result<(), Stop> {
    // A file that is too short is found by its digest.
    match chunks.read(file, length, |_| {}) {
        Ok(_) => Ok(()),
        Err(ReadError::File(error)) => Err(unreadable(digest, &error).into()),
        Err(ReadError::Stop(stop)) => Err(stop),
    }
}

fn unreadable(digest: &Digest, error: &std::io::Error) -> UnreadableReason {
    UnreadableReason::new(format!("the blob {digest} cannot be read ({error})"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn opens_only_the_store_with_the_proof_and_follows_no_links() {
        let root = tempfile::tempdir().unwrap();
        let blobs = root.path().join(PLUGIN).join("blobs/sha256");
        std::fs::create_dir_all(&blobs).unwrap();
        let (held, linked, absent) = (Digest::of(b"held"), Digest::of(b"linked"), Digest::of(b"absent"));
        std::fs::write(blobs.join(held.hex()), "held").unwrap();
        std::fs::write(root.path().join("outside"), "linked").unwrap();
        std::os::unix::fs::symlink("../../../outside", blobs.join(linked.hex())).unwrap();

        let directory = BlobDirectory::open_with(root.path(), &held).unwrap();
        let content = SmallBlob::Content(Bytes::from_static(b"held"));
        assert_eq!(directory.read_small(&held, 4).unwrap(), Some(content));
        assert_eq!(directory.read_small(&held, 3).unwrap(), Some(SmallBlob::TooLong(4)));
        assert_eq!(directory.read_small(&absent, 4).unwrap(), None);
        assert!(directory.open(&linked).unwrap_err().to_string().contains("a link"));
        let reason = BlobDirectory::open_with(root.path(), &absent).unwrap_err();
        assert!(reason.to_string().contains("another containerd's"), "{reason}");
        let reason = BlobDirectory::open_with(&root.path().join("none"), &held).unwrap_err();
        assert!(reason.to_string().contains("does not exist"), "{reason}");
    }
}

//! A content store's folder: `<root>/io.containerd.content.v1.content/blobs/<algorithm>/<hex>`, as containerd 1.x
//! and 2.x lay it out. Blobs never change, and one that is open outlives its deletion.

use std::fs::File;
use std::io::Read as _;
use std::path::Path;
use std::sync::{Mutex, PoisonError};

use bytes::Bytes;
use tokio::sync::mpsc;

use crate::oci::Digest;
use crate::source::chunks::{Chunks, Stop};
use crate::source::confined_directory::ConfinedDirectory;
use crate::source::unreadable::UnreadableReason;

/// The folder of the content plugin in a containerd's root.
pub(super) const PLUGIN: &str = "io.containerd.content.v1.content";

/// The blobs of one containerd.
#[derive(Debug)]
pub(in crate::source) struct Folder {
    blobs: Mutex<ConfinedDirectory>,
}

impl Folder {
    /// The content store below the containerd's root `root`, if that holds `proof`.
    pub fn proved(root: &Path, proof: &Digest) -> Result<Self, UnreadableReason> {
        let blobs = ConfinedDirectory::at(root)?.folder(&format!("{PLUGIN}/blobs"))?;
        let folder = Self {
            blobs: Mutex::new(blobs),
        };
        match folder.open(proof)? {
            Some(_) => Ok(folder),
            None => Err(UnreadableReason::new(format!(
                "{} does not hold {}, so it is another containerd's",
                root.display(),
                proof.short_form()
            ))),
        }
    }

    /// A blob and its length in bytes, if it is there.
    pub fn open(&self, digest: &Digest) -> Result<Option<(File, u64)>, UnreadableReason> {
        let name = format!("{}/{}", digest.algorithm(), digest.hex());
        self.blobs.lock().unwrap_or_else(PoisonError::into_inner).find(&name)
    }

    /// A blob of at most `limit` bytes, whole; its length when it is longer.
    pub fn whole(&self, digest: &Digest, limit: u64) -> Result<Option<Result<Bytes, u64>>, UnreadableReason> {
        let Some((file, length)) = self.open(digest)? else {
            return Ok(None);
        };
        if length > limit {
            return Ok(Some(Err(length)));
        }
        let mut content = Vec::with_capacity(usize::try_from(length).unwrap_or_default());
        file.take(limit)
            .read_to_end(&mut content)
            .map_err(|error| unreadable(digest, &error))?;
        Ok(Some(Ok(content.into())))
    }
}

/// Reads `file`, the blob `digest` of `length` bytes, in a thread of its own.
pub(super) fn read(file: File, digest: Digest, length: u64) -> mpsc::Receiver<Result<Bytes, UnreadableReason>> {
    let (mut chunks, receiver) = Chunks::new(length);
    tokio::task::spawn_blocking(move || {
        let result = pour(&file, &digest, length, &mut chunks);
        chunks.end(result);
    });
    receiver
}

fn pour(file: &File, digest: &Digest, length: u64, chunks: &mut Chunks) -> Result<(), Stop> {
    // Whether that is all of it, its digest shows.
    match chunks.read(file, length, |_| {})? {
        Ok(_) => Ok(()),
        Err(error) => Err(unreadable(digest, &error).into()),
    }
}

fn unreadable(digest: &Digest, error: &std::io::Error) -> UnreadableReason {
    UnreadableReason::new(format!("the blob {digest} cannot be read ({error})"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn is_proved_by_a_blob_and_leads_nowhere_else() {
        let root = tempfile::tempdir().unwrap();
        let blobs = root.path().join(PLUGIN).join("blobs/sha256");
        std::fs::create_dir_all(&blobs).unwrap();
        let (held, linked, absent) = (Digest::of(b"held"), Digest::of(b"linked"), Digest::of(b"absent"));
        std::fs::write(blobs.join(held.hex()), "held").unwrap();
        std::fs::write(root.path().join("outside"), "linked").unwrap();
        std::os::unix::fs::symlink("../../../outside", blobs.join(linked.hex())).unwrap();

        let folder = Folder::proved(root.path(), &held).unwrap();
        assert_eq!(folder.whole(&held, 4).unwrap(), Some(Ok(Bytes::from_static(b"held"))));
        assert_eq!(folder.whole(&held, 3).unwrap(), Some(Err(4)));
        assert_eq!(folder.whole(&absent, 4).unwrap(), None);
        assert!(folder.open(&linked).unwrap_err().to_string().contains("a link"));
        let doubt = Folder::proved(root.path(), &absent).unwrap_err();
        assert!(doubt.to_string().contains("another containerd's"), "{doubt}");
        let doubt = Folder::proved(&root.path().join("none"), &held).unwrap_err();
        assert!(doubt.to_string().contains("is not there"), "{doubt}");
    }
}

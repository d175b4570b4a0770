//! The files of an OCI layout in a directory, read like those of an archive.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt as _;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use super::input::RandomAccess;
use super::members::{Extent, MEMBERS, Member};
use super::oci_layout::{BLOBS, INDEX};
use crate::fault::{Fault, Reason};
use crate::source::ConfinedDirectory;

/// The files of a layout, as if they were one behind the other.
pub struct LayoutFiles {
    root: Mutex<ConfinedDirectory>,
    files: Vec<(String, Extent)>,
    /// The file that was read last.
    last: Mutex<Option<(usize, Arc<File>)>>,
}

impl LayoutFiles {
    /// Lists the layout `path`. Symbolic links in it are not followed.
    ///
    /// # Errors
    /// A stalled fault, where it is not a layout or cannot be read.
    pub fn open(path: &Path) -> Result<Self, Fault> {
        let unreadable = |error: &dyn std::fmt::Display| {
            Fault::stalled(Reason::SourceFailed, format!("the directory cannot be read: {error}"))
        };
        let mut names = vec![INDEX.to_owned()];
        let blobs = match std::fs::read_dir(path.join(BLOBS)) {
            Ok(blobs) => blobs,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                let message = "the directory is not an OCI layout: it has no folder `blobs`".to_owned();
                return Err(Fault::stalled(Reason::SourceFailed, message));
            }
            Err(error) => return Err(unreadable(&error)),
        };
        for algorithm in blobs {
            let algorithm = algorithm.map_err(|error| unreadable(&error))?;
            if !algorithm.file_type().is_ok_and(|kind| kind.is_dir()) {
                continue;
            }
            let folder = algorithm.file_name();
            for blob in std::fs::read_dir(algorithm.path()).map_err(|error| unreadable(&error))? {
                let name = blob.map_err(|error| unreadable(&error))?.file_name();
                if let Some((folder, name)) = folder.to_str().zip(name.to_str()) {
                    names.push(format!("{BLOBS}{folder}/{name}"));
                }
                if names.len() > MEMBERS {
                    return Err(unreadable(&format!("it has more than {MEMBERS} files")));
                }
            }
        }
        let mut root = ConfinedDirectory::open(path).map_err(|reason| unreadable(&reason))?;
        let (mut files, mut offset) = (Vec::with_capacity(names.len()), 0);
        for name in names {
            let (_, size) = root.file(name.as_bytes()).map_err(|reason| unreadable(&reason))?;
            files.push((name, Extent { offset, size }));
            offset += size;
        }
        Ok(Self {
            root: Mutex::new(root),
            files,
            last: Mutex::new(None),
        })
    }

    /// The files.
    pub fn members(&self) -> Vec<Member> {
        let members = self.files.iter().map(|(path, extent)| Member {
            path: path.clone(),
            is_link: false,
            target: None,
            extent: *extent,
        });
        members.collect()
    }

    /// The file at `index`.
    fn file(&self, index: usize) -> io::Result<Arc<File>> {
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((opened, file)) = &*last
            && *opened == index
        {
            return Ok(Arc::clone(file));
        }
        let (name, extent) = &self.files[index];
        let mut root = self.root.lock().unwrap_or_else(PoisonError::into_inner);
        let (file, size) = root
            .file(name.as_bytes())
            .map_err(|reason| io::Error::other(reason.to_string()))?;
        if size != extent.size {
            return Err(io::Error::other(format!("{name} changed while it was read")));
        }
        let file = Arc::new(file);
        *last = Some((index, Arc::clone(&file)));
        Ok(file)
    }
}

impl RandomAccess for LayoutFiles {
    fn length(&self) -> u64 {
        let last = self.files.last();
        last.map_or(0, |(_, extent)| extent.offset + extent.size)
    }

    fn read_exact_at(&self, mut buffer: &mut [u8], mut offset: u64) -> io::Result<()> {
        let end = |extent: &Extent| extent.offset + extent.size;
        let mut index = self.files.partition_point(|(_, extent)| end(extent) <= offset);
        while !buffer.is_empty() {
            let Some((_, extent)) = self.files.get(index) else {
                return Err(io::ErrorKind::UnexpectedEof.into());
            };
            let rest = end(extent) - offset;
            let length = usize::try_from(rest).map_or(buffer.len(), |rest| rest.min(buffer.len()));
            let (part, after) = buffer.split_at_mut(length);
            if !part.is_empty() {
                self.file(index)?.read_exact_at(part, offset - extent.offset)?;
            }
            (buffer, offset, index) = (after, offset + length as u64, index + 1);
        }
        Ok(())
    }
}

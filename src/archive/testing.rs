//! Small archives in memory, for tests.

use std::io::{self, Write as _};

use tokio_tar::{EntryType, Header};

use super::input::RandomAccess;

/// An input in memory.
pub struct Memory(pub Vec<u8>);

impl RandomAccess for Memory {
    fn length(&self) -> u64 {
        self.0.len() as u64
    }

    fn read_exact_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()> {
        let at = usize::try_from(offset).unwrap();
        let from = self.0.get(at..at + buffer.len());
        buffer.copy_from_slice(from.ok_or(io::ErrorKind::UnexpectedEof)?);
        Ok(())
    }
}

/// A tar that is made entry by entry.
#[derive(Clone, Default)]
pub struct Tar(Vec<u8>);

impl Tar {
    /// Adds a file.
    pub fn file(mut self, path: &str, content: &[u8]) -> Self {
        self.header(EntryType::Regular, path, "", content.len() as u64);
        self.0.extend_from_slice(content);
        self.0.resize(self.0.len().next_multiple_of(512), 0);
        self
    }

    /// Adds a symbolic link.
    pub fn link(mut self, path: &str, target: &str) -> Self {
        self.header(EntryType::Symlink, path, target, 0);
        self
    }

    /// Adds the header of an entry of any type and length, without content.
    pub fn entry(mut self, kind: EntryType, path: &str, size: u64) -> Self {
        self.header(kind, path, "", size);
        self
    }

    /// Adds the entries of `other`.
    pub fn and(mut self, other: Self) -> Self {
        self.0.extend(other.0);
        self
    }

    /// The bytes of the tar.
    pub fn end(mut self) -> Vec<u8> {
        self.0.resize(self.0.len() + 1024, 0);
        self.0
    }

    // The crate refuses the paths that hostile archives have.
    fn header(&mut self, kind: EntryType, path: &str, target: &str, size: u64) {
        let mut header = Header::new_ustar();
        let fields = header.as_old_mut();
        fields.name[..path.len()].copy_from_slice(path.as_bytes());
        fields.linkname[..target.len()].copy_from_slice(target.as_bytes());
        header.set_entry_type(kind);
        header.set_mode(0o644);
        header.set_size(size);
        header.set_cksum();
        self.0.extend_from_slice(header.as_bytes());
    }
}

/// `content` as gzip.
pub fn gzip(content: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(content).unwrap();
    encoder.finish().unwrap()
}

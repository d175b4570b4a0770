//! Buffers of the whole process that are used again. Fresh memory costs the kernel more than reading a cached file does, and the
//! allocator does not return freed buffers that lie between used ones.

use std::ops::{Deref, DerefMut};
use std::sync::{Mutex, PoisonError};

use bytes::Bytes;

/// The length in bytes of the buffers that are used again.
pub(crate) const BUFFER: usize = 1024 * 1024;
/// The longest list of spare buffers.
const SPARES_LIMIT: usize = 24;

static SPARES: Mutex<Vec<Box<[u8]>>> = Mutex::new(Vec::new());

/// Memory that other buffers get when it is dropped.
pub(crate) struct Buffer(Box<[u8]>);

impl Buffer {
    /// A buffer of `size` bytes with any content.
    pub fn new(size: usize) -> Self {
        let spare = (size == BUFFER).then(|| SPARES.lock().unwrap_or_else(PoisonError::into_inner).pop());
        Self(spare.flatten().unwrap_or_else(|| vec![0; size].into_boxed_slice()))
    }

    /// Its first `length` bytes, without copying them.
    pub fn into_bytes(self, length: usize) -> Bytes {
        let length = length.min(self.0.len());
        Bytes::from_owner(Filled { buffer: self, length })
    }
}

impl Deref for Buffer {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.0
    }
}

impl DerefMut for Buffer {
    fn deref_mut(&mut self) -> &mut [u8] {
        &mut self.0
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        if self.0.len() != BUFFER {
            return;
        }
        let mut spares = SPARES.lock().unwrap_or_else(PoisonError::into_inner);
        if spares.len() < SPARES_LIMIT {
            spares.push(std::mem::take(&mut self.0));
        }
    }
}

/// The beginning of a buffer.
struct Filled {
    buffer: Buffer,
    length: usize,
}

impl AsRef<[u8]> for Filled {
    fn as_ref(&self) -> &[u8] {
        &self.buffer[..self.length]
    }
}

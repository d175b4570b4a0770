//! Decides by the beginning of a content whether compressing it pays.
//!
//! Compressing incompressible content costs a hash of the compressed form, whose digest is known only after reading it all.
//! Uncompressed, it moves in half the time, and one request shows whether the registry has it. Only the content decides, so
//! the same layer is always stored in the same form.

use std::sync::Arc;

use bytes::Bytes;

use super::{LIMITS, failed};
use crate::fault::Fault;
use crate::oci::Compression;

/// The number of bytes at the beginning of a content that decide. Changing it, or the constants below, changes which layers
/// are stored uncompressed; see [`Compression::layer`].
pub const SAMPLE: usize = 1024 * 1024;
/// The number and size in bytes of the evenly spread pieces of the sample that are compressed.
const PIECES: usize = 4;
const PIECE: usize = 64 * 1024;
/// At least the fraction 1/32 must be saved.
const SAVED: usize = 32;

/// Whether `compression` shortens a content that begins with the chunks `start`: at least [`SAMPLE`] bytes, or the whole
/// content. False for [`Compression::None`].
pub async fn pays(start: &[Bytes], compression: Compression) -> Result<bool, Fault> {
    if compression == Compression::None {
        return Ok(false);
    }
    let start = start.to_vec();
    let (threads, idle) = (Arc::clone(&LIMITS.threads), Arc::clone(&LIMITS.idle));
    let _thread = threads.acquire_owned().await.map_err(failed)?;
    let judged = tokio::task::spawn_blocking(move || {
        // The thread permit also limits the number of concurrent copies.
        let start = joined(&start);
        let mut encoder = idle.take(compression)?;
        let (mut before, mut after) = (0, 0);
        for piece in pieces(&start) {
            before += piece.len();
            after += encoder.encode(piece)?.bytes.len();
        }
        idle.put(encoder);
        // Empty content is compressed, so that every reader recognises the compression.
        Ok::<_, std::io::Error>(before == 0 || after + before / SAVED <= before)
    });
    judged.await.map_err(failed)?.map_err(failed)
}

/// The first [`SAMPLE`] bytes.
fn joined(chunks: &[Bytes]) -> Vec<u8> {
    let mut sample = Vec::with_capacity(SAMPLE);
    for chunk in chunks {
        let room = SAMPLE - sample.len();
        sample.extend_from_slice(chunk.get(..room).unwrap_or(chunk));
    }
    sample
}

/// The pieces of `start` that are compressed.
fn pieces(start: &[u8]) -> impl Iterator<Item = &[u8]> {
    let step = start.len().div_ceil(PIECES).max(1);
    start.chunks(step).map(|chunk| chunk.get(..PIECE).unwrap_or(chunk))
}

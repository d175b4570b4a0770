//! Whether a content is worth compressing, told by its beginning.
//!
//! What gets no shorter costs a hash over its compressed form, and hides its digest until it was read: stored as it is it
//! moves in half of the time, and a registry that holds it is found out by one question. Only the content decides, so
//! the same layer is always stored in the same form.

use std::sync::Arc;

use bytes::Bytes;

use super::{LIMITS, failed};
use crate::fault::Fault;
use crate::oci::Compression;

/// The bytes at the beginning of a content that decide. Changing it, or what follows, changes which layers are stored
/// as they are; see [`Compression::layer`].
pub const SAMPLE: usize = 1024 * 1024;
/// What is compressed of them: as many pieces of as many bytes, evenly spread.
const PIECES: usize = 4;
const PIECE: usize = 64 * 1024;
/// The part that must be saved.
const SAVED: usize = 32;

/// Whether a content that begins with the chunks `start`, of [`SAMPLE`] bytes or more where it has as many, gets shorter
/// by `compression`. Nothing does by [`Compression::None`].
pub async fn pays(start: &[Bytes], compression: Compression) -> Result<bool, Fault> {
    if compression == Compression::None {
        return Ok(false);
    }
    let start = start.to_vec();
    let (threads, idle) = (Arc::clone(&LIMITS.threads), Arc::clone(&LIMITS.idle));
    let _thread = threads.acquire_owned().await.map_err(failed)?;
    let judged = tokio::task::spawn_blocking(move || {
        // Copied by as many at once as there are threads.
        let start = joined(&start);
        let mut encoder = idle.take(compression)?;
        let (mut before, mut after) = (0, 0);
        for piece in pieces(&start) {
            before += piece.len();
            after += encoder.encode(piece)?.bytes.len();
        }
        idle.give(encoder);
        // A content without bytes stays what every reader knows for compressed.
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

/// The parts of `start` that are looked at.
fn pieces(start: &[u8]) -> impl Iterator<Item = &[u8]> {
    let step = start.len().div_ceil(PIECES).max(1);
    start.chunks(step).map(|chunk| chunk.get(..PIECE).unwrap_or(chunk))
}

//! A tar in seekable Zstandard, written while the archive is read.

use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _, duplex};

use super::{Chosen, Unpacked, write_oci_archive};
use crate::archive::contents::Archive;
use crate::archive::format::{FRAME_CONTENT, SeekTable, TooLong};
use crate::archive::write::frame_of;
use crate::fault::{Fault, Reason};
use crate::transfer::Progress;

/// Bytes between the tar and its compression.
const PIPE: usize = 1 << 20;

/// The same as [`write_oci_archive`], as `.tar.zst`: frames of at most 8 MiB, those that get no shorter in raw blocks, and a seek
/// table. Every decoder of Zstandard reads it, with a window of at most 8 MiB.
///
/// # Errors
/// As for [`write_oci_archive`].
pub async fn write_compressed_oci_archive(
    archive: &Archive,
    images: &[Chosen],
    out: impl AsyncWrite + Unpin,
    progress: &Progress,
) -> Result<Unpacked, Fault> {
    let (tar, content) = duplex(PIPE);
    // The writer is dropped at its end, which ends what is compressed.
    let (written, compressed) = tokio::join!(
        write_oci_archive(archive, images, tar, progress),
        compress(content, out)
    );
    // Where `out` cannot be written, the tar cannot either.
    let size = compressed?;
    Ok(Unpacked { size, ..written? })
}

/// Compresses `content` into `out`; returns the bytes that were written.
async fn compress(mut content: impl AsyncRead + Unpin, mut out: impl AsyncWrite + Unpin) -> Result<u64, Fault> {
    let mut table = SeekTable::default();
    let mut size = 0;
    loop {
        let mut piece = Vec::new();
        let read = (&mut content).take(FRAME_CONTENT as u64).read_to_end(&mut piece).await;
        let length = read.map_err(|error| Fault::retryable(Reason::SourceFailed, error.to_string()))?;
        if length == 0 {
            break;
        }
        let framed = tokio::task::spawn_blocking(move || frame_of(&piece, false, false)).await;
        let framed = framed.map_err(|error| Fault::retryable(Reason::PackageFailed, error.to_string()))?;
        let frame = framed.map_err(unwritable)?;
        table.push(frame.len(), length).map_err(too_long)?;
        size += frame.len() as u64;
        out.write_all(&frame).await.map_err(unwritable)?;
    }
    let table = table.frame().map_err(too_long)?;
    out.write_all(&table).await.map_err(unwritable)?;
    out.flush().await.map_err(unwritable)?;
    Ok(size + table.len() as u64)
}

fn too_long(error: TooLong) -> Fault {
    Fault::stalled(Reason::PackageFailed, error.to_string())
}

fn unwritable(error: std::io::Error) -> Fault {
    Fault::retryable(Reason::PushFailed, format!("the output cannot be written: {error}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn frames_need_a_small_window() {
        // Text that gets shorter, then bytes that do not.
        let mut random = fastrand::Rng::with_seed(1);
        let mut content: Vec<u8> = (0..3_000_000_u32).flat_map(u32::to_le_bytes).collect();
        content.extend(std::iter::repeat_with(|| random.u8(..)).take(FRAME_CONTENT + 1));
        let mut out = Vec::new();
        let size = compress(&content[..], &mut out).await.unwrap();
        assert_eq!(size, out.len() as u64);
        assert!(out.len() < content.len());
        let mut decoder = zstd::stream::Decoder::new(&out[..]).unwrap();
        decoder.window_log_max(23).unwrap();
        let mut decoded = Vec::new();
        std::io::Read::read_to_end(&mut decoder, &mut decoded).unwrap();
        assert!(decoded == content);
        let mut again = Vec::new();
        compress(&content[..], &mut again).await.unwrap();
        assert!(again == out);
    }
}

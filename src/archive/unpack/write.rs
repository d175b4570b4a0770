//! Writes a tar while the archive is read.

use std::io;

use bytes::Bytes;
use futures::StreamExt as _;
use futures::stream;
use tokio::io::{AsyncWrite, AsyncWriteExt as _};

use super::Unpacked;
use super::decompress::decompressed;
use super::plan::{Content, TarFile};
use crate::archive::contents::Archive;
use crate::fault::{Fault, Reason};
use crate::package::tar_header;
use crate::source::ByteStream;
use crate::transfer::Progress;

/// The length of a tar's blocks.
const BLOCK: u64 = 512;

/// Writes `files` and the end of the tar to `out`. `progress` counts bytes of content.
///
/// # Errors
/// A fault that names the file that cannot be read, or says why `out` cannot be written.
pub(super) async fn tar(
    archive: &Archive,
    files: &[TarFile],
    mut out: impl AsyncWrite + Unpin,
    progress: &Progress,
) -> Result<Unpacked, Fault> {
    let mut size = 0;
    for file in files {
        let header = tar_header(&file.path, 0o644, file.size).await?;
        size += send(&mut out, &header).await?;
        let mut content = content(archive, file)?;
        let mut left = file.size;
        while let Some(chunk) = content.next().await.transpose()? {
            left = left.checked_sub(chunk.len() as u64).ok_or_else(|| differs(file))?;
            size += send(&mut out, &chunk).await?;
            progress.add_moved(chunk.len() as u64);
        }
        if left > 0 {
            return Err(differs(file));
        }
        let padding = file.size.next_multiple_of(BLOCK) - file.size;
        size += send(&mut out, &vec![0; usize::try_from(padding).unwrap_or_default()]).await?;
    }
    // Two blocks of zeros end a tar.
    size += send(&mut out, &[0; 2 * BLOCK as usize]).await?;
    out.flush().await.map_err(|error| unwritable(&error))?;
    Ok(Unpacked {
        files: files.len(),
        size,
    })
}

fn content<'a>(archive: &'a Archive, file: &TarFile) -> Result<ByteStream<'a>, Fault> {
    let read = |digest| {
        archive
            .read(digest)
            .ok_or_else(|| Fault::stalled(Reason::SourceNotFound, format!("the archive lacks the blob {digest}")))
    };
    match &file.content {
        Content::Bytes(bytes) => {
            let bytes: Bytes = bytes.clone();
            Ok(stream::once(async move { Ok(bytes) }).boxed())
        }
        Content::Blob(digest) => read(digest),
        Content::Decompressed(digest) => Ok(decompressed(read(digest)?, digest)),
    }
}

fn differs(file: &TarFile) -> Fault {
    Fault::stalled(
        Reason::SourceFailed,
        format!(
            "{} has another length than the archive says; copy the archive again",
            file.path
        ),
    )
}

/// Writes all of `bytes`, and says how many they are.
async fn send(out: &mut (impl AsyncWrite + Unpin), bytes: &[u8]) -> Result<u64, Fault> {
    out.write_all(bytes).await.map_err(|error| unwritable(&error))?;
    Ok(bytes.len() as u64)
}

fn unwritable(error: &io::Error) -> Fault {
    let message = match error.kind() {
        io::ErrorKind::BrokenPipe => {
            "the program that reads the output ended before it had all of it; see what it says, and run both again"
                .to_owned()
        }
        _ => format!("the output cannot be written: {error}"),
    };
    Fault::retryable(Reason::PushFailed, message)
}

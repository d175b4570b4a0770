//! Unpacks the images of an archive for programs that read files: an OCI layout, a tar of one, or the tar of `docker save`.
//!
//! Tars are written while the archive is read, in bounded memory and without a temporary copy: the length of every file is
//! known before its header. Of layers in Zstandard, which engines before docker 23 do not read, `docker-archive` has the
//! content; it is decompressed twice, first to measure it.
//!
//! Paths are made of digests alone; nothing that an archive names becomes a path.

mod chosen;
mod compressed;
mod decompress;
mod docker;
mod layout;
mod plan;
mod write;

use tokio::io::AsyncWrite;

pub use self::chosen::{Chosen, Wanted, choose, platforms_of};
pub use self::compressed::write_compressed_oci_archive;
pub(super) use self::decompress::decompressed;
pub use self::layout::write_layout;
use super::contents::Archive;
use crate::fault::Fault;
use crate::transfer::Progress;

/// What was unpacked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Unpacked {
    /// The files: manifests, configurations, layers, and the lists of them.
    pub files: usize,
    /// Bytes that were written.
    pub size: u64,
}

/// Writes a tar of an OCI layout with `images` to `out` (OCI image specification, "Image Layout"). `progress` counts bytes
/// of the tar.
///
/// # Errors
/// A fault that names what the archive lacks or what is damaged, or says that `out` cannot be written.
pub async fn write_oci_archive(
    archive: &Archive,
    images: &[Chosen],
    out: impl AsyncWrite + Unpin,
    progress: &Progress,
) -> Result<Unpacked, Fault> {
    let files = plan::oci(images, |digest| archive.size(digest))?;
    progress.set_total(plan::total(&files));
    write::tar(archive, &files, out, progress).await
}

/// Writes a tar of `images`, each of one platform, to `out`, as `docker load` reads it. `progress` counts bytes of the tar, and
/// those of layers that are measured before.
///
/// # Errors
/// As for [`write_oci_archive`]; also where an image is none that a docker engine runs.
pub async fn write_docker_archive(
    archive: &Archive,
    images: &[Chosen],
    out: impl AsyncWrite + Unpin,
    progress: &Progress,
) -> Result<Unpacked, Fault> {
    let images = docker::describe(archive, images, progress).await?;
    let files = plan::docker(&images)?;
    progress.set_total(progress.done().saturating_add(plan::total(&files)));
    write::tar(archive, &files, out, progress).await
}

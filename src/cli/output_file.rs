//! Files that a command writes: whole, or not at all.

use std::os::fd::AsFd as _;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use tempfile::NamedTempFile;
use tokio::io::AsyncWriteExt as _;

use crate::oci::Digest;
use crate::signing::{Bundle, SigningKey};

/// A file beside the one that is meant, which takes its name when it is whole. It is deleted when it is dropped before.
pub(super) struct OutputFile {
    temporary: NamedTempFile,
    path: PathBuf,
}

impl OutputFile {
    /// A new file in the folder of `path`.
    pub fn beside(path: &Path) -> anyhow::Result<Self> {
        let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty());
        let temporary = tempfile::Builder::new()
            .prefix(".jackal-")
            .suffix(".partial")
            .tempfile_in(folder.unwrap_or(Path::new(".")));
        Ok(Self {
            temporary: temporary.with_context(|| cannot_write(path))?,
            path: path.to_owned(),
        })
    }

    /// The file, for writing.
    pub fn open(&self) -> anyhow::Result<tokio::fs::File> {
        let file = self.temporary.reopen().with_context(|| cannot_write(&self.path))?;
        Ok(tokio::fs::File::from_std(file))
    }

    /// Gives the file, which was written and flushed, its name.
    pub async fn finish(self) -> anyhow::Result<()> {
        let path = self.path.clone();
        let named = tokio::task::spawn_blocking(move || {
            self.temporary.as_file().sync_all()?;
            let file = self.temporary.persist(&self.path).map_err(|error| error.error)?;
            // A temporary file is its owner's alone; what is carried on is read by others.
            file.set_permissions(std::fs::Permissions::from_mode(0o644))
        });
        named.await?.with_context(|| cannot_write(&path))
    }

    /// Writes `content` and gives the file its name.
    pub async fn write(self, content: &[u8]) -> anyhow::Result<()> {
        let mut out = self.open()?;
        out.write_all(content).await.with_context(|| cannot_write(&self.path))?;
        out.flush().await.with_context(|| cannot_write(&self.path))?;
        self.finish().await
    }
}

fn cannot_write(path: &Path) -> String {
    format!("{} cannot be written", path.display())
}

/// The path of the bundle that signs the file `path`.
pub(super) fn signature_path(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".sigstore.json");
    name.into()
}

/// Writes the bundle by which `key` signs the file `path`, whose content has the digest `digest`, as `cosign sign-blob` does.
pub(super) async fn write_signature(key: &SigningKey, digest: &Digest, path: &Path) -> anyhow::Result<()> {
    let bundle = Bundle::of_digest(key, digest).with_context(|| format!("{} cannot be signed", path.display()))?;
    OutputFile::beside(&signature_path(path))?.write(&bundle.json()).await
}

/// Standard output without the buffer that ends lines.
pub(super) fn standard_output() -> anyhow::Result<tokio::fs::File> {
    let out = std::io::stdout().as_fd().try_clone_to_owned();
    let out = out.context("standard output cannot be written")?;
    Ok(tokio::fs::File::from_std(out.into()))
}

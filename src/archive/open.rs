//! Opens an archive: finds the files that it consists of, and its format.

use std::collections::HashMap;
use std::path::Path;
use std::sync::Arc;

use super::contents::{Archive, Contents, packed_contents};
use super::directory::LayoutFiles;
use super::docker_save::{self, save_contents};
use super::format::{SKIPPABLE_HEADER, header_length};
use super::input::{DiskFile, RandomAccess};
use super::members::{Member, by_path, check_paths, list};
use super::oci_layout::{self, layout_contents};
use super::package_tar::{definition_of, package_contents};
use super::parts::{PartsFile, has_parts};
use super::read::invalid;
use super::stream_tar::{StreamCompression, StreamTar};
use super::tar_content::{PlainTar, SeekableTar, TarContent, blocking};
use crate::fault::{Fault, Reason};

/// The first bytes of a file that tell what it is.
const START: usize = 512;

/// Opens the archive `path`, which is read at any offset: a file, its parts (`.part000`, or where only the parts exist), or the
/// directory of an OCI layout. Its format is told by its content. Nothing of it is verified before it is read.
///
/// # Errors
/// A stalled fault that names the path, where it cannot be read, is damaged or has an unknown format.
pub async fn open(path: &Path) -> Result<Archive, Fault> {
    let within = |fault: Fault| fault.with_context(path.display());
    let contents = match path.is_dir() {
        true => directory_contents(path).await.map_err(within)?,
        false => {
            let input = input_of(path).await.map_err(within)?;
            contents_of(input).await.map_err(within)?
        }
    };
    Archive::new(contents).await.map_err(within)
}

/// The bytes of the archive `path`.
async fn input_of(path: &Path) -> Result<Arc<dyn RandomAccess>, Fault> {
    if let Some(archive) = has_parts(path)? {
        return Ok(Arc::new(PartsFile::open(&archive).await?));
    }
    let path = path.to_owned();
    let file = tokio::task::spawn_blocking(move || DiskFile::open(&path)).await;
    let file = file.map_err(|error| Fault::retryable(Reason::SourceFailed, error.to_string()))?;
    let file = file.map_err(|error| Fault::stalled(Reason::SourceFailed, format!("it cannot be read: {error}")))?;
    Ok(Arc::new(file))
}

async fn directory_contents(path: &Path) -> Result<Contents, Fault> {
    let path = path.to_owned();
    let files = tokio::task::spawn_blocking(move || LayoutFiles::open(&path)).await;
    let files = files.map_err(|error| Fault::retryable(Reason::SourceFailed, error.to_string()))??;
    let members = by_path(files.members())?;
    layout_contents(Arc::new(PlainTar::new(Arc::new(files))), &members).await
}

/// How the tar in a file is stored.
#[derive(Debug, PartialEq, Eq)]
enum Container {
    /// As `pack` does it.
    Packed,
    Plain,
    Compressed(StreamCompression),
}

impl Container {
    /// The container of a file that begins with `start`.
    fn of(start: &[u8]) -> Result<Self, Fault> {
        // Other programs write frames of the same kind, without a text in it.
        let has_header = header_length(start).is_some() && start.get(SKIPPABLE_HEADER) == Some(&b'{');
        match start {
            [] => Err(invalid("it is too short")),
            _ if has_header => Ok(Self::Packed),
            [0x28, 0xb5, 0x2f, 0xfd, ..] | [0x50..=0x5f, 0x2a, 0x4d, 0x18, ..] => {
                Ok(Self::Compressed(StreamCompression::Zstd))
            }
            [0x1f, 0x8b, ..] => Ok(Self::Compressed(StreamCompression::Gzip)),
            [0xfd, b'7', b'z', b'X', b'Z', ..] => Err(undone("xz")),
            [b'B', b'Z', b'h', ..] => Err(undone("bzip2")),
            // POSIX pax, "ustar Interchange Format": the magic of a header.
            _ if start.get(257..262) == Some(b"ustar") => Ok(Self::Plain),
            _ => Err(invalid("it does not begin as files of `pack` do, and is not a tar")),
        }
    }
}

fn undone(program: &str) -> Fault {
    let message = format!("it is compressed by {program}, which is not read; decompress it by {program} first");
    Fault::stalled(Reason::SourceFailed, message)
}

/// The contents of the archive `input`.
///
/// # Errors
/// A stalled fault, where it is damaged or has an unknown format.
pub(super) async fn contents_of(input: Arc<dyn RandomAccess>) -> Result<Contents, Fault> {
    let start = {
        let input = Arc::clone(&input);
        blocking(move || {
            let length = usize::try_from(input.length()).map_or(START, |length| length.min(START));
            let mut start = vec![0; length];
            input.read_exact_at(&mut start, 0)?;
            Ok(start)
        })
        .await?
    };
    let tar: Arc<dyn TarContent> = match Container::of(&start)? {
        Container::Packed => return packed_contents(input).await,
        Container::Plain => Arc::new(PlainTar::new(input)),
        Container::Compressed(StreamCompression::Gzip) => Arc::new(StreamTar::new(input, StreamCompression::Gzip)),
        Container::Compressed(StreamCompression::Zstd) => match SeekableTar::open(Arc::clone(&input)).await? {
            Some(seekable) => Arc::new(seekable),
            None => Arc::new(StreamTar::new(input, StreamCompression::Zstd)),
        },
    };
    let members = list(&*tar).await?;
    check_paths(&members)?;
    contents_by(tar, &by_path(members)?).await
}

/// The contents of the tar with `members`.
async fn contents_by(tar: Arc<dyn TarContent>, members: &HashMap<String, Member>) -> Result<Contents, Fault> {
    let has = |path: &str| members.contains_key(path);
    if let Some(definition) = definition_of(members) {
        return package_contents(tar, members, definition).await;
    }
    // Docker 25 and later and hauler write both lists; only the first has the original manifests.
    if has(oci_layout::INDEX) {
        return layout_contents(tar, members).await;
    }
    if has(docker_save::MANIFEST) {
        return save_contents(tar, members).await;
    }
    Err(invalid(&format!(
        "it has no zarf.yaml, jackal.yaml, {} or {}",
        oci_layout::INDEX,
        docker_save::MANIFEST
    )))
}

#[cfg(test)]
mod tests;

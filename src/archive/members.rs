//! The list of the files in a tar, without reading their content.

use std::collections::HashMap;

use bytes::{Bytes, BytesMut};
use futures::StreamExt as _;

use super::order::is_plain_path;
use super::read::invalid;
use super::tar_content::TarContent;
use crate::fault::Fault;
use crate::oci::MANIFEST_LIMIT;
use crate::source::docker::{TarEntryKind, TarReader};

/// The most entries of a tar.
pub(super) const MEMBERS: usize = 200_000;
/// The length of a tar's blocks.
const BLOCK: u64 = 512;

/// Where a file's content is in a tar.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Extent {
    /// Its first byte.
    pub offset: u64,
    /// Its length in bytes.
    pub size: u64,
}

/// Links that are followed to find a file.
const LINKS: usize = 16;
/// The first bytes of a tar that are read for a header. Most headers have no extension before them.
const HEADER: u64 = BLOCK;

/// A file of a tar.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Member {
    /// Its path, without a leading `./`. It is external input: it may have `..`.
    pub path: String,
    /// Whether it is a link to another member, and has no content.
    pub is_link: bool,
    /// The path that a link names; `None` where that is outside the tar.
    pub target: Option<String>,
    /// Its content.
    pub extent: Extent,
}

/// Lists the files and links of `tar` in their order. Small documents of a tar that is read from its beginning alone are kept, so
/// that it need not be read again for them.
///
/// # Errors
/// A fault, where it is not a complete tar.
pub async fn list(tar: &dyn TarContent) -> Result<Vec<Member>, Fault> {
    list_from(tar, 0).await
}

/// The same for the tar that begins at `offset`.
///
/// # Errors
/// A fault, where it is not a complete tar.
pub(super) async fn list_from(tar: &dyn TarContent, mut offset: u64) -> Result<Vec<Member>, Fault> {
    let mut members = Vec::new();
    loop {
        // The rest is read only where the header is longer, or the content is kept.
        let bytes = tar.read(offset, HEADER).chain(tar.read(offset + HEADER, u64::MAX));
        let mut reader = TarReader::named("the file", bytes.boxed());
        let Some(entry) = reader.next().await? else {
            return Ok(members);
        };
        let extent = Extent {
            offset: offset + reader.position(),
            size: entry.size,
        };
        if members.len() == MEMBERS {
            return Err(invalid(&format!("it has more than {MEMBERS} files")));
        }
        let end = extent.offset.checked_add(extent.size);
        let next = end.and_then(|end| end.checked_next_multiple_of(BLOCK));
        offset = next.ok_or_else(|| invalid("a file in it is too long"))?;
        if entry.kind == TarEntryKind::File && tar.is_sequential() && extent.size <= MANIFEST_LIMIT as u64 {
            let first = reader.chunk().await?;
            if is_document(&entry.path, first.as_deref().unwrap_or_default()) {
                tar.keep(extent.offset, reader.read_content(first).await?);
            }
        }
        match entry.kind {
            TarEntryKind::Other => {}
            kind => members.push(Member {
                path: entry.path,
                is_link: kind == TarEntryKind::Link,
                target: entry.target,
                extent,
            }),
        }
    }
}

/// Whether a file that begins like this is a manifest, a configuration or what describes a package.
fn is_document(path: &str, start: &[u8]) -> bool {
    let describes = |end: &&str| !path.contains('/') && path.ends_with(*end);
    matches!(start.first(), Some(b'{' | b'[')) || [".yaml", ".txt", ".sig"].iter().any(describes)
}

/// The file `path` of `members`, also where a link names it; `None` where there is nothing of this path.
///
/// # Errors
/// A fault that names the link, where it names nothing in the tar or links are in a circle.
pub fn file<'m>(members: &'m HashMap<String, Member>, path: &str) -> Result<Option<&'m Member>, Fault> {
    let Some(mut member) = members.get(path) else {
        return Ok(None);
    };
    let broken = |what: &str| invalid(&format!("the link {:?} {what}", shown(path)));
    for _ in 0..LINKS {
        if !member.is_link {
            return Ok(Some(member));
        }
        let target = member.target.as_ref();
        let target = target.ok_or_else(|| broken("names a file outside the archive"))?;
        member = members
            .get(target)
            .ok_or_else(|| broken("names a file that the archive lacks"))?;
    }
    Err(broken("leads to too many links, or in a circle"))
}

/// The content of the file `path`, whose digest is not known.
///
/// # Errors
/// A fault that names the file, where it is missing or longer than [`MANIFEST_LIMIT`].
pub(super) async fn read_document(
    tar: &dyn TarContent,
    members: &HashMap<String, Member>,
    path: &str,
) -> Result<Bytes, Fault> {
    let member = file(members, path)?.ok_or_else(|| invalid(&format!("it lacks {:?}", shown(path))))?;
    let Extent { offset, size } = member.extent;
    if size > MANIFEST_LIMIT as u64 {
        let path = shown(path);
        return Err(invalid(&format!("{path:?} is longer than {MANIFEST_LIMIT} bytes")));
    }
    let mut content = tar.read(offset, size);
    let mut bytes = BytesMut::new();
    while let Some(chunk) = content.next().await.transpose()? {
        bytes.extend_from_slice(&chunk);
    }
    match bytes.len() as u64 == size {
        true => Ok(bytes.freeze()),
        false => Err(invalid("it ends early")),
    }
}

/// Checks that every path is one in the archive.
///
/// # Errors
/// A fault that names a path that is absolute, has `..` or is not in normal form.
pub fn check_paths(members: &[Member]) -> Result<(), Fault> {
    match members.iter().find(|member| !is_plain_path(&member.path)) {
        Some(member) => Err(invalid(&format!(
            "{:?} is not the path of a file in it",
            shown(&member.path)
        ))),
        None => Ok(()),
    }
}

/// The part of an external text that messages show.
pub(super) fn shown(text: &str) -> String {
    text.chars().take(100).collect()
}

/// `members` by their paths.
///
/// # Errors
/// A fault that names a path that two members have.
pub fn by_path(members: Vec<Member>) -> Result<HashMap<String, Member>, Fault> {
    let mut found = HashMap::with_capacity(members.len());
    for member in members {
        if let Some(other) = found.insert(member.path.clone(), member) {
            return Err(invalid(&format!("{:?} is there twice", shown(&other.path))));
        }
    }
    Ok(found)
}

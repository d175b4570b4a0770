//! The list of the files in a tar, without reading their content.

use std::collections::HashMap;

use futures::StreamExt as _;

use super::read::invalid;
use super::tar_content::TarContent;
use crate::fault::Fault;
use crate::source::docker::{TarEntryKind, TarReader};

/// The most entries of a tar.
const MEMBERS: usize = 200_000;
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

/// A file of a tar.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Member {
    /// Its path, without a leading `./`. It is external input: it may have `..`.
    pub path: String,
    /// Whether it is a link to another member, and has no content.
    pub is_link: bool,
    /// Its content.
    pub extent: Extent,
}

/// Lists the files and links of `tar` in their order.
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
        let mut reader = TarReader::named("the file", tar.read(offset, u64::MAX).boxed());
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
        match entry.kind {
            TarEntryKind::Other => {}
            kind => members.push(Member {
                path: entry.path,
                is_link: kind == TarEntryKind::Link,
                extent,
            }),
        }
    }
}

/// `members` by their paths.
///
/// # Errors
/// A fault that names a path that two members have.
pub fn by_path(members: Vec<Member>) -> Result<HashMap<String, Member>, Fault> {
    let mut found = HashMap::with_capacity(members.len());
    for member in members {
        if let Some(other) = found.insert(member.path.clone(), member) {
            let shown: String = other.path.chars().take(100).collect();
            return Err(invalid(&format!("{shown:?} is there twice")));
        }
    }
    Ok(found)
}

//! Reads a tar as a stream, from an engine that may fail or be hostile.
//!
//! Blocks are split here instead of by the tar crate's iterator, which buffers extension headers without a limit, accepts the
//! end of the stream as the end of the archive, and returns entries that end early without an error. The crate parses headers.

use bytes::{Buf, Bytes, BytesMut};
use futures::StreamExt;
use futures::stream::try_unfold;
use tokio_tar::{EntryType, Header};

use super::engine::message_of;
use crate::fault::{Fault, Reason};
use crate::source::ByteStream;

const BLOCK: usize = 512;
/// The number of entries: an image has at most some hundred layers, with four entries each.
const ENTRY_LIMIT: usize = 20_000;
/// The longest path in bytes. Engines write at most 140.
const PATH_LIMIT: usize = 1024;
/// The longest extension header in bytes.
const EXTENSION_LIMIT: u64 = 64 * 1024;
/// The most bytes of zeros after the end: GNU tar pads to 10 KiB.
const TRAILER_LIMIT: usize = 1024 * 1024;
/// How many of the last bytes are searched for an error that the engine appended to an incomplete tar.
const TAIL_LENGTH: usize = 8 * 1024;

/// The type of an entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EntryKind {
    /// A file with content.
    File,
    /// A symbolic or hard link: another entry has its content.
    Link,
    /// A directory or anything else without content.
    Other,
}

/// An entry of the archive; its content is read from the [`Archive`] before the next is asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// The path, without a leading `./`.
    pub path: String,
    /// Its type.
    pub kind: EntryKind,
    /// The path of the entry that a link names, from the root of the archive; `None` for a link out of it.
    pub target: Option<String>,
    /// The length of the content in bytes.
    pub size: u64,
}

/// A tar that is read once, from its beginning to its end. Holds a block, and the last chunk.
pub struct Archive {
    // What messages call the tar; `None` for the export of an engine, which can be repeated.
    name: Option<&'static str>,
    source: ByteStream<'static>,
    chunk: Bytes,
    // The last bytes, to find an appended error in.
    tail: BytesMut,
    // Bytes of the current entry's content and padding that were not read yet.
    remaining: u64,
    padding: u64,
    // Bytes that were taken from `source` before `chunk`, and all of `chunk`.
    received: u64,
    entries: usize,
    // Why the content of an entry could not be read to its end.
    failed: Option<Fault>,
}

// The extension headers of the entry that follows them.
#[derive(Default)]
struct Extension {
    path: Option<Vec<u8>>,
    link: Option<Vec<u8>>,
    size: Option<u64>,
    any: bool,
}

impl Archive {
    /// Reads the tar `source`.
    pub fn new(source: ByteStream<'static>) -> Self {
        Self::of(None, source)
    }

    /// Reads the tar `source`, which messages call `name`. It is the same when it is read again.
    pub fn named(name: &'static str, source: ByteStream<'static>) -> Self {
        Self::of(Some(name), source)
    }

    fn of(name: Option<&'static str>, source: ByteStream<'static>) -> Self {
        Self {
            name,
            source,
            chunk: Bytes::new(),
            tail: BytesMut::new(),
            remaining: 0,
            padding: 0,
            received: 0,
            entries: 0,
            failed: None,
        }
    }

    /// The next entry; unread content of the last one is skipped. `None` only after a valid end of the archive and of the
    /// stream.
    pub async fn next(&mut self) -> Result<Option<Entry>, Fault> {
        let mut extension = Extension::default();
        loop {
            self.drain().await?;
            let block = self.block().await?;
            if block.iter().all(|&byte| byte == 0) {
                if extension.any {
                    return Err(self.malformed("an extension header is followed by the end"));
                }
                self.end().await?;
                return Ok(None);
            }
            self.entries += 1;
            if self.entries > ENTRY_LIMIT {
                return Err(self.malformed("it has more entries than any image"));
            }
            let header = Header::from_byte_slice(&block);
            let sum: u32 = block
                .iter()
                .enumerate()
                .map(|(at, &byte)| u32::from(if (148..156).contains(&at) { b' ' } else { byte }))
                .sum();
            if header.cksum().ok() != Some(sum) {
                return Err(self.malformed("the checksum of a header is wrong"));
            }
            let Ok(size) = header.raw_entry_size() else {
                return Err(self.malformed("the size in a header cannot be read"));
            };
            match header.entry_type() {
                EntryType::XHeader | EntryType::GNULongName | EntryType::GNULongLink | EntryType::XGlobalHeader => {
                    self.open(size);
                    extension.any = true;
                    self.extend(&mut extension, header.entry_type()).await?;
                }
                EntryType::GNUSparse => return Err(self.malformed("it has a sparse file")),
                kind => {
                    let kind = match kind {
                        EntryType::Regular | EntryType::Continuous => EntryKind::File,
                        EntryType::Link | EntryType::Symlink => EntryKind::Link,
                        _ => EntryKind::Other,
                    };
                    // A link may have the length of its target, but has no content.
                    let size = if kind == EntryKind::Link {
                        0
                    } else {
                        extension.size.unwrap_or(size)
                    };
                    let path = extension.path.unwrap_or_else(|| header.path_bytes().into_owned());
                    let Some(path) = path_text(&path) else {
                        return Err(self.malformed("it has an invalid path"));
                    };
                    let link = extension.link.or_else(|| Some(header.link_name_bytes()?.into_owned()));
                    let is_symbolic = header.entry_type() == EntryType::Symlink;
                    let target = link
                        .filter(|_| kind == EntryKind::Link)
                        .and_then(|link| target(&path, &path_text(&link)?, is_symbolic));
                    self.open(size);
                    return Ok(Some(Entry {
                        path,
                        kind,
                        target,
                        size,
                    }));
                }
            }
        }
    }

    /// Bytes of the tar that were read: after [`Self::next`], the offset of the entry's content.
    pub fn position(&self) -> u64 {
        self.received - self.chunk.len() as u64
    }

    /// The next bytes of the current entry; `None` at its end.
    pub async fn chunk(&mut self) -> Result<Option<Bytes>, Fault> {
        if self.remaining == 0 {
            return Ok(None);
        }
        if self.chunk.is_empty() {
            self.refill().await?;
        }
        let length =
            usize::try_from(self.remaining).map_or(self.chunk.len(), |remaining| remaining.min(self.chunk.len()));
        self.remaining -= length as u64;
        Ok(Some(self.chunk.split_to(length)))
    }

    /// The content of the current entry, after `first`, which was read from it already.
    pub fn content(&mut self, first: Option<Bytes>) -> ByteStream<'_> {
        try_unfold((self, first), |(archive, first)| async move {
            let chunk = match first {
                Some(first) => Some(first),
                None => archive
                    .chunk()
                    .await
                    .inspect_err(|fault| archive.failed = Some(fault.clone()))?,
            };
            Ok(chunk.map(|chunk| (chunk, (archive, None))))
        })
        .boxed()
    }

    /// Why content that was returned could not be stored: the error of reading it, or else `fault`. A sink may report only that
    /// the content ended early.
    pub fn cause(&mut self, fault: Fault) -> Fault {
        self.failed.take().unwrap_or(fault)
    }

    /// The whole content of the current entry after `first`. The caller checks its size before.
    pub async fn read_content(&mut self, first: Option<Bytes>) -> Result<Bytes, Fault> {
        let mut content = BytesMut::from(first.unwrap_or_default().as_ref());
        while let Some(chunk) = self.chunk().await? {
            content.extend_from_slice(&chunk);
        }
        Ok(content.freeze())
    }

    fn open(&mut self, size: u64) {
        self.remaining = size;
        self.padding = (BLOCK as u64 - size % BLOCK as u64) % BLOCK as u64;
    }

    async fn drain(&mut self) -> Result<(), Fault> {
        while self.chunk().await?.is_some() {}
        self.remaining = std::mem::take(&mut self.padding);
        while self.chunk().await?.is_some() {}
        Ok(())
    }

    async fn extend(&mut self, extension: &mut Extension, kind: EntryType) -> Result<(), Fault> {
        if self.remaining > EXTENSION_LIMIT {
            return Err(self.malformed("an extension header is longer than any image needs"));
        }
        let content = self.read_content(None).await?;
        match kind {
            EntryType::GNULongName | EntryType::GNULongLink => {
                let end = content.iter().position(|&byte| byte == 0).unwrap_or(content.len());
                let text = Some(content[..end].to_vec());
                match kind {
                    EntryType::GNULongName => extension.path = text,
                    _ => extension.link = text,
                }
            }
            EntryType::XHeader => {
                let mut rest = content.as_ref();
                while !rest.is_empty() {
                    let Some((key, value, after)) = record(rest) else {
                        return Err(self.malformed("an extension header cannot be read"));
                    };
                    rest = after;
                    match key {
                        b"path" => extension.path = Some(value.to_vec()),
                        b"linkpath" => extension.link = Some(value.to_vec()),
                        _ if key.starts_with(b"GNU.sparse.") => return Err(self.malformed("it has a sparse file")),
                        b"size" => {
                            let size = std::str::from_utf8(value).ok().and_then(|value| value.parse().ok());
                            extension.size = Some(
                                size.ok_or_else(|| self.malformed("the size in an extension header cannot be read"))?,
                            );
                        }
                        _ => {}
                    }
                }
            }
            // Global headers are not needed.
            _ => {}
        }
        Ok(())
    }

    async fn block(&mut self) -> Result<[u8; BLOCK], Fault> {
        let mut block = [0; BLOCK];
        let mut filled = 0;
        while filled < BLOCK {
            if self.chunk.is_empty() {
                self.refill().await?;
            }
            let length = self.chunk.len().min(BLOCK - filled);
            self.chunk.copy_to_slice(&mut block[filled..filled + length]);
            filled += length;
        }
        Ok(block)
    }

    // After the first zero block: nothing but zeros, to the end of the stream.
    async fn end(&mut self) -> Result<(), Fault> {
        let mut trailer = 0;
        loop {
            trailer += self.chunk.len();
            if self.chunk.iter().any(|&byte| byte != 0) || trailer > TRAILER_LIMIT {
                return Err(self.malformed("there is data after its end"));
            }
            match self.pull().await? {
                Some(chunk) => self.chunk = chunk,
                // The end is two blocks of zeros; the first was read.
                None if trailer < BLOCK => return Err(self.malformed("its end is incomplete")),
                None => return Ok(()),
            }
        }
    }

    async fn pull(&mut self) -> Result<Option<Bytes>, Fault> {
        let Some(chunk) = self.source.next().await.transpose()? else {
            return Ok(None);
        };
        self.received += chunk.len() as u64;
        let kept = chunk.len().min(TAIL_LENGTH);
        let excess = (self.tail.len() + kept).saturating_sub(TAIL_LENGTH);
        self.tail.advance(excess);
        self.tail.extend_from_slice(&chunk[chunk.len() - kept..]);
        Ok(Some(chunk))
    }

    async fn refill(&mut self) -> Result<(), Fault> {
        match self.pull().await? {
            Some(chunk) => {
                self.chunk = chunk;
                Ok(())
            }
            None => Err(self.malformed("it is cut off")),
        }
    }

    // An engine that fails during an export appends the error to what it wrote of the tar.
    fn malformed(&self, what: &str) -> Fault {
        if let Some(name) = self.name {
            let message = format!("{name} is not a complete tar: {what}; copy it again");
            return Fault::stalled(Reason::SourceFailed, message);
        }
        let appended = (0..self.tail.len())
            .rev()
            .filter(|&at| self.tail[at..].starts_with(b"{\"error") || self.tail[at..].starts_with(b"{\"message\""))
            .find_map(|at| message_of(&self.tail[at..]));
        let message = match appended {
            Some(message) => format!("the docker engine broke off the export: {message}"),
            None => format!("the export of the docker engine is not a complete tar: {what}; it is retried"),
        };
        Fault::retryable(Reason::SourceFailed, message)
    }
}

fn path_text(path: &[u8]) -> Option<String> {
    if path.len() > PATH_LIMIT {
        return None;
    }
    let path = std::str::from_utf8(path).ok()?;
    Some(path.strip_prefix("./").unwrap_or(path).to_owned())
}

// The path that the entry `path` links to: a symbolic link from its own folder, a hard link from the root.
fn target(path: &str, link: &str, is_symbolic: bool) -> Option<String> {
    if link.starts_with('/') {
        return None;
    }
    let folder = path.rsplit_once('/').map_or("", |(folder, _)| folder);
    let mut parts: Vec<&str> = match is_symbolic {
        true => folder.split('/').filter(|part| !part.is_empty()).collect(),
        false => Vec::new(),
    };
    for part in link.split('/').filter(|part| !matches!(*part, "" | ".")) {
        match part {
            ".." => drop(parts.pop()?),
            part => parts.push(part),
        }
    }
    Some(parts.join("/"))
}

// The first record `length key=value\n` of a PAX header, and what follows it (POSIX pax, "pax Extended Header").
// The reader of the crate is not public.
fn record(text: &[u8]) -> Option<(&[u8], &[u8], &[u8])> {
    let space = text.iter().position(|&byte| byte == b' ')?;
    let length: usize = std::str::from_utf8(&text[..space]).ok()?.parse().ok()?;
    let (record, rest) = text.split_at_checked(length)?;
    let pair = record.get(space + 1..)?.strip_suffix(b"\n")?;
    let equals = pair.iter().position(|&byte| byte == b'=')?;
    Some((&pair[..equals], &pair[equals + 1..], rest))
}

#[cfg(test)]
mod tests;

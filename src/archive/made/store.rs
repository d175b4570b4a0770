//! The file, and where everything is in it.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt as _;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::{Bytes, BytesMut};
use futures::stream::{self, StreamExt as _};
use tokio::task::JoinHandle;

use crate::archive::format::{self, SKIPPABLE_HEADER, SeekTable, WRITTEN_CONTENT, stored};
use crate::archive::frame_content::decode;
use crate::archive::header::{Header, Packed};
use crate::archive::order::{PackageFile, files_of};
use crate::archive::packing::{cannot_compress, too_long};
use crate::archive::write::{Written, cannot_write, frame_of, is_compressed};
use crate::fault::{Fault, Reason};
use crate::hashing::BackgroundHasher;
use crate::oci::{Digest, Document, Hasher};
use crate::package::tar_header;
use crate::source::ByteStream;
use crate::transfer::Upload;

/// Content up to this length, in bytes, waits in memory where its length is known.
const SMALL: u64 = 1 << 20;
/// The most bytes that wait in memory.
const WAITING: usize = 32 << 20;
/// The length of a tar's blocks.
const BLOCK: usize = 512;
/// Room for the header of the file, in bytes: that of a small package, and for each image. An image of 80 layers takes 30 KiB.
const ROOM: (usize, usize) = (256 << 10, 64 << 10);
/// Frames that are compressed at once.
const QUEUED: usize = 3;
/// Bytes that are read at once for the digest of the file.
const READ: usize = 1 << 20;

/// A package file that is made while a package is built.
#[derive(Debug)]
pub struct MadeFile {
    file: Arc<File>,
    /// Bytes of the first frame.
    room: usize,
    index: Mutex<Index>,
    writer: tokio::sync::Mutex<Writer>,
}

#[derive(Debug, Default)]
struct Index {
    /// Content in the file.
    stored: HashMap<Digest, Member>,
    /// Small content that is not in the file yet.
    waiting: BTreeMap<Digest, Bytes>,
    waiting_size: usize,
    documents: HashMap<Digest, Document>,
    /// By repository and tag.
    tags: HashMap<(String, String), Digest>,
    /// The last package that was published.
    package: Option<Document>,
}

/// Where content is in the file.
#[derive(Clone, Debug)]
struct Member {
    size: u64,
    /// The offset of the frame with its header, and the zeros before the header in it.
    start: u64,
    padding: usize,
    /// Offset, length and length of the content of each frame.
    frames: Arc<[(u64, usize, usize)]>,
}

/// The end of the file.
#[derive(Debug)]
struct Writer {
    end: u64,
    table: SeekTable,
    /// The zeros that follow the last member.
    padding: usize,
    /// A write that was begun by an upload which was given up.
    pending: Option<JoinHandle<io::Result<()>>>,
}

impl MadeFile {
    /// Writes to `file`, which is empty, a package with `images` images.
    ///
    /// # Errors
    /// When there are too many images for a header.
    pub fn new(file: Arc<File>, images: usize) -> Result<Self, Fault> {
        let room = SKIPPABLE_HEADER + ROOM.0 + images.saturating_mul(ROOM.1);
        let mut table = SeekTable::default();
        table.push(room, 0).map_err(too_long)?;
        Ok(Self {
            file,
            room,
            index: Mutex::default(),
            writer: tokio::sync::Mutex::new(Writer {
                end: room as u64,
                table,
                padding: 0,
                pending: None,
            }),
        })
    }

    fn index(&self) -> MutexGuard<'_, Index> {
        self.index.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The length of the content with that digest.
    pub(super) fn size(&self, digest: &Digest) -> Option<u64> {
        let index = self.index();
        let waiting = index.waiting.get(digest).map(|content| content.len() as u64);
        waiting.or_else(|| index.stored.get(digest).map(|member| member.size))
    }

    /// The digest under a tag of a repository, or the digest itself where there is such a manifest.
    pub(super) fn find(&self, repository: &str, identifier: &str) -> Option<Digest> {
        let index = self.index();
        let digest = match identifier.parse::<Digest>() {
            Ok(digest) => digest,
            Err(_) => index.tags.get(&(repository.to_owned(), identifier.to_owned()))?.clone(),
        };
        index.documents.contains_key(&digest).then_some(digest)
    }

    pub(super) fn document(&self, digest: &Digest) -> Option<Document> {
        self.index().documents.get(digest).cloned()
    }

    pub(super) fn publish(&self, repository: &str, document: &Document, tag: Option<&str>) {
        let mut index = self.index();
        index.documents.insert(document.digest().clone(), document.clone());
        if document.is_package() && document.manifest().is_some() {
            index.package = Some(document.clone());
        }
        if let Some(tag) = tag {
            let name = (repository.to_owned(), tag.to_owned());
            index.tags.insert(name, document.digest().clone());
        }
    }

    /// The content with that digest. It is not verified.
    pub(super) fn read(&self, digest: &Digest) -> Option<ByteStream<'static>> {
        let index = self.index();
        if let Some(content) = index.waiting.get(digest).cloned() {
            return Some(stream::once(async move { Ok(content) }).boxed());
        }
        let frames = Arc::clone(&index.stored.get(digest)?.frames);
        let file = Arc::clone(&self.file);
        let read = stream::iter(0..frames.len()).then(move |at| {
            let (file, frame) = (Arc::clone(&file), frames[at]);
            async move {
                let pieces = blocking(move || read_frame(&file, frame)).await;
                stream::iter(match pieces {
                    Ok(pieces) => pieces.into_iter().map(Ok).collect::<Vec<_>>(),
                    Err(fault) => vec![Err(fault)],
                })
            }
        });
        Some(read.flatten().boxed())
    }

    /// Stores content: in memory where it is small, else in the file.
    pub(super) async fn store(&self, upload: Upload<'_>) -> Result<(Digest, u64), Fault> {
        let Upload {
            digest,
            size,
            mut bytes,
        } = upload;
        if size.is_some_and(|size| size <= SMALL) && self.index().waiting_size < WAITING {
            let mut content = BytesMut::new();
            while let Some(chunk) = bytes.next().await.transpose()? {
                content.extend_from_slice(&chunk);
                if content.len() as u64 > SMALL {
                    return Err(differs("more"));
                }
            }
            let content = content.freeze();
            let mut hasher = digest.as_ref().map_or_else(Hasher::sha256, Hasher::like);
            hasher.update(&content);
            let found = hasher.finish();
            if digest.is_some_and(|digest| digest != found) || size != Some(content.len() as u64) {
                return Err(differs(found.as_str()));
            }
            let length = content.len() as u64;
            let mut index = self.index();
            if !index.stored.contains_key(&found) {
                index.waiting_size += content.len();
                index.waiting.insert(found.clone(), content);
            }
            return Ok((found, length));
        }
        let mut writer = self.writer.lock().await;
        if let Some(digest) = &digest
            && let Some(size) = self.size(digest)
        {
            return Ok((digest.clone(), size));
        }
        writer.settle().await;
        let (digest, member, entries) = self.append(&mut writer, digest, size, bytes).await?;
        let length = member.size;
        let mut index = self.index();
        // Content whose digest was not known may be there already; then its place is used again.
        if let std::collections::hash_map::Entry::Vacant(free) = index.stored.entry(digest.clone()) {
            writer.accept(&member, &entries)?;
            free.insert(member);
        }
        Ok((digest, length))
    }

    /// Writes content behind the end of the file, which stays where it is.
    async fn append(
        &self,
        writer: &mut Writer,
        expected: Option<Digest>,
        size: Option<u64>,
        mut bytes: ByteStream<'_>,
    ) -> Result<(Digest, Member, Vec<(usize, usize)>), Fault> {
        let (start, padding) = (writer.end, writer.padding);
        let space = stored(&vec![0; padding + BLOCK]);
        let mut entries = vec![(space.len(), padding + BLOCK)];
        let mut at = start + space.len() as u64;
        let mut frames: Vec<(u64, usize, usize)> = Vec::new();
        let mut hasher = BackgroundHasher::new(expected.as_ref());
        let (mut length, mut buffer, mut as_it_is) = (0_u64, BytesMut::new(), None);
        let mut queue = std::collections::VecDeque::new();
        loop {
            let chunk = bytes.next().await.transpose()?;
            if let Some(chunk) = &chunk {
                length += chunk.len() as u64;
                if size.is_some_and(|size| length > size) {
                    return Err(differs("more"));
                }
                hasher.update(chunk).await;
                buffer.extend_from_slice(chunk);
            }
            let ended = chunk.is_none();
            while buffer.len() >= WRITTEN_CONTENT || (ended && !buffer.is_empty()) {
                let piece = buffer.split_to(buffer.len().min(WRITTEN_CONTENT)).freeze();
                let stored = *as_it_is.get_or_insert_with(|| is_compressed(&piece));
                let content = piece.len();
                queue.push_back((
                    tokio::task::spawn_blocking(move || frame_of(&piece, stored, false)),
                    content,
                ));
            }
            while queue.len() > if ended { 0 } else { QUEUED } {
                let Some((frame, content)) = queue.pop_front() else {
                    break;
                };
                let frame = frame.await.map_err(stopped)?.map_err(cannot_compress)?;
                frames.push((at, frame.len(), content));
                entries.push((frame.len(), content));
                at = writer.write(&self.file, at, frame).await?;
            }
            if ended {
                break;
            }
        }
        writer.settle_written().await?;
        let digest = hasher.finish().await.map_err(stopped)?;
        if expected.is_some_and(|expected| expected != digest) || size.is_some_and(|size| size != length) {
            return Err(differs(digest.as_str()));
        }
        let member = Member {
            size: length,
            start,
            padding,
            frames: frames.into(),
        };
        Ok((digest, member, entries))
    }

    /// Writes what the published package has beside what is stored, and the names of everything.
    ///
    /// # Errors
    /// When content of the file is not part of the package, or the disk is full.
    pub async fn finish(&self) -> Result<Written, Fault> {
        let package = self.index().package.clone();
        let manifest = package
            .as_ref()
            .and_then(|package| Some((package, package.manifest()?)));
        let (package, content) = manifest.ok_or_else(|| failed("no package was published in it".to_owned()))?;
        let files = files_of(content)?;
        let mut writer = self.writer.lock().await;
        let mut named = HashSet::new();
        for file in &files {
            let member = self.index().stored.get(&file.digest).cloned();
            // A member has one name; content with several is written again for each other one.
            let member = member.filter(|_| !named.contains(&file.digest));
            let member = match member {
                Some(member) => member,
                None => self.append_file(&mut writer, file).await?,
            };
            named.insert(file.digest.clone());
            let start = [
                vec![0; member.padding],
                tar_header(&file.path, 0o644, file.size).await?.to_vec(),
            ]
            .concat();
            if start.len() != member.padding + BLOCK {
                return Err(failed(format!("the path `{}` is too long; shorten it", file.path)));
            }
            writer.write(&self.file, member.start, stored(&start)).await?;
        }
        if let Some(other) = self.index().stored.keys().find(|digest| !named.contains(*digest)) {
            return Err(failed(format!(
                "{other} is not part of the package: an image was changed during the build; run pack again"
            )));
        }
        let header = Header {
            packages: vec![Packed {
                manifest: package.clone(),
                config: self.whole(&content.config.digest).await?,
                omitted: BTreeMap::new(),
            }],
        };
        let mut text = header.encode();
        if text.len() > self.room - SKIPPABLE_HEADER {
            return Err(failed(
                "its manifest is too long for the space at the beginning; build it in a registry, and pack it from there".to_owned(),
            ));
        }
        text.resize(self.room - SKIPPABLE_HEADER, b' ');
        let header = format::header(&text).map_err(too_long)?;
        writer.write(&self.file, 0, header).await?;
        let end = vec![0; writer.padding + 2 * BLOCK];
        let frame = stored(&end);
        writer.table.push(frame.len(), end.len()).map_err(too_long)?;
        let at = writer.end;
        let at = writer.write(&self.file, at, frame).await?;
        let table = writer.table.frame().map_err(too_long)?;
        let size = writer.write(&self.file, at, table).await?;
        writer.settle_written().await?;
        let file = Arc::clone(&self.file);
        let digest = blocking(move || {
            file.set_len(size)?;
            digest_of(&file, size)
        });
        Ok(Written {
            size,
            files: files.len(),
            omitted: 0,
            digest: digest.await?,
        })
    }

    /// Appends content that waits in memory, or is there under another name.
    async fn append_file(&self, writer: &mut Writer, file: &PackageFile) -> Result<Member, Fault> {
        let content = self.read(&file.digest);
        let content = content.ok_or_else(|| failed(format!("it lacks `{}`", file.path)))?;
        let appended = self.append(writer, Some(file.digest.clone()), Some(file.size), content);
        let (_, member, entries) = appended.await?;
        writer.accept(&member, &entries)?;
        Ok(member)
    }

    /// All of a small content.
    async fn whole(&self, digest: &Digest) -> Result<Bytes, Fault> {
        let content = self.read(digest);
        let mut content = content.ok_or_else(|| failed(format!("it lacks {digest}")))?;
        let mut bytes = BytesMut::new();
        while let Some(chunk) = content.next().await.transpose()? {
            bytes.extend_from_slice(&chunk);
        }
        Ok(bytes.freeze())
    }
}

impl Writer {
    /// Waits for a write of an upload that was given up.
    async fn settle(&mut self) {
        if let Some(pending) = self.pending.take() {
            let _ = pending.await;
        }
    }

    async fn settle_written(&mut self) -> Result<(), Fault> {
        match self.pending.take() {
            Some(pending) => {
                let written = pending.await.map_err(stopped)?;
                written.map_err(|error| cannot_write(&error, 0))
            }
            None => Ok(()),
        }
    }

    /// Begins to write `bytes` at `at`, after the write before. Says where they end.
    async fn write(&mut self, file: &Arc<File>, at: u64, bytes: Bytes) -> Result<u64, Fault> {
        self.settle_written().await?;
        let (file, end) = (Arc::clone(file), at + bytes.len() as u64);
        self.pending = Some(tokio::task::spawn_blocking(move || file.write_all_at(&bytes, at)));
        Ok(end)
    }

    /// Moves the end behind a member that was written.
    fn accept(&mut self, member: &Member, entries: &[(usize, usize)]) -> Result<(), Fault> {
        for (compressed, content) in entries {
            self.table.push(*compressed, *content).map_err(too_long)?;
            self.end += *compressed as u64;
        }
        self.padding = usize::try_from(member.size.wrapping_neg() % BLOCK as u64).unwrap_or_default();
        Ok(())
    }
}

fn read_frame(file: &File, (offset, length, content): (u64, usize, usize)) -> io::Result<Vec<Bytes>> {
    let mut bytes = vec![0; length];
    file.read_exact_at(&mut bytes, offset)?;
    decode(bytes.into(), content as u64)
}

fn digest_of(file: &File, size: u64) -> io::Result<Digest> {
    let (mut hasher, mut buffer, mut at) = (Hasher::sha256(), vec![0; READ], 0);
    while at < size {
        let length = usize::try_from(size - at).map_or(READ, |rest| rest.min(READ));
        file.read_exact_at(&mut buffer[..length], at)?;
        hasher.update(&buffer[..length]);
        at += length as u64;
    }
    Ok(hasher.finish())
}

async fn blocking<T: Send + 'static>(work: impl FnOnce() -> io::Result<T> + Send + 'static) -> Result<T, Fault> {
    let done = tokio::task::spawn_blocking(work).await.map_err(stopped)?;
    done.map_err(|error| Fault::retryable(Reason::PackageFailed, format!("the file cannot be read: {error}")))
}

fn differs(found: &str) -> Fault {
    let message = format!("content arrived that is not what was announced: {found}; run pack again");
    Fault::retryable(Reason::DigestMismatch, message)
}

fn failed(what: String) -> Fault {
    Fault::stalled(
        Reason::PackageFailed,
        format!("the package file cannot be completed: {what}"),
    )
}

fn stopped(error: tokio::task::JoinError) -> Fault {
    Fault::retryable(Reason::PackageFailed, error.to_string())
}

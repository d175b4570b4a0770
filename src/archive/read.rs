//! Reads a package file once, from its beginning to its end, also from a pipe. Nothing that it says is believed before its digest
//! was compared.

use std::collections::{BTreeMap, HashSet};
use std::io::{self, BufReader, Read};

use bytes::Bytes;
use futures::StreamExt as _;
use tokio::sync::{mpsc, oneshot};
use tokio_stream::wrappers::ReceiverStream;

use super::format::{SKIPPABLE_HEADER, header_length};
use super::header::{HEADER_LIMIT, Header, Packed};
use super::order::{PackageFile, blob_path, files_of};
use super::sections::Sections;
use super::tar_content::verified;
use crate::fault::{Fault, Reason};
use crate::source::ByteStream;
use crate::source::docker::{TarEntryKind, TarReader};

/// Bytes that are decompressed at once.
const CHUNK: usize = 256 << 10;
/// Chunks that wait to be taken.
const WAITING: usize = 4;
/// The largest window of a frame, as a power of two: 32 MiB. Frames that need more memory are refused.
pub(super) const WINDOW_LOG: u32 = 25;

/// A package file that is read.
pub struct Reader {
    packages: Vec<Packed>,
    /// The files that were not read yet, by their paths in the tar that is read.
    remaining: BTreeMap<String, PackageFile>,
    /// The same for the second tar, which has what the first package lacks.
    further: BTreeMap<String, PackageFile>,
    tar: TarReader,
    second: Option<TarReader>,
}

impl Reader {
    /// Reads the header of a file that `pack` wrote.
    ///
    /// # Errors
    /// A fault that says what is wrong with the file.
    pub async fn open(input: impl Read + Send + 'static) -> Result<Self, Fault> {
        let (header, received) = oneshot::channel();
        let (chunks, content) = mpsc::channel(WAITING);
        let (more, second) = mpsc::channel(WAITING);
        tokio::task::spawn_blocking(move || decompress(input, header, chunks, more));
        // The thread says why it ended, if it ends before.
        let packages = received.await.map_err(|_| invalid("it cannot be read"))??.packages;
        let (mut remaining, mut further) = (BTreeMap::new(), BTreeMap::new());
        let mut known = HashSet::new();
        for (at, package) in packages.iter().enumerate() {
            let files = package.manifest.manifest().map(files_of).transpose()?;
            let files = files.unwrap_or_default().into_iter();
            for file in files.filter(|file| !package.omits(file)) {
                let is_new = known.insert(file.digest.clone());
                match at {
                    0 => drop(remaining.insert(file.path.clone(), file)),
                    _ if is_new => drop(further.insert(blob_path(&file.digest), file)),
                    _ => {}
                }
            }
        }
        let tar = |content: mpsc::Receiver<Result<Bytes, Fault>>| {
            TarReader::named("the file", ReceiverStream::new(content).boxed())
        };
        Ok(Self {
            second: (packages.len() > 1).then(|| tar(second)),
            packages,
            remaining,
            further,
            tar: tar(content),
        })
    }

    /// The packages.
    pub fn packages(&self) -> &[Packed] {
        &self.packages
    }

    /// The next file; `None` after the last, when every file of every package was there. Content that several packages have comes
    /// once, as a file of the first of them. It is read by [`Self::content`], before the next is asked for.
    ///
    /// # Errors
    /// A fault that names the file, where it is not one of the package or has another length.
    pub async fn next(&mut self) -> Result<Option<PackageFile>, Fault> {
        let entry = loop {
            if let Some(entry) = self.tar.next().await? {
                break entry;
            }
            if let Some(path) = self.remaining.keys().next() {
                let others = self.remaining.len() - 1;
                return Err(invalid(&format!("it lacks {path} and {others} others")));
            }
            let Some(second) = self.second.take() else {
                return Ok(None);
            };
            self.tar = second;
            self.remaining = std::mem::take(&mut self.further);
        };
        let shown: String = entry.path.chars().take(100).collect();
        match self.remaining.remove(&entry.path) {
            Some(file) if entry.kind == TarEntryKind::File && file.size == entry.size => Ok(Some(file)),
            Some(_) => Err(invalid(&format!(
                "{shown:?} has another length or type than the manifest of the package says"
            ))),
            None => Err(invalid(&format!(
                "{shown:?} is not a file of the package, or there twice"
            ))),
        }
    }

    /// The content of `file`, which [`Self::next`] returned. It ends in an error when it is not the content with that digest.
    pub fn content(&mut self, file: &PackageFile) -> ByteStream<'_> {
        verified(self.tar.content(None), &file.path, &file.digest)
    }
}

pub(super) fn invalid(what: &str) -> Fault {
    let message = format!("the file is damaged, or not an archive that can be loaded: {what}; copy it again");
    Fault::stalled(Reason::SourceFailed, message)
}

/// Reads the header, the first tar and the second, until nobody takes them any more.
fn decompress(
    mut input: impl Read,
    header: oneshot::Sender<Result<Header, Fault>>,
    first: mpsc::Sender<Result<Bytes, Fault>>,
    second: mpsc::Sender<Result<Bytes, Fault>>,
) {
    let read = read_header(&mut input);
    let is_several = read.as_ref().is_ok_and(|header| header.packages.len() > 1);
    let failed = read.is_err();
    if header.send(read).is_err() || failed {
        return;
    }
    let mut sections = Sections::new(BufReader::new(input));
    if let Err(error) = copy(&mut sections, &first) {
        let _ = first.blocking_send(Err(invalid(&error.to_string())));
        return;
    }
    // The end of the first tar is known by the end of its bytes.
    drop(first);
    sections.next_section();
    if is_several && let Err(error) = copy(&mut sections, &second) {
        let _ = second.blocking_send(Err(invalid(&error.to_string())));
    }
}

pub(super) fn read_header(input: &mut impl Read) -> Result<Header, Fault> {
    let failed = |error: io::Error| match error.kind() {
        io::ErrorKind::UnexpectedEof => invalid("it is too short"),
        _ => invalid(&error.to_string()),
    };
    let mut start = [0; SKIPPABLE_HEADER];
    input.read_exact(&mut start).map_err(failed)?;
    let length = header_length(&start).ok_or_else(|| {
        invalid("it does not begin as files of `pack` do; an archive of another tool must be a file, not a pipe")
    })?;
    if length > HEADER_LIMIT {
        return Err(invalid(&format!("its header is longer than {HEADER_LIMIT} bytes")));
    }
    let mut text = Vec::new();
    input.take(u64::from(length)).read_to_end(&mut text).map_err(failed)?;
    if text.len() as u64 != u64::from(length) {
        return Err(invalid("it ends in its header"));
    }
    Header::decode(&text)
}

fn copy(input: impl Read, chunks: &mpsc::Sender<Result<Bytes, Fault>>) -> io::Result<()> {
    let mut decoder = zstd::stream::read::Decoder::new(input)?;
    decoder.window_log_max(WINDOW_LOG)?;
    loop {
        let mut chunk = vec![0; CHUNK];
        let length = decoder.read(&mut chunk)?;
        chunk.truncate(length);
        if length == 0 || chunks.blocking_send(Ok(chunk.into())).is_err() {
            return Ok(());
        }
    }
}

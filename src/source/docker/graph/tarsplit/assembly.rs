//! Assembles one tar in several threads: one reads the tar-split, some open files and ask the disk for them, the last reads
//! and checks the files in their order. Most files of an image are small: looking up one after the other, and reading one
//! after the other, would mostly wait for the disk.

use std::fs::File;
use std::io::Read;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use crc_fast::CrcAlgorithm::Crc64GoIso;

use super::reader::{TarSplitEntry, TarSplitReader};
use crate::source::chunks::{Chunks, ReadError, Stop};
use crate::source::confined_directory::ConfinedDirectory;
use crate::source::read_ahead;
use crate::source::unreadable::{UnreadableReason, printable_name};

/// Threads that open files. A file system looks up files that are not cached in parallel.
const OPENERS: usize = 4;
/// Files in one batch.
const FILES_LIMIT: usize = 16;
/// Bytes of files after which a batch is full: the page cache has to hold them until they are read.
const CONTENT_LIMIT: u64 = 4 * 1024 * 1024;
/// Bytes of segments after which a batch is full; the last segment may exceed it.
const SEGMENTS_LIMIT: usize = 128 * 1024;

/// Consecutive entries of the tar-split. A layer has [`OPENERS`] + 3 of them at most: one is filled, one is read, the others
/// are opened or wait. `F` is `()` before the files are opened, and [`File`] after that.
struct Batch<F> {
    entries: Vec<BatchEntry<F>>,
    /// The segments of all entries, concatenated.
    segments: Vec<u8>,
    files: usize,
    content: u64,
}

enum BatchEntry<F> {
    /// The length in bytes of the next of the batch's segments.
    Segment(usize),
    File {
        file: F,
        name: Vec<u8>,
        size: u64,
        crc: [u8; 8],
    },
}

/// A batch whose files are open, up to the one that could not be opened.
struct Opened {
    batch: Batch<File>,
    failed: Option<UnreadableReason>,
}

/// A batch for one of the openers, and where it sends the result.
type Request = (Batch<()>, SyncSender<Opened>);
/// The results, in the order of the tar.
type Results = Receiver<Result<Receiver<Opened>, UnreadableReason>>;

impl<F> Default for Batch<F> {
    fn default() -> Self {
        Self {
            entries: Vec::new(),
            segments: Vec::new(),
            files: 0,
            content: 0,
        }
    }
}

impl Batch<()> {
    fn is_full(&self) -> bool {
        self.files >= FILES_LIMIT || self.content >= CONTENT_LIMIT || self.segments.len() >= SEGMENTS_LIMIT
    }

    fn add(&mut self, entry: TarSplitEntry<'_>) -> Result<(), UnreadableReason> {
        match entry {
            TarSplitEntry::Segment { base64, .. } => {
                let before = self.segments.len();
                let decoded = STANDARD.decode_vec(base64, &mut self.segments);
                decoded.map_err(|error| {
                    UnreadableReason::new(format!("a payload of its tar-split is not base64: {error}"))
                })?;
                self.entries.push(BatchEntry::Segment(self.segments.len() - before));
            }
            TarSplitEntry::File { name, size, crc } => {
                self.files += 1;
                self.content = self.content.saturating_add(size);
                self.entries.push(BatchEntry::File {
                    file: (),
                    name: name.into_owned(),
                    size,
                    crc,
                });
            }
            TarSplitEntry::Empty => {}
        }
        Ok(())
    }

    /// Opens the files in `diff`, and asks the disk for them.
    fn open(self, diff: &mut ConfinedDirectory) -> Opened {
        let mut batch = Batch {
            entries: Vec::with_capacity(self.entries.len()),
            segments: self.segments,
            files: self.files,
            content: self.content,
        };
        for entry in self.entries {
            batch.entries.push(match entry {
                BatchEntry::Segment(length) => BatchEntry::Segment(length),
                BatchEntry::File { name, size, crc, .. } => match open_file(diff, &name, size) {
                    Ok(file) => BatchEntry::File { file, name, size, crc },
                    Err(reason) => {
                        let failed = Some(reason);
                        return Opened { batch, failed };
                    }
                },
            });
        }
        Opened { batch, failed: None }
    }
}

fn open_file(diff: &mut ConfinedDirectory, name: &[u8], size: u64) -> Result<File, UnreadableReason> {
    let (file, found) = diff.file(name)?;
    if found != size {
        let what = format!("its file {:?} has {found} bytes, not {size}", printable_name(name));
        return Err(UnreadableReason::new(what));
    }
    read_ahead::prefetch(&file, size);
    Ok(file)
}

impl Batch<File> {
    fn write_to(self, chunks: &mut Chunks) -> Result<(), Stop> {
        let mut segments = self.segments.as_slice();
        for entry in self.entries {
            match entry {
                BatchEntry::Segment(length) => {
                    let (segment, rest) = segments.split_at(length);
                    segments = rest;
                    chunks.write(segment)?;
                }
                BatchEntry::File { file, name, size, crc } => {
                    let checksum = copy_file(&file, size, chunks, &name)?;
                    if checksum.to_be_bytes() != crc {
                        let what = format!(
                            "its file {:?} was changed: its checksum is another",
                            printable_name(&name)
                        );
                        return Err(UnreadableReason::new(what).into());
                    }
                }
            }
        }
        Ok(())
    }
}

/// Assembles the tar that `gzip` describes from the files in `diff`, and checks each file. Blocks until the receiver takes the
/// chunks, so it needs a thread of its own; it starts others.
pub(in crate::source::docker) fn assemble(
    gzip: impl Read + Send,
    diff: &ConfinedDirectory,
    chunks: &mut Chunks,
) -> Result<(), Stop> {
    let (requests, accepted) = sync_channel(0);
    let (results, opened) = sync_channel(OPENERS);
    // The openers own it together: when none of them is left, nobody waits for one.
    let accepted = Arc::new(Mutex::new(accepted));
    let directories = (0..OPENERS).map(|_| diff.try_clone()).collect::<Result<Vec<_>, _>>()?;
    std::thread::scope(|scope| {
        let cannot_start =
            |error| UnreadableReason::new(format!("a thread to open its files cannot be started: {error}"));
        // All threads end when `requests` is dropped, and that is when `write` drops the receiver of the results.
        for mut diff in directories {
            let opener = std::thread::Builder::new().name("opener".to_owned());
            let accepted = Arc::clone(&accepted);
            let opener = opener.spawn_scoped(scope, move || open_batches(&accepted, &mut diff));
            opener.map_err(cannot_start)?;
        }
        drop(accepted);
        let reader = std::thread::Builder::new().name("tar-split".to_owned());
        let reader = reader.spawn_scoped(scope, move || read_batches(gzip, &requests, &results));
        reader.map_err(cannot_start)?;
        write(opened, chunks)
    })
}

/// Reads the tar-split, and gives its batches to the openers.
fn read_batches(
    gzip: impl Read,
    requests: &SyncSender<Request>,
    results: &SyncSender<Result<Receiver<Opened>, UnreadableReason>>,
) {
    let mut entries = TarSplitReader::new(gzip);
    let mut batch = Batch::default();
    // False when the tar is not wanted any more.
    let send = |batch: Batch<()>| {
        let (result, opened) = sync_channel(1);
        results.send(Ok(opened)).is_ok() && requests.send((batch, result)).is_ok()
    };
    let ended = loop {
        match entries.next() {
            Ok(Some(entry)) => {
                if let Err(reason) = batch.add(entry) {
                    break Err(reason);
                }
            }
            Ok(None) => break Ok(()),
            Err(reason) => break Err(reason),
        }
        if batch.is_full() && !send(std::mem::take(&mut batch)) {
            return;
        }
    };
    if send(batch)
        && let Err(reason) = ended
    {
        let _ = results.send(Err(reason));
    }
}

fn open_batches(requests: &Mutex<Receiver<Request>>, diff: &mut ConfinedDirectory) {
    loop {
        let request = requests.lock().unwrap_or_else(PoisonError::into_inner).recv();
        let Ok((batch, result)) = request else { return };
        // This fails only when the receiver was dropped.
        let _ = result.send(batch.open(diff));
    }
}

fn write(results: Results, chunks: &mut Chunks) -> Result<(), Stop> {
    for opened in results {
        // No result: the thread that had to open the files panicked.
        let opened = opened?.recv();
        let Opened { batch, failed } =
            opened.map_err(|_| UnreadableReason::new("a thread that opens its files ended early".to_owned()))?;
        batch.write_to(chunks)?;
        if let Some(reason) = failed {
            return Err(reason.into());
        }
    }
    Ok(())
}

// Sends `size` bytes of a file and returns their CRC-64.
fn copy_file(file: &File, size: u64, chunks: &mut Chunks, name: &[u8]) -> Result<u64, Stop> {
    let mut checksum = crc_fast::Digest::new(Crc64GoIso);
    match chunks.read(file, size, |read| checksum.update(read)) {
        Ok(read) if read == size => Ok(checksum.finalize()),
        Ok(_) => Err(UnreadableReason::new(format!(
            "its file {:?} became shorter while it was read",
            printable_name(name)
        ))
        .into()),
        Err(ReadError::File(error)) => {
            Err(UnreadableReason::new(format!("its file {:?} cannot be read: {error}", printable_name(name))).into())
        }
        Err(ReadError::Stop(stop)) => Err(stop),
    }
}

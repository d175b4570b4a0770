//! Assembles one tar in two threads: one opens the files and asks the disk for them, the other reads and checks them. Most
//! files of an image are small, and reading them one after the other would mostly wait for the disk.

use std::fs::File;
use std::io::Read;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use crc_fast::CrcAlgorithm::Crc64GoIso;

use super::reader::{TarSplitEntry, TarSplitReader};
use crate::source::chunks::{Chunks, ReadError, Stop};
use crate::source::confined_directory::ConfinedDirectory;
use crate::source::read_ahead;
use crate::source::unreadable::{UnreadableReason, printable_name};

/// Files that are open in one batch. A layer has three batches at most: one is filled, one waits, one is read.
const FILES_LIMIT: usize = 32;
/// Bytes of files after which a batch is full: the page cache has to hold them until they are read.
const CONTENT_LIMIT: u64 = 8 * 1024 * 1024;
/// Bytes of segments after which a batch is full; the last segment may exceed it.
const SEGMENTS_LIMIT: usize = 256 * 1024;

/// Consecutive entries of the tar-split.
#[derive(Default)]
struct Batch {
    entries: Vec<BatchEntry>,
    /// The segments of all entries, concatenated.
    segments: Vec<u8>,
    files: usize,
    content: u64,
}

enum BatchEntry {
    /// The length in bytes of the next of the batch's segments.
    Segment(usize),
    File {
        file: File,
        name: Vec<u8>,
        size: u64,
        crc: [u8; 8],
    },
}

impl Batch {
    fn is_full(&self) -> bool {
        self.files >= FILES_LIMIT || self.content >= CONTENT_LIMIT || self.segments.len() >= SEGMENTS_LIMIT
    }

    fn add(&mut self, entry: TarSplitEntry<'_>, diff: &mut ConfinedDirectory) -> Result<(), UnreadableReason> {
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
                let (file, found) = diff.file(&name)?;
                if found != size {
                    let what = format!("its file {:?} has {found} bytes, not {size}", printable_name(&name));
                    return Err(UnreadableReason::new(what));
                }
                read_ahead::prefetch(&file, size);
                self.files += 1;
                self.content = self.content.saturating_add(size);
                self.entries.push(BatchEntry::File {
                    file,
                    name: name.into_owned(),
                    size,
                    crc,
                });
            }
            TarSplitEntry::Empty => {}
        }
        Ok(())
    }

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
/// chunks, so it needs a thread of its own; it starts another.
pub(in crate::source::docker) fn assemble(
    gzip: impl Read + Send,
    diff: &mut ConfinedDirectory,
    chunks: &mut Chunks,
) -> Result<(), Stop> {
    let (batches, opened) = sync_channel(1);
    std::thread::scope(|scope| {
        let opener = std::thread::Builder::new().name("opener".to_owned());
        let opener = opener.spawn_scoped(scope, move || open(gzip, diff, &batches));
        opener
            .map_err(|error| UnreadableReason::new(format!("a thread to open its files cannot be started: {error}")))?;
        // `write` drops the receiver, so that the opener stops when this ends early.
        write(opened, chunks)
    })
}

fn open(gzip: impl Read, diff: &mut ConfinedDirectory, batches: &SyncSender<Result<Batch, UnreadableReason>>) {
    let mut entries = TarSplitReader::new(gzip);
    let mut batch = Batch::default();
    let ended = loop {
        match entries.next() {
            Ok(Some(entry)) => {
                if let Err(reason) = batch.add(entry, diff) {
                    break Err(reason);
                }
            }
            Ok(None) => break Ok(()),
            Err(reason) => break Err(reason),
        }
        if batch.is_full() && batches.send(Ok(std::mem::take(&mut batch))).is_err() {
            return;
        }
    };
    // This fails only when the receiver was dropped.
    if batches.send(Ok(batch)).is_ok()
        && let Err(reason) = ended
    {
        let _ = batches.send(Err(reason));
    }
}

fn write(opened: Receiver<Result<Batch, UnreadableReason>>, chunks: &mut Chunks) -> Result<(), Stop> {
    for batch in opened {
        batch?.write_to(chunks)?;
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

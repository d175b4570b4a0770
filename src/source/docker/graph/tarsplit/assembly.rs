//! Two threads for one tar: the one opens the files and has the disk fetch them, the other reads and checks them. Most
//! files of an image are small, and a disk that is asked for them one after the other mostly waits.

use std::fs::File;
use std::io::Read;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use crc_fast::CrcAlgorithm::Crc64GoIso;

use super::{Piece, Pieces};
use crate::source::chunks::{Chunks, Stop};
use crate::source::confined_directory::ConfinedDirectory;
use crate::source::read_ahead;
use crate::source::unreadable::{UnreadableReason, shown};

/// Files that one batch holds open. Three batches are under way for a layer: one is filled, one waits, one is read.
const FILES: usize = 32;
/// Bytes of files after which a batch is full: what the page cache has to keep until they are read.
const CONTENT: u64 = 8 * 1024 * 1024;
/// Bytes of segments after which a batch is full; the last segment may be longer.
const SEGMENTS: usize = 256 * 1024;

/// Pieces that follow each other.
#[derive(Default)]
struct Batch {
    parts: Vec<Part>,
    /// The segments of all parts, one behind the other.
    segments: Vec<u8>,
    files: usize,
    content: u64,
}

enum Part {
    /// The next so many bytes of the batch's segments.
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
        self.files >= FILES || self.content >= CONTENT || self.segments.len() >= SEGMENTS
    }

    fn take(&mut self, piece: Piece<'_>, diff: &mut ConfinedDirectory) -> Result<(), UnreadableReason> {
        match piece {
            Piece::Segment { base64, .. } => {
                let before = self.segments.len();
                let decoded = STANDARD.decode_vec(base64, &mut self.segments);
                decoded.map_err(|error| {
                    UnreadableReason::new(format!("a payload of its tar-split is no base64: {error}"))
                })?;
                self.parts.push(Part::Segment(self.segments.len() - before));
            }
            Piece::File { name, size, crc } => {
                let (file, found) = diff.file(&name)?;
                if found != size {
                    let what = format!("its file {:?} has {found} bytes, not {size}", shown(&name));
                    return Err(UnreadableReason::new(what));
                }
                read_ahead::soon(&file, size);
                self.files += 1;
                self.content = self.content.saturating_add(size);
                self.parts.push(Part::File {
                    file,
                    name: name.into_owned(),
                    size,
                    crc,
                });
            }
            Piece::Nothing => {}
        }
        Ok(())
    }

    fn pour(self, chunks: &mut Chunks) -> Result<(), Stop> {
        let mut segments = self.segments.as_slice();
        for part in self.parts {
            match part {
                Part::Segment(length) => {
                    let (segment, rest) = segments.split_at(length);
                    segments = rest;
                    chunks.write(segment)?;
                }
                Part::File { file, name, size, crc } => {
                    let checksum = pass(&file, size, chunks, &name)?;
                    if checksum.to_be_bytes() != crc {
                        let what = format!("its file {:?} was changed: its checksum is another", shown(&name));
                        return Err(UnreadableReason::new(what).into());
                    }
                }
            }
        }
        Ok(())
    }
}

/// Assembles the tar that `gzip` describes from the files in `diff`, each checked as it passes. Waits for
/// whoever takes the chunks, so it needs a thread of its own; it starts another.
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
        // Taken along, so that the opener is not waited for when this ends early.
        pour(opened, chunks)
    })
}

fn open(gzip: impl Read, diff: &mut ConfinedDirectory, batches: &SyncSender<Result<Batch, UnreadableReason>>) {
    let mut pieces = Pieces::new(gzip);
    let mut batch = Batch::default();
    let ended = loop {
        match pieces.next() {
            Ok(Some(piece)) => {
                if let Err(doubt) = batch.take(piece, diff) {
                    break Err(doubt);
                }
            }
            Ok(None) => break Ok(()),
            Err(doubt) => break Err(doubt),
        }
        if batch.is_full() && batches.send(Ok(std::mem::take(&mut batch))).is_err() {
            return;
        }
    };
    // Nobody listens any more when this fails, and then nobody needs it.
    if batches.send(Ok(batch)).is_ok()
        && let Err(doubt) = ended
    {
        let _ = batches.send(Err(doubt));
    }
}

fn pour(opened: Receiver<Result<Batch, UnreadableReason>>, chunks: &mut Chunks) -> Result<(), Stop> {
    for batch in opened {
        batch?.pour(chunks)?;
    }
    Ok(())
}

// Hands `size` bytes of a file on and returns their CRC-64.
fn pass(file: &File, size: u64, chunks: &mut Chunks, name: &[u8]) -> Result<u64, Stop> {
    let mut checksum = crc_fast::Digest::new(Crc64GoIso);
    match chunks.read(file, size, |read| checksum.update(read))? {
        Ok(read) if read == size => Ok(checksum.finalize()),
        Ok(_) => {
            Err(UnreadableReason::new(format!("its file {:?} became shorter while it was read", shown(name))).into())
        }
        Err(error) => Err(UnreadableReason::new(format!("its file {:?} cannot be read: {error}", shown(name))).into()),
    }
}

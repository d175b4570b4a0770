//! Compression of streamed layers: on every core, in bounded memory, with the same bytes for the same content, however
//! it was split and however many threads there are.
//!
//! The content is split into blocks of 256 KiB. Each block is compressed separately, outside the async threads, and the
//! results are sent in order. gzip is one member, as pigz writes it (each block deflated and ended by a sync flush, one
//! checksum over all), which readers that stop after the first member understand too. zstd is one frame for each block.
//! A blob always has one block in progress and at most eight; all further blocks share one budget of the process. A
//! blob takes from that budget only without waiting, so no blob waits for the network of another. Encoders share one
//! queue for blocks and return each block at its actual length.
//!
//! zstd is the default: in total it is the fastest for push and pull at 1 Gbit/s and on loopback
//! (`docs/benchmarks.md`).
//!
//! Content that does not get shorter is stored uncompressed: the hash of the compressed form of 5 GB of random bytes
//! would take as long as the hash of the content. `sample` decides by four pieces of 64 KiB from the first MiB of a
//! layer, whatever the source; more would have to be buffered for each layer. The layer is annotated with the encoder
//! that rejected it, so it is not mistaken for a layer that was stored with `None`.
//!
//! The digest of a compressed layer is not known before the layer is read. If no manifest under the tag names it, the
//! layer is compressed and sent again, and the registry stores it once. Tests that nothing is sent twice therefore run
//! with `None`.
//!
//! The stored blob of a layer is found in the manifest under the image's tag in the destination, not in a cache: its
//! configuration lists the uncompressed digests, its layers the compressed ones. The manifest is trusted only if it is
//! byte for byte what this code would make of these layers, each annotated with its encoder (`dev.jackal.encoding`). So
//! another tool's gzip of the same layer is never used, and digests depend on the content only. A HEAD request checks
//! the blob itself. A new encoder, or changed output of a library, gets a new number in the annotation, and the layer
//! is sent once more.

mod encode;
mod sample;

use std::collections::VecDeque;
use std::sync::{Arc, LazyLock};

use bytes::{Bytes, BytesMut};
use futures::StreamExt as _;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_util::task::AbortOnDropHandle;

use self::encode::{Encoded, Idle, head, tail};
pub(super) use self::sample::{SAMPLE, pays};
use crate::fault::{Fault, Reason};
use crate::oci::Compression;
use crate::source::ByteStream;

/// The size of a block in bytes. 200 MB of programs and libraries are compressed by gzip to 45.4 % with this size and to
/// 45.2 % with 4 MiB, by zstd to 36.3 % with both: its tables for short inputs fit a core's cache. Changing it changes the
/// compressed bytes; see [`Compression::layer`].
const BLOCK: usize = 256 * 1024;
/// The most blocks of one blob in progress, and the most threads that compress.
const PARALLEL: usize = 8;

/// The limits that all blobs share.
struct Limits {
    /// The most blocks of one blob in progress.
    blocks: usize,
    /// Permits for threads that compress.
    threads: Arc<Semaphore>,
    /// Permits for blocks in progress, besides the first of each blob.
    ahead: Arc<Semaphore>,
    /// Encoders that no thread uses. Each has about 1 MB, so that blobs do not have encoders of their own.
    idle: Arc<Idle>,
}

impl Limits {
    fn of(threads: usize) -> Self {
        let threads = threads.clamp(1, PARALLEL);
        Self {
            // One more than there are threads, so that none is idle while a block is returned.
            blocks: (threads + 1).min(PARALLEL),
            threads: Arc::new(Semaphore::new(threads)),
            ahead: Arc::new(Semaphore::new(threads * 2)),
            idle: Arc::default(),
        }
    }
}

static LIMITS: LazyLock<Limits> =
    LazyLock::new(|| Limits::of(std::thread::available_parallelism().map_or(1, usize::from)));

/// `content` compressed; unchanged for [`Compression::None`].
pub(super) fn compress(content: ByteStream<'_>, compression: Compression) -> ByteStream<'_> {
    compress_with_limits(content, compression, &LIMITS)
}

fn compress_with_limits<'a>(content: ByteStream<'a>, compression: Compression, limits: &'a Limits) -> ByteStream<'a> {
    if compression == Compression::None {
        return content;
    }
    let compressor = Compressor {
        content: Some(content),
        compression,
        limits,
        filling: BytesMut::new(),
        running: VecDeque::new(),
        checksum: crc32fast::Hasher::new(),
        length: 0,
        first: true,
    };
    futures::stream::try_unfold(Some(compressor), |compressor| async move {
        let Some(mut compressor) = compressor else {
            return Ok(None);
        };
        match compressor.next().await? {
            Some(bytes) => Ok(Some((bytes, Some(compressor)))),
            None => {
                let end = tail(compressor.compression, compressor.checksum, compressor.length);
                Ok((!end.is_empty()).then_some((end, None)))
            }
        }
    })
    .boxed()
}

/// The compression of one content.
struct Compressor<'a> {
    /// `None` after its end.
    content: Option<ByteStream<'a>>,
    compression: Compression,
    limits: &'a Limits,
    /// The incomplete block.
    filling: BytesMut,
    /// The blocks in progress, in order.
    running: VecDeque<RunningBlock>,
    /// The checksum and length of the content that was returned compressed.
    checksum: crc32fast::Hasher,
    length: u64,
    first: bool,
}

struct RunningBlock {
    /// A task, so that it releases its thread permit also while nobody polls the stream.
    task: AbortOnDropHandle<Result<Encoded, Fault>>,
    length: u64,
    /// `None` for a block that started when its blob had no other block in progress.
    _ahead: Option<OwnedSemaphorePermit>,
}

impl RunningBlock {
    /// Waits for the compressed block.
    async fn encoded(&mut self) -> Result<Encoded, Fault> {
        (&mut self.task).await.map_err(failed)?
    }
}

impl Compressor<'_> {
    /// The next compressed bytes; `None` after the last block.
    async fn next(&mut self) -> Result<Option<Bytes>, Fault> {
        loop {
            let may_start = self.running.len() < self.limits.blocks;
            match (&mut self.content, self.running.front_mut()) {
                (None, None) => return Ok(None),
                (Some(content), None) => {
                    let chunk = content.next().await.transpose()?;
                    self.add(chunk)?;
                }
                (Some(content), Some(head)) if may_start && self.filling.len() < BLOCK => tokio::select! {
                    biased;
                    block = head.encoded() => return self.returned(block?).map(Some),
                    chunk = content.next() => {
                        let chunk = chunk.transpose()?;
                        self.add(chunk)?;
                    }
                },
                (_, Some(head)) => {
                    let block = head.encoded().await?;
                    return self.returned(block).map(Some);
                }
            }
        }
    }

    /// Adds a chunk to the incomplete block; `None` ends the content.
    fn add(&mut self, chunk: Option<Bytes>) -> Result<(), Fault> {
        match chunk {
            Some(chunk) => {
                if self.filling.is_empty() {
                    self.filling.reserve(BLOCK);
                }
                self.filling.extend_from_slice(&chunk);
            }
            None => self.content = None,
        }
        self.start_blocks()
    }

    /// Starts complete blocks, as far as the limits allow.
    fn start_blocks(&mut self) -> Result<(), Fault> {
        loop {
            let ended = self.content.is_none();
            let is_empty = self.first && ended;
            let due = self.filling.len() >= BLOCK || ended && !self.filling.is_empty() || is_empty;
            if !due || self.running.len() >= self.limits.blocks {
                return Ok(());
            }
            let ahead = match self.running.is_empty() {
                true => None,
                false => match self.limits.ahead.clone().try_acquire_owned() {
                    Ok(permit) => Some(permit),
                    Err(_) => return Ok(()),
                },
            };
            let length = self.filling.len().min(BLOCK);
            let block = self.filling.split_to(length).freeze();
            let (threads, idle) = (Arc::clone(&self.limits.threads), Arc::clone(&self.limits.idle));
            let compression = self.compression;
            let task = tokio::spawn(async move {
                let _thread = threads.acquire_owned().await.map_err(failed)?;
                let encoded = tokio::task::spawn_blocking(move || {
                    let mut encoder = idle.take(compression)?;
                    let encoded = encoder.encode(&block)?;
                    idle.put(encoder);
                    Ok::<_, std::io::Error>(encoded)
                });
                encoded.await.map_err(failed)?.map_err(failed)
            });
            self.first = false;
            self.running.push_back(RunningBlock {
                task: AbortOnDropHandle::new(task),
                length: length as u64,
                _ahead: ahead,
            });
        }
    }

    /// The bytes to return for the first block in progress, which is `encoded`.
    fn returned(&mut self, encoded: Encoded) -> Result<Bytes, Fault> {
        self.checksum.combine(&encoded.checksum);
        let first = self.length == 0;
        self.length += self.running.pop_front().map_or(0, |block| block.length);
        self.start_blocks()?;
        match first.then(|| head(self.compression)).filter(|head| !head.is_empty()) {
            Some(head) => Ok([head, encoded.bytes].concat().into()),
            None => Ok(encoded.bytes),
        }
    }
}

fn failed(error: impl std::fmt::Display) -> Fault {
    Fault::retryable(Reason::SourceFailed, format!("compressing a layer failed: {error}"))
}

#[cfg(test)]
mod tests;

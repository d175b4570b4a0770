//! A tar that is compressed as one stream: it can be decompressed from its beginning alone.

use std::collections::BTreeMap;
use std::io::{self, Read};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use flate2::read::MultiGzDecoder;
use futures::StreamExt as _;
use futures::stream::{self, try_unfold};

use super::input::{FromStart, RandomAccess};
use super::read::WINDOW_LOG;
use super::tar_content::{TarContent, blocking};
use crate::source::ByteStream;

/// Bytes that are decompressed at once.
const CHUNK: usize = 256 << 10;
/// The most bytes that are passed over before the consumer is asked whether it still wants what follows.
const SKIP: u64 = 64 << 20;
/// The most bytes of documents that are kept.
const KEPT: usize = 32 << 20;
/// Bytes that any file may decompress to.
const FREE: u64 = 64 << 30;
/// The most bytes of content for each compressed byte, beyond [`FREE`].
const RATIO: u64 = 1000;

/// How the stream is compressed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StreamCompression {
    /// gzip (RFC 1952), one member or several.
    Gzip,
    /// Zstandard (RFC 8878), one frame or several.
    Zstd,
}

/// A compressed tar without a seek table. A read continues where the last one ended, if it is behind that, so reads in the order
/// of offsets decompress the file once.
pub struct StreamTar {
    shared: Arc<Shared>,
    kept: Mutex<Kept>,
}

struct Shared {
    input: Arc<dyn RandomAccess>,
    compression: StreamCompression,
    /// The decoder that no read uses.
    idle: Mutex<Option<Cursor>>,
}

/// Documents by their offsets.
#[derive(Default)]
struct Kept {
    documents: BTreeMap<u64, Bytes>,
    length: usize,
}

impl Kept {
    /// The bytes from `offset`, if all `length` of them are kept.
    fn get(&self, offset: u64, length: u64) -> Option<Bytes> {
        let (begin, document) = self.documents.range(..=offset).next_back()?;
        let begin = usize::try_from(offset - begin).ok()?;
        let end = begin.checked_add(usize::try_from(length).ok()?)?;
        (end <= document.len()).then(|| document.slice(begin..end))
    }
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl StreamTar {
    /// The tar in `input`.
    pub fn new(input: Arc<dyn RandomAccess>, compression: StreamCompression) -> Self {
        Self {
            shared: Arc::new(Shared {
                input,
                compression,
                idle: Mutex::new(None),
            }),
            kept: Mutex::default(),
        }
    }
}

impl TarContent for StreamTar {
    fn read(&self, offset: u64, length: u64) -> ByteStream<'static> {
        if let Some(kept) = locked(&self.kept).get(offset, length) {
            return stream::once(async move { Ok(kept) }).boxed();
        }
        let end = offset.saturating_add(length);
        let shared = Arc::clone(&self.shared);
        try_unfold((None, offset), move |(mut lease, at)| {
            let shared = Arc::clone(&shared);
            async move {
                if at >= end {
                    return Ok(None);
                }
                loop {
                    let shared = Arc::clone(&shared);
                    let (returned, step) = blocking(move || {
                        let mut lease = match lease {
                            Some(lease) => lease,
                            None => Lease::take(shared, at)?,
                        };
                        let step = lease.step(at, end)?;
                        Ok((lease, step))
                    })
                    .await?;
                    match step {
                        Step::Bytes(bytes) => {
                            let at = at + bytes.len() as u64;
                            return Ok(Some((bytes, (Some(returned), at))));
                        }
                        Step::Skipped => lease = Some(returned),
                        Step::End => return Ok(None),
                    }
                }
            }
        })
        .boxed()
    }

    fn is_sequential(&self) -> bool {
        true
    }

    fn keep(&self, offset: u64, content: Bytes) {
        let mut kept = locked(&self.kept);
        if kept.length + content.len() <= KEPT {
            kept.length += content.len();
            kept.documents.insert(offset, content);
        }
    }
}

/// A decoder at some offset of the tar.
struct Cursor {
    decoder: Box<dyn Read + Send>,
    consumed: Arc<AtomicU64>,
    /// The last bytes that were decompressed, which may be asked for again.
    chunk: Bytes,
    /// The offset of the first byte after `chunk`.
    position: u64,
}

enum Step {
    Bytes(Bytes),
    /// The offset is not reached yet.
    Skipped,
    End,
}

impl Cursor {
    fn open(shared: &Shared) -> io::Result<Self> {
        let input = FromStart::new(Arc::clone(&shared.input));
        let consumed = input.position();
        let input = io::BufReader::with_capacity(CHUNK, input);
        let decoder: Box<dyn Read + Send> = match shared.compression {
            StreamCompression::Gzip => Box::new(MultiGzDecoder::new(input)),
            StreamCompression::Zstd => {
                let mut decoder = zstd::stream::read::Decoder::with_buffer(input)?;
                decoder.window_log_max(WINDOW_LOG)?;
                Box::new(decoder)
            }
        };
        Ok(Self {
            decoder,
            consumed,
            chunk: Bytes::new(),
            position: 0,
        })
    }

    /// The first offset that can still be read.
    fn begin(&self) -> u64 {
        self.position - self.chunk.len() as u64
    }

    /// The next bytes from `at`, which is not before [`Self::begin`], and before `end`.
    fn step(&mut self, at: u64, end: u64) -> io::Result<Step> {
        let limit = self.position.saturating_add(SKIP);
        let mut buffer = Vec::new();
        while self.position <= at {
            if self.position >= limit {
                return Ok(Step::Skipped);
            }
            buffer.resize(CHUNK, 0);
            let length = fill(&mut *self.decoder, &mut buffer)?;
            self.chunk = Bytes::new();
            self.position += length as u64;
            let consumed = self.consumed.load(Ordering::Relaxed);
            if self.position > FREE.saturating_add(consumed.saturating_mul(RATIO)) {
                return Err(io::Error::other(format!(
                    "it decompresses to more than {RATIO} times its length"
                )));
            }
            match length {
                0 => return Ok(Step::End),
                _ if self.position > at => {
                    buffer.truncate(length);
                    self.chunk = std::mem::take(&mut buffer).into();
                }
                _ => {}
            }
        }
        let begin = self.begin();
        // Both lie within the chunk.
        let from = usize::try_from(at - begin).unwrap_or_default();
        let to = usize::try_from(end.min(self.position) - begin).unwrap_or_default();
        Ok(Step::Bytes(self.chunk.slice(from..to)))
    }
}

fn fill(decoder: &mut dyn Read, buffer: &mut [u8]) -> io::Result<usize> {
    let mut filled = 0;
    while filled < buffer.len() {
        match decoder.read(&mut buffer[filled..]) {
            Ok(0) => break,
            Ok(length) => filled += length,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => {
                return Err(io::Error::new(
                    error.kind(),
                    format!("it cannot be decompressed: {error}"),
                ));
            }
        }
    }
    Ok(filled)
}

/// A decoder that one read uses; afterwards another one may.
struct Lease {
    shared: Arc<Shared>,
    cursor: Option<Cursor>,
}

impl Lease {
    /// A decoder that is not behind `at` yet.
    fn take(shared: Arc<Shared>, at: u64) -> io::Result<Self> {
        let idle = locked(&shared.idle).take_if(|cursor| cursor.begin() <= at);
        let cursor = match idle {
            Some(cursor) => cursor,
            None => Cursor::open(&shared)?,
        };
        Ok(Self {
            shared,
            cursor: Some(cursor),
        })
    }

    fn step(&mut self, at: u64, end: u64) -> io::Result<Step> {
        match &mut self.cursor {
            Some(cursor) => cursor.step(at, end).inspect_err(|_| self.cursor = None),
            None => Ok(Step::End),
        }
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        if let Some(cursor) = self.cursor.take() {
            *locked(&self.shared.idle) = Some(cursor);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;
    use std::sync::atomic::AtomicUsize;

    use super::*;
    use crate::archive::testing::{Memory, gzip};

    fn content() -> Vec<u8> {
        (0..800_000_u32).flat_map(u32::to_le_bytes).collect()
    }

    async fn all(tar: &dyn TarContent, offset: u64, length: u64) -> Vec<u8> {
        let pieces: Vec<Bytes> = tar.read(offset, length).map(Result::unwrap).collect().await;
        pieces.concat()
    }

    fn tars(content: &[u8]) -> Vec<StreamTar> {
        let zstd = zstd::bulk::compress(content, 3).unwrap();
        vec![
            StreamTar::new(Arc::new(Memory(gzip(content))), StreamCompression::Gzip),
            StreamTar::new(Arc::new(Memory(zstd)), StreamCompression::Zstd),
        ]
    }

    #[tokio::test]
    async fn every_range_is_read_in_any_order() {
        let content = content();
        let length = content.len();
        for tar in tars(&content) {
            for (begin, end) in [
                (CHUNK - 1, CHUNK + 1),
                (0, length),
                (5, 5),
                (length - 1, length + 9),
                (3, 4),
                (2 * CHUNK, 3 * CHUNK),
                (length + 1, length + 2),
            ] {
                let expected = &content[begin.min(length)..end.min(length)];
                assert!(
                    all(&tar, begin as u64, (end - begin) as u64).await == expected,
                    "{begin}..{end}"
                );
            }
        }
    }

    struct Counted(Memory, AtomicUsize);

    impl RandomAccess for Counted {
        fn length(&self) -> u64 {
            self.0.length()
        }

        fn read_exact_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()> {
            self.1.fetch_add(buffer.len(), Ordering::Relaxed);
            self.0.read_exact_at(buffer, offset)
        }
    }

    #[tokio::test]
    async fn reads_in_order_decompress_once() {
        let content = content();
        let file = zstd::bulk::compress(&content, 3).unwrap();
        let length = file.len();
        let input = Arc::new(Counted(Memory(file), AtomicUsize::new(0)));
        let tar = StreamTar::new(Arc::<Counted>::clone(&input), StreamCompression::Zstd);
        for at in (0..content.len()).step_by(100_003) {
            // A stream that is not read to its end gives its decoder back too.
            let mut read = tar.read(at as u64, u64::MAX);
            let first = read.next().await.unwrap().unwrap();
            assert!(content[at..].starts_with(&first));
        }
        assert!(input.1.load(Ordering::Relaxed) <= length);
        tar.keep(7, Bytes::copy_from_slice(&content[7..90]));
        let before = input.1.load(Ordering::Relaxed);
        assert!(all(&tar, 17, 33).await == content[17..50]);
        assert_eq!(input.1.load(Ordering::Relaxed), before);
    }

    #[tokio::test]
    async fn damage_is_an_error() {
        let content = content();
        let mut file = zstd::bulk::compress(&content, 3).unwrap();
        file.truncate(file.len() / 2);
        let tar = StreamTar::new(Arc::new(Memory(file)), StreamCompression::Zstd);
        let read: Vec<_> = tar.read(0, u64::MAX).collect().await;
        assert!(read.iter().any(Result::is_err));
        // A window of 256 MiB.
        let mut encoder = zstd::stream::Encoder::new(Vec::new(), 1).unwrap();
        encoder.window_log(28).unwrap();
        encoder.write_all(&content).unwrap();
        let file = encoder.finish().unwrap();
        let tar = StreamTar::new(Arc::new(Memory(file)), StreamCompression::Zstd);
        let fault = tar.read(0, 1).next().await.unwrap().unwrap_err();
        assert!(fault.message.contains("cannot be decompressed"), "{fault}");
    }
}

//! Deliveries to the seed's own server, over connections that break.

use std::net::{SocketAddr, TcpListener};
use std::pin::Pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, mpsc};
use std::task::{Context, Poll, ready};
use std::time::Duration;
use std::{fs, io, thread};

use async_trait::async_trait;
use bytes::Bytes;
use jackal_seed::Store;
use tempfile::TempDir;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio_util::sync::CancellationToken;

use super::deliver::{Connect, deliver_by};
use super::{SeedFile, file_list};
use crate::fault::{Fault, Reason};
use crate::oci::Digest;
use crate::transfer::Progress;

fn file(name: &str, content: Vec<u8>) -> SeedFile {
    SeedFile {
        name: name.to_owned(),
        size: content.len() as u64,
        digest: Digest::of(&content),
        content: Arc::new(Bytes::from(content)),
    }
}

fn files() -> Vec<SeedFile> {
    vec![
        file(
            "layout/blobs/sha256/abc",
            (0..2_000_000_u32).map(|n| (n >> 5) as u8).collect(),
        ),
        file("jackal-operator", (0..500_000_u32).map(|n| (n >> 3) as u8).collect()),
        file("layout/empty", Vec::new()),
    ]
}

/// A seed that runs in this process.
struct Seed {
    directory: TempDir,
    address: SocketAddr,
    complete: mpsc::Receiver<()>,
}

impl Seed {
    fn start(files: &[SeedFile]) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let (_, digest) = file_list(files).unwrap();
        let digest = jackal_seed::file_list::parse_hex(digest.hex()).unwrap();
        let store = Store::open(directory.path(), digest).unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let (sender, complete) = mpsc::channel();
        thread::spawn(move || {
            jackal_seed::receive(listener, store, Duration::from_secs(60)).unwrap();
            let _ = sender.send(());
        });
        Self {
            directory,
            address,
            complete,
        }
    }

    fn assert_complete(&self, files: &[SeedFile]) {
        self.complete.recv_timeout(Duration::from_secs(20)).unwrap();
        for file in files {
            let content = fs::read(self.directory.path().join(&file.name)).unwrap();
            assert_eq!(Digest::of(&content), file.digest, "{}", file.name);
        }
    }
}

/// Connects to a seed by connections that break after so many written bytes, one after the other; the last do not break.
struct Breaking {
    address: SocketAddr,
    after: Vec<usize>,
    used: AtomicUsize,
}

impl Breaking {
    fn new(seed: &Seed, after: &[usize]) -> Self {
        Self {
            address: seed.address,
            after: after.to_vec(),
            used: AtomicUsize::new(0),
        }
    }
}

struct BreakingStream {
    stream: TcpStream,
    left: usize,
}

#[async_trait]
impl Connect for Breaking {
    type Stream = BreakingStream;

    async fn connect(&self) -> Result<BreakingStream, Fault> {
        let used = self.used.fetch_add(1, Ordering::Relaxed);
        let stream = TcpStream::connect(self.address).await;
        let stream = stream.map_err(|error| Fault::retryable(Reason::PushFailed, error.to_string()))?;
        let left = self.after.get(used).copied().unwrap_or(usize::MAX);
        Ok(BreakingStream { stream, left })
    }
}

impl AsyncRead for BreakingStream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(context, buffer)
    }
}

impl AsyncWrite for BreakingStream {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let length = bytes.len().min(self.left);
        if length == 0 && !bytes.is_empty() {
            ready!(Pin::new(&mut self.stream).poll_shutdown(context))?;
            return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()));
        }
        let written = ready!(Pin::new(&mut self.stream).poll_write(context, &bytes[..length]))?;
        self.left -= written;
        Poll::Ready(Ok(written))
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}

#[tokio::test]
async fn a_delivery_continues_within_a_file_after_each_break() {
    let files = files();
    let seed = Seed::start(&files);
    let to = Breaking::new(&seed, &[0, 3, 100, 300_000, 500_000, 700_000]);
    let progress = Progress::default();
    let stop = CancellationToken::new();
    deliver_by(&to, &files, &progress, &stop).await.unwrap();
    seed.assert_complete(&files);
    assert_eq!(to.used.load(Ordering::Relaxed), 7);
    assert_eq!(progress.done(), 2_500_000);
    // What the seed had when a connection broke was not sent again. Pieces that broke are not counted.
    assert!(progress.moved() <= 2_500_000, "{}", progress.moved());
}

#[tokio::test]
async fn a_repetition_sends_nothing() {
    let files = files();
    let seed = Seed::start(&files);
    let stop = CancellationToken::new();
    deliver_by(&Breaking::new(&seed, &[]), &files, &Progress::default(), &stop)
        .await
        .unwrap();
    let progress = Progress::default();
    deliver_by(&Breaking::new(&seed, &[]), &files, &progress, &stop)
        .await
        .unwrap();
    assert_eq!((progress.done(), progress.moved()), (2_500_000, 0));
}

#[tokio::test]
async fn content_with_another_digest_is_sent_twice_at_most() {
    let mut files = files();
    files[1].content = Arc::new(Bytes::from(vec![0; 500_000]));
    let seed = Seed::start(&files);
    let to = Breaking::new(&seed, &[]);
    let fault = deliver_by(&to, &files, &Progress::default(), &CancellationToken::new())
        .await
        .unwrap_err();
    assert!(fault.is_stalled() && fault.reason == Reason::DigestMismatch, "{fault}");
    assert!(fault.message.contains("jackal-operator arrived"), "{fault}");
    assert_eq!(to.used.load(Ordering::Relaxed), 2);
}

#[tokio::test]
async fn content_that_is_too_short_is_a_fault_of_the_archive() {
    let mut files = files();
    files[1].content = Arc::new(Bytes::from(vec![0; 7]));
    let seed = Seed::start(&files);
    let to = Breaking::new(&seed, &[]);
    let fault = deliver_by(&to, &files, &Progress::default(), &CancellationToken::new())
        .await
        .unwrap_err();
    assert!(fault.is_stalled() && fault.reason == Reason::SourceFailed, "{fault}");
}

#[tokio::test]
async fn the_seed_of_another_archive_is_refused() {
    let files = files();
    let seed = Seed::start(&files[..1]);
    let to = Breaking::new(&seed, &[]);
    let fault = deliver_by(&to, &files, &Progress::default(), &CancellationToken::new())
        .await
        .unwrap_err();
    assert!(
        fault.is_stalled() && fault.message.contains("another archive"),
        "{fault}"
    );
}

#[tokio::test]
async fn a_delivery_ends_when_it_is_stopped() {
    let files = files();
    let seed = Seed::start(&files);
    let to = Breaking {
        address: "127.0.0.1:9".parse().unwrap(),
        ..Breaking::new(&seed, &[])
    };
    let stop = CancellationToken::new();
    stop.cancel();
    let fault = deliver_by(&to, &files, &Progress::default(), &stop).await.unwrap_err();
    assert!(!fault.is_stalled() && fault.message.contains("interrupted"), "{fault}");
}

#[test]
fn names_and_digests_of_the_list_are_checked() {
    let escape = file_list(&[file("../escape", Vec::new())]).unwrap_err();
    assert!(escape.is_stalled() && escape.message.contains("../escape"), "{escape}");
    let mut other = file("a", Vec::new());
    other.digest = format!("sha512:{}", "0".repeat(128)).parse().unwrap();
    assert!(file_list(&[other]).unwrap_err().message.contains("not SHA-256"));
    let (one, digest) = file_list(&[file("a", vec![1]), file("b", Vec::new())]).unwrap();
    assert_eq!(
        file_list(&[file("b", Vec::new()), file("a", vec![1])]).unwrap(),
        (one, digest)
    );
}

use std::sync::atomic::{AtomicUsize, Ordering};

use futures::TryStreamExt as _;

use super::*;

/// Content that counts how often it is read, and may announce a wrong length.
struct Counted {
    content: &'static str,
    length: u64,
    opened: AtomicUsize,
}

#[async_trait]
impl EntrySource for Counted {
    async fn open(&self) -> Result<(u64, ByteStream<'static>), Fault> {
        self.opened.fetch_add(1, Ordering::Relaxed);
        let content = Bytes::from_static(self.content.as_bytes());
        // In two chunks, as from a network.
        let pieces = [content.slice(..1), content.slice(1..)].map(Ok);
        Ok((self.length, stream::iter(pieces).boxed()))
    }
}

fn counted(content: &'static str) -> Arc<Counted> {
    Arc::new(Counted {
        content,
        length: content.len() as u64,
        opened: AtomicUsize::new(0),
    })
}

fn entry(path: &str, mode: u32, origin: &Arc<Counted>) -> Entry {
    Entry {
        path: path.to_owned(),
        mode,
        identity: Digest::of(origin.content.as_bytes()),
        origin: Arc::clone(origin) as Arc<dyn EntrySource>,
    }
}

fn archive(entries: Vec<Entry>) -> Archive {
    Archive {
        path: "components/app.tar".to_owned(),
        entries,
    }
}

async fn bytes(archive: &Archive) -> Result<Vec<u8>, Fault> {
    let add = |mut all: Vec<u8>, part: Bytes| async move {
        all.extend_from_slice(&part);
        Ok(all)
    };
    archive.stream().try_fold(Vec::new(), add).await
}

#[tokio::test]
async fn the_tar_is_readable_by_a_standard_reader() {
    let long = format!("app/files/0/{}", "x".repeat(150));
    let (one, two) = (counted("hello"), counted(&"0123456789abcdef"[..16]));
    let archive = archive(vec![
        entry("app/manifests/a.yaml", 0o644, &one),
        entry(&long, 0o755, &two),
    ]);
    let tar = bytes(&archive).await.unwrap();
    assert_eq!(tar.len() % 512, 0);
    assert_eq!(bytes(&archive).await.unwrap(), tar, "the same each time");
    let mut read = tokio_tar::Archive::new(&tar[..]);
    let mut entries = read.entries().unwrap();
    let mut found = Vec::new();
    while let Some(mut file) = entries.try_next().await.unwrap() {
        let mut text = String::new();
        tokio::io::AsyncReadExt::read_to_string(&mut file, &mut text)
            .await
            .unwrap();
        let path = file.path().unwrap().display().to_string();
        found.push((
            path,
            file.header().mode().unwrap(),
            file.header().mtime().unwrap(),
            text,
        ));
    }
    assert_eq!(
        found,
        [
            ("app/manifests/a.yaml".to_owned(), 0o644, 0, "hello".to_owned()),
            (long, 0o755, 0, "0123456789abcdef".to_owned()),
        ]
    );
}

#[tokio::test]
async fn content_of_another_length_is_a_fault() {
    for (length, what) in [(4, "is longer"), (6, "is shorter")] {
        let origin = Arc::new(Counted {
            content: "hello",
            length,
            opened: AtomicUsize::new(0),
        });
        let fault = bytes(&archive(vec![entry("app/x", 0o644, &origin)])).await.unwrap_err();
        assert!(fault.message.starts_with(&format!("`app/x` {what}")), "{fault}");
    }
}

#[test]
fn inputs_differ_if_the_tar_differs() {
    let (one, two) = (counted("one"), counted("two"));
    let inputs = |entries: Vec<Entry>| archive(entries).inputs();
    let plain = inputs(vec![entry("a", 0o644, &one), entry("b", 0o644, &two)]);
    assert_eq!(plain, inputs(vec![entry("a", 0o644, &one), entry("b", 0o644, &two)]));
    for other in [
        vec![entry("b", 0o644, &two), entry("a", 0o644, &one)],
        vec![entry("a", 0o755, &one), entry("b", 0o644, &two)],
        vec![entry("a", 0o644, &two), entry("b", 0o644, &one)],
        vec![entry("a", 0o644, &one), entry("c", 0o644, &two)],
        vec![entry("a", 0o644, &one)],
        vec![entry(&format!("a\n644 {} 1 b", Digest::of(b"two")), 0o644, &one)],
    ] {
        assert_ne!(inputs(other), plain);
    }
}

use tokio_tar::EntryType;

use super::*;
use crate::archive::testing::{Memory, Tar, gzip};

async fn fault(bytes: Vec<u8>) -> Fault {
    contents_of(Arc::new(Memory(bytes))).await.err().unwrap()
}

#[tokio::test]
async fn what_is_no_archive_is_refused() {
    let sparse = Tar::default().entry(EntryType::GNUSparse, "a", 0).end();
    let tar = Tar::default().file("a", b"content").end();
    for (bytes, expected) in [
        (Vec::new(), "it is too short"),
        (b"PK\x03\x04 and more".to_vec(), "is not a tar"),
        (vec![0; 4096], "is not a tar"),
        (b"\xfd7zXZ\0 and more".to_vec(), "decompress it by xz first"),
        (b"BZh9 and more".to_vec(), "decompress it by bzip2 first"),
        (gzip(b"text"), "is not a complete tar"),
        (gzip(&tar)[..30].to_vec(), "it ends early"),
        (tar[..600].to_vec(), "it is cut off"),
        (tar[..1536].to_vec(), "its end is incomplete"),
        (
            tar.clone(),
            "it has no zarf.yaml, jackal.yaml, index.json or manifest.json",
        ),
        (sparse, "it has a sparse file"),
        (
            Tar::default().entry(EntryType::Regular, "index.json", 8 << 30).end(),
            "it is cut off",
        ),
    ] {
        let fault = fault(bytes).await;
        assert!(
            fault.is_stalled() && fault.message.contains(expected),
            "{expected}: {fault}"
        );
    }
}

#[tokio::test]
async fn a_hundred_thousand_files_are_listed() {
    let index = br#"{"schemaVersion":2,"manifests":[]}"#;
    let tar = Tar::default().file("index.json", index);
    let tar = (0..100_000).fold(tar, |tar, number| tar.file(&format!("blobs/sha256/{number}"), b"{}"));
    let tar = tar.end();
    let bytes = zstd::bulk::compress(&tar, 1).unwrap();
    let contents = contents_of(Arc::new(Memory(bytes))).await.unwrap();
    assert!(contents.images.is_empty());
}

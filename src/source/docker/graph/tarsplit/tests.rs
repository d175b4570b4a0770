use std::io::Write as _;
use std::path::Path;

use bytes::Bytes;
use crc_fast::CrcAlgorithm::Crc64GoIso;
use flate2::Compression;
use flate2::write::GzEncoder;
use tokio::sync::mpsc;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use super::reader::LINE_LIMIT;
use super::{assemble, length};
use crate::source::chunks::{Chunks, Stop};
use crate::source::confined_directory::ConfinedDirectory;
use crate::source::unreadable::UnreadableReason;

fn gzip(lines: &str) -> Vec<u8> {
    let mut gzip = GzEncoder::new(Vec::new(), Compression::fast());
    gzip.write_all(lines.as_bytes()).unwrap();
    gzip.finish().unwrap()
}

fn segment(content: &[u8]) -> String {
    format!(
        "{{\"type\":2,\"payload\":\"{}\",\"position\":0}}\n",
        STANDARD.encode(content)
    )
}

fn entry(name: &str, content: &[u8]) -> String {
    let crc = STANDARD.encode(crc_fast::checksum(Crc64GoIso, content).to_be_bytes());
    let size = content.len();
    format!("{{\"type\":1,\"name\":\"{name}\",\"size\":{size},\"payload\":\"{crc}\",\"position\":0}}\n")
}

fn diff(files: &[(&str, &[u8])]) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    for (name, content) in files {
        let path = folder.path().join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, content).unwrap();
    }
    folder
}

fn drained(mut receiver: mpsc::Receiver<Result<Bytes, UnreadableReason>>) -> Result<Vec<u8>, UnreadableReason> {
    let mut whole = Vec::new();
    while let Some(chunk) = receiver.blocking_recv() {
        let chunk = chunk?;
        assert!(!chunk.is_empty() && chunk.len() <= crate::source::chunks::CHUNK);
        whole.extend_from_slice(&chunk);
    }
    Ok(whole)
}

/// The tar, whose length was read before; or why either pass failed.
fn assembled(lines: &str, folder: &Path) -> Result<Vec<u8>, String> {
    let gzip = gzip(lines);
    let length = length(gzip.as_slice()).map_err(|reason| reason.to_string())?;
    let files = ConfinedDirectory::open(folder).unwrap();
    let (mut chunks, receiver) = Chunks::new(length);
    let writer = std::thread::spawn(move || {
        let result = assemble(gzip.as_slice(), &files, &mut chunks);
        chunks.finish(result);
    });
    let whole = drained(receiver).map_err(|reason| reason.to_string());
    writer.join().unwrap();
    let whole = whole?;
    assert_eq!(whole.len() as u64, length);
    Ok(whole)
}

#[track_caller]
fn is_unreadable(lines: &str, folder: &Path, why: &str) {
    match assembled(lines, folder) {
        Err(reason) => assert!(reason.contains(why), "{reason}"),
        Ok(whole) => panic!("{} bytes instead of: {why}", whole.len()),
    }
}

#[test]
fn the_checksum_is_that_of_go() {
    // crc64.Checksum([]byte("123456789"), crc64.MakeTable(crc64.ISO))
    assert_eq!(crc_fast::checksum(Crc64GoIso, b"123456789"), 0xb909_56c7_75a4_1001);
}

#[test]
fn segments_and_files_are_concatenated() {
    let large: Vec<u8> = (0..3_000_000_u32).map(|at| (at % 251) as u8).collect();
    let folder = diff(&[
        ("d/a", b"first"),
        ("d/b", b"second"),
        ("large", &large),
        ("z<&>", b"odd"),
    ]);
    std::os::unix::fs::symlink("d/a", folder.path().join("link")).unwrap();
    let raw = STANDARD.encode("d/b");
    let second = entry("", b"second").replace("\"name\":\"\"", &format!("\"name_raw\":\"{raw}\""));
    let lines = [
        segment(b"head"),
        entry("d/a", b"first"),
        segment(b""),
        "{\"type\":1,\"name\":\"link\",\"payload\":null,\"position\":3}\n".to_owned(),
        "{\"type\":1,\"name\":\"no/such/file\",\"payload\":\"AAAAAAAAAAA=\",\"position\":4}\n".to_owned(),
        second,
        entry("./large", &large),
        entry("z\\u003c\\u0026\\u003e", b"odd"),
        entry("/d/a", b"first"),
        segment(&[0; 1024]),
    ];
    let expected = [
        b"head".as_slice(),
        b"first",
        b"second",
        &large,
        b"odd",
        b"first",
        &[0; 1024],
    ]
    .concat();
    assert!(assembled(&lines.concat(), folder.path()).unwrap() == expected);
    assert_eq!(assembled("", folder.path()).unwrap(), b"");
}

#[test]
fn a_changed_file_is_unreadable() {
    let folder = diff(&[("a", b"content"), ("deep/b", b"b")]);
    let outside = diff(&[("secret", b"secret")]);
    std::os::unix::fs::symlink(outside.path(), folder.path().join("out")).unwrap();
    std::os::unix::fs::symlink("deep", folder.path().join("within")).unwrap();
    is_unreadable(&entry("a", b"CONTENT"), folder.path(), "its file \"a\" was changed");
    is_unreadable(&entry("a", b"cont"), folder.path(), "has 7 bytes, not 4");
    is_unreadable(&entry("none", b"x"), folder.path(), "none does not exist");
    is_unreadable(&entry("deep", b"x"), folder.path(), "not a regular file");
    is_unreadable(&entry("out/secret", b"secret"), folder.path(), "a link");
    is_unreadable(&entry("within/b", b"b"), folder.path(), "a link");
    let escape = format!("../{}/secret", outside.path().file_name().unwrap().to_str().unwrap());
    is_unreadable(&entry(&escape, b"secret"), folder.path(), "leads out");
    let absolute = format!("{}/secret", outside.path().display());
    is_unreadable(&entry(&absolute, b"secret"), folder.path(), "does not exist");
    is_unreadable(&entry(&"x/".repeat(9000), b"x"), folder.path(), "too long");
    is_unreadable(&entry("", b"x"), folder.path(), "not a regular file");
}

#[test]
fn a_malformed_tar_split_is_refused_before_a_file_is_read() {
    let folder = diff(&[]);
    let first = |lines: &str| length(gzip(lines).as_slice()).unwrap_err().to_string();
    let sized = |size: &str| format!("{{\"type\":1,\"name\":\"a\",\"size\":{size},\"payload\":\"AAAAAAAAAAA=\"}}\n");
    assert!(first(&sized("-1")).contains("negative"));
    assert!(first(&sized("9223372036854775808")).contains("line 1"));
    assert!(first(&sized("1.5")).contains("line 1"));
    assert!(first(&sized(&i64::MAX.to_string()).repeat(2)).contains("more bytes than a file can have"));
    assert!(first(&entry("a", b"x").replace("\"payload\":\"", "\"payload\":\"AA")).contains("no checksum"));
    assert!(first("{\"type\":1,\"name\":\"a\",\"size\":1,\"payload\":null}\n").contains("no checksum"));
    assert!(first("{\"type\":3,\"payload\":\"\"}\n").contains("unknown type 3"));
    assert!(first("{\"type\":2,\"payload\":\"abc\"}\n").contains("not base64"));
    assert!(first("[]\n").contains("line 1"));
    assert!(first("\n").contains("line 1"));
    assert!(first(segment(b"x").trim_end()).contains("cut off"));
    assert!(first(&"x".repeat(LINE_LIMIT + 5)).contains("too long"));
    assert!(first(&format!("{}{{\n", segment(b"x"))).contains("line 2"));
    // Found only when it is decoded.
    is_unreadable("{\"type\":2,\"payload\":\"a\\u0041aa\"}\n", folder.path(), "line 1");
    is_unreadable("{\"type\":2,\"payload\":\"a!aa\"}\n", folder.path(), "not base64");
}

#[test]
fn a_broken_gzip_is_refused() {
    let random: Vec<u8> = std::iter::repeat_with(|| fastrand::u8(..)).take(5000).collect();
    let whole = gzip(&segment(&random));
    assert_eq!(length(whole.as_slice()).unwrap(), 5000);
    for broken in [
        &whole[..whole.len() / 2],
        &whole[..whole.len() - 4],
        &whole[1..],
        b"plain".as_slice(),
    ] {
        assert!(length(broken).is_err(), "{}", broken.len());
    }
    let mut trailing = whole.clone();
    trailing.extend_from_slice(b"garbage");
    assert!(length(trailing.as_slice()).is_err());
    // Go reads concatenated gzip members too.
    assert_eq!(length([whole.clone(), whole].concat().as_slice()).unwrap(), 10000);
}

#[test]
fn stops_when_the_receiver_is_dropped() {
    let lines = segment(&vec![1; 100_000]).repeat(100);
    let (mut chunks, receiver) = Chunks::new(10_000_000);
    drop(receiver);
    let folder = diff(&[]);
    let stopped = assemble(
        gzip(&lines).as_slice(),
        &ConfinedDirectory::open(folder.path()).unwrap(),
        &mut chunks,
    );
    assert!(matches!(stopped, Err(Stop::Closed)));
}

proptest::proptest! {
    #[test]
    fn any_lines_end_in_a_result(lines in "(\\{\"type\":[0-3],\"(name|size|payload|name_raw)\":[-\"a-z0-9/.=]{0,12}\\}?\n?){0,6}") {
        let folder = diff(&[("a", b"a")]);
        let _ = assembled(&lines, folder.path());
    }

    #[test]
    fn any_bytes_end_in_a_result(bytes in proptest::collection::vec(proptest::prelude::any::<u8>(), 0..300)) {
        let _ = length(bytes.as_slice());
    }

    #[test]
    fn a_flipped_bit_is_always_found(at in 0..2000_usize, bit in 0..8_u8) {
        let content: Vec<u8> = (0..2000_u32).map(|at| (at % 7) as u8).collect();
        let mut changed = content.clone();
        changed[at] ^= 1 << bit;
        let folder = diff(&[("a", &changed)]);
        is_unreadable(&entry("a", &content), folder.path(), "was changed");
    }
}

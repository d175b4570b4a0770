//! Archives that are split, damaged, repaired and joined.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use tempfile::TempDir;

use super::*;
use crate::archive::RandomAccess as _;
use crate::oci::Digest;
use crate::transfer::Progress;

const PART: u64 = 8 << 10;

/// A folder with the archive `a.tar.zst` in parts of 8 KiB, and without the archive itself.
struct Folder {
    folder: TempDir,
    content: Vec<u8>,
}

fn noise(seed: u64, length: usize) -> Vec<u8> {
    let mut random = fastrand::Rng::with_seed(seed);
    std::iter::repeat_with(|| random.u8(..)).take(length).collect()
}

impl Folder {
    /// An archive of `length` bytes.
    async fn new(length: usize, parity: usize) -> Self {
        let made = Self {
            folder: tempfile::tempdir().unwrap(),
            content: noise(length as u64, length),
        };
        std::fs::write(made.archive(), &made.content).unwrap();
        let into = SplitInto {
            part_size: PART,
            parity,
        };
        let list = split(&made.archive(), into, &Progress::default()).await.unwrap();
        assert_eq!((list.size, list.count), (length as u64, length.div_ceil(PART as usize)));
        std::fs::remove_file(made.archive()).unwrap();
        made
    }

    fn archive(&self) -> PathBuf {
        self.folder.path().join("a.tar.zst")
    }

    fn path(&self, part: PartName) -> PathBuf {
        part.path(&self.archive())
    }

    fn part(&self, number: usize) -> PathBuf {
        self.path(PartName::Part(number))
    }

    fn files(&self) -> BTreeMap<String, Digest> {
        let entries = std::fs::read_dir(self.folder.path()).unwrap();
        let paths = entries.map(|entry| entry.unwrap().path());
        let name = |path: &Path| path.file_name().unwrap().to_str().unwrap().to_owned();
        paths
            .map(|path| (name(&path), Digest::of(&std::fs::read(&path).unwrap())))
            .collect()
    }

    fn flip(&self, part: PartName, at: usize) {
        let mut bytes = std::fs::read(self.path(part)).unwrap();
        bytes[at] ^= 1;
        std::fs::write(self.path(part), bytes).unwrap();
    }

    async fn opened(&self) -> Result<Vec<u8>, Fault> {
        let file = PartsFile::open(&self.archive()).await?;
        let mut bytes = vec![0; file.length() as usize];
        file.read_exact_at(&mut bytes, 0).unwrap();
        Ok(bytes)
    }

    async fn joined(&self) -> Result<Vec<u8>, Fault> {
        let mut out = Vec::new();
        join(&self.archive(), &mut out, "a", &Progress::default()).await?;
        Ok(out)
    }

    async fn repaired(&self) -> Result<Vec<String>, Fault> {
        repair(&self.archive(), &Progress::default())
            .await
            .map(|repaired| repaired.written)
    }

    async fn verified(&self) -> Option<Fault> {
        let set = PartSet::open(&self.archive()).await.unwrap();
        let flaws = set.verify_all(&Progress::default()).await.unwrap();
        set.fault(&flaws)
    }
}

#[tokio::test]
async fn parts_of_every_length_give_the_archive() {
    for length in [1, 63, 4096, 8191, 8192, 8193, 3 * 8192, 100_000] {
        let made = Folder::new(length, 0).await;
        assert!(made.opened().await.unwrap() == made.content, "{length}");
        assert!(made.joined().await.unwrap() == made.content, "{length}");
        assert_eq!(made.verified().await, None, "{length}");
        let names: Vec<String> = made.files().into_keys().collect();
        let expected: Vec<String> = (0..=length.div_ceil(8192))
            .map(|number| format!("a.tar.zst.part{number:03}"))
            .collect();
        assert_eq!(names, expected);
    }
}

#[tokio::test]
async fn every_range_is_read() {
    let made = Folder::new(20_000, 0).await;
    let file = PartsFile::open(&made.archive()).await.unwrap();
    for (begin, end) in [
        (0, 0),
        (0, 1),
        (8191, 8193),
        (8192, 16384),
        (1, 19_999),
        (19_999, 20_000),
        (20_000, 20_000),
    ] {
        let mut bytes = vec![0; end - begin];
        file.read_exact_at(&mut bytes, begin as u64).unwrap();
        assert!(bytes == made.content[begin..end], "{begin}..{end}");
    }
    assert_eq!(file.parts_of(8000, 192).unwrap(), "a.tar.zst.part001");
    assert_eq!(
        file.parts_of(8000, 193).unwrap(),
        "a.tar.zst.part001 to a.tar.zst.part002"
    );
    assert_eq!(file.parts_of(16_384, 0).unwrap(), "a.tar.zst.part003");
    for (begin, length) in [(20_000, 1), (19_999, 2), (u64::MAX, 1)] {
        let error = file.read_exact_at(&mut vec![0; length], begin).unwrap_err();
        assert_eq!(error.kind(), std::io::ErrorKind::UnexpectedEof, "{begin}");
    }
    std::fs::write(made.part(2), b"short").unwrap();
    let error = PartsFile::open(&made.archive()).await.map(|_| ()).unwrap_err();
    assert!(error.message.contains("part002 has 5 bytes instead of 8192"), "{error}");
}

#[tokio::test]
async fn every_fault_is_named_when_parts_are_opened() {
    type Fail = fn(&Folder);
    let other = Folder::new(40_001, 0).await;
    let other = std::fs::read(other.part(2)).unwrap();
    let cases: [(Fail, &[&str]); 9] = [
        (
            |made| std::fs::remove_file(made.part(3)).unwrap(),
            &["a.tar.zst.part003 is missing; copy them again"],
        ),
        (
            |made| std::fs::write(made.part(4), &made.content[8192..16384]).unwrap(),
            &["a.tar.zst.part004 has the content of a.tar.zst.part002"],
        ),
        (
            |made| {
                std::fs::rename(made.part(1), made.part(0).with_extension("x")).unwrap();
                std::fs::rename(made.part(2), made.part(1)).unwrap();
                std::fs::rename(made.part(0).with_extension("x"), made.part(2)).unwrap();
            },
            &[
                "part001 has the content of a.tar.zst.part002",
                "part002 has the content of a.tar.zst.part001",
            ],
        ),
        (
            |made| std::fs::write(made.part(1), &made.content[..100]).unwrap(),
            &["part001 has 100 bytes instead of 8192"],
        ),
        (
            |made| std::fs::write(made.part(5), b"").unwrap(),
            &["part005 has 0 bytes instead of 7232"],
        ),
        (
            |made| std::fs::write(made.part(7), b"more").unwrap(),
            &["part007 does not belong to it: it has 5 parts; delete what does not belong"],
        ),
        (
            |made| std::fs::remove_file(made.path(PartName::List)).unwrap(),
            &["a.tar.zst.part000 is missing: it lists the parts"],
        ),
        (
            |made| made.flip(PartName::List, 30),
            &["a.tar.zst.part000: the list of the parts is damaged"],
        ),
        (
            |made| {
                std::fs::remove_file(made.part(3)).unwrap();
                std::fs::create_dir(made.part(3)).unwrap();
            },
            &["part003 cannot be read: it is not a regular file"],
        ),
    ];
    for (number, (fail, words)) in cases.into_iter().enumerate() {
        let made = Folder::new(40_000, 0).await;
        fail(&made);
        for result in [made.opened().await, made.joined().await] {
            let fault = result.unwrap_err();
            let said = words.iter().all(|words| fault.message.contains(words));
            assert!(fault.is_stalled() && said, "{number}: {fault}");
        }
        if made.part(3).is_file() && made.path(PartName::List).exists() && !words[0].contains("damaged") {
            let fault = made.verified().await.unwrap();
            assert!(
                words.iter().all(|words| fault.message.contains(words)),
                "{number}: {fault}"
            );
        }
    }
    let made = Folder::new(40_000, 0).await;
    std::fs::write(made.part(4), other).unwrap();
    let fault = made.opened().await.unwrap_err();
    assert!(
        fault
            .message
            .contains("part004 is damaged, or a part of another archive"),
        "{fault}"
    );
}

#[tokio::test]
async fn the_list_of_another_archive_is_told() {
    let (made, other) = (Folder::new(40_000, 0).await, Folder::new(40_001, 0).await);
    std::fs::copy(other.path(PartName::List), made.path(PartName::List)).unwrap();
    let fault = made.opened().await.unwrap_err();
    assert!(
        fault
            .message
            .contains("part000 is probably the list of another archive"),
        "{fault}"
    );
}

#[tokio::test]
async fn a_bit_in_the_middle_of_a_part_is_found_by_reading_it() {
    let made = Folder::new(40_000, 0).await;
    made.flip(PartName::Part(2), 6000);
    assert!(made.opened().await.unwrap() != made.content);
    for fault in [made.verified().await.unwrap(), made.joined().await.unwrap_err()] {
        let words = "a.tar.zst.part002 is damaged, or a part of another archive; copy them again";
        assert!(fault.is_stalled() && fault.message.contains(words), "{fault}");
    }
}

#[tokio::test]
async fn lists_of_zarf_have_no_digests_of_parts() {
    let made = Folder::new(20_000, 0).await;
    let whole = Digest::of(&made.content);
    let list = format!(r#"{{"sha256Sum":"{}","bytes":20000,"count":3}}"#, whole.hex());
    std::fs::write(made.path(PartName::List), list).unwrap();
    assert!(made.opened().await.unwrap() == made.content);
    assert!(made.joined().await.unwrap() == made.content);
    for (number, length, expected) in [(1, 100, 8192), (2, 8193, 8193), (3, 3, 3616)] {
        let kept = std::fs::read(made.part(number)).unwrap();
        std::fs::write(made.part(number), noise(1, length)).unwrap();
        let fault = made.opened().await.unwrap_err();
        assert!(fault.message.contains("bytes instead of"), "{number}: {fault}");
        if number != 2 {
            let words = format!("part{number:03} has {length} bytes instead of {expected}");
            assert!(fault.message.contains(&words), "{fault}");
        }
        std::fs::write(made.part(number), kept).unwrap();
    }
    made.flip(PartName::Part(1), 9);
    let fault = made.joined().await.unwrap_err();
    assert!(
        fault
            .message
            .contains("the parts give another archive than a.tar.zst.part000 says"),
        "{fault}"
    );
    assert!(
        made.repaired()
            .await
            .unwrap_err()
            .message
            .contains("lists no parity parts")
    );
}

#[tokio::test]
async fn as_many_parts_are_replaced_as_there_are_parity_parts() {
    let made = Folder::new(70_000, 2).await;
    let sound = made.files();
    assert_eq!(sound.len(), 1 + 9 + 1 + 2);
    assert_eq!(made.repaired().await.unwrap(), [""; 0]);
    // Missing, cut, flipped and exchanged; the first and the last part, and parity parts.
    type Lose = fn(&Folder);
    let cases: [(Lose, &[&str]); 8] = [
        (|made| std::fs::remove_file(made.part(1)).unwrap(), &["part001"]),
        (
            |made| {
                std::fs::remove_file(made.part(9)).unwrap();
                std::fs::write(made.part(4), b"cut").unwrap();
            },
            &["part004", "part009"],
        ),
        (
            |made| {
                made.flip(PartName::Part(2), 5000);
                made.flip(PartName::Parity(1), 5000);
            },
            &["part002", "parity001"],
        ),
        (
            |made| {
                std::fs::remove_file(made.path(PartName::Parity(1))).unwrap();
                std::fs::remove_file(made.path(PartName::Parity(2))).unwrap();
            },
            &["parity001", "parity002"],
        ),
        (
            |made| {
                std::fs::rename(made.part(3), made.part(5)).unwrap();
            },
            &["part003", "part005"],
        ),
        (
            |made| {
                std::fs::remove_file(made.path(PartName::List)).unwrap();
                std::fs::remove_file(made.part(8)).unwrap();
            },
            &["part000", "part008"],
        ),
        (
            |made| {
                made.flip(PartName::List, 20);
                std::fs::remove_file(made.part(8)).unwrap();
                std::fs::remove_file(made.path(PartName::Parity(2))).unwrap();
            },
            &["part000", "part008", "parity002"],
        ),
        (|made| made.flip(PartName::ListCopy, 20), &["parity000"]),
    ];
    for (number, (lose, names)) in cases.into_iter().enumerate() {
        lose(&made);
        if names.iter().any(|name| name.starts_with("part")) && number != 2 {
            let fault = made.opened().await.unwrap_err();
            assert!(
                fault.message.contains("run `jackal-operator repair "),
                "{number}: {fault}"
            );
        }
        let expected: Vec<String> = names.iter().map(|name| format!("a.tar.zst.{name}")).collect();
        assert_eq!(made.repaired().await.unwrap(), expected, "{number}");
        assert_eq!(made.files(), sound, "{number}");
    }
}

#[tokio::test]
async fn more_lost_parts_than_parity_parts_are_an_error_that_names_them() {
    let made = Folder::new(70_000, 2).await;
    for number in [2, 5, 9] {
        std::fs::remove_file(made.part(number)).unwrap();
    }
    let before = made.files();
    let fault = made.repaired().await.unwrap_err();
    let words = [
        "part002 is missing",
        "part005 is missing",
        "part009 is missing",
        "3 parts are lost, and there is parity for 2",
    ];
    assert!(
        fault.is_stalled() && words.iter().all(|words| fault.message.contains(words)),
        "{fault}"
    );
    assert_eq!(made.files(), before);
}

#[tokio::test]
async fn the_parity_does_not_depend_on_the_stripes_that_are_read() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("a.tar.zst");
    let part_size = (5 << 19) + 64;
    let content = noise(9, 3 * part_size - 77);
    std::fs::write(&file, &content).unwrap();
    let into = SplitInto {
        part_size: part_size as u64,
        parity: 2,
    };
    split(&file, into, &Progress::default()).await.unwrap();
    let mut shards: Vec<Vec<u8>> = content.chunks(part_size).map(<[u8]>::to_vec).collect();
    shards[2].resize(part_size, 0);
    let expected = reed_solomon_simd::encode(3, 2, shards).unwrap();
    for (at, expected) in expected.iter().enumerate() {
        let found = std::fs::read(PartName::Parity(at + 1).path(&file)).unwrap();
        assert!(found == *expected, "{at}");
    }
    for number in [1, 3] {
        std::fs::remove_file(PartName::Part(number).path(&file)).unwrap();
    }
    repair(&file, &Progress::default()).await.unwrap();
    let mut out = Vec::new();
    join(&file, &mut out, "a", &Progress::default()).await.unwrap();
    assert!(out == content);
}

#[tokio::test]
async fn parity_of_a_single_short_part() {
    let made = Folder::new(100, 3).await;
    std::fs::remove_file(made.part(1)).unwrap();
    std::fs::remove_file(made.path(PartName::Parity(1))).unwrap();
    assert_eq!(made.repaired().await.unwrap().len(), 2);
    assert!(made.joined().await.unwrap() == made.content);
}

#[tokio::test]
async fn new_parts_replace_all_of_an_earlier_archive() {
    let made = Folder::new(70_000, 2).await;
    std::fs::write(made.archive(), &made.content[..10_000]).unwrap();
    let into = SplitInto {
        part_size: PART,
        parity: 0,
    };
    split(&made.archive(), into, &Progress::default()).await.unwrap();
    let names: Vec<String> = made.files().into_keys().collect();
    assert_eq!(
        names,
        ["", ".part000", ".part001", ".part002"].map(|end| format!("a.tar.zst{end}"))
    );
    assert!(made.opened().await.unwrap() == made.content[..10_000]);
}

#[tokio::test]
async fn too_many_or_too_short_parts_leave_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("a.tar.zst");
    std::fs::write(&file, noise(3, 64 * PARTS_LIMIT + 1)).unwrap();
    let progress = Progress::default();
    let of = |part_size, parity| SplitInto { part_size, parity };
    let fault = split(&file, of(127, 0), &progress).await.unwrap_err();
    let words = "needs more than 999 parts of 64 bytes; allow larger parts by --max-part-size";
    assert!(fault.is_stalled() && fault.message.contains(words), "{fault}");
    assert!(split(&file, of(63, 0), &progress).await.unwrap_err().is_stalled());
    assert!(
        split(&file, of(4096, PARITY_LIMIT + 1), &progress)
            .await
            .unwrap_err()
            .is_stalled()
    );
    // A stream says how long it is at its end alone.
    let mut parts = PartWriter::new(&file, of(64, 0)).unwrap();
    let content = std::fs::read(&file).unwrap();
    let fault = parts.write(content.into()).await.unwrap_err();
    assert!(fault.message.contains(words), "{fault}");
    drop(parts);
    let left: Vec<_> = std::fs::read_dir(folder.path()).unwrap().collect();
    assert_eq!(left.len(), 1, "{left:?}");
}

#[tokio::test]
async fn as_many_parts_as_there_can_be() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("a.tar.zst");
    let content = noise(4, 64 * PARTS_LIMIT - 5);
    std::fs::write(&file, &content).unwrap();
    let into = SplitInto {
        part_size: 64,
        parity: 3,
    };
    let list = split(&file, into, &Progress::default()).await.unwrap();
    assert_eq!((list.count, list.parity.len()), (PARTS_LIMIT, 3));
    for number in [1, 500, 999] {
        std::fs::remove_file(PartName::Part(number).path(&file)).unwrap();
    }
    repair(&file, &Progress::default()).await.unwrap();
    let mut out = Vec::new();
    join(&file, &mut out, "a", &Progress::default()).await.unwrap();
    assert!(out == content);
}

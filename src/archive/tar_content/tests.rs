use super::*;
use crate::archive::format::{header, stored, wrapped};
use crate::archive::testing::Memory;

fn content() -> Vec<u8> {
    (0..3_000_000_u32).flat_map(u32::to_le_bytes).collect()
}

fn seekable(content: &[u8]) -> Vec<u8> {
    let (mut file, mut table) = (Vec::new(), SeekTable::default());
    let frame = header(b"{}").unwrap();
    table.push(frame.len(), 0).unwrap();
    file.extend_from_slice(&frame);
    for (at, piece) in content.chunks(FRAME_CONTENT / 2 + 3).enumerate() {
        let frame = match at % 2 {
            0 => stored(piece),
            _ => zstd::bulk::compress(piece, 1).unwrap().into(),
        };
        table.push(frame.len(), piece.len()).unwrap();
        file.extend_from_slice(&frame);
    }
    file.extend_from_slice(&table.frame().unwrap());
    file
}

async fn all(tar: &dyn TarContent, offset: u64, length: u64) -> Vec<u8> {
    let pieces: Vec<Bytes> = tar.read(offset, length).map(Result::unwrap).collect().await;
    pieces.concat()
}

#[tokio::test]
async fn every_range_is_read() {
    let content = content();
    let plain = PlainTar::new(Arc::new(Memory(content.clone())));
    let file = SeekableTar::open(Arc::new(Memory(seekable(&content))))
        .await
        .unwrap()
        .unwrap();
    let length = content.len();
    let piece = FRAME_CONTENT / 2 + 3;
    for (begin, end) in [
        (0, 0),
        (0, 1),
        (0, length),
        (piece - 1, piece + 1),
        (piece, piece),
        (1, 2 * piece + 5),
        (length - 1, length),
        (length, length + 5),
        (length + 5, length + 9),
    ] {
        let expected = &content[begin.min(length)..end.min(length)];
        let (offset, wanted) = (begin as u64, (end - begin) as u64);
        assert!(all(&plain, offset, wanted).await == expected, "plain {begin}..{end}");
        assert!(all(&file, offset, wanted).await == expected, "seekable {begin}..{end}");
    }
}

#[tokio::test]
async fn a_second_tar_follows_the_first() {
    let (mut file, mut table) = (Vec::new(), SeekTable::default());
    let second: Vec<u8> = (0..100_000_u32).flat_map(u32::to_le_bytes).collect();
    let frames = [
        (header(b"{}").unwrap(), 0),
        (stored(b"the first"), 9),
        (wrapped(&stored(b"the second ")).unwrap(), 0),
        (wrapped(&zstd::bulk::compress(&second, 1).unwrap()).unwrap(), 0),
    ];
    for (frame, content) in &frames {
        table.push(frame.len(), *content).unwrap();
        file.extend_from_slice(frame);
    }
    file.extend_from_slice(&table.frame().unwrap());
    let good = SeekableTar::open(Arc::new(Memory(file.clone())))
        .await
        .unwrap()
        .unwrap();
    assert_eq!(good.first_length(), 9);
    assert_eq!(all(&good, 4, u64::MAX).await, b"first");
    assert_eq!(all(&good, 9, 10).await, b"the second");
    assert_eq!(all(&good, 9 + 11 + 4, u64::MAX).await, second[4..]);
    // The wrapped frame says another length than the seek table.
    let at = frames[0].0.len() + frames[1].0.len() + 4;
    file[at] ^= 1;
    assert!(SeekableTar::open(Arc::new(Memory(file))).await.is_err());
}

#[tokio::test]
async fn wrong_lengths_in_the_seek_table_are_refused() {
    let content = content();
    let good = seekable(&content);
    let mut longer = good.clone();
    longer.insert(good.len() / 2, 0);
    assert!(SeekableTar::open(Arc::new(Memory(longer))).await.is_err());
    assert!(
        SeekableTar::open(Arc::new(Memory(content.clone())))
            .await
            .unwrap()
            .is_none()
    );
    let mut other = good.clone();
    // The length of the content of the second frame.
    let entries = good.len() - SEEK_TABLE_FOOTER - 8 * 4;
    other[entries + 8 + 4] ^= 1;
    let tar = SeekableTar::open(Arc::new(Memory(other))).await.unwrap().unwrap();
    let read: Vec<_> = tar.read(0, u64::MAX).collect().await;
    assert!(read.iter().any(Result::is_err));
}

use std::io::Read as _;

use futures::TryStreamExt as _;
use proptest::prelude::*;

use super::*;
use crate::oci::Digest;

const BOTH: [Compression; 2] = [Compression::Gzip, Compression::Zstd];

/// Compressible, text-like content without equal blocks.
fn content(length: usize) -> Vec<u8> {
    let mut random = 0x2545_f491_4f6c_dd1d_u64;
    let mut content = Vec::with_capacity(length + 16);
    while content.len() < length {
        // xorshift, so that the bytes never change.
        random ^= random << 13;
        random ^= random >> 7;
        random ^= random << 17;
        let word = random.to_le_bytes();
        content.extend_from_slice(&word[..(random % 5) as usize]);
        content.extend_from_slice(b"layer of a tar "[..(random % 13) as usize].as_ref());
    }
    content.truncate(length);
    content
}

/// Incompressible bytes that never change.
fn noise(length: usize) -> Vec<u8> {
    let mut random = 0x9e37_79b9_7f4a_7c15_u64;
    let words = std::iter::repeat_with(|| {
        random ^= random << 13;
        random ^= random >> 7;
        random ^= random << 17;
        random.wrapping_mul(0x2545_f491_4f6c_dd1d).to_le_bytes()
    });
    words.flatten().take(length).collect()
}

fn cut(content: &[u8], steps: &[usize]) -> ByteStream<'static> {
    let mut rest = Bytes::copy_from_slice(content);
    let mut chunks = Vec::new();
    for step in steps.iter().cycle() {
        if rest.is_empty() {
            break;
        }
        chunks.push(Ok(rest.split_to((*step).clamp(1, rest.len()))));
    }
    futures::stream::iter(chunks).boxed()
}

async fn all(content: &[u8], steps: &[usize], threads: usize, compression: Compression) -> Vec<u8> {
    let limits = Limits::of(threads);
    let whole: Vec<Bytes> = compress_with_limits(cut(content, steps), compression, &limits)
        .try_collect()
        .await
        .unwrap();
    whole.concat()
}

fn plain(compressed: &[u8], compression: Compression) -> Vec<u8> {
    match compression {
        Compression::None => compressed.to_vec(),
        Compression::Gzip => {
            let (mut one, mut many) = (Vec::new(), Vec::new());
            flate2::read::MultiGzDecoder::new(compressed)
                .read_to_end(&mut many)
                .unwrap();
            // A reader that knows of one member only sees it all.
            flate2::read::GzDecoder::new(compressed).read_to_end(&mut one).unwrap();
            assert!(one == many, "more than one member");
            many
        }
        Compression::Zstd => zstd::stream::decode_all(compressed).unwrap(),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn gives_back_what_went_in_for_every_length_near_a_block() {
    let whole = content(3 * BLOCK + 7);
    for length in [0, 1, BLOCK - 1, BLOCK, BLOCK + 1, 2 * BLOCK, 3 * BLOCK + 7] {
        let content = &whole[..length];
        for compression in BOTH {
            let compressed = all(content, &[65_536], 2, compression).await;
            assert!(plain(&compressed, compression) == content, "{compression:?} {length}");
            assert!(
                !compressed.is_empty(),
                "{compression:?}: no reader knows this for compressed"
            );
        }
        assert!(all(content, &[65_536], 2, Compression::None).await == content);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn the_number_of_threads_does_not_change_the_bytes() {
    let content = content(9 * BLOCK + 12_345);
    for compression in BOTH {
        let one = all(&content, &[100_000], 1, compression).await;
        assert!(one.len() < content.len() * 95 / 100);
        for threads in [1, 2, 7] {
            let other = all(&content, &[300_000], threads, compression).await;
            assert!(one == other, "{compression:?}: {threads} threads change the bytes");
        }
    }
}

#[tokio::test]
async fn incompressible_content_does_not_grow() {
    let noise = noise(5 * BLOCK + 11);
    for compression in BOTH {
        let compressed = all(&noise, &[100_000], 2, compression).await;
        assert!(
            compressed.len() < noise.len() + noise.len() / 1000,
            "{compression:?}: {}",
            compressed.len()
        );
        assert!(plain(&compressed, compression) == noise);
        if compression == Compression::Zstd {
            // A header of nine bytes, and two blocks of three bytes more each.
            let (_, frame) = compressed.split_at(5 * (BLOCK + 15));
            assert!(zstd::stream::decode_all(frame).unwrap() == noise[5 * BLOCK..]);
        }
        // The same encoder for compressible and incompressible content.
        let mixed = [&content(BLOCK)[..], &noise, &content(2 * BLOCK)].concat();
        assert!(plain(&all(&mixed, &[100_000], 1, compression).await, compression) == mixed);
    }
}

// If these digests change, all compressed layers are uploaded again once, and the version in `Compression::layer` must be
// increased.
#[tokio::test]
async fn the_bytes_are_the_pinned_ones() {
    let content = [content(2 * BLOCK + 54_321), noise(2 * BLOCK)].concat();
    let mut digests = Vec::new();
    for compression in BOTH {
        digests.push(Digest::of(&all(&content, &[77_777], 2, compression).await).to_string());
    }
    assert_eq!(
        digests,
        [
            "sha256:73a2c39d326ff77e1a609ecef3354cbd2ca558f1ebbb906d13493a1e3ff33411",
            "sha256:7ed01d5ecad019928f6670fe518c8139c18b1c62a59021183a1a7c83b931bf09"
        ]
    );
}

#[tokio::test]
async fn incompressible_content_is_recognised_by_its_beginning() {
    let (text, noise) = (content(SAMPLE), noise(SAMPLE));
    let pays_cut = async |whole: &[u8], step: usize, compression| {
        let chunks: Vec<Bytes> = cut(whole, &[step]).try_collect().await.unwrap();
        pays(&chunks, compression).await.unwrap()
    };
    for compression in BOTH {
        for length in [0, 1024, SAMPLE] {
            assert!(pays_cut(&text[..length], 10_000, compression).await, "{length}");
        }
        for length in [1, 1024, SAMPLE - 1, SAMPLE] {
            for step in [7_777, usize::MAX] {
                assert!(!pays_cut(&noise[..length], step, compression).await, "{length}");
            }
        }
        // The rest does not matter, or the sizes of chunks would.
        let late = [&noise[..], &text, &text].concat();
        assert!(!pays_cut(&late, usize::MAX, compression).await);
        // One compressible part is enough, wherever it is.
        for at in [0, SAMPLE / 2, SAMPLE * 3 / 4] {
            let mut mixed = noise.clone();
            mixed[at..at + SAMPLE / 4].copy_from_slice(&text[..SAMPLE / 4]);
            assert!(pays_cut(&mixed, 100_000, compression).await, "{at}");
        }
    }
    assert!(!pays_cut(&text, 10_000, Compression::None).await);
}

#[tokio::test]
async fn a_fault_of_the_content_is_returned() {
    let fault = Fault::retryable(Reason::SourceFailed, "broke");
    for before in [1, 3 * BLOCK] {
        for compression in BOTH {
            let broken = cut(&content(before), &[BLOCK]).chain(futures::stream::iter([Err(fault.clone())]));
            let got: Result<Vec<Bytes>, Fault> = compress(broken.boxed(), compression).try_collect().await;
            assert_eq!(got.unwrap_err(), fault);
        }
    }
}

// A stream that nobody reads keeps only its permits, and no thread.
#[tokio::test]
async fn a_stalled_blob_does_not_block_others() {
    let content = content(12 * BLOCK);
    let limits = Limits::of(2);
    let mut still = Vec::new();
    for _ in 0..6 {
        let mut one = compress_with_limits(cut(&content, &[BLOCK]), Compression::Gzip, &limits);
        assert!(one.next().await.unwrap().is_ok());
        still.push(one);
    }
    let moving = compress_with_limits(cut(&content, &[BLOCK]), Compression::Gzip, &limits).try_collect::<Vec<_>>();
    let moved = tokio::time::timeout(std::time::Duration::from_secs(60), moving).await;
    assert!(plain(&moved.expect("gets on").unwrap().concat(), Compression::Gzip) == content);
    drop(still);
    assert_eq!(
        limits.ahead.available_permits(),
        4,
        "dropped streams release their permits"
    );
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]
    #[test]
    fn chunk_sizes_do_not_change_the_bytes(
        length in 0..2 * BLOCK + 1000,
        steps in proptest::collection::vec(1..3 * BLOCK, 1..6),
        threads in 1..8_usize,
        zstd: bool,
    ) {
        let compression = BOTH[usize::from(zstd)];
        let content = content(length);
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).build().unwrap();
        let (whole, cut) = runtime.block_on(async {
            (all(&content, &[usize::MAX], 1, compression).await, all(&content, &steps, threads, compression).await)
        });
        prop_assert!(whole == cut);
        prop_assert!(plain(&cut, compression) == content);
    }
}

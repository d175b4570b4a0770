//! Compression of layers as they pass, in bounded memory, with the same bytes for the same content.

use std::io::Write;

use bytes::Bytes;
use flate2::write::GzEncoder;
use futures::StreamExt as _;

use crate::fault::{Fault, Reason};
use crate::oci::Compression;
use crate::source::ByteStream;

/// gzip's own default is 6, which costs three times the time for a few percent.
const GZIP_LEVEL: u32 = 1;
const ZSTD_LEVEL: i32 = 3;

/// `content` compressed; unchanged for [`Compression::None`]. Each chunk is compressed off the async threads.
pub(super) fn compress(content: ByteStream<'_>, compression: Compression) -> ByteStream<'_> {
    let encoder = match compression {
        Compression::None => return content,
        // No name and no time in the header: they would change the digest.
        Compression::Gzip => Ok(Encoder::Gzip(GzEncoder::new(
            Vec::new(),
            flate2::Compression::new(GZIP_LEVEL),
        ))),
        Compression::Zstd => zstd::stream::write::Encoder::new(Vec::new(), ZSTD_LEVEL)
            .map(Encoder::Zstd)
            .map_err(failed),
    };
    let state = Some((content, encoder));
    futures::stream::unfold(state, |state| async move {
        let (mut content, encoder) = state?;
        let mut encoder = match encoder {
            Ok(encoder) => encoder,
            Err(fault) => return Some((Err(fault), None)),
        };
        loop {
            let chunk = match content.next().await {
                Some(Ok(chunk)) => chunk,
                Some(Err(fault)) => return Some((Err(fault), None)),
                None => {
                    let end = tokio::task::spawn_blocking(move || encoder.finish()).await;
                    return Some((
                        end.map_err(failed).and_then(|end| end.map_err(failed)).map(Bytes::from),
                        None,
                    ));
                }
            };
            let step = tokio::task::spawn_blocking(move || encoder.push(&chunk).map(|out| (encoder, out))).await;
            match step.map_err(failed).and_then(|step| step.map_err(failed)) {
                Ok((next, out)) if out.is_empty() => encoder = next,
                Ok((next, out)) => return Some((Ok(Bytes::from(out)), Some((content, Ok(next))))),
                Err(fault) => return Some((Err(fault), None)),
            }
        }
    })
    .boxed()
}

enum Encoder {
    Gzip(GzEncoder<Vec<u8>>),
    Zstd(zstd::stream::write::Encoder<'static, Vec<u8>>),
}

impl Encoder {
    fn push(&mut self, chunk: &[u8]) -> std::io::Result<Vec<u8>> {
        match self {
            Self::Gzip(encoder) => {
                encoder.write_all(chunk)?;
                Ok(std::mem::take(encoder.get_mut()))
            }
            Self::Zstd(encoder) => {
                encoder.write_all(chunk)?;
                Ok(std::mem::take(encoder.get_mut()))
            }
        }
    }

    fn finish(self) -> std::io::Result<Vec<u8>> {
        match self {
            Self::Gzip(encoder) => encoder.finish(),
            Self::Zstd(encoder) => encoder.finish(),
        }
    }
}

fn failed(error: impl std::fmt::Display) -> Fault {
    Fault::retryable(Reason::SourceFailed, format!("compressing a layer failed: {error}"))
}

#[cfg(test)]
mod tests {
    use std::io::Read as _;

    use futures::TryStreamExt as _;

    use super::*;

    async fn all(content: &[u8], step: usize, compression: Compression) -> Vec<u8> {
        let chunks: Vec<_> = content
            .chunks(step)
            .map(|chunk| Ok(Bytes::copy_from_slice(chunk)))
            .collect();
        let out: Vec<Bytes> = compress(futures::stream::iter(chunks).boxed(), compression)
            .try_collect()
            .await
            .unwrap();
        out.concat()
    }

    #[tokio::test]
    async fn gives_back_what_went_in_and_the_same_bytes_each_time() {
        let content: Vec<u8> = (0..3_000_000u32)
            .map(|n| ((n / 7).wrapping_mul(n) % 251) as u8)
            .collect();
        let mut gunzipped = Vec::new();
        let gzip = all(&content, 65_536, Compression::Gzip).await;
        flate2::read::GzDecoder::new(&gzip[..])
            .read_to_end(&mut gunzipped)
            .unwrap();
        assert!(gunzipped == content && gzip.len() < content.len());
        assert!(gzip == all(&content, 65_536, Compression::Gzip).await);
        let zstd = all(&content, 65_536, Compression::Zstd).await;
        assert!(zstd::stream::decode_all(&zstd[..]).unwrap() == content);
        assert!(
            zstd == all(&content, 300_000, Compression::Zstd).await,
            "the cut of the stream leaks into the bytes"
        );
        assert!(
            gzip == all(&content, 300_000, Compression::Gzip).await,
            "the cut of the stream leaks into the bytes"
        );
        assert!(all(&content, 65_536, Compression::None).await == content);
    }

    #[tokio::test]
    async fn passes_a_failure_on() {
        let fault = Fault::retryable(Reason::SourceFailed, "broke");
        let broken: ByteStream<'_> = futures::stream::iter([Ok(Bytes::from_static(b"x")), Err(fault.clone())]).boxed();
        let got: Result<Vec<Bytes>, Fault> = compress(broken, Compression::Gzip).try_collect().await;
        assert_eq!(got.unwrap_err(), fault);
    }
}

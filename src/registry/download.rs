//! The content of a blob on its way from a registry.

use std::time::Duration;

use bytes::Bytes;
use futures::stream::{self, BoxStream, StreamExt};
use reqwest::header::{CONTENT_LENGTH, CONTENT_RANGE, HeaderValue, RANGE};

use super::client::{Call, Registry, RegistryResponse};
use super::error::{Error, Kind};
use crate::oci::{Digest, Hasher};

/// How often a download is resumed while it does not get on.
const RESUMPTIONS: u32 = 4;
/// Bytes after which a download counts as getting on.
const PROGRESS: u64 = 8 * 1024 * 1024;

/// A blob's content as it comes. Nothing is asked of the registry before the first chunk is.
pub struct Download {
    registry: Registry,
    call: Call,
    digest: Digest,
    size: Option<u64>,
    /// None where whoever takes the content verifies it.
    hasher: Option<Hasher>,
    ended: bool,
    received: u64,
    /// Bytes at the front of a resumed answer that were received before: not every registry knows ranges.
    skip: u64,
    /// The registry gave no range when it was asked for one.
    whole: bool,
    answer: Option<RegistryResponse>,
    /// Some of it came from another host, to which the registry leads.
    is_foreign: bool,
    broken: u32,
    broken_at: u64,
}

impl Download {
    pub(super) fn new(registry: Registry, call: Call, digest: Digest, size: Option<u64>) -> Self {
        Self {
            registry,
            call,
            hasher: Some(Hasher::like(&digest)),
            ended: false,
            digest,
            size,
            received: 0,
            skip: 0,
            whole: false,
            answer: None,
            is_foreign: false,
            broken: 0,
            broken_at: 0,
        }
    }

    /// The same without a look at the digest, for content that is verified where it goes. The length is looked at.
    pub(super) fn unverified(mut self) -> Self {
        self.hasher = None;
        self
    }

    /// The request, for people.
    pub(super) fn label(&self) -> &str {
        &self.call.label
    }

    /// The length in bytes, as far as the other side says it before the content; it is held against what arrives.
    /// Nothing was read before.
    pub async fn content_length(&mut self) -> Result<Option<u64>, Error> {
        if self.answer.is_none() && !self.ended {
            self.answer = Some(self.open().await?);
        }
        let answer = self.answer.as_ref();
        let length = answer.and_then(|answer| answer.header(CONTENT_LENGTH)?.parse().ok());
        if self.received == 0 && self.size.is_none() {
            self.size = length;
        }
        Ok(self.size)
    }

    /// The bytes that came so far.
    pub fn received(&self) -> u64 {
        self.received
    }

    /// The same, with a length that is known.
    pub fn with_size(self, size: u64) -> Self {
        Self {
            size: Some(size),
            ..self
        }
    }

    /// The content as a stream.
    pub fn into_stream(self) -> BoxStream<'static, Result<Bytes, Error>> {
        stream::try_unfold(self, |mut download| async move {
            let chunk = download.chunk().await?;
            Ok(chunk.map(|chunk| (chunk, download)))
        })
        .boxed()
    }

    /// The next bytes; none after the last, when digest and size were found right.
    pub async fn chunk(&mut self) -> Result<Option<Bytes>, Error> {
        if self.ended {
            return Ok(None);
        }
        loop {
            let answer = match &mut self.answer {
                Some(answer) => answer,
                None => {
                    let answer = self.open().await?;
                    self.answer.insert(answer)
                }
            };
            let idle = self.registry.idle();
            let next = tokio::time::timeout(idle, answer.response.chunk())
                .await
                .map_err(|_| Error::timed_out(&self.call.label, idle))?;
            match next {
                Ok(Some(mut chunk)) => {
                    let known = self.skip.min(chunk.len() as u64);
                    self.skip -= known;
                    // Not more than the chunk's length, which is an usize.
                    let chunk = chunk.split_off(known as usize);
                    if !chunk.is_empty() {
                        return self.take(chunk).map(Some);
                    }
                }
                Ok(None) => return self.end().map(|()| None),
                Err(error) => {
                    self.answer = None;
                    let error = Error::transport(&self.call.label, &error.without_url());
                    self.resume_after(error).await?;
                }
            }
        }
    }

    fn take(&mut self, chunk: Bytes) -> Result<Bytes, Error> {
        self.received += chunk.len() as u64;
        if let Some(size) = self.size
            && self.received > size
        {
            return Err(self.mismatch(format!("more than the {size} bytes that are expected arrive")));
        }
        if let Some(hasher) = &mut self.hasher {
            hasher.update(&chunk);
        }
        Ok(chunk)
    }

    fn end(&mut self) -> Result<(), Error> {
        self.answer = None;
        self.ended = true;
        let received = self.received;
        if let Some(size) = self.size
            && received != size
        {
            return Err(self.mismatch(format!("{size} bytes are expected, and {received} arrived")));
        }
        match self.hasher.take().map(Hasher::finish) {
            Some(found) if found != self.digest => {
                // By its digest it could be had, by somebody who cannot read it where it is.
                let restricted = self.registry.endpoint().restrictions.is_some();
                Err(self.mismatch(match restricted {
                    true => "the content has another digest".to_owned(),
                    false => format!("the content has the digest {found}"),
                }))
            }
            _ => Ok(()),
        }
    }

    /// `detail` tells of the content what nobody is to learn by naming a registry that leads to it.
    fn mismatch(&mut self, detail: String) -> Error {
        self.ended = true;
        self.answer = None;
        let detail = match self.is_foreign {
            true => "the host that the registry leads to has other content".to_owned(),
            false => detail,
        };
        Error::new(Kind::DigestMismatch, &self.call.label, detail)
    }

    async fn resume_after(&mut self, error: Error) -> Result<(), Error> {
        if self.received - self.broken_at >= PROGRESS {
            self.broken = 0;
        }
        self.broken += 1;
        self.broken_at = self.received;
        if self.broken > RESUMPTIONS || !error.temporary() {
            self.ended = true;
            return Err(error);
        }
        tracing::debug!(%error, received = self.received, "resuming");
        tokio::time::sleep(error.pause(self.broken).unwrap_or(Duration::from_millis(200))).await;
        Ok(())
    }

    async fn open(&mut self) -> Result<RegistryResponse, Error> {
        let answer = self.request().await?;
        self.is_foreign |= answer.is_foreign;
        Ok(answer)
    }

    async fn request(&mut self) -> Result<RegistryResponse, Error> {
        self.skip = 0;
        if self.received > 0
            && !self.whole
            && let Ok(range) = HeaderValue::try_from(format!("bytes={}-", self.received))
        {
            self.call.headers.insert(RANGE, range);
            let answer = self.registry.send(&self.call).await;
            self.call.headers.remove(RANGE);
            match answer {
                Ok(answer) => match answer.status().as_u16() {
                    200 => {
                        self.skip = self.received;
                        return Ok(answer);
                    }
                    206 if answer.header(CONTENT_RANGE).and_then(start_of) == Some(self.received) => {
                        return Ok(answer);
                    }
                    401 | 404 => return Err(answer.failure().await),
                    status => tracing::debug!(status, label = self.call.label, "the registry gives no range"),
                },
                // Some break down over what they do not know.
                Err(error) if matches!(error.kind(), Kind::Status(_)) => {
                    tracing::debug!(%error, "the registry gives no range");
                }
                Err(error) => return Err(error),
            }
            // It need not know ranges (RFC 9110, section 14.2); what came before is passed over.
            self.whole = true;
        }
        let answer = self.registry.expect(&self.call, &[200]).await?;
        self.skip = self.received;
        Ok(answer)
    }
}

/// The first number of `bytes 5-9/10`.
pub(super) fn start_of(content_range: &str) -> Option<u64> {
    let range = content_range.trim().strip_prefix("bytes")?.trim_start();
    range.split_once('-')?.0.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_where_a_range_starts() {
        assert_eq!(start_of("bytes 5-9/10"), Some(5));
        assert_eq!(start_of("bytes 0-9/*"), Some(0));
        for bad in ["", "bytes */10", "items 5-9/10", "bytes -9", "5-9"] {
            assert_eq!(start_of(bad), None, "{bad}");
        }
    }
}

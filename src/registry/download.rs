//! Downloads the content of a blob.

use std::time::Duration;

use bytes::Bytes;
use futures::stream::{self, BoxStream, StreamExt};
use reqwest::header::{CONTENT_LENGTH, CONTENT_RANGE, HeaderValue, RANGE};

use super::client::{Registry, RegistryRequest, RegistryResponse};
use super::error::{Error, Kind};
use crate::oci::{Digest, Hasher};

/// Resumptions of a download without progress.
const MAX_RESUMPTIONS: u32 = 4;
/// Bytes that count as progress.
const PROGRESS: u64 = 8 * 1024 * 1024;

/// The content of a blob as a stream. The request is sent when the first chunk is polled.
pub struct Download {
    registry: Registry,
    request: RegistryRequest,
    digest: Digest,
    size: Option<u64>,
    /// `None` if the receiver verifies the content.
    hasher: Option<Hasher>,
    ended: bool,
    received: u64,
    /// Bytes at the beginning of the response that were already received, because the registry does not support ranges.
    skip: u64,
    /// The registry did not return a requested range.
    ranges_unsupported: bool,
    response: Option<RegistryResponse>,
    /// Some of the content came from another host that the registry redirects to.
    is_concealed: bool,
    failures: u32,
    failed_at: u64,
}

impl Download {
    pub(super) fn new(registry: Registry, request: RegistryRequest, digest: Digest, size: Option<u64>) -> Self {
        Self {
            registry,
            request,
            hasher: Some(Hasher::like(&digest)),
            ended: false,
            digest,
            size,
            received: 0,
            skip: 0,
            ranges_unsupported: false,
            response: None,
            is_concealed: false,
            failures: 0,
            failed_at: 0,
        }
    }

    /// Disables verification of the digest, for content that the receiver verifies. The length is still verified.
    pub(super) fn unverified(mut self) -> Self {
        self.hasher = None;
        self
    }

    /// The request, for messages.
    pub(super) fn label(&self) -> &str {
        &self.request.label
    }

    /// The length in bytes, if the server announces it before the content; it is verified against the content. Must be
    /// called before the first chunk is read.
    pub async fn content_length(&mut self) -> Result<Option<u64>, Error> {
        if self.response.is_none() && !self.ended {
            self.response = Some(self.connect().await?);
        }
        let response = self.response.as_ref();
        let length = response.and_then(|response| response.header(CONTENT_LENGTH)?.parse().ok());
        if self.received == 0 && self.size.is_none() {
            self.size = length;
        }
        Ok(self.size)
    }

    /// The bytes received so far.
    pub fn received(&self) -> u64 {
        self.received
    }

    /// Sets the known length.
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

    /// The next bytes; `None` at the end, after digest and size were verified.
    pub async fn chunk(&mut self) -> Result<Option<Bytes>, Error> {
        if self.ended {
            return Ok(None);
        }
        loop {
            let response = match &mut self.response {
                Some(response) => response,
                None => {
                    let response = self.connect().await?;
                    self.response.insert(response)
                }
            };
            let idle = self.registry.idle();
            let next = tokio::time::timeout(idle, response.inner.chunk())
                .await
                .map_err(|_| Error::timed_out(&self.request.label, idle))?;
            match next {
                Ok(Some(mut chunk)) => {
                    let known = self.skip.min(chunk.len() as u64);
                    self.skip -= known;
                    // At most the length of the chunk, which is a `usize`.
                    let chunk = chunk.split_off(known as usize);
                    if !chunk.is_empty() {
                        return self.accept_chunk(chunk).map(Some);
                    }
                }
                Ok(None) => return self.end().map(|()| None),
                Err(error) => {
                    self.response = None;
                    let error = Error::transport(&self.request.label, &error.without_url());
                    self.resume_after(error).await?;
                }
            }
        }
    }

    fn accept_chunk(&mut self, chunk: Bytes) -> Result<Bytes, Error> {
        self.received += chunk.len() as u64;
        if let Some(size) = self.size
            && self.received > size
        {
            return Err(self.mismatch(format!("received more than the expected {size} bytes")));
        }
        if let Some(hasher) = &mut self.hasher {
            hasher.update(&chunk);
        }
        Ok(chunk)
    }

    fn end(&mut self) -> Result<(), Error> {
        self.response = None;
        self.ended = true;
        let received = self.received;
        if let Some(size) = self.size
            && received != size
        {
            return Err(self.mismatch(format!("expected {size} bytes, but received {received}")));
        }
        match self.hasher.take().map(Hasher::finish) {
            Some(found) if found != self.digest => {
                // With this digest, a tenant could fetch content from a host that only the operator can reach.
                let restricted = self.registry.endpoint().restrictions.is_some();
                Err(self.mismatch(match restricted {
                    true => "the content has another digest".to_owned(),
                    false => format!("the content has the digest {found}"),
                }))
            }
            _ => Ok(()),
        }
    }

    /// `detail` may reveal content of another host, so it is replaced if the content came from there.
    fn mismatch(&mut self, detail: String) -> Error {
        self.ended = true;
        self.response = None;
        let detail = match self.is_concealed {
            true => "the host that the registry redirects to has other content".to_owned(),
            false => detail,
        };
        Error::new(Kind::DigestMismatch, &self.request.label, detail)
    }

    async fn resume_after(&mut self, error: Error) -> Result<(), Error> {
        if self.received - self.failed_at >= PROGRESS {
            self.failures = 0;
        }
        self.failures += 1;
        self.failed_at = self.received;
        if self.failures > MAX_RESUMPTIONS || !error.is_temporary() {
            self.ended = true;
            return Err(error);
        }
        tracing::debug!(%error, received = self.received, "resuming a download");
        tokio::time::sleep(error.retry_delay(self.failures).unwrap_or(Duration::from_millis(200))).await;
        Ok(())
    }

    async fn connect(&mut self) -> Result<RegistryResponse, Error> {
        let response = self.send_request().await?;
        self.is_concealed |= response.is_concealed;
        Ok(response)
    }

    async fn send_request(&mut self) -> Result<RegistryResponse, Error> {
        self.skip = 0;
        if self.received > 0
            && !self.ranges_unsupported
            && let Ok(range) = HeaderValue::try_from(format!("bytes={}-", self.received))
        {
            self.request.headers.insert(RANGE, range);
            let response = self.registry.send(&self.request).await;
            self.request.headers.remove(RANGE);
            match response {
                Ok(response) => match response.status().as_u16() {
                    200 => {
                        self.skip = self.received;
                        return Ok(response);
                    }
                    206 if response.header(CONTENT_RANGE).and_then(range_start) == Some(self.received) => {
                        return Ok(response);
                    }
                    401 | 404 => return Err(response.into_error().await),
                    status => tracing::debug!(
                        status,
                        label = self.request.label,
                        "the registry does not support ranges"
                    ),
                },
                // Some registries fail on unknown headers.
                Err(error) if matches!(error.kind(), Kind::Status(_)) => {
                    tracing::debug!(%error, "the registry does not support ranges");
                }
                Err(error) => return Err(error),
            }
            // Ranges are optional (RFC 9110, section 14.2); the bytes that were already received are skipped.
            self.ranges_unsupported = true;
        }
        let response = self.registry.expect(&self.request, &[200]).await?;
        self.skip = self.received;
        Ok(response)
    }
}

/// The start offset in `bytes 5-9/10`.
pub(super) fn range_start(content_range: &str) -> Option<u64> {
    let range = content_range.trim().strip_prefix("bytes")?.trim_start();
    range.split_once('-')?.0.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_start_of_a_range_is_parsed() {
        assert_eq!(range_start("bytes 5-9/10"), Some(5));
        assert_eq!(range_start("bytes 0-9/*"), Some(0));
        for bad in ["", "bytes */10", "items 5-9/10", "bytes -9", "5-9"] {
            assert_eq!(range_start(bad), None, "{bad}");
        }
    }
}

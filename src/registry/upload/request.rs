//! Sends one request that carries a part of a blob.

use std::convert::Infallible;
use std::pin::pin;
use std::time::{Duration, Instant};

use bytes::Bytes;
use reqwest::Method;
use reqwest::header::{AUTHORIZATION, CONTENT_LENGTH, CONTENT_RANGE, CONTENT_TYPE, HeaderValue, LOCATION};
use tokio::sync::mpsc;
use tokio::time::timeout;
use tokio_stream::wrappers::ReceiverStream;
use url::Url;

use super::error::UploadError;
use super::replay_buffer::ReplayBuffer;
use super::session::Session;
use super::write_permit::{MAX_IDLE, WritePermit};
use crate::registry::client::{Registry, RegistryResponse, redirected_to_other_host};
use crate::registry::error::{Error, Kind};

/// Chunks that are queued for the connection.
const QUEUED_CHUNKS: usize = 2;
/// The minimum rate in bytes per second at which a registry is expected to verify a blob before it responds to the
/// commit.
const COMMIT_RATE: u64 = 20 * 1024 * 1024;

/// The part of the content that a request carries.
pub(super) struct Part {
    pub method: Method,
    pub url: Url,
    /// Maximum number of bytes.
    pub max_length: u64,
    /// Exact number of bytes, if known in advance.
    pub length: Option<u64>,
    /// Whether to send `Content-Range`; requires a length.
    pub has_range: bool,
}

/// Why a part was not sent.
pub(super) enum PartError<E> {
    /// Another attempt would fail too.
    Final(UploadError<E>),
    /// The request failed.
    Request(FailedRequest),
    /// The registry redirected the request.
    Redirected(Redirect),
}

/// A redirected request.
pub(super) struct Redirect {
    pub method: Method,
    pub to: Url,
    /// The offset in the blob at which it started.
    pub from: u64,
}

/// A failed request.
pub(super) struct FailedRequest {
    pub error: Error,
    /// The offset in the blob at which it started.
    pub from: u64,
    /// Bytes that it was to carry, or that it carried if the length was unknown.
    pub length: u64,
    /// Whether it was to commit the blob.
    pub commits: bool,
    /// Bytes that the connection had accepted.
    pub carried: u64,
    /// Its duration.
    pub elapsed: Duration,
}

/// Sends the next bytes of `buffer` as the body of one request. The caller holds a write permit. The response has a
/// success status.
pub(super) async fn send<E>(
    session: &Session,
    permit: &mut WritePermit,
    buffer: &mut ReplayBuffer<'_, E>,
    part: Part,
) -> Result<RegistryResponse, PartError<E>> {
    let (from, start) = (buffer.offset(), Instant::now());
    let (method, length) = (part.method.clone(), part.length);
    let sent = attempt(session, permit, buffer, part).await;
    sent.map_err(|error| match error {
        AttemptError::Redirected(to) => PartError::Redirected(Redirect { method, to, from }),
        AttemptError::Failed(error) => {
            let carried = buffer.offset() - from;
            PartError::Request(FailedRequest {
                error,
                from,
                length: length.unwrap_or(carried),
                commits: method == Method::PUT,
                carried,
                elapsed: start.elapsed(),
            })
        }
        AttemptError::Final(error) => PartError::Final(error),
    })
}

/// Why a request did not succeed.
enum AttemptError<E> {
    Failed(Error),
    Redirected(Url),
    Final(UploadError<E>),
}

impl<E> From<Error> for AttemptError<E> {
    fn from(error: Error) -> Self {
        Self::Failed(error)
    }
}

async fn attempt<E>(
    session: &Session,
    permit: &mut WritePermit,
    buffer: &mut ReplayBuffer<'_, E>,
    part: Part,
) -> Result<RegistryResponse, AttemptError<E>> {
    let registry = &session.registry;
    let idle = registry.idle();
    let label = session.label(&part.method);
    registry.throttle().wait(&label).await?;
    let authorization = registry
        .authorize(&label, &part.method, &part.url, &session.scope)
        .await?;
    let (sender, receiver) = mpsc::channel::<Result<Bytes, Infallible>>(QUEUED_CHUNKS);
    let request = build_request(registry, &label, &part, buffer.offset(), receiver)?;
    let request = match authorization.as_ref().and_then(|authorization| authorization.header()) {
        Some(value) => request.header(AUTHORIZATION, value),
        None => request,
    };
    let mut request = pin!(registry.http().send(&label, request));
    let (is_complete, response) = {
        let min_bytes = registry.endpoint().throughput.saturating_mul(idle.as_secs());
        let mut send_body = pin!(send_body(
            buffer,
            permit,
            part.max_length,
            sender,
            (&label, idle, min_bytes)
        ));
        tokio::select! {
            biased;
            sent = &mut send_body => match sent {
                Ok(carried) => {
                    let limit = idle + Duration::from_secs(carried / COMMIT_RATE);
                    (true, timeout(limit, request).await)
                }
                // The connection was closed; the response tells why.
                Err(BodyError::Closed) => (false, timeout(idle, request).await),
                Err(BodyError::Failed(error)) => return Err(error.into()),
                Err(BodyError::Stalled) => return Err(Error::timed_out(&label, idle).into()),
                Err(BodyError::Final(error)) => return Err(AttemptError::Final(error)),
            },
            response = &mut request => (false, Ok(response)),
        }
    };
    let response = response.map_err(|_| Error::timed_out(&label, idle))??;
    if let Some(mut authorization) = authorization {
        // If the challenge can be answered, later requests use that authorization.
        if !authorization.is_challenge(&response) || authorization.answer_challenge(&response).await? {
            authorization.record_accepted();
        }
    }
    check_response(registry, &label, &part.url, response, is_complete).await
}

/// The request whose body are the chunks from `body`, the first of which is at `offset` in the blob.
fn build_request(
    registry: &Registry,
    label: &str,
    part: &Part,
    offset: u64,
    body: mpsc::Receiver<Result<Bytes, Infallible>>,
) -> Result<reqwest::RequestBuilder, Error> {
    let mut request = registry
        .http()
        .request(label, part.method.clone(), &part.url, false)?
        .header(CONTENT_TYPE, HeaderValue::from_static("application/octet-stream"))
        .body(reqwest::Body::wrap_stream(ReceiverStream::new(body)));
    if let Some(length) = part.length {
        request = request.header(CONTENT_LENGTH, length);
        if part.has_range && length > 0 {
            request = request.header(CONTENT_RANGE, format!("{offset}-{}", offset + (length - 1)));
        }
    }
    Ok(request)
}

/// Checks the response to a request to `url`. `is_complete` tells whether the whole body was sent before.
async fn check_response<E>(
    registry: &Registry,
    label: &str,
    url: &Url,
    response: reqwest::Response,
    is_complete: bool,
) -> Result<RegistryResponse, AttemptError<E>> {
    let is_concealed = registry.http().is_concealed(response.url());
    let mut response = RegistryResponse::new(response, label.to_owned(), None);
    response.is_concealed = is_concealed;
    match (response.status().as_u16(), is_complete) {
        (200..=204, true) => Ok(response),
        (200..=204, false) => {
            let detail = "the registry responded before it received the content";
            Err(Error::new(Kind::Protocol, label, detail).into())
        }
        (301 | 302 | 307 | 308, _) => {
            let to = registry.resolve_location(label, url, response.header(LOCATION))?;
            match to.origin() == url.origin() {
                true => Err(AttemptError::Redirected(to)),
                false => Err(redirected_to_other_host(label, &to).into()),
            }
        }
        _ => {
            let error = response.into_error().await;
            registry.throttle().record_retry_after(&error);
            Err(error.into())
        }
    }
}

/// Why sending the body stopped.
enum BodyError<E> {
    /// The request does not read its body any more.
    Closed,
    /// The connection accepted no data within the idle timeout.
    Stalled,
    Failed(Error),
    Final(UploadError<E>),
}

/// Sends the next `max_length` bytes chunk by chunk, at least `min_bytes` of them in each period of `idle`. Returns the
/// offset in the blob after them, because a registry may read all bytes again when it commits.
async fn send_body<E>(
    buffer: &mut ReplayBuffer<'_, E>,
    permit: &mut WritePermit,
    max_length: u64,
    sender: mpsc::Sender<Result<Bytes, Infallible>>,
    (label, idle, min_bytes): (&str, Duration, u64),
) -> Result<u64, BodyError<E>> {
    let mut remaining = max_length;
    let (mut period_start, mut carried) = (Instant::now(), 0);
    while remaining > 0 {
        let chunk = match timeout(MAX_IDLE, buffer.next(remaining)).await {
            Ok(chunk) => chunk,
            Err(_) => {
                permit.release();
                buffer.next(remaining).await
            }
        };
        let Some(chunk) = chunk.map_err(BodyError::Final)? else {
            break;
        };
        let length = chunk.len() as u64;
        remaining -= length;
        let waited = Instant::now();
        permit.record(length).await.map_err(BodyError::Failed)?;
        period_start += waited.elapsed();
        match timeout(idle, sender.send(Ok(chunk))).await {
            Ok(sent) => sent.map_err(|_| BodyError::Closed)?,
            Err(_) => {
                tracing::debug!(label, "the connection accepts no data");
                return Err(BodyError::Stalled);
            }
        }
        carried += length;
        if period_start.elapsed() >= idle {
            if carried < min_bytes {
                let detail = format!(
                    "only {carried} bytes were sent in {} s, but the minimum is {min_bytes}",
                    idle.as_secs()
                );
                return Err(BodyError::Failed(Error::new(Kind::TimedOut, label, detail)));
            }
            (period_start, carried) = (Instant::now(), 0);
        }
    }
    Ok(buffer.offset())
}

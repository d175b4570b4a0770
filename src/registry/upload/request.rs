//! One request that carries a part of a blob.

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

use super::UploadError;
use super::replay_buffer::ReplayBuffer;
use super::session::Session;
use super::write_permit::{PAUSE, WritePermit};
use crate::registry::client::{RegistryResponse, leads_away};
use crate::registry::error::{Error, Kind};

/// Pieces that wait for the connection.
const WAITING: usize = 2;
/// A registry may read a blob again before it answers; it is given the time that this many bytes a second take.
const COMMIT_RATE: u64 = 20 * 1024 * 1024;

/// What of a feed goes where.
pub(super) struct Part {
    pub method: Method,
    pub url: Url,
    /// Bytes at most.
    pub most: u64,
    /// Bytes exactly, where that is known before.
    pub length: Option<u64>,
    /// Whether the registry is told which bytes of the blob these are; only of use with a length.
    pub ranged: bool,
}

/// Why a part did not arrive.
pub(super) enum PartFailure<E> {
    /// Nothing of it arrives at another try either.
    Ended(UploadError<E>),
    /// The request failed.
    Request(Failure),
    /// The registry wants it elsewhere.
    Redirected(Redirect),
}

/// A request that belongs elsewhere.
pub(super) struct Redirect {
    pub method: Method,
    pub to: Url,
    /// Where in the blob it began.
    pub from: u64,
}

/// A request that failed.
pub(super) struct Failure {
    pub error: Error,
    /// Where in the blob it began.
    pub from: u64,
    /// Bytes that it was to carry, or where that was not known, that it had.
    pub length: u64,
    /// Whether it was to commit the blob.
    pub commits: bool,
    /// Bytes that the connection had taken.
    pub carried: u64,
    /// How long it lasted.
    pub took: Duration,
}

/// Sends what follows in `feed` as the body of one request, by one who has the turn to write. The answer's status is a
/// success.
pub(super) async fn send<E>(
    session: &Session,
    permit: &mut WritePermit,
    feed: &mut ReplayBuffer<'_, E>,
    part: Part,
) -> Result<RegistryResponse, PartFailure<E>> {
    let (from, begun) = (feed.at(), Instant::now());
    let (method, length) = (part.method.clone(), part.length);
    let sent = attempt(session, permit, feed, part).await;
    sent.map_err(|stopped| match stopped {
        Stopped::Redirected(to) => PartFailure::Redirected(Redirect { method, to, from }),
        Stopped::Failed(error) => {
            let carried = feed.at() - from;
            PartFailure::Request(Failure {
                error,
                from,
                length: length.unwrap_or(carried),
                commits: method == Method::PUT,
                carried,
                took: begun.elapsed(),
            })
        }
        Stopped::Ended(ended) => PartFailure::Ended(ended),
    })
}

/// Why a request did not succeed.
enum Stopped<E> {
    Failed(Error),
    Redirected(Url),
    Ended(UploadError<E>),
}

impl<E> From<Error> for Stopped<E> {
    fn from(error: Error) -> Self {
        Self::Failed(error)
    }
}

async fn attempt<E>(
    session: &Session,
    permit: &mut WritePermit,
    feed: &mut ReplayBuffer<'_, E>,
    part: Part,
) -> Result<RegistryResponse, Stopped<E>> {
    let registry = &session.registry;
    let idle = registry.idle();
    let label = session.label(&part.method);
    registry.patience().keep(&label).await?;
    let proof = registry.proof(&label, &part.method, &part.url, &session.scope).await?;
    let (sender, receiver) = mpsc::channel::<Result<Bytes, Infallible>>(WAITING);
    let mut request = registry
        .http()
        .request(&label, part.method.clone(), &part.url, false)?
        .header(CONTENT_TYPE, HeaderValue::from_static("application/octet-stream"))
        .body(reqwest::Body::wrap_stream(ReceiverStream::new(receiver)));
    if let Some(length) = part.length {
        request = request.header(CONTENT_LENGTH, length);
        if part.ranged && length > 0 {
            let from = feed.at();
            request = request.header(CONTENT_RANGE, format!("{from}-{}", from + (length - 1)));
        }
    }
    if let Some(authorization) = proof.as_ref().and_then(|proof| proof.header()) {
        request = request.header(AUTHORIZATION, authorization);
    }
    let mut request = pin!(registry.http().send(&label, request));
    let (whole, response) = {
        let least = registry.endpoint().throughput.saturating_mul(idle.as_secs());
        let mut pump = pin!(pump(feed, permit, part.most, sender, (&label, idle, least)));
        tokio::select! {
            biased;
            pumped = &mut pump => match pumped {
                Ok(carried) => {
                    let limit = idle + Duration::from_secs(carried / COMMIT_RATE);
                    (true, timeout(limit, request).await)
                }
                // The connection took no more; its answer says why.
                Err(Stop::Closed) => (false, timeout(idle, request).await),
                Err(Stop::Failed(error)) => return Err(error.into()),
                Err(Stop::Stuck) => return Err(Error::timed_out(&label, idle).into()),
                Err(Stop::Ended(error)) => return Err(Stopped::Ended(error)),
            },
            response = &mut request => (false, Ok(response)),
        }
    };
    let response = response.map_err(|_| Error::timed_out(&label, idle))??;
    if let Some(mut proof) = proof {
        // What is sent after this refusal is proved by that.
        if !proof.is_refusal(&response) || proof.refused(&response).await? {
            proof.accepted();
        }
    }
    let is_foreign = registry.http().is_foreign(response.url());
    let mut answer = RegistryResponse::new(response, label.clone(), None);
    answer.is_foreign = is_foreign;
    match (answer.status().as_u16(), whole) {
        (200..=204, true) => Ok(answer),
        (200..=204, false) => {
            let detail = "the registry answers before it has the content";
            Err(Error::new(Kind::Protocol, &label, detail).into())
        }
        (301 | 302 | 307 | 308, _) => {
            let to = registry.follow(&label, &part.url, answer.header(LOCATION))?;
            match to.origin() == part.url.origin() {
                true => Err(Stopped::Redirected(to)),
                false => Err(leads_away(&label, &to).into()),
            }
        }
        _ => {
            let error = answer.failure().await;
            registry.patience().note(&error);
            Err(error.into())
        }
    }
}

/// Why no more is handed on.
enum Stop<E> {
    /// The request does not read its body any more.
    Closed,
    /// The connection took nothing for too long.
    Stuck,
    Failed(Error),
    Ended(UploadError<E>),
}

/// Hands the next `most` bytes on piece by piece, at least `least` of them in each time `idle`. Returns how many of the blob
/// were handed on in all: what a registry that commits it may read again.
async fn pump<E>(
    feed: &mut ReplayBuffer<'_, E>,
    permit: &mut WritePermit,
    most: u64,
    sender: mpsc::Sender<Result<Bytes, Infallible>>,
    (label, idle, least): (&str, Duration, u64),
) -> Result<u64, Stop<E>> {
    let mut left = most;
    let (mut since, mut carried) = (Instant::now(), 0);
    while left > 0 {
        let piece = match timeout(PAUSE, feed.next(left)).await {
            Ok(piece) => piece,
            Err(_) => {
                permit.pause();
                feed.next(left).await
            }
        };
        let Some(piece) = piece.map_err(Stop::Ended)? else {
            break;
        };
        let length = piece.len() as u64;
        left -= length;
        let waited = Instant::now();
        permit.carry(length).await.map_err(Stop::Failed)?;
        since += waited.elapsed();
        match timeout(idle, sender.send(Ok(piece))).await {
            Ok(sent) => sent.map_err(|_| Stop::Closed)?,
            Err(_) => {
                tracing::debug!(label, "the connection takes nothing");
                return Err(Stop::Stuck);
            }
        }
        carried += length;
        if since.elapsed() >= idle {
            if carried < least {
                let detail = format!(
                    "only {carried} bytes were carried in {} s, and the least is {least}",
                    idle.as_secs()
                );
                return Err(Stop::Failed(Error::new(Kind::TimedOut, label, detail)));
            }
            (since, carried) = (Instant::now(), 0);
        }
    }
    Ok(feed.at())
}

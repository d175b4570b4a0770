//! Blobs on their way into a registry (distribution specification, "Pushing blobs").
//!
//! The last bytes of a blob are held back until its digest and size were found right, so a registry never
//! has the whole of a wrong one, whatever it checks by itself.

use std::convert::Infallible;
use std::fmt;
use std::pin::pin;
use std::time::Duration;

use bytes::Bytes;
use futures::stream::{BoxStream, StreamExt};
use reqwest::header::{AUTHORIZATION, CONTENT_LENGTH, CONTENT_TYPE, HeaderValue, LOCATION};
use reqwest::{Method, StatusCode};
use tokio::sync::mpsc;
use tokio::time::timeout;
use tokio_stream::wrappers::ReceiverStream;
use url::Url;

use super::client::{Answer, Call, Registry};
use super::error::{Error, Kind};
use super::repository::{Repository, answered_digest, same_digest};
use super::token::Scope;
use crate::hashing::Hashing;
use crate::oci::Digest;

/// The largest piece in bytes that is handed on at once.
const PIECE: usize = 1024 * 1024;
/// Pieces that wait for the connection.
const WAITING: usize = 2;
/// A registry may read a blob again before it answers; it is given the time that this many bytes a second take.
const COMMIT_RATE: u64 = 20 * 1024 * 1024;
/// The longest time that giving up a session may take.
const CANCEL_LIMIT: Duration = Duration::from_secs(10);
/// What is waited before each try of that, in milliseconds.
const CANCEL_PAUSES: [u64; 5] = [0, 50, 250, 1000, 4000];

/// Why an upload ended early: by its source, unchanged, or by the registry.
#[derive(Debug)]
pub enum UploadError<E> {
    /// The content broke off with this.
    Source(E),
    /// The registry did.
    Registry(Error),
}

impl<E> From<Error> for UploadError<E> {
    fn from(error: Error) -> Self {
        Self::Registry(error)
    }
}

impl<E: fmt::Display> fmt::Display for UploadError<E> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Source(error) => error.fmt(formatter),
            Self::Registry(error) => error.fmt(formatter),
        }
    }
}

impl Repository {
    /// Stores a blob, and returns the digest and size in bytes of what was stored. `digest` and `size` are
    /// what the content must have, when known; without a digest it is stored under the one it has. On any
    /// error, and when the future is dropped, nothing is stored and the session is given up.
    pub async fn upload<E>(
        &self,
        digest: Option<&Digest>,
        size: Option<u64>,
        bytes: BoxStream<'_, Result<Bytes, E>>,
    ) -> Result<(Digest, u64), UploadError<E>> {
        let registry = self.registry();
        let call = Call::new(Method::POST, self.uploads(), Scope::push(self.name()))
            .with(CONTENT_LENGTH, HeaderValue::from_static("0"));
        let answer = registry.expect(&call, &[202]).await?;
        let mut session = Session::begun(registry, &call, &answer)?;
        drop(answer);
        let content = Content { digest, size, bytes };
        let (found, length, answer) = match (digest, size) {
            (Some(digest), Some(_)) => {
                let url = committing(&session.url, digest);
                session.stream(Method::PUT, url, content).await?
            }
            _ => {
                let url = session.url.clone();
                let (found, length, answer) = session.stream(Method::PATCH, url, content).await?;
                let from = session.url.clone();
                session.url = registry.follow(&session.label, &from, answer.header(LOCATION))?;
                drop(answer);
                let url = committing(&session.url, &found);
                let empty = Content::<Infallible> {
                    digest: None,
                    size: Some(0),
                    bytes: futures::stream::empty().boxed(),
                };
                let committed = session.stream(Method::PUT, url, empty).await;
                let (.., answer) = committed.map_err(|error| match error {
                    UploadError::Registry(error) => UploadError::Registry(error),
                    UploadError::Source(never) => match never {},
                })?;
                (found, length, answer)
            }
        };
        // Committed; nothing is left to give up.
        session.open = false;
        if let Some(stored) = answered_digest(&answer)? {
            same_digest(&session.label, found.as_str(), &stored)?;
        }
        Ok((found, length))
    }
}

fn committing(session: &Url, digest: &Digest) -> Url {
    let mut url = session.clone();
    url.query_pairs_mut().append_pair("digest", digest.as_str());
    url
}

struct Content<'a, E> {
    digest: Option<&'a Digest>,
    size: Option<u64>,
    bytes: BoxStream<'a, Result<Bytes, E>>,
}

/// A begun upload. Unless it was committed, dropping it tells the registry so.
pub(super) struct Session {
    registry: Registry,
    scope: Scope,
    url: Url,
    label: String,
    open: bool,
}

impl Session {
    /// The session that `answer`, to a POST, began.
    pub fn begun(registry: &Registry, call: &Call, answer: &Answer) -> Result<Self, Error> {
        Ok(Self {
            url: registry.follow(&call.label, &call.url, answer.header(LOCATION))?,
            registry: registry.clone(),
            scope: call.scope.clone(),
            label: call.label.clone(),
            open: true,
        })
    }

    /// Gives the upload up, as well as that goes.
    pub async fn cancel(mut self) {
        self.open = false;
        cancel(self.registry.clone(), self.url.clone(), self.scope.clone()).await;
    }

    /// Sends `content` as the body of one request and returns its digest, its length and the answer, whose
    /// status is a success.
    async fn stream<E>(
        &self,
        method: Method,
        url: Url,
        content: Content<'_, E>,
    ) -> Result<(Digest, u64, Answer), UploadError<E>> {
        let registry = &self.registry;
        let idle = registry.idle();
        // The session's own address differs from one try to the next.
        let label = self.label.replacen(Method::POST.as_str(), method.as_str(), 1);
        let authorization = registry.authorization(&label, &url, &self.scope).await?;
        let permit = registry.writing().await?;
        let (sender, receiver) = mpsc::channel::<Result<Bytes, Infallible>>(WAITING);
        let mut request = registry
            .http()
            .request(method, url)
            .header(CONTENT_TYPE, HeaderValue::from_static("application/octet-stream"))
            .body(reqwest::Body::wrap_stream(ReceiverStream::new(receiver)));
        if let Some(size) = content.size {
            request = request.header(CONTENT_LENGTH, size);
        }
        if let Some(authorization) = authorization {
            request = request.header(AUTHORIZATION, authorization);
        }
        let mut request = pin!(request.send());
        let mut pump = pin!(pump(content, sender, &label, idle));
        let (pumped, response) = tokio::select! {
            biased;
            pumped = &mut pump => match pumped {
                Ok(pumped) => {
                    let limit = idle + Duration::from_secs(pumped.1 / COMMIT_RATE);
                    (Some(pumped), timeout(limit, request).await)
                }
                // The connection took no more; its answer says why.
                Err(Stop::Closed) => (None, timeout(idle, request).await),
                Err(Stop::Ended(error)) => return Err(error),
            },
            response = &mut request => (None, Ok(response)),
        };
        let response = response
            .map_err(|_| Error::timed_out(&label, idle))?
            .map_err(|error| Error::transport(&label, &error.without_url()))?;
        let answer = Answer::new(response, label.clone(), permit);
        match (answer.status().as_u16(), pumped) {
            (200..=204, Some((digest, length))) => Ok((digest, length, answer)),
            (200..=204, None) => {
                let detail = "the registry answers before it has the content";
                Err(Error::new(Kind::Protocol, answer.label, detail).into())
            }
            _ => Err(answer.failure().await.into()),
        }
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        if self.open
            && let Ok(runtime) = tokio::runtime::Handle::try_current()
        {
            runtime.spawn(cancel(self.registry.clone(), self.url.clone(), self.scope.clone()));
        }
    }
}

/// Not told so, a registry forgets a session after some days. distribution 2.8 cannot be told once a request
/// broke off: it takes only the address that follows the bytes it has, and does not say which that is.
async fn cancel(registry: Registry, url: Url, scope: Scope) {
    match timeout(CANCEL_LIMIT, try_cancel(&registry, url, &scope)).await {
        Ok(Ok(status)) => tracing::debug!(%status, "gave an upload up"),
        Ok(Err(error)) => tracing::debug!(%error, "could not give an upload up"),
        Err(_) => tracing::debug!("giving an upload up took too long"),
    }
}

async fn try_cancel(registry: &Registry, mut url: Url, scope: &Scope) -> Result<StatusCode, Error> {
    let label = "DELETE of an upload";
    let ask = async |method: Method, url: &Url| {
        let mut request = registry.http().request(method, url.clone());
        if let Some(value) = registry.authorization(label, url, scope).await? {
            request = request.header(AUTHORIZATION, value);
        }
        let response = request.send().await;
        response.map_err(|error| Error::transport(label, &error.without_url()))
    };
    // A request that was just broken off may still be at its end over there, on a slow way for seconds; and a registry
    // that was killed is mostly started again.
    let mut last = Ok(StatusCode::RANGE_NOT_SATISFIABLE);
    for pause in CANCEL_PAUSES {
        tokio::time::sleep(Duration::from_millis(pause)).await;
        let asked = async {
            let response = ask(Method::DELETE, &url).await?;
            if response.status() != StatusCode::RANGE_NOT_SATISFIABLE {
                return Ok((response.status(), None));
            }
            // It has other bytes than the address says; its status has the right one.
            let response = ask(Method::GET, &url).await?;
            let location = response.headers().get(LOCATION).and_then(|value| value.to_str().ok());
            let known = registry.follow(label, &url, location)?;
            Ok((StatusCode::RANGE_NOT_SATISFIABLE, Some(known)))
        };
        match asked.await {
            Ok((status, None)) => return Ok(status),
            Ok((status, Some(known))) => (last, url) = (Ok(status), known),
            Err(error) => last = Err(error),
        }
    }
    last
}

/// Why no more is handed on.
enum Stop<E> {
    /// The request does not read its body any more.
    Closed,
    Ended(UploadError<E>),
}

/// Hands the content on piece by piece, the last one only after digest and size were found right.
async fn pump<E>(
    content: Content<'_, E>,
    sender: mpsc::Sender<Result<Bytes, Infallible>>,
    label: &str,
    idle: Duration,
) -> Result<(Digest, u64), Stop<E>> {
    let Content {
        digest,
        size,
        mut bytes,
    } = content;
    let mismatch = |detail: String| Stop::Ended(Error::new(Kind::DigestMismatch, label, detail).into());
    let hand = async |piece: Bytes| match timeout(idle, sender.send(Ok(piece))).await {
        Ok(sent) => sent.map_err(|_| Stop::Closed),
        Err(_) => Err(Stop::Ended(Error::timed_out(label, idle).into())),
    };
    let mut hashing = Hashing::new(digest);
    let mut length = 0_u64;
    let mut held: Option<Bytes> = None;
    while let Some(chunk) = bytes.next().await {
        let mut chunk = chunk.map_err(|error| Stop::Ended(UploadError::Source(error)))?;
        length += chunk.len() as u64;
        if let Some(size) = size
            && length > size
        {
            return Err(mismatch(format!("more than the {size} bytes that are expected arrive")));
        }
        while !chunk.is_empty() {
            let piece = chunk.split_to(chunk.len().min(PIECE));
            hashing.update(&piece).await;
            if let Some(before) = held.replace(piece) {
                hand(before).await?;
            }
        }
    }
    if let Some(size) = size
        && length != size
    {
        return Err(mismatch(format!("{size} bytes are expected, and {length} arrived")));
    }
    let found = hashing.finish().await.map_err(|error| {
        let detail = format!("hashing was given up: {error}");
        Stop::Ended(Error::new(Kind::Interrupted, label, detail).into())
    })?;
    if let Some(digest) = digest
        && found != *digest
    {
        return Err(mismatch(format!("{digest} is expected, and the content has {found}")));
    }
    if let Some(last) = held {
        hand(last).await?;
    }
    Ok((found, length))
}

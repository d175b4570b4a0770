//! Blobs on their way into a registry (distribution specification, "Pushing blobs").
//!
//! The last bytes of a blob are held back until its digest and size were found right, so a registry never
//! has the whole of a wrong one, whatever it checks by itself.
//!
//! A blob of known digest and length goes in one PUT. After a broken request the registry is asked how much it has, and
//! gets the rest in parts, as far back as the window reaches; a blob of which that is not possible is begun anew, from
//! the window or else by whoever has the content.

mod part_size;
mod replay_buffer;
mod request;
mod session;
mod window;
mod write_permit;

use std::fmt;
use std::time::Duration;

use bytes::Bytes;
use futures::stream::BoxStream;
use reqwest::Method;
use url::Url;

use self::replay_buffer::ReplayBuffer;
use self::request::{Failure, Part, PartFailure, Redirect};
use self::write_permit::WritePermit;
use super::client::{REDIRECTS, RegistryResponse, too_many_redirects};
use super::error::{Error, Kind, backoff};
use super::repository::{Repository, answered_digest, same_digest};
use crate::oci::Digest;

pub(super) use self::part_size::PartSize;
#[cfg(fuzzing)]
pub(super) use self::session::received;
pub(super) use self::session::{Session, to_its_end};

/// How often an upload is gone on with while it does not get on.
const RESUMPTIONS: u32 = 4;
/// Bytes after which an upload counts as getting on.
const PROGRESS: u64 = 8 * 1024 * 1024;
/// How often a registry that is away is asked for an upload's status: some seconds.
const ASKED: u32 = 5;

/// Why an upload ended early: by its source, unchanged, or by the registry.
#[derive(Debug)]
pub enum UploadError<E> {
    /// The content broke off with this.
    Source(E),
    /// The registry did.
    Registry(Error),
    /// The registry did, and lost what it had: it may take the same content from its beginning.
    Lost(Error),
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
            Self::Registry(error) | Self::Lost(error) => error.fmt(formatter),
        }
    }
}

/// An upload that the registry began where it would not mount the blob. Unused, it is given up when it is dropped.
pub struct PendingUpload(pub(super) Session);

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
        self.resume_upload(None, digest, size, bytes).await
    }

    /// The same in a session that was begun before, if there is one.
    pub async fn resume_upload<E>(
        &self,
        begun: Option<PendingUpload>,
        digest: Option<&Digest>,
        size: Option<u64>,
        bytes: BoxStream<'_, Result<Bytes, E>>,
    ) -> Result<(Digest, u64), UploadError<E>> {
        // Held to the end as long as content flows: between two parts nobody may come who waits for a turn to read, while who
        // reads waits for this permit to go on.
        let permit = WritePermit::acquire(self.registry()).await?;
        let session = match begun {
            Some(PendingUpload(session)) => session,
            None => Session::begin(self).await?,
        };
        let label = match (digest, size) {
            (Some(_), Some(_)) => session.label(&Method::PUT),
            _ => session.label(&Method::PATCH),
        };
        let mut upload = Upload {
            repository: self,
            permit,
            session,
            feed: ReplayBuffer::new(digest, size, bytes, label),
            digest,
            size,
            acknowledged: 0,
            doubtful: false,
            unauthorized: false,
            redirect: None,
            redirects: 0,
            apart: self.registry().pace().sends_apart(),
            broken: 0,
            broken_at: 0,
        };
        loop {
            let done = match upload.step().await {
                Ok(done) => done,
                Err(PartFailure::Ended(error)) => return Err(error),
                Err(PartFailure::Request(failure)) => upload.recover(failure).await?,
                Err(PartFailure::Redirected(redirect)) => {
                    upload.go_elsewhere(redirect)?;
                    None
                }
            };
            if let Some(stored) = done {
                return Ok(stored);
            }
        }
    }
}

/// A blob on its way.
struct Upload<'r, 'a, E> {
    repository: &'r Repository,
    permit: WritePermit,
    session: Session,
    feed: ReplayBuffer<'a, E>,
    digest: Option<&'a Digest>,
    size: Option<u64>,
    /// Bytes that the registry said to have.
    acknowledged: u64,
    /// A request of this session broke, so what it has may be other than it says.
    doubtful: bool,
    /// A request was refused for who sends it.
    unauthorized: bool,
    /// Where the next request goes, if it is of this method.
    redirect: Option<(Method, Url)>,
    /// How often one request was redirected.
    redirects: usize,
    /// The content is sent before the request that commits it.
    apart: bool,
    /// Failures since it got on.
    broken: u32,
    broken_at: u64,
}

type Stored = (Digest, u64);

impl<E> Upload<'_, '_, E> {
    /// The next request. What was stored, when that is all.
    async fn step(&mut self) -> Result<Option<Stored>, PartFailure<E>> {
        let learned = self.repository.registry().pace().part();
        let from = self.feed.at();
        if let (Some(digest), Some(size), 0) = (self.digest, self.size, from)
            && learned.is_none_or(|part| size <= part)
            && !self.apart
        {
            let part = Part {
                method: Method::PUT,
                url: self.target(&Method::PUT, |session| session.committing(digest)),
                most: u64::MAX,
                length: Some(size),
                ranged: false,
            };
            let answer = request::send(&self.session, &mut self.permit, &mut self.feed, part).await?;
            return self.committed(&answer).map(Some).map_err(ended);
        }
        if self.feed.more().await.map_err(PartFailure::Ended)? {
            let part = match (learned, from) {
                (Some(part), _) => part,
                (None, 0) => u64::MAX,
                (None, _) => part_size::LARGEST,
            };
            let part = Part {
                method: Method::PATCH,
                url: self.target(&Method::PATCH, |session| session.url.clone()),
                most: part,
                length: self.size.map(|size| size.saturating_sub(from).min(part)),
                // The one request that docker sends too is known also where ranges are not.
                ranged: part < u64::MAX,
            };
            let answer = request::send(&self.session, &mut self.permit, &mut self.feed, part).await?;
            self.session.moved(&answer).map_err(ended)?;
            self.acknowledged = self.feed.at();
            self.redirects = 0;
            return Ok(None);
        }
        let Some(digest) = self.feed.verified().map(|(digest, _)| digest.clone()) else {
            let detail = "the content ended before its digest was known";
            return Err(ended(Error::new(
                Kind::Interrupted,
                self.session.label(&Method::PUT),
                detail,
            )));
        };
        let part = Part {
            method: Method::PUT,
            url: self.target(&Method::PUT, |session| session.committing(&digest)),
            most: 0,
            length: Some(0),
            ranged: false,
        };
        let answer = request::send(&self.session, &mut self.permit, &mut self.feed, part).await?;
        self.committed(&answer).map(Some).map_err(ended)
    }

    /// Where a request of `method` goes: where the last one was redirected, else where the session says.
    fn target(&mut self, method: &Method, usual: impl FnOnce(&Session) -> Url) -> Url {
        let redirect = self.redirect.take().filter(|(redirected, _)| redirected == method);
        redirect.map_or_else(|| usual(&self.session), |(_, to)| to)
    }

    /// Has the blobs that follow sent as this one was, or is to be.
    fn remember(&self) {
        if self.apart {
            self.repository.registry().pace().send_apart();
        }
    }

    /// Makes the next step send the same bytes where the registry wants them.
    fn go_elsewhere(&mut self, redirect: Redirect) -> Result<(), UploadError<E>> {
        let Redirect { method, to, from } = redirect;
        let label = self.session.label(&method);
        self.redirects += 1;
        if self.redirects > REDIRECTS {
            return Err(too_many_redirects(&label).into());
        }
        if !self.feed.seek(from) {
            let detail = "the registry redirects a part after it took more of it than is kept";
            return Err(UploadError::Lost(Error::new(Kind::Protocol, label, detail)));
        }
        self.redirect = Some((method, to));
        Ok(())
    }

    fn committed(&mut self, answer: &RegistryResponse) -> Result<Stored, Error> {
        let Some((found, length)) = self.feed.verified() else {
            let detail = "the registry answers before it has the content";
            return Err(Error::new(Kind::Protocol, &answer.label, detail));
        };
        self.session.committed();
        self.remember();
        if let Some(stored) = answered_digest(answer) {
            same_digest(&answer.label, found.as_str(), &stored)?;
        }
        Ok((found.clone(), length))
    }

    /// Makes the next step go on where the registry is, after a request that failed. What is stored, when that turns
    /// out to be all.
    async fn recover(&mut self, failure: Failure) -> Result<Option<Stored>, UploadError<E>> {
        let Failure {
            error,
            from,
            length,
            commits,
            carried,
            took,
        } = failure;
        let pace = self.repository.registry().pace();
        let mut pause = Duration::ZERO;
        let mut lost = false;
        // Some say so of a range that they cannot take for its length. Where a request of the session broke before, it is
        // the range.
        let large = match error.kind() {
            Kind::TooLarge => true,
            Kind::Status(416) => !self.doubtful,
            _ => false,
        };
        // How often is bounded by what there is to halve.
        let smaller = large && pace.too_large(length);
        match error.kind() {
            _ if smaller => {}
            // Some take content by PATCH only.
            Kind::NotFound | Kind::Unsupported | Kind::Invalid | Kind::Status(400..=415 | 417..=499)
                if commits && length > 0 && !self.doubtful && !error.temporary() && !self.apart =>
            {
                self.apart = true;
                lost = true;
            }
            // Asking for the status renews the token.
            Kind::Unauthorized if !self.unauthorized => self.unauthorized = true,
            Kind::NotFound => lost = true,
            // What the registry has is not what it said, or it cannot go on with it.
            Kind::Status(416) => pause = backoff(self.broken + 1),
            Kind::DigestMismatch | Kind::Invalid | Kind::Unsupported | Kind::Denied if self.doubtful => lost = true,
            Kind::Status(400..500) if self.doubtful && !error.temporary() => lost = true,
            Kind::RateLimited { .. } => match error.pause(self.broken + 1) {
                Some(asked) => pause = asked,
                None => return Err(error.into()),
            },
            Kind::Status(status) if error.temporary() => {
                pace.broke(carried, took, *status == 504);
                pause = backoff(self.broken + 1);
            }
            Kind::Interrupted => {
                pace.broke(carried, took, false);
                pause = backoff(self.broken + 1);
            }
            Kind::TimedOut | Kind::Unavailable => pause = backoff(self.broken + 1),
            _ => {
                // Somebody else may have stored the same meanwhile, which some do not let be stored twice.
                return match commits {
                    true => self.standing().await.map(Some).ok_or_else(|| error.into()),
                    false => Err(error.into()),
                };
            }
        }
        match error.kind() {
            _ if smaller => {}
            // It was waited for already.
            Kind::TimedOut => self.broken += RESUMPTIONS - 1,
            _ => self.broken += 1,
        }
        if self.broken > RESUMPTIONS {
            return Err(error.into());
        }
        tracing::debug!(%error, ?pause, acknowledged = self.acknowledged, "going on with an upload");
        tokio::time::sleep(pause).await;
        let sound = smaller && !self.doubtful;
        self.doubtful = true;
        let received = if lost { None } else { self.ask().await? };
        // Nothing of the part was taken, so nothing is unclear.
        self.doubtful = !(sound && received == Some(from));
        // Refused where the registry says again that it is.
        let refused = !smaller && error.kind() == &Kind::Status(416) && received == Some(from);
        match received {
            Some(received) if !refused && self.feed.seek(received) => {
                if received >= self.broken_at + PROGRESS {
                    self.broken = 0;
                    self.broken_at = received;
                    self.unauthorized = false;
                }
                Ok(None)
            }
            _ => self.anew(error).await,
        }
    }

    /// How many bytes the registry has; none when it lost them.
    async fn ask(&mut self) -> Result<Option<u64>, Error> {
        let mut asked = 0;
        loop {
            match self.session.status().await {
                // Some registries say what they had before the last part, which they acknowledged.
                Ok(received) => return Ok(received.map(|received| received.max(self.acknowledged))),
                // It does not know how to say.
                Err(error) if matches!(error.kind(), Kind::Status(_)) => return Ok(None),
                Err(error) => {
                    asked += 1;
                    if asked >= ASKED || error.kind() != &Kind::Unavailable {
                        return Err(error);
                    }
                    tokio::time::sleep(backoff(asked)).await;
                }
            }
        }
    }

    /// What was to be stored, if all of it was found right and it stands in the registry.
    async fn standing(&mut self) -> Option<Stored> {
        let verified = self.feed.verified();
        let (digest, length) = verified.map(|(digest, length)| (digest.clone(), length))?;
        let standing = self.repository.head_blob_within_turn(&digest).await.ok().flatten();
        (standing == Some(length)).then_some((digest, length))
    }

    /// Begins again, unless the blob stands: the answer that said so may be what was lost.
    async fn anew(&mut self, error: Error) -> Result<Option<Stored>, UploadError<E>> {
        if let Some(stored) = self.standing().await {
            return Ok(Some(stored));
        }
        if !self.feed.seek(0) {
            return Err(match error.kind() {
                // Whoever stands still does so for the next reading too.
                Kind::TimedOut => UploadError::Registry(error),
                _ => {
                    self.remember();
                    UploadError::Lost(error)
                }
            });
        }
        self.session = Session::begin(self.repository).await?;
        self.acknowledged = 0;
        self.doubtful = false;
        Ok(None)
    }
}

fn ended<E>(error: Error) -> PartFailure<E> {
    PartFailure::Ended(error.into())
}

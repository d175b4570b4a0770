//! Uploads of blobs (distribution specification, "Pushing blobs"), and how they are resumed.
//!
//! A blob of known digest and length is sent by POST and one PUT, any other blob by POST, PATCH and PUT. The digest is
//! computed while the bytes pass. The last bytes are held back until digest and size are verified, so a registry never
//! has the whole of a wrong blob.
//!
//! # Resuming
//!
//! The bytes that were passed to the connection last stay in a *window* (`window`): references to the chunks, at most 8
//! MiB for one upload and 12 MiB for the process. After a broken request the registry is asked how much it has. If the
//! window reaches back that far, the upload continues there by PATCH with ranges. distribution 3.1 keeps what it
//! received of a broken PUT or PATCH, and says so; 2.8 forgets the upload (404 `BLOB_UPLOAD_INVALID`), and it cannot be
//! cancelled there. The kernels at both ends of a fast connection buffer some megabytes, so the window is not smaller.
//!
//! If the registry lost the upload, a new upload starts, from the window if it still has the beginning of the blob.
//! Otherwise the result is `UploadError::Lost`, which becomes `Disposition::Reread`, and the source reads that blob
//! again. Before anything is sent again, the registry is asked for the blob, because only the answer may have been
//! lost. A registry's statement that contradicts its own acknowledgement is not believed (ECR reports the offset before
//! the last part), nor a refusal of the location that it has just named.
//!
//! # Continuing in another process
//!
//! With a [`UploadRecord`], the location of the session is in a file. The next attempt asks the registry how much it has, reads that
//! much of the content for the digest without sending it, and sends the rest. A recorded session is not cancelled when it is dropped
//! or a connection breaks, only when the content or the registry's refusal is the reason. If the window does not reach back to what
//! the registry has, the session is kept for the next attempt too.
//!
//! # Parts
//!
//! After a 413 the size of one request is halved, from 64 MiB down to 1 MiB. After a 504, or a connection that broke
//! after more than 10 s, it becomes the amount that the measured rate transfers in 20 s, 16 to 512 MiB (each part costs
//! distribution an fsync). The client of the registry remembers the size for the next blob. Blobs are never sent in
//! parts otherwise, because some registries support only the single PUT.
//!
//! # Permits
//!
//! An upload holds *one* write permit from its POST to its commit while its content flows; requests that repair it need
//! no other permit. Otherwise eight copies within one registry that break at the same time would each hold a read
//! request and wait for another. When no content arrives for a second, or less than 64 KiB per second, the permit goes
//! to another upload and the slow one continues without it (`write_permit`): a source that sends a byte now and then
//! would block all others.
//!
//! # Cancelling
//!
//! A POST continues when its caller is dropped, so that the upload that it started can be cancelled. A refused mount
//! starts an upload, which is used for the next blob, and cancelled together with the destination.

mod error;
mod mount;
mod record;
mod replay_buffer;
mod request;
mod session;
mod window;
mod write_permit;

use std::time::Duration;

use bytes::Bytes;
use futures::stream::BoxStream;
use reqwest::Method;
use url::Url;

use self::replay_buffer::ReplayBuffer;
use self::request::{FailedRequest, Part, PartError, Redirect};
use self::session::Session;
use self::write_permit::WritePermit;
use super::client::{MAX_REDIRECTS, RegistryResponse, too_many_redirects};
use super::error::{Error, Kind, backoff};
use super::part_size;
use super::repository::{Repository, check_digest, digest_header};
use crate::oci::Digest;

pub use self::error::UploadError;
pub use self::mount::MountResult;
pub use self::record::{UploadRecord, UploadRecords};
pub use self::session::PendingUpload;
#[cfg(fuzzing)]
pub(super) use self::session::parse_range;

/// Resumptions of an upload without progress.
const MAX_RESUMPTIONS: u32 = 4;
/// Bytes that count as progress.
const PROGRESS: u64 = 8 * 1024 * 1024;
/// Attempts to get the status of an upload from an unavailable registry: some seconds.
const STATUS_ATTEMPTS: u32 = 5;

impl Repository {
    /// Pushes a blob and returns its digest and size in bytes. `digest` and `size` are the expected values, if known;
    /// without a digest, the blob is stored under the digest of the content. On an error, or when the future is
    /// dropped, nothing is stored and the session is cancelled.
    pub async fn upload<E>(
        &self,
        digest: Option<&Digest>,
        size: Option<u64>,
        bytes: BoxStream<'_, Result<Bytes, E>>,
    ) -> Result<(Digest, u64), UploadError<E>> {
        self.resume_upload(None, None, digest, size, bytes).await
    }

    /// Like [`Repository::upload`], in the session of `pending` if there is one. An upload that `record` names is continued
    /// instead, as far as the registry has it; what it has is read from `bytes` too, but not sent. If the upload fails or is
    /// dropped, and the content is not the reason, the record stays and the session is not cancelled.
    pub async fn resume_upload<E>(
        &self,
        pending: Option<PendingUpload>,
        record: Option<UploadRecord>,
        digest: Option<&Digest>,
        size: Option<u64>,
        bytes: BoxStream<'_, Result<Bytes, E>>,
    ) -> Result<(Digest, u64), UploadError<E>> {
        // Held for the whole upload while content flows. If it were released between two parts, another upload could
        // acquire it and wait for a read permit, while the reader that holds that permit, the source of this upload,
        // waits for the write permit.
        let permit = WritePermit::acquire(self.registry()).await?;
        let (session, received) = Session::open(self, pending, record, size).await?;
        let label = match (digest, size) {
            (Some(_), Some(_)) => session.label(&Method::PUT),
            _ => session.label(&Method::PATCH),
        };
        let mut upload = Upload {
            repository: self,
            permit,
            session,
            buffer: ReplayBuffer::new(digest, size, bytes, label),
            digest,
            size,
            acknowledged: received,
            is_uncertain: received > 0,
            unauthorized: false,
            redirect: None,
            redirect_count: 0,
            separate_commit: self.registry().part_size().uses_separate_commit(),
            failures: 0,
            failed_at: 0,
        };
        let result = upload.run(received).await;
        let is_wrong = match &result {
            Ok(_) => false,
            Err(UploadError::Source(_)) => true,
            Err(UploadError::Registry(error)) => !error.is_temporary(),
            // What is left of it was recorded.
            Err(UploadError::Lost(_)) => false,
        };
        if is_wrong && let Some(record) = upload.session.take_record() {
            record.delete();
        }
        result
    }
}

/// An upload in progress.
struct Upload<'r, 'a, E> {
    repository: &'r Repository,
    permit: WritePermit,
    session: Session,
    buffer: ReplayBuffer<'a, E>,
    digest: Option<&'a Digest>,
    size: Option<u64>,
    /// Bytes that the registry acknowledged.
    acknowledged: u64,
    /// A request of this session broke, so the registry may have other content than it reports.
    is_uncertain: bool,
    /// A request was refused as unauthorized.
    unauthorized: bool,
    /// The redirect target of the next request, for this method only.
    redirect: Option<(Method, Url)>,
    /// Redirects of the current request.
    redirect_count: usize,
    /// The content is sent before the request that commits it.
    separate_commit: bool,
    /// Failures since the last progress.
    failures: u32,
    failed_at: u64,
}

/// Digest and length of a stored blob.
type Stored = (Digest, u64);

/// How to continue after a failed request.
enum Recovery {
    /// In the same session, after a delay.
    Resume(Duration),
    /// In a new session.
    Restart,
    Fail,
    /// Fail, unless the blob exists already.
    FailUnlessStored,
}

impl<E> Upload<'_, '_, E> {
    /// Sends everything but the first `received` bytes, which the registry has.
    async fn run(&mut self, received: u64) -> Result<Stored, UploadError<E>> {
        if !self.buffer.skip_to(received).await? {
            let detail = "the content is shorter than what the registry has of it";
            let label = self.session.label(&Method::PUT);
            return Err(Error::new(Kind::DigestMismatch, label, detail).into());
        }
        loop {
            let done = match self.step().await {
                Ok(done) => done,
                Err(PartError::Final(error)) => return Err(error),
                Err(PartError::Request(failure)) => self.recover(failure).await?,
                Err(PartError::Redirected(redirect)) => {
                    self.follow_redirect(redirect)?;
                    None
                }
            };
            if let Some(stored) = done {
                return Ok(stored);
            }
        }
    }

    /// Sends the next request. Returns what was stored when the upload is complete.
    async fn step(&mut self) -> Result<Option<Stored>, PartError<E>> {
        let size_limit = self.repository.registry().part_size().limit();
        let from = self.buffer.offset();
        if let (Some(digest), Some(size), 0) = (self.digest, self.size, from)
            && size_limit.is_none_or(|part| size <= part)
            && !self.separate_commit
        {
            let part = Part {
                method: Method::PUT,
                url: self.target(&Method::PUT, |session| session.commit_url(digest)),
                max_length: u64::MAX,
                length: Some(size),
                has_range: false,
            };
            let response = request::send(&self.session, &mut self.permit, &mut self.buffer, part).await?;
            return self.commit(&response).map(Some).map_err(final_error);
        }
        if self.buffer.has_more().await.map_err(PartError::Final)? {
            let part = match (size_limit, from) {
                (Some(part), _) => part,
                (None, 0) => u64::MAX,
                (None, _) => part_size::MAX,
            };
            let part = Part {
                method: Method::PATCH,
                url: self.target(&Method::PATCH, |session| session.url.clone()),
                max_length: part,
                length: self.size.map(|size| size.saturating_sub(from).min(part)),
                // Unlike ranged parts, one request with everything works in all registries, because docker sends it
                // too.
                has_range: part < u64::MAX,
            };
            let response = request::send(&self.session, &mut self.permit, &mut self.buffer, part).await?;
            self.session.update_url(&response).map_err(final_error)?;
            self.acknowledged = self.buffer.offset();
            self.redirect_count = 0;
            return Ok(None);
        }
        let Some(digest) = self.buffer.verified().map(|(digest, _)| digest.clone()) else {
            let detail = "the content ended before its digest was known";
            return Err(final_error(Error::new(
                Kind::Interrupted,
                self.session.label(&Method::PUT),
                detail,
            )));
        };
        let part = Part {
            method: Method::PUT,
            url: self.target(&Method::PUT, |session| session.commit_url(&digest)),
            max_length: 0,
            length: Some(0),
            has_range: false,
        };
        let response = request::send(&self.session, &mut self.permit, &mut self.buffer, part).await?;
        self.commit(&response).map(Some).map_err(final_error)
    }

    /// The URL of the next request: the redirect target, else the URL of the session.
    fn target(&mut self, method: &Method, default_url: impl FnOnce(&Session) -> Url) -> Url {
        let redirect = self.redirect.take().filter(|(redirected, _)| redirected == method);
        redirect.map_or_else(|| default_url(&self.session), |(_, to)| to)
    }

    /// Makes later uploads to this registry commit in the same way.
    fn record_separate_commit(&self) {
        if self.separate_commit {
            self.repository.registry().part_size().use_separate_commit();
        }
    }

    /// Makes the next step send the same bytes to the redirect target.
    fn follow_redirect(&mut self, redirect: Redirect) -> Result<(), UploadError<E>> {
        let Redirect { method, to, from } = redirect;
        let label = self.session.label(&method);
        self.redirect_count += 1;
        if self.redirect_count > MAX_REDIRECTS {
            return Err(too_many_redirects(&label).into());
        }
        if !self.buffer.seek(from) {
            let detail = "the registry redirects a part after it received more than the replay window";
            return Err(UploadError::Lost(Error::new(Kind::Protocol, label, detail)));
        }
        self.redirect = Some((method, to));
        Ok(())
    }

    fn commit(&mut self, response: &RegistryResponse) -> Result<Stored, Error> {
        let Some((found, length)) = self.buffer.verified() else {
            let detail = "the registry responded before it received the content";
            return Err(Error::new(Kind::Protocol, &response.label, detail));
        };
        self.session.mark_committed();
        self.record_separate_commit();
        if let Some(stored) = digest_header(response) {
            check_digest(&response.label, found.as_str(), &stored)?;
        }
        Ok((found.clone(), length))
    }

    /// Prepares the next step after a failed request. Returns what is stored, if it turns out that the blob is
    /// complete.
    async fn recover(&mut self, failure: FailedRequest) -> Result<Option<Stored>, UploadError<E>> {
        let is_416 = failure.error.kind() == &Kind::Status(416);
        // Some registries return 416 for a part that is too long. After a broken request of the session, 416 means that
        // the range is wrong.
        let is_too_large = failure.error.kind() == &Kind::TooLarge || is_416 && !self.is_uncertain;
        let part_size = self.repository.registry().part_size();
        // Halving ends at the smallest part.
        let is_reduced = is_too_large && part_size.record_too_large(failure.length);
        let recovery = match is_reduced {
            true => Recovery::Resume(Duration::ZERO),
            false => self.choose_recovery(&failure),
        };
        let FailedRequest { error, from, .. } = failure;
        let (delay, is_lost) = match recovery {
            Recovery::Resume(delay) => (delay, false),
            Recovery::Restart => (Duration::ZERO, true),
            Recovery::Fail => return Err(error.into()),
            Recovery::FailUnlessStored => {
                return self.stored_blob().await.map(Some).ok_or_else(|| error.into());
            }
        };
        if !is_reduced {
            // A timeout has taken long enough, so only one more attempt follows.
            self.failures += match error.kind() {
                Kind::TimedOut => MAX_RESUMPTIONS - 1,
                _ => 1,
            };
        }
        if self.failures > MAX_RESUMPTIONS {
            return Err(error.into());
        }
        tracing::debug!(%error, ?delay, acknowledged = self.acknowledged, "resuming an upload");
        tokio::time::sleep(delay).await;
        let was_certain = is_reduced && !self.is_uncertain;
        self.is_uncertain = true;
        let received = if is_lost { None } else { self.received_bytes().await? };
        // If nothing of the part was accepted, the state of the session is still certain.
        self.is_uncertain = !(was_certain && received == Some(from));
        // The registry refuses the range although it confirms the offset.
        let is_refused = !is_reduced && is_416 && received == Some(from);
        match received {
            Some(received) if !is_refused && self.buffer.seek(received) => {
                if received >= self.failed_at + PROGRESS {
                    self.failures = 0;
                    self.failed_at = received;
                    self.unauthorized = false;
                }
                Ok(None)
            }
            // The next attempt reads the content again, and continues here.
            Some(received) if received > 0 && !is_refused && self.session.is_recorded() => {
                Err(UploadError::Lost(error))
            }
            _ => self.restart(error).await,
        }
    }

    fn choose_recovery(&mut self, failure: &FailedRequest) -> Recovery {
        let FailedRequest {
            error,
            length,
            commits,
            carried,
            elapsed,
            ..
        } = failure;
        let part_size = self.repository.registry().part_size();
        let delay = backoff(self.failures + 1);
        let is_temporary = error.is_temporary();
        match error.kind() {
            // Some registries accept content by PATCH only.
            Kind::NotFound | Kind::Unsupported | Kind::Invalid | Kind::Status(400..=415 | 417..=499)
                if *commits && *length > 0 && !self.is_uncertain && !is_temporary && !self.separate_commit =>
            {
                self.separate_commit = true;
                Recovery::Restart
            }
            // The status request renews the token.
            Kind::Unauthorized if !self.unauthorized => {
                self.unauthorized = true;
                Recovery::Resume(Duration::ZERO)
            }
            Kind::NotFound => Recovery::Restart,
            // The registry has other content than it reported, or cannot continue with it.
            Kind::Status(416) => Recovery::Resume(delay),
            Kind::DigestMismatch | Kind::Invalid | Kind::Unsupported | Kind::Denied if self.is_uncertain => {
                Recovery::Restart
            }
            Kind::Status(400..500) if self.is_uncertain && !is_temporary => Recovery::Restart,
            Kind::RateLimited { .. } => match error.retry_delay(self.failures + 1) {
                Some(delay) => Recovery::Resume(delay),
                None => Recovery::Fail,
            },
            Kind::Status(status) if is_temporary => {
                part_size.record_broken(*carried, *elapsed, *status == 504);
                Recovery::Resume(delay)
            }
            Kind::Interrupted => {
                part_size.record_broken(*carried, *elapsed, false);
                Recovery::Resume(delay)
            }
            Kind::TimedOut | Kind::Unavailable => Recovery::Resume(delay),
            // Another client may have stored the same blob, which some registries do not accept twice.
            _ if *commits => Recovery::FailUnlessStored,
            _ => Recovery::Fail,
        }
    }

    /// The number of bytes that the registry has; `None` if it lost them.
    async fn received_bytes(&mut self) -> Result<Option<u64>, Error> {
        let mut attempts = 0;
        loop {
            match self.session.status().await {
                // Some registries report less than they acknowledged.
                Ok(received) => return Ok(received.map(|received| received.max(self.acknowledged))),
                // The registry does not support status requests.
                Err(error) if matches!(error.kind(), Kind::Status(_)) => return Ok(None),
                Err(error) => {
                    attempts += 1;
                    if attempts >= STATUS_ATTEMPTS || error.kind() != &Kind::Unavailable {
                        return Err(error);
                    }
                    tokio::time::sleep(backoff(attempts)).await;
                }
            }
        }
    }

    /// The blob, if it was verified and exists in the registry.
    async fn stored_blob(&mut self) -> Option<Stored> {
        let verified = self.buffer.verified();
        let (digest, length) = verified.map(|(digest, length)| (digest.clone(), length))?;
        let stored_length = self.repository.head_blob_holding_permit(&digest).await.ok().flatten();
        (stored_length == Some(length)).then_some((digest, length))
    }

    /// Restarts the upload, unless the blob exists: only the response may have been lost.
    async fn restart(&mut self, error: Error) -> Result<Option<Stored>, UploadError<E>> {
        if let Some(stored) = self.stored_blob().await {
            return Ok(Some(stored));
        }
        if !self.buffer.seek(0) {
            if let Some(record) = self.session.take_record() {
                record.delete();
            }
            return Err(match error.kind() {
                // A registry that makes no progress would not make any on another attempt either.
                Kind::TimedOut => UploadError::Registry(error),
                _ => {
                    self.record_separate_commit();
                    UploadError::Lost(error)
                }
            });
        }
        // Nobody continues it any more.
        let record = self.session.take_record();
        self.session = Session::start(self.repository).await?;
        self.session.set_record(self.repository, record);
        self.acknowledged = 0;
        self.is_uncertain = false;
        Ok(None)
    }
}

fn final_error<E>(error: Error) -> PartError<E> {
    PartError::Final(error.into())
}

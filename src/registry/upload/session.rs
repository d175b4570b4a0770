//! The session of one upload in the registry: its URL, its status and its cancellation.

use std::time::Duration;

use reqwest::header::{AUTHORIZATION, CONTENT_LENGTH, HeaderValue, LOCATION, RANGE};
use reqwest::{Method, StatusCode};
use tokio::time::timeout;
use url::Url;

use super::record::UploadRecord;
use crate::oci::Digest;
use crate::registry::client::{Registry, RegistryRequest, RegistryResponse};
use crate::registry::error::{Error, Kind};
use crate::registry::http::header_text;
use crate::registry::repository::Repository;
use crate::registry::token::Scope;

/// Time limit for cancelling a session.
const CANCEL_TIMEOUT: Duration = Duration::from_secs(20);
/// Delays before each attempt to cancel, in milliseconds.
const CANCEL_DELAYS_MS: [u64; 6] = [50, 100, 250, 1000, 4000, 8000];

/// An upload session. Unless it was committed, dropping it cancels it in the registry.
pub(in crate::registry) struct Session {
    pub(super) registry: Registry,
    pub(super) scope: Scope,
    pub(super) url: Url,
    label: String,
    is_open: bool,
    record: Option<UploadRecord>,
}

/// An upload that the registry started instead of mounting the blob. It is cancelled when it is dropped unused.
pub struct PendingUpload(pub(super) Session);

impl Session {
    /// Starts an upload. The caller holds a write permit.
    pub async fn start(repository: &Repository) -> Result<Self, Error> {
        let request = RegistryRequest::new(Method::POST, repository.uploads(), Scope::push(repository.name()))
            .with(CONTENT_LENGTH, HeaderValue::from_static("0"))
            .holding_permit();
        let repository = repository.clone();
        run_to_completion(async move {
            // Docker's client accepts any success status.
            let response = repository.registry().expect(&request, &[200, 201, 202, 204]).await?;
            Self::from_response(&repository, &request, &response)
        })
        .await
    }

    /// The session that `response`, to a POST, started.
    pub fn from_response(
        repository: &Repository,
        request: &RegistryRequest,
        response: &RegistryResponse,
    ) -> Result<Self, Error> {
        let registry = repository.registry();
        Ok(Self {
            url: registry.resolve_upload_location(&request.label, response.url(), response.header(LOCATION))?,
            registry: registry.clone(),
            scope: Scope::push(repository.name()),
            label: RegistryRequest::new(Method::POST, repository.uploads(), request.scope.clone()).label,
            is_open: true,
            record: None,
        })
    }

    /// The session for the next upload, and how many bytes the registry has of it: the one that `record` names if the registry knows
    /// it, else `pending`, else a new one. The caller holds a write permit.
    pub async fn open(
        repository: &Repository,
        pending: Option<PendingUpload>,
        record: Option<UploadRecord>,
        size: Option<u64>,
    ) -> Result<(Self, u64), Error> {
        let record = match record.map(|record| Self::of_record(repository, record)) {
            Some(Ok(mut session)) => match session.status().await {
                Ok(Some(received)) if received > 0 && size.is_none_or(|size| received <= size) => {
                    session.record_resumed(received);
                    return Ok((session, received));
                }
                Err(error) if error.is_temporary() => return Err(error),
                _ => session.take_record(),
            },
            Some(Err(record)) => Some(record),
            None => None,
        };
        let mut session = match pending {
            Some(PendingUpload(session)) => session,
            None => Self::start(repository).await?,
        };
        session.set_record(repository, record);
        Ok((session, 0))
    }

    /// The session that `record` names, if it can belong to `repository`. The registry need not know it.
    fn of_record(repository: &Repository, record: UploadRecord) -> Result<Self, UploadRecord> {
        let registry = repository.registry();
        let uploads = repository.uploads();
        let url = record.location().and_then(|location| Url::parse(location).ok());
        let Some(url) = url.filter(|url| is_upload_of(url, &uploads)) else {
            return Err(record);
        };
        let scope = Scope::push(repository.name());
        Ok(Self {
            url,
            registry: registry.clone(),
            label: RegistryRequest::new(Method::POST, uploads, scope.clone()).label,
            scope,
            is_open: true,
            record: Some(record),
        })
    }

    /// Keeps where the upload is in `record` from now on, if a later attempt may continue it there.
    pub fn set_record(&mut self, repository: &Repository, record: Option<UploadRecord>) {
        match record {
            Some(record) if !is_upload_of(&self.url, &repository.uploads()) => record.delete(),
            record => self.record = record,
        }
        self.write_record();
    }

    /// The record, which the session keeps no more.
    pub fn take_record(&mut self) -> Option<UploadRecord> {
        self.record.take()
    }

    /// Whether a later attempt may continue it.
    pub fn is_recorded(&self) -> bool {
        self.record.is_some()
    }

    /// That the upload continued at `offset`.
    fn record_resumed(&self, offset: u64) {
        if let Some(record) = &self.record {
            record.resumed(offset);
        }
    }

    fn write_record(&mut self) {
        if let Some(record) = &mut self.record {
            record.set(self.url.as_str());
        }
    }

    /// The label of a request of this upload. It has no session URL, which differs between attempts.
    pub fn label(&self, method: &Method) -> String {
        self.label.replacen(Method::POST.as_str(), method.as_str(), 1)
    }

    /// The URL that commits the blob under `digest`.
    pub fn commit_url(&self, digest: &Digest) -> Url {
        let mut url = self.url.clone();
        url.query_pairs_mut().append_pair("digest", digest.as_str());
        url
    }

    /// Uses the location in `response` for the next request; without a location, the URL stays.
    pub fn update_url(&mut self, response: &RegistryResponse) -> Result<(), Error> {
        if let Some(location) = response.header(LOCATION) {
            self.url = self
                .registry
                .resolve_upload_location(&self.label, response.url(), Some(location))?;
            self.write_record();
        }
        Ok(())
    }

    /// The upload is complete, so there is nothing to cancel.
    pub fn mark_committed(&mut self) {
        self.is_open = false;
        if let Some(record) = self.record.take() {
            record.delete();
        }
    }

    /// The number of bytes that the registry has (distribution specification, "Pushing a blob in chunks"); `None` if it
    /// does not know the upload any more, or does not report it.
    pub async fn status(&mut self) -> Result<Option<u64>, Error> {
        let mut request = RegistryRequest::new(Method::GET, self.url.clone(), self.scope.clone()).holding_permit();
        request.label = self.label(&Method::GET);
        let response = self.registry.send(&request).await?;
        if !response.status().is_success() {
            tracing::debug!(status = %response.status(), "the registry does not know the upload any more");
            return Ok(None);
        }
        if response.header(LOCATION).is_some() {
            self.update_url(&response)?;
        }
        // Registries without content omit the range, or send the range of one byte.
        Ok(match response.header(RANGE) {
            None => Some(0),
            Some(range) => parse_range(range),
        })
    }
}

/// Whether `url` names an upload below `uploads`, `…/blobs/uploads/` of a repository.
fn is_upload_of(url: &Url, uploads: &Url) -> bool {
    let rest = url.path().strip_prefix(uploads.path());
    url.origin() == uploads.origin() && rest.is_some_and(|rest| !rest.is_empty() && !rest.contains('/'))
}

/// Runs `operation`, which starts an upload, to completion even if the caller is dropped: without its response, the
/// upload could not be cancelled.
pub(in crate::registry) async fn run_to_completion<T: Send + 'static>(
    operation: impl Future<Output = Result<T, Error>> + Send + 'static,
) -> Result<T, Error> {
    tokio::spawn(operation).await.unwrap_or_else(|error| {
        let detail = format!("starting the upload was aborted: {error}");
        Err(Error::new(Kind::Interrupted, "POST of an upload", detail))
    })
}

impl Drop for Session {
    fn drop(&mut self) {
        // One that is recorded is continued by the next attempt.
        if self.is_open
            && self.record.is_none()
            && let Ok(runtime) = tokio::runtime::Handle::try_current()
        {
            runtime.spawn(cancel(self.registry.clone(), self.url.clone(), self.scope.clone()));
        }
    }
}

/// The number of bytes in a range such as `0-9`. `0-0` counts as no bytes.
pub(in crate::registry) fn parse_range(range: &str) -> Option<u64> {
    let range = range.trim().trim_start_matches("bytes").trim_start_matches(['=', ' ']);
    let (first, last) = range.split_once('-')?;
    match (first.trim(), last.trim().parse().ok()?) {
        ("0", 0) => Some(0),
        ("0", last) => u64::checked_add(last, 1),
        _ => None,
    }
}

/// Cancels an upload, which a registry would otherwise delete only after some days. distribution 2.8 cannot cancel it
/// after a broken request: it accepts only the URL that matches the bytes it has, and does not return that URL.
async fn cancel(registry: Registry, url: Url, scope: Scope) {
    match timeout(CANCEL_TIMEOUT, try_cancel(&registry, url, &scope)).await {
        Ok(Ok(status)) => tracing::debug!(%status, "cancelled an upload"),
        Ok(Err(error)) => tracing::debug!(%error, "could not cancel an upload"),
        Err(_) => tracing::debug!("cancelling an upload timed out"),
    }
}

async fn try_cancel(registry: &Registry, mut url: Url, scope: &Scope) -> Result<StatusCode, Error> {
    let label = "DELETE of an upload";
    let send = async |method: Method, url: &Url| {
        let authorization = registry.authorize(label, &method, url, scope).await?;
        let mut builder = registry.http().request(label, method.clone(), url, false)?;
        if let Some(value) = authorization.as_ref().and_then(|authorization| authorization.header()) {
            builder = builder.header(AUTHORIZATION, value);
        }
        registry.http().send(label, builder).await
    };
    // The registry may still process a broken request, which would restore a deleted session: at its beginning, or for
    // seconds on a slow connection. And a registry that was killed is usually restarted.
    let mut last = Ok(StatusCode::RANGE_NOT_SATISFIABLE);
    for delay in CANCEL_DELAYS_MS {
        tokio::time::sleep(Duration::from_millis(delay)).await;
        let attempt = async {
            let response = send(Method::DELETE, &url).await?;
            if response.status() != StatusCode::RANGE_NOT_SATISFIABLE {
                return Ok((response.status(), None));
            }
            // The registry has other bytes than the URL says; the status response has the right URL.
            let response = send(Method::GET, &url).await?;
            let current_url =
                registry.resolve_upload_location(label, &url, header_text(response.headers(), LOCATION))?;
            Ok((StatusCode::RANGE_NOT_SATISFIABLE, Some(current_url)))
        };
        match attempt.await {
            Ok((status, None)) => return Ok(status),
            Ok((status, Some(current_url))) => (last, url) = (Ok(status), current_url),
            Err(error) => last = Err(error),
        }
    }
    last
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_uploads_of_the_repository_are_continued() {
        let uploads: Url = "https://r:5000/v2/team/app/blobs/uploads/".parse().unwrap();
        for (url, fits) in [
            ("https://r:5000/v2/team/app/blobs/uploads/1-2?_state=x", true),
            ("https://r:5000/v2/team/app/blobs/uploads/", false),
            ("https://r:5000/v2/team/app/blobs/uploads/1/2", false),
            ("https://r:5000/v2/team/app/blobs/uploads/../../../../x", false),
            ("https://r:5000/v2/team/other/blobs/uploads/1", false),
            ("https://r:5001/v2/team/app/blobs/uploads/1", false),
            ("http://r:5000/v2/team/app/blobs/uploads/1", false),
            ("https://r.example/v2/team/app/blobs/uploads/1", false),
        ] {
            assert_eq!(is_upload_of(&url.parse().unwrap(), &uploads), fits, "{url}");
        }
    }

    #[test]
    fn ranges_of_uploads_are_parsed() {
        for (range, count) in [
            ("0-9", Some(10)),
            ("bytes=0-9", Some(10)),
            ("bytes 0-9", Some(10)),
            ("0-0", Some(0)),
            ("5-9", None),
            ("0-18446744073709551615", None),
            ("", None),
            ("0--1", None),
        ] {
            assert_eq!(parse_range(range), count, "{range}");
        }
    }
}

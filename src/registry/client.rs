//! Sends requests to one registry: authentication, retries, concurrency limits and redirects.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use reqwest::header::{AUTHORIZATION, HeaderMap, HeaderName, HeaderValue, LOCATION};
use reqwest::{Method, StatusCode};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::timeout;
use url::Url;

use super::endpoint::{Credentials, Endpoint};
use super::error::{Error, Kind, is_temporary};
use super::host_limits::HostLimits;
use super::http::{HttpClient, display_url, header_text};
use super::origin::Origin;
use super::part_size::PartSize;
use super::referrers_api::ReferrersApi;
use super::refusals::Refusals;
use super::throttle::{Throttle, retry_after};
use super::token::{Authorizer, RequestAuthorization, Scope};

/// Attempts per request when failures are temporary.
const MAX_ATTEMPTS: u32 = 4;
/// Redirects that one request follows.
pub(super) const MAX_REDIRECTS: usize = 5;
/// Bytes of an error response body that are read.
pub(super) const ERROR_BODY_LIMIT: usize = 16 * 1024;
/// Time limit for reading an error response body.
const ERROR_BODY_TIMEOUT: Duration = Duration::from_secs(10);

/// One registry. Clones share connections, tokens and limits.
#[derive(Clone)]
pub struct Registry(Arc<Inner>);

struct Inner {
    endpoint: Endpoint,
    origin: Origin,
    http: HttpClient,
    authorizer: Authorizer,
    host_limits: Arc<HostLimits>,
    part_size: PartSize,
    referrers_api: ReferrersApi,
    /// A HEAD request has found a manifest, so the registry supports this method.
    supports_head: AtomicBool,
    /// Repository and tag or digest of a manifest that was read, until HEAD support is known.
    last_manifest_read: Mutex<Option<(String, String)>>,
    refusals: Refusals,
}

/// A request without a streamed body.
pub(super) struct RegistryRequest {
    pub method: Method,
    pub url: Url,
    /// Method and URL for messages, without secrets and without parts that differ between attempts.
    pub label: String,
    pub scope: Scope,
    pub headers: HeaderMap,
    pub body: Option<Bytes>,
    /// The caller already holds the write permit, so sending acquires none.
    holds_permit: bool,
}

impl RegistryRequest {
    pub fn new(method: Method, url: Url, scope: Scope) -> Self {
        Self {
            label: format!("{method} {}", display_url(&url)),
            method,
            url,
            scope,
            headers: HeaderMap::new(),
            body: None,
            holds_permit: false,
        }
    }

    /// Marks the request as sent by a holder of a write permit. Acquiring another one could deadlock.
    pub fn holding_permit(mut self) -> Self {
        self.holds_permit = true;
        self
    }

    pub fn with(mut self, name: HeaderName, value: HeaderValue) -> Self {
        self.headers.insert(name, value);
        self
    }
}

/// A response whose body is not read yet. It holds its permit until it is dropped.
pub(super) struct RegistryResponse {
    pub inner: reqwest::Response,
    pub label: String,
    /// The registry refused a token that was issued for exactly this request.
    insufficient_scope: bool,
    /// The response comes from another host, which the author of the reference may be unable to reach: messages must
    /// not quote it.
    pub is_concealed: bool,
    _permit: Option<OwnedSemaphorePermit>,
}

impl RegistryResponse {
    pub fn new(response: reqwest::Response, label: String, permit: Option<OwnedSemaphorePermit>) -> Self {
        Self {
            inner: response,
            label,
            insufficient_scope: false,
            is_concealed: false,
            _permit: permit,
        }
    }

    /// The final URL after redirects. Locations in the response are relative to it.
    pub fn url(&self) -> &Url {
        self.inner.url()
    }

    pub fn status(&self) -> StatusCode {
        self.inner.status()
    }

    /// The value of a header, if it is present and text.
    pub fn header(&self, name: impl AsRef<str>) -> Option<&str> {
        header_text(self.inner.headers(), name)
    }

    /// Converts an unexpected status into an error.
    pub async fn into_error(mut self) -> Error {
        let after = retry_after(self.inner.headers());
        let status = self.status().as_u16();
        if self.is_concealed {
            return Error::concealed_status(&self.label, status, after);
        }
        let mut body = Vec::new();
        // A body that cannot be read counts as empty.
        let _ = timeout(
            ERROR_BODY_TIMEOUT,
            read_prefix(&mut self.inner, ERROR_BODY_LIMIT, &mut body),
        )
        .await;
        let error = Error::from_status(&self.label, status, after, &body);
        match self.insufficient_scope {
            true => error.with_insufficient_scope(),
            false => error,
        }
    }
}

impl Registry {
    /// Creates a client for `endpoint`. Opens no connection.
    pub fn new(endpoint: Endpoint) -> Result<Self, Error> {
        let origin = Origin::for_endpoint(&endpoint)?;
        let http = HttpClient::new(&endpoint, origin.clone())?;
        let authorizer = Authorizer::new(
            http.clone(),
            endpoint.credentials.clone(),
            endpoint.plain_http,
            endpoint.idle,
            origin.clone(),
        );
        Ok(Self(Arc::new(Inner {
            host_limits: HostLimits::of(&endpoint),
            part_size: PartSize::default(),
            referrers_api: ReferrersApi::default(),
            supports_head: AtomicBool::new(false),
            last_manifest_read: Mutex::default(),
            refusals: Refusals::default(),
            endpoint,
            origin,
            http,
            authorizer,
        })))
    }

    /// The credentials, for an engine that pushes itself.
    pub fn credentials(&self) -> Option<&Credentials> {
        self.0.endpoint.credentials.as_ref()
    }

    /// The endpoint of the registry.
    pub fn endpoint(&self) -> &Endpoint {
        &self.0.endpoint
    }

    /// Host and port as written in references.
    pub fn host(&self) -> &str {
        &self.0.endpoint.host
    }

    /// Whether requests are sent without TLS.
    pub fn is_plain_http(&self) -> bool {
        self.0.endpoint.plain_http
    }

    pub(super) fn idle(&self) -> Duration {
        self.0.endpoint.idle
    }

    pub(super) fn http(&self) -> &HttpClient {
        &self.0.http
    }

    pub(super) fn throttle(&self) -> &Throttle {
        &self.0.host_limits.throttle
    }

    pub(super) fn part_size(&self) -> &PartSize {
        &self.0.part_size
    }

    pub(super) fn referrers_api(&self) -> &ReferrersApi {
        &self.0.referrers_api
    }

    /// Whether HEAD has found a manifest in this registry.
    pub(super) fn supports_head(&self) -> bool {
        self.0.supports_head.load(Ordering::Relaxed)
    }

    /// Takes the repository and identifier of a manifest that was read, if there is one.
    pub(super) fn take_manifest_read(&self) -> Option<(String, String)> {
        lock(&self.0.last_manifest_read).take()
    }

    /// Records that a manifest was read.
    pub(super) fn record_manifest_read(&self, repository: &str, identifier: &str) {
        if !self.supports_head() {
            *lock(&self.0.last_manifest_read) = Some((repository.to_owned(), identifier.to_owned()));
        }
    }

    /// Records that HEAD has found a manifest.
    pub(super) fn record_head_support(&self) {
        self.0.supports_head.store(true, Ordering::Relaxed);
    }

    /// Cached meanings of refused tag requests.
    pub(super) fn refusals(&self) -> &Refusals {
        &self.0.refusals
    }

    /// `/v2/<repository>/<rest>`; the segments are percent-encoded.
    pub(super) fn url<'a>(&'a self, repository: &'a str, rest: impl IntoIterator<Item = &'a str>) -> Url {
        let mut url = self.0.origin.base().clone();
        if let Ok(mut path) = url.path_segments_mut() {
            path.pop_if_empty().extend(repository.split('/')).extend(rest);
        }
        url
    }

    /// Resolves the `Location` of a response to a request to `from`. Aliases of the registry are replaced by its own
    /// address.
    pub(super) fn resolve_location(&self, label: &str, from: &Url, location: Option<&str>) -> Result<Url, Error> {
        self.0.origin.resolve_location(label, from, location)
    }

    /// Resolves the location of an upload and checks that uploads may be sent there.
    pub(super) fn resolve_upload_location(
        &self,
        label: &str,
        from: &Url,
        location: Option<&str>,
    ) -> Result<Url, Error> {
        let url = self.resolve_location(label, from, location)?;
        if self.0.http.allows_upload_to(&url) {
            return Ok(url);
        }
        let to = url.origin().ascii_serialization();
        let detail = format!(
            "the registry redirects the upload to {to}, which is not allowed; use that host in the reference, configure the registry to return its own address, or ask the administrator to list the host in --upload-host"
        );
        Err(Error::new(Kind::Forbidden, label, detail))
    }

    /// The authorization for a request to `url`. Other hosts than the registry get none.
    pub(super) async fn authorize<'a>(
        &'a self,
        label: &'a str,
        method: &'a Method,
        url: &Url,
        scope: &'a Scope,
    ) -> Result<Option<RequestAuthorization<'a>>, Error> {
        match self.is_own_url(url) {
            true => self.0.authorizer.authorize(label, method, scope).await.map(Some),
            false => Ok(None),
        }
    }

    /// Whether `url` is on the registry itself.
    pub(super) fn is_own_url(&self, url: &Url) -> bool {
        self.0.origin.is_own_url(url)
    }

    /// Acquires the permit to send write requests, one at a time.
    pub(super) async fn write_permit(&self) -> Result<OwnedSemaphorePermit, Error> {
        self.permit(&self.0.host_limits.writes).await
    }

    async fn permit(&self, semaphore: &Arc<Semaphore>) -> Result<OwnedSemaphorePermit, Error> {
        let permit = semaphore.clone().acquire_owned().await;
        permit.map_err(|_| Error::new(Kind::Interrupted, self.host(), "the client was shut down"))
    }

    /// Sends a request, retries temporary failures, and returns the response whatever its status.
    pub(super) async fn send(&self, request: &RegistryRequest) -> Result<RegistryResponse, Error> {
        let mut attempts = 0;
        loop {
            let error = match self.attempt(request).await {
                Ok(response) if !is_temporary(response.status().as_u16()) => return Ok(response),
                Ok(response) => {
                    let error = response.into_error().await;
                    self.throttle().record_retry_after(&error);
                    error
                }
                Err(error) => error,
            };
            attempts += 1;
            match error.retry_delay(attempts) {
                Some(delay) if attempts < MAX_ATTEMPTS => {
                    tracing::debug!(%error, ?delay, "retrying");
                    tokio::time::sleep(delay).await;
                }
                _ => return Err(error),
            }
        }
    }

    /// Like [`Registry::send`], but a status other than `expected` is an error.
    pub(super) async fn expect(&self, request: &RegistryRequest, expected: &[u16]) -> Result<RegistryResponse, Error> {
        let response = self.send(request).await?;
        if expected.contains(&response.status().as_u16()) {
            Ok(response)
        } else {
            Err(response.into_error().await)
        }
    }

    async fn attempt(&self, request: &RegistryRequest) -> Result<RegistryResponse, Error> {
        let reads = request.method == Method::GET || request.method == Method::HEAD;
        let permit = match request.holds_permit {
            true => None,
            false => {
                let limits = &self.0.host_limits;
                Some(self.permit(if reads { &limits.reads } else { &limits.writes }).await?)
            }
        };
        self.throttle().wait(&request.label).await?;
        let mut url = request.url.clone();
        let mut authorization = self
            .authorize(&request.label, &request.method, &url, &request.scope)
            .await?;
        let (mut redirects, mut redirected_by_public) = (0, false);
        let http = &self.0.http;
        loop {
            let mut builder = http
                .request(&request.label, request.method.clone(), &url, redirected_by_public)?
                .headers(request.headers.clone());
            let mut own_authorization = authorization.as_mut().filter(|_| self.is_own_url(&url));
            if let Some(value) = own_authorization
                .as_ref()
                .and_then(|authorization| authorization.header())
            {
                builder = builder.header(AUTHORIZATION, value);
            }
            if let Some(body) = &request.body {
                builder = builder.body(body.clone());
            }
            let response = timeout(self.idle(), http.send(&request.label, builder))
                .await
                .map_err(|_| Error::timed_out(&request.label, self.idle()))??;
            redirected_by_public |= http.is_public(&response);
            let mut insufficient_scope = false;
            if let Some(authorization) = &mut own_authorization {
                if authorization.is_challenge(&response) {
                    if authorization.answer_challenge(&response).await? {
                        continue;
                    }
                    insufficient_scope = authorization.used_service_token();
                } else {
                    authorization.record_accepted();
                }
            }
            let status = response.status().as_u16();
            // Write requests keep their method on redirect, so 303 does not apply to them.
            if matches!(status, 301 | 302 | 307 | 308) || reads && status == 303 {
                redirects += 1;
                if redirects > MAX_REDIRECTS {
                    return Err(too_many_redirects(&request.label));
                }
                let to = self.resolve_location(&request.label, &url, header_text(response.headers(), LOCATION))?;
                if !reads && to.origin() != url.origin() {
                    return Err(redirected_to_other_host(&request.label, &to));
                }
                url = to;
                continue;
            }
            let is_concealed = http.is_concealed(response.url());
            let mut response = RegistryResponse::new(response, request.label.clone(), permit);
            response.is_concealed = is_concealed;
            response.insufficient_scope = insufficient_scope;
            return Ok(response);
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The error for too many redirects.
pub(super) fn too_many_redirects(label: &str) -> Error {
    let detail = format!("the registry redirects more than {MAX_REDIRECTS} times");
    Error::new(Kind::Protocol, label, detail)
}

/// The error for a write request that is redirected to another host.
pub(super) fn redirected_to_other_host(label: &str, to: &Url) -> Error {
    let to = to.origin().ascii_serialization();
    let detail = format!(
        "the registry redirects a write request to {to}, which is not allowed; use that host in the reference, or configure the registry not to redirect"
    );
    Error::new(Kind::Protocol, label, detail)
}

/// Reads the first `limit` bytes of a body into `body`.
async fn read_prefix(response: &mut reqwest::Response, limit: usize, body: &mut Vec<u8>) {
    while let Ok(Some(chunk)) = response.chunk().await {
        let remaining = limit - body.len();
        body.extend_from_slice(&chunk[..chunk.len().min(remaining)]);
        if chunk.len() >= remaining {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn registry(host: &str, plain_http: bool) -> Registry {
        let _ = rustls::crypto::ring::default_provider().install_default();
        Registry::new(Endpoint {
            plain_http,
            ..Endpoint::new(host)
        })
        .unwrap()
    }

    #[test]
    fn url_segments_are_percent_encoded() {
        let registry = registry("r:5000", true);
        let url = registry.url("a/b", ["manifests", "x?y#z/.."]);
        assert_eq!(url.as_str(), "http://r:5000/v2/a/b/manifests/x%3Fy%23z%2F..");
    }

    #[test]
    fn unreadable_certificates_are_refused() {
        let _ = rustls::crypto::ring::default_provider().install_default();
        for (authorities, certificate) in [(Some(&b"junk"[..]), None), (None, Some(&b"junk"[..]))] {
            let mut endpoint = Endpoint::new("r");
            endpoint.trust.authorities = authorities.map(<[u8]>::to_vec);
            endpoint.trust.certificate = certificate.map(<[u8]>::to_vec);
            let error = Registry::new(endpoint).map(|_| ()).unwrap_err();
            assert_eq!(error.kind(), &Kind::Trust);
        }
    }
}

//! Requests to one registry: who asks, how often, how many at once, and where redirects lead.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use reqwest::header::{AUTHORIZATION, HeaderMap, HeaderName, HeaderValue, LOCATION};
use reqwest::{Method, StatusCode};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::timeout;
use url::Url;

use super::Repository;
use super::endpoint::{Credentials, Endpoint};
use super::error::{Error, Kind, is_temporary};
use super::host_limits::HostLimits;
use super::http::Http;
use super::origin::Origin;
use super::referrers::ReferrersApi;
use super::refusal::Refusals;
use super::throttle::{Throttle, retry_after};
use super::token::{RequestAuthorization, Scope, Tokens};
use super::upload::PartSize;

/// How often one request is sent when its failures are temporary.
const TRIES: u32 = 4;
/// How many redirects one request follows.
pub(super) const REDIRECTS: usize = 5;
/// Bytes of the body of a failure that are read.
pub(super) const FAILURE_LIMIT: usize = 16 * 1024;
/// How long the words of a failure are waited for.
const WORDS_LIMIT: Duration = Duration::from_secs(10);

/// One registry. Clones share connections, tokens and limits.
#[derive(Clone)]
pub struct Registry(Arc<Inner>);

struct Inner {
    endpoint: Endpoint,
    origin: Origin,
    http: Http,
    tokens: Tokens,
    shared: Arc<HostLimits>,
    pace: PartSize,
    referrers_api: ReferrersApi,
    /// A manifest was found by HEAD, so the registry knows that method.
    answers_head: AtomicBool,
    /// Repository and name of a manifest that was read, until that is known.
    manifest_read: Mutex<Option<(String, String)>>,
    refusals: Refusals,
}

/// A request without a streamed body.
pub(super) struct Call {
    pub method: Method,
    pub url: Url,
    /// Method and URL for people, without what is secret or differs between two tries.
    pub label: String,
    pub scope: Scope,
    pub headers: HeaderMap,
    pub body: Option<Bytes>,
    /// Whether who sends it has the turn already that it needs.
    within_turn: bool,
}

impl Call {
    pub fn new(method: Method, url: Url, scope: Scope) -> Self {
        Self {
            label: format!("{method} {}", shown(&url)),
            method,
            url,
            scope,
            headers: HeaderMap::new(),
            body: None,
            within_turn: false,
        }
    }

    /// The same, sent by one who has a turn to write and would wait for those who wait for him.
    pub fn within_turn(mut self) -> Self {
        self.within_turn = true;
        self
    }

    pub fn with(mut self, name: HeaderName, value: HeaderValue) -> Self {
        self.headers.insert(name, value);
        self
    }
}

/// An answer whose body is not read yet. Its turn is taken until it is dropped.
pub(super) struct RegistryResponse {
    pub response: reqwest::Response,
    pub label: String,
    /// Whether it refuses a token that was given for this very request.
    insufficient: bool,
    /// Whether another host than the registry gave it, which it is not for who named the registry to hear from.
    pub is_foreign: bool,
    _turn: Option<OwnedSemaphorePermit>,
}

impl RegistryResponse {
    pub fn new(response: reqwest::Response, label: String, turn: Option<OwnedSemaphorePermit>) -> Self {
        Self {
            response,
            label,
            insufficient: false,
            is_foreign: false,
            _turn: turn,
        }
    }

    /// Where the request was sent in the end; what the answer leads to is relative to that.
    pub fn url(&self) -> &Url {
        self.response.url()
    }

    pub fn status(&self) -> StatusCode {
        self.response.status()
    }

    /// The header's text, if it has one that is a text.
    pub fn header(&self, name: impl AsRef<str>) -> Option<&str> {
        text_of(self.response.headers(), name)
    }

    /// The failure that this answer is.
    pub async fn failure(mut self) -> Error {
        let after = retry_after(self.response.headers());
        let status = self.status().as_u16();
        if self.is_foreign {
            return Error::status_elsewhere(&self.label, status, after);
        }
        let mut body = Vec::new();
        // What of it does not come says no more than nothing.
        let _ = timeout(WORDS_LIMIT, beginning(&mut self.response, FAILURE_LIMIT, &mut body)).await;
        let error = Error::status(&self.label, status, after, &body);
        match self.insufficient {
            true => error.insufficient(),
            false => error,
        }
    }
}

impl Registry {
    /// A client for `endpoint`. No connection is made yet.
    pub fn new(endpoint: Endpoint) -> Result<Self, Error> {
        let origin = Origin::of(&endpoint)?;
        let http = Http::new(&endpoint, origin.clone())?;
        let tokens = Tokens::new(
            http.clone(),
            endpoint.credentials.clone(),
            endpoint.plain_http,
            endpoint.idle,
            origin.clone(),
        );
        Ok(Self(Arc::new(Inner {
            shared: HostLimits::of(&endpoint),
            pace: PartSize::default(),
            referrers_api: ReferrersApi::default(),
            answers_head: AtomicBool::new(false),
            manifest_read: Mutex::default(),
            refusals: Refusals::default(),
            endpoint,
            origin,
            http,
            tokens,
        })))
    }

    /// Who asks, for an engine that pushes by itself.
    pub fn credentials(&self) -> Option<&Credentials> {
        self.0.endpoint.credentials.as_ref()
    }

    /// How it is reached.
    pub fn endpoint(&self) -> &Endpoint {
        &self.0.endpoint
    }

    /// The host and port as references write it.
    pub fn host(&self) -> &str {
        &self.0.endpoint.host
    }

    /// Whether it is spoken to without TLS.
    pub fn is_plain_http(&self) -> bool {
        self.0.endpoint.plain_http
    }

    /// A repository by its path, such as `library/nginx`. It need not exist.
    pub fn repository(&self, name: impl Into<String>) -> Repository {
        Repository::new(self.clone(), name.into())
    }

    pub(super) fn idle(&self) -> Duration {
        self.0.endpoint.idle
    }

    pub(super) fn http(&self) -> &Http {
        &self.0.http
    }

    pub(super) fn patience(&self) -> &Throttle {
        &self.0.shared.patience
    }

    pub(super) fn pace(&self) -> &PartSize {
        &self.0.pace
    }

    pub(super) fn referrers_api(&self) -> &ReferrersApi {
        &self.0.referrers_api
    }

    /// Whether a manifest was ever found here by HEAD.
    pub(super) fn answers_head(&self) -> bool {
        self.0.answers_head.load(Ordering::Relaxed)
    }

    /// Takes repository and name of a manifest that was read, if there is one that nobody took.
    pub(super) fn manifest_read(&self) -> Option<(String, String)> {
        lock(&self.0.manifest_read).take()
    }

    /// Notes that a manifest was read.
    pub(super) fn note_manifest(&self, repository: &str, identifier: &str) {
        if !self.answers_head() {
            *lock(&self.0.manifest_read) = Some((repository.to_owned(), identifier.to_owned()));
        }
    }

    /// Notes that one was found by HEAD.
    pub(super) fn note_head(&self) {
        self.0.answers_head.store(true, Ordering::Relaxed);
    }

    /// What is known of its refusals.
    pub(super) fn refusals(&self) -> &Refusals {
        &self.0.refusals
    }

    /// `/v2/<repository>/<rest>`; the parts are escaped.
    pub(super) fn url<'a>(&'a self, repository: &'a str, rest: impl IntoIterator<Item = &'a str>) -> Url {
        let mut url = self.0.origin.base().clone();
        if let Ok(mut path) = url.path_segments_mut() {
            path.pop_if_empty().extend(repository.split('/')).extend(rest);
        }
        url
    }

    /// Where `location` of an answer to a request to `from` leads: to the registry itself also where it calls itself by
    /// another of its names.
    pub(super) fn follow(&self, label: &str, from: &Url, location: Option<&str>) -> Result<Url, Error> {
        self.0.origin.follow(label, from, location)
    }

    /// The same for where an upload goes.
    pub(super) fn follow_upload(&self, label: &str, from: &Url, location: Option<&str>) -> Result<Url, Error> {
        let url = self.follow(label, from, location)?;
        if self.0.http.takes_uploads_at(&url) {
            return Ok(url);
        }
        let to = url.origin().ascii_serialization();
        let detail = format!(
            "the registry wants the upload at {to}, where nothing is sent; name the registry by that host, have it answer with its own address, or have the administrator list the host in --upload-host"
        );
        Err(Error::new(Kind::Forbidden, label, detail))
    }

    /// What to prove who asks by to `url`: nothing to another host than the registry's own.
    pub(super) async fn proof<'a>(
        &'a self,
        label: &'a str,
        method: &'a Method,
        url: &Url,
        scope: &'a Scope,
    ) -> Result<Option<RequestAuthorization<'a>>, Error> {
        match self.is_own(url) {
            true => self.0.tokens.proof(label, method, scope).await.map(Some),
            false => Ok(None),
        }
    }

    /// Whether `url` leads to the registry itself.
    pub(super) fn is_own(&self, url: &Url) -> bool {
        self.0.origin.is_own(url)
    }

    /// Waits for the right to send writing requests, one at a time.
    pub(super) async fn writing(&self) -> Result<OwnedSemaphorePermit, Error> {
        self.permit(&self.0.shared.writes).await
    }

    async fn permit(&self, semaphore: &Arc<Semaphore>) -> Result<OwnedSemaphorePermit, Error> {
        let permit = semaphore.clone().acquire_owned().await;
        permit.map_err(|_| Error::new(Kind::Interrupted, self.host(), "the client was shut down"))
    }

    /// Sends a request, again where that is right, and returns the answer whatever its status.
    pub(super) async fn send(&self, call: &Call) -> Result<RegistryResponse, Error> {
        let mut tried = 0;
        loop {
            let error = match self.attempt(call).await {
                Ok(answer) if !is_temporary(answer.status().as_u16()) => return Ok(answer),
                Ok(answer) => {
                    let error = answer.failure().await;
                    self.patience().note(&error);
                    error
                }
                Err(error) => error,
            };
            tried += 1;
            match error.pause(tried) {
                Some(pause) if tried < TRIES => {
                    tracing::debug!(%error, ?pause, "trying again");
                    tokio::time::sleep(pause).await;
                }
                _ => return Err(error),
            }
        }
    }

    /// As [`Registry::send`], and any status but those of `wanted` is an error.
    pub(super) async fn expect(&self, call: &Call, wanted: &[u16]) -> Result<RegistryResponse, Error> {
        let answer = self.send(call).await?;
        if wanted.contains(&answer.status().as_u16()) {
            Ok(answer)
        } else {
            Err(answer.failure().await)
        }
    }

    async fn attempt(&self, call: &Call) -> Result<RegistryResponse, Error> {
        let reads = call.method == Method::GET || call.method == Method::HEAD;
        let turn = match call.within_turn {
            true => None,
            false => {
                let shared = &self.0.shared;
                Some(self.permit(if reads { &shared.reads } else { &shared.writes }).await?)
            }
        };
        self.patience().keep(&call.label).await?;
        let mut url = call.url.clone();
        let mut proof = self.proof(&call.label, &call.method, &url, &call.scope).await?;
        let (mut redirects, mut led_by_public) = (0, false);
        let http = &self.0.http;
        loop {
            let mut request = http
                .request(&call.label, call.method.clone(), &url, led_by_public)?
                .headers(call.headers.clone());
            let mut own = proof.as_mut().filter(|_| self.is_own(&url));
            if let Some(value) = own.as_ref().and_then(|proof| proof.header()) {
                request = request.header(AUTHORIZATION, value);
            }
            if let Some(body) = &call.body {
                request = request.body(body.clone());
            }
            let response = timeout(self.idle(), http.send(&call.label, request))
                .await
                .map_err(|_| Error::timed_out(&call.label, self.idle()))??;
            led_by_public |= http.is_public(&response);
            let mut insufficient = false;
            if let Some(proof) = &mut own {
                if proof.is_refusal(&response) {
                    if proof.refused(&response).await? {
                        continue;
                    }
                    insufficient = proof.was_answered();
                } else {
                    proof.accepted();
                }
            }
            let status = response.status().as_u16();
            // Of a request to write, a redirect keeps the method: there is nothing to GET.
            if matches!(status, 301 | 302 | 307 | 308) || reads && status == 303 {
                redirects += 1;
                if redirects > REDIRECTS {
                    return Err(too_many_redirects(&call.label));
                }
                let to = self.follow(&call.label, &url, text_of(response.headers(), LOCATION))?;
                if !reads && to.origin() != url.origin() {
                    return Err(leads_away(&call.label, &to));
                }
                url = to;
                continue;
            }
            let is_foreign = http.is_foreign(response.url());
            let mut answer = RegistryResponse::new(response, call.label.clone(), turn);
            answer.is_foreign = is_foreign;
            answer.insufficient = insufficient;
            return Ok(answer);
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The text of a header, if there is one that is a text. It may have characters beyond ASCII, as paths of some servers do.
pub(super) fn text_of(headers: &HeaderMap, name: impl AsRef<str>) -> Option<&str> {
    std::str::from_utf8(headers.get(name.as_ref())?.as_bytes()).ok()
}

/// That a request is redirected again and again.
pub(super) fn too_many_redirects(label: &str) -> Error {
    let detail = format!("the registry redirects more than {REDIRECTS} times");
    Error::new(Kind::Protocol, label, detail)
}

/// That a request to write is to be sent to another host.
pub(super) fn leads_away(label: &str, to: &Url) -> Error {
    let to = to.origin().ascii_serialization();
    let detail = format!(
        "the registry redirects to {to}, where nothing is written; name the registry by that host, or have it answer itself"
    );
    Error::new(Kind::Protocol, label, detail)
}

/// Reads the first `limit` bytes of a body into `body`.
async fn beginning(response: &mut reqwest::Response, limit: usize, body: &mut Vec<u8>) {
    while let Ok(Some(chunk)) = response.chunk().await {
        let room = limit - body.len();
        body.extend_from_slice(&chunk[..chunk.len().min(room)]);
        if chunk.len() >= room {
            return;
        }
    }
}

/// A URL for people: without user, query and fragment.
pub(super) fn shown(url: &Url) -> String {
    format!("{}{}", url.origin().ascii_serialization(), url.path())
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
    fn urls_hold_their_parts_together() {
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

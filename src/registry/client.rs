//! Requests to one registry: who asks, how often, how many at once, and where redirects lead.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use reqwest::header::{AUTHORIZATION, HeaderMap, HeaderName, HeaderValue, LOCATION};
use reqwest::{Method, StatusCode};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::timeout;
use url::Url;

use super::advice::Remedy;
use super::endpoint::{Credentials, Endpoint};
use super::error::{Error, Kind, clean, is_temporary};
use super::origin::Origin;
use super::patience::{Patience, retry_after};
use super::referrers::ReferrersApi;
use super::shared::Shared;
use super::token::{Proof, Scope, Tokens};
use super::upload::Pace;
use super::{Repository, tls};

/// How often one request is sent when its failures are temporary.
const TRIES: u32 = 4;
/// How many redirects one request follows.
pub(super) const REDIRECTS: usize = 5;
/// Bytes of the body of a failure that are read.
pub(super) const FAILURE_LIMIT: usize = 16 * 1024;
/// The longest time to reach the other side.
const CONNECT_LIMIT: Duration = Duration::from_secs(10);

/// One registry. Clones share connections, tokens and limits.
#[derive(Clone)]
pub struct Registry(Arc<Inner>);

struct Inner {
    endpoint: Endpoint,
    origin: Origin,
    http: reqwest::Client,
    tokens: Tokens,
    shared: Arc<Shared>,
    pace: Pace,
    referrers_api: ReferrersApi,
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
pub(super) struct Answer {
    pub response: reqwest::Response,
    pub label: String,
    /// Whether it refuses a token that was given for this very request.
    insufficient: bool,
    _turn: Option<OwnedSemaphorePermit>,
}

impl Answer {
    pub fn new(response: reqwest::Response, label: String, turn: Option<OwnedSemaphorePermit>) -> Self {
        Self {
            response,
            label,
            insufficient: false,
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
        self.response.headers().get(name.as_ref())?.to_str().ok()
    }

    /// The failure that this answer is.
    pub async fn failure(mut self) -> Error {
        let after = retry_after(self.response.headers());
        let status = self.status().as_u16();
        let mut body = Vec::new();
        // What of it does not come says no more than nothing.
        let _ = timeout(CONNECT_LIMIT, beginning(&mut self.response, FAILURE_LIMIT, &mut body)).await;
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
        let http = client(&endpoint)?;
        let tokens = Tokens::new(
            http.clone(),
            endpoint.credentials.clone(),
            endpoint.plain_http,
            endpoint.idle,
            origin.clone(),
        );
        Ok(Self(Arc::new(Inner {
            shared: Shared::of(&endpoint),
            pace: Pace::default(),
            referrers_api: ReferrersApi::default(),
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

    pub(super) fn http(&self) -> &reqwest::Client {
        &self.0.http
    }

    pub(super) fn patience(&self) -> &Patience {
        &self.0.shared.patience
    }

    pub(super) fn pace(&self) -> &Pace {
        &self.0.pace
    }

    pub(super) fn referrers_api(&self) -> &ReferrersApi {
        &self.0.referrers_api
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

    /// What to prove who asks by to `url`: nothing to another host than the registry's own.
    pub(super) async fn proof<'a>(
        &'a self,
        label: &'a str,
        method: &'a Method,
        url: &Url,
        scope: &'a Scope,
    ) -> Result<Option<Proof<'a>>, Error> {
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
    pub(super) async fn send(&self, call: &Call) -> Result<Answer, Error> {
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
    pub(super) async fn expect(&self, call: &Call, wanted: &[u16]) -> Result<Answer, Error> {
        let answer = self.send(call).await?;
        if wanted.contains(&answer.status().as_u16()) {
            Ok(answer)
        } else {
            Err(answer.failure().await)
        }
    }

    async fn attempt(&self, call: &Call) -> Result<Answer, Error> {
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
        let mut redirects = 0;
        loop {
            let mut request = self
                .0
                .http
                .request(call.method.clone(), url.clone())
                .headers(call.headers.clone());
            let mut own = proof.as_mut().filter(|_| self.is_own(&url));
            if let Some(value) = own.as_ref().and_then(|proof| proof.header()) {
                request = request.header(AUTHORIZATION, value);
            }
            if let Some(body) = &call.body {
                request = request.body(body.clone());
            }
            let response = timeout(self.idle(), request.send())
                .await
                .map_err(|_| Error::timed_out(&call.label, self.idle()))?
                .map_err(|error| Error::transport(&call.label, &error.without_url()))?;
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
                let location = response.headers().get(LOCATION).and_then(|value| value.to_str().ok());
                let to = self.follow(&call.label, &url, location)?;
                if !reads && to.origin() != url.origin() {
                    return Err(leads_away(&call.label, &to));
                }
                url = to;
                continue;
            }
            let mut answer = Answer::new(response, call.label.clone(), turn);
            answer.insufficient = insufficient;
            return Ok(answer);
        }
    }
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

fn client(endpoint: &Endpoint) -> Result<reqwest::Client, Error> {
    let fail = |detail: String| Error::new(Kind::Trust, &endpoint.host, detail);
    let builder = reqwest::Client::builder()
        .user_agent(concat!("jackal-operator/", env!("CARGO_PKG_VERSION")))
        .redirect(reqwest::redirect::Policy::none())
        .http1_only()
        .connect_timeout(CONNECT_LIMIT.min(endpoint.idle))
        .pool_idle_timeout(Duration::from_secs(30))
        .pool_max_idle_per_host(endpoint.connections.saturating_mul(2))
        .tcp_nodelay(true);
    let builder = match tls::config(&endpoint.trust) {
        Ok(config) => builder.tls_backend_preconfigured(config),
        // An image without certificates can still speak plain HTTP.
        Err(tls::Unusable::NoAuthority) if endpoint.plain_http => builder.tls_certs_only([]),
        Err(tls::Unusable::NoAuthority) => {
            let detail = "this system has no certificates of authorities, and none were given";
            return Err(fail(detail.to_owned()).advising(Remedy::Authority));
        }
        Err(tls::Unusable::Given(reason)) => return Err(fail(clean(&reason))),
    };
    builder.build().map_err(|error| fail(clean(&error.to_string())))
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

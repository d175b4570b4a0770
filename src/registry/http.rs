//! The HTTP clients of one registry. All requests are created here, so restrictions apply to each of them.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use reqwest::header::{ACCEPT_ENCODING, HeaderMap, HeaderValue};
use reqwest::{Method, RequestBuilder, Response};
use url::Url;

use super::advice::Advice;
use super::endpoint::Endpoint;
use super::error::{Error, Kind, clean};
use super::origin::Origin;
use super::restrictions::{Resolver, Restrictions};
use super::tls;

/// Connect timeout.
const CONNECT_LIMIT: Duration = Duration::from_secs(10);

/// Sends requests to one registry and to its redirect targets. Clones share connections.
#[derive(Clone)]
pub(super) struct HttpClient(Arc<Inner>);

struct Inner {
    origin: Origin,
    client: reqwest::Client,
    /// `None` for a registry without restrictions.
    restricted: Option<RestrictedClient>,
}

struct RestrictedClient {
    restrictions: Arc<Restrictions>,
    /// Connects to public addresses only.
    public_only_client: reqwest::Client,
    /// The registry has responded from a public address.
    registry_is_public: AtomicBool,
}

impl HttpClient {
    /// Creates the clients for `endpoint`, whose origin is `origin`.
    pub fn new(endpoint: &Endpoint, origin: Origin) -> Result<Self, Error> {
        let tls = match tls::client_config(&endpoint.trust) {
            Ok(config) => Some(config),
            // Plain HTTP works without CA certificates.
            Err(tls::TlsSetupError::NoAuthority) if endpoint.plain_http => None,
            Err(tls::TlsSetupError::NoAuthority) => {
                let detail = "the system has no CA certificates, and none were configured";
                return Err(Error::new(Kind::Trust, &endpoint.host, detail).with_advice(Advice::TrustCa));
            }
            Err(tls::TlsSetupError::Configured(reason)) => {
                return Err(Error::new(Kind::Trust, &endpoint.host, clean(&reason)));
            }
        };
        let resolver = |public_only: bool| {
            endpoint.restrictions.as_ref().map(|restrictions| Resolver {
                restrictions: Arc::clone(restrictions),
                public_only,
            })
        };
        let restricted = match &endpoint.restrictions {
            None => None,
            Some(restrictions) => Some(RestrictedClient {
                restrictions: Arc::clone(restrictions),
                public_only_client: build_client(endpoint, tls.clone(), resolver(true))?,
                registry_is_public: AtomicBool::new(false),
            }),
        };
        let client = build_client(endpoint, tls, resolver(false))?;
        Ok(Self(Arc::new(Inner {
            origin,
            client,
            restricted,
        })))
    }

    /// Creates a request to `url`. `redirected_by_public` tells whether a host with a public address, other than the
    /// registry, redirected there.
    ///
    /// # Errors
    /// When the restrictions do not allow the request.
    pub fn request(
        &self,
        label: &str,
        method: Method,
        url: &Url,
        redirected_by_public: bool,
    ) -> Result<RequestBuilder, Error> {
        let inner = &*self.0;
        let Some(restricted) = &inner.restricted else {
            return Ok(inner.client.request(method, url.clone()));
        };
        let is_redirect = !inner.origin.is_own_url(url);
        let redirected_by_public = redirected_by_public || restricted.registry_is_public.load(Ordering::Relaxed);
        let public_only = is_redirect
            && restricted
                .restrictions
                .requires_public_address(url, redirected_by_public);
        let result = restricted.restrictions.check(url, is_redirect, public_only);
        result.map_err(|error| Error::forbidden(label, &error))?;
        let client = if public_only {
            &restricted.public_only_client
        } else {
            &inner.client
        };
        Ok(client.request(method, url.clone()))
    }

    /// Sends `request`. A response is never an error, whatever its status.
    pub async fn send(&self, label: &str, request: RequestBuilder) -> Result<Response, Error> {
        let sent = request.send().await;
        let response = sent.map_err(|error| Error::transport(label, &error.without_url()))?;
        if let Some(restricted) = &self.0.restricted
            && self.0.origin.is_own_url(response.url())
            && restricted.restrictions.is_public(response.remote_addr())
        {
            restricted.registry_is_public.store(true, Ordering::Relaxed);
        }
        Ok(response)
    }

    /// Whether a response came from a public address. False without restrictions.
    pub fn is_public(&self, response: &Response) -> bool {
        let restricted = self.0.restricted.as_ref();
        restricted.is_some_and(|restricted| restricted.restrictions.is_public(response.remote_addr()))
    }

    /// Whether messages must not quote content from `url`: a tenant named the registry, and the registry redirected to
    /// another host.
    pub fn is_concealed(&self, url: &Url) -> bool {
        self.0.restricted.is_some() && !self.0.origin.is_own_url(url)
    }

    /// Whether uploads may be sent to `url`.
    pub fn allows_upload_to(&self, url: &Url) -> bool {
        let restricted = self.0.restricted.as_ref();
        self.0.origin.is_own_url(url)
            || restricted.is_none_or(|restricted| restricted.restrictions.allows_upload_to(url))
    }
}

fn build_client(
    endpoint: &Endpoint,
    tls: Option<rustls::ClientConfig>,
    resolver: Option<Resolver>,
) -> Result<reqwest::Client, Error> {
    // Without it a server may compress a response in any way (RFC 9110, section 12.5.3).
    let uncompressed = HeaderMap::from_iter([(ACCEPT_ENCODING, HeaderValue::from_static("identity"))]);
    let mut builder = reqwest::Client::builder()
        .default_headers(uncompressed)
        .user_agent(concat!("jackal-operator/", env!("CARGO_PKG_VERSION")))
        .redirect(reqwest::redirect::Policy::none())
        .http1_only()
        .connect_timeout(CONNECT_LIMIT.min(endpoint.idle))
        .pool_idle_timeout(Duration::from_secs(30))
        .pool_max_idle_per_host(endpoint.connections.saturating_mul(2))
        .tcp_nodelay(true);
    if let Some(resolver) = resolver {
        builder = builder.dns_resolver(Arc::new(resolver));
    }
    let builder = match tls {
        Some(config) => builder.tls_backend_preconfigured(config),
        None => builder.tls_certs_only([]),
    };
    let setup_error = |error: reqwest::Error| Error::new(Kind::Trust, &endpoint.host, clean(&error.to_string()));
    builder.build().map_err(setup_error)
}

/// The value of a header, if it is present and UTF-8. Some servers send paths with characters beyond ASCII.
pub(super) fn header_text(headers: &HeaderMap, name: impl AsRef<str>) -> Option<&str> {
    std::str::from_utf8(headers.get(name.as_ref())?.as_bytes()).ok()
}

/// A URL for messages: without user, query and fragment.
pub(super) fn display_url(url: &Url) -> String {
    format!("{}{}", url.origin().ascii_serialization(), url.path())
}

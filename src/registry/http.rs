//! The HTTP clients of one registry. Every request of it is made here, so that none is sent where the registry may not lead.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use reqwest::{Method, RequestBuilder, Response};
use url::Url;

use super::advice::Remedy;
use super::endpoint::Endpoint;
use super::error::{Error, Kind, clean};
use super::origin::Origin;
use super::restrictions::{Resolver, Restrictions};
use super::tls;

/// The longest time to reach the other side.
const CONNECT_LIMIT: Duration = Duration::from_secs(10);

/// Sends requests to one registry and to where it leads. Clones share connections.
#[derive(Clone)]
pub(super) struct Http(Arc<Inner>);

struct Inner {
    origin: Origin,
    usual: reqwest::Client,
    /// None for a registry that may lead anywhere.
    limited: Option<Limited>,
}

struct Limited {
    restrictions: Arc<Restrictions>,
    /// Connects to public addresses only.
    public: reqwest::Client,
    /// The registry answered from a public address.
    is_public: AtomicBool,
}

impl Http {
    /// Those of `endpoint`, which is at `origin`.
    pub fn new(endpoint: &Endpoint, origin: Origin) -> Result<Self, Error> {
        let tls = match tls::config(&endpoint.trust) {
            Ok(config) => Some(config),
            // An image without certificates can still speak plain HTTP.
            Err(tls::TlsSetupError::NoAuthority) if endpoint.plain_http => None,
            Err(tls::TlsSetupError::NoAuthority) => {
                let detail = "this system has no certificates of authorities, and none were given";
                return Err(Error::new(Kind::Trust, &endpoint.host, detail).advising(Remedy::Authority));
            }
            Err(tls::TlsSetupError::Given(reason)) => {
                return Err(Error::new(Kind::Trust, &endpoint.host, clean(&reason)));
            }
        };
        let resolver = |public_only: bool| {
            endpoint.restrictions.as_ref().map(|restrictions| Resolver {
                restrictions: Arc::clone(restrictions),
                public_only,
            })
        };
        let limited = match &endpoint.restrictions {
            None => None,
            Some(restrictions) => Some(Limited {
                restrictions: Arc::clone(restrictions),
                public: client(endpoint, tls.clone(), resolver(true))?,
                is_public: AtomicBool::new(false),
            }),
        };
        let usual = client(endpoint, tls, resolver(false))?;
        Ok(Self(Arc::new(Inner { origin, usual, limited })))
    }

    /// A request to `url`. `led_by_public` is whether a host with a public address led there, besides the registry itself.
    ///
    /// # Errors
    /// When nothing may be asked there.
    pub fn request(
        &self,
        label: &str,
        method: Method,
        url: &Url,
        led_by_public: bool,
    ) -> Result<RequestBuilder, Error> {
        let inner = &*self.0;
        let Some(limited) = &inner.limited else {
            return Ok(inner.usual.request(method, url.clone()));
        };
        let is_led = !inner.origin.is_own(url);
        let led_by_public = led_by_public || limited.is_public.load(Ordering::Relaxed);
        let public_only = is_led && limited.restrictions.is_for_public_only(url, led_by_public);
        let checked = limited.restrictions.check(url, is_led, public_only);
        checked.map_err(|refusal| Error::refused(label, &refusal))?;
        let client = if public_only { &limited.public } else { &inner.usual };
        Ok(client.request(method, url.clone()))
    }

    /// Sends `request`. No answer is an error, whatever its status is.
    pub async fn send(&self, label: &str, request: RequestBuilder) -> Result<Response, Error> {
        let sent = request.send().await;
        let response = sent.map_err(|error| Error::transport(label, &error.without_url()))?;
        if let Some(limited) = &self.0.limited
            && self.0.origin.is_own(response.url())
            && limited.restrictions.is_public(response.remote_addr())
        {
            limited.is_public.store(true, Ordering::Relaxed);
        }
        Ok(response)
    }

    /// Whether an answer came from a public address, as far as that matters.
    pub fn is_public(&self, response: &Response) -> bool {
        let limited = self.0.limited.as_ref();
        limited.is_some_and(|limited| limited.restrictions.is_public(response.remote_addr()))
    }

    /// Whether what is at `url` is not for the eyes of who named the registry: another host, to which it leads.
    pub fn is_foreign(&self, url: &Url) -> bool {
        self.0.limited.is_some() && !self.0.origin.is_own(url)
    }

    /// Whether the registry may have uploads sent to `url`.
    pub fn takes_uploads_at(&self, url: &Url) -> bool {
        let limited = self.0.limited.as_ref();
        self.0.origin.is_own(url) || limited.is_none_or(|limited| limited.restrictions.allows_upload_to(url))
    }
}

fn client(
    endpoint: &Endpoint,
    tls: Option<rustls::ClientConfig>,
    resolver: Option<Resolver>,
) -> Result<reqwest::Client, Error> {
    let mut builder = reqwest::Client::builder()
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
    let fail = |error: reqwest::Error| Error::new(Kind::Trust, &endpoint.host, clean(&error.to_string()));
    builder.build().map_err(fail)
}

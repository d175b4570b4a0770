//! The registry behind the proxy.

use std::error::Error as _;
use std::time::{Duration, Instant};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use http::header::{AUTHORIZATION, HOST, RETRY_AFTER};
use http::{HeaderValue, Request, Response, StatusCode, Version};
use http_body_util::{BodyExt as _, Empty};
use hyper::body::Incoming;
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::client::legacy::{Client, Error};
use hyper_util::rt::{TokioExecutor, TokioTimer};
use secrecy::{ExposeSecret as _, SecretString};
use tracing::warn;
use url::Url;

use super::body::{Streamed, whole};
use super::log_limit::LogLimit;
use super::reloaded::Reloaded;
use super::request::Forwarded;
use super::response::{RedirectedAway, cleaned};
use super::{Body, Limits, Settings};
use crate::fault::{Fault, Reason};
use crate::registry::{Credentials, Keychain, Trust, client_config};
use crate::server::registry_error;

/// The largest piece of a body that is read at once, in bytes; also the maximum size of a response's head.
pub(super) const PIECE: usize = 256 * 1024;
/// The time between two attempts to connect.
const RETRY_DELAY: Duration = Duration::from_millis(250);
/// How long an unused connection to the registry stays open, and how many.
const IDLE: (Duration, usize) = (Duration::from_secs(30), 16);

type HttpClient = Client<HttpsConnector<HttpConnector>, Empty<Bytes>>;

/// The registry.
pub(super) struct Upstream {
    /// `https://host:port/`
    base: Url,
    /// `host:port`, for messages.
    registry: String,
    host: HeaderValue,
    client: Reloaded<HttpClient>,
    /// The value of Authorization for requests that have none.
    login: Option<Reloaded<Option<HeaderValue>>>,
    limits: Limits,
    failed: LogLimit,
    refused: LogLimit,
}

/// Why a request has no response of the registry.
enum Failure {
    /// No connection, or it broke before the head of the response.
    Unreachable(String),
    /// TLS with the registry failed, and fails again.
    Untrusted(String),
    /// The head of the response did not arrive in time.
    Late(Duration),
    /// The response redirects away from the registry.
    Redirected(RedirectedAway),
}

impl Upstream {
    /// Reads the files of `settings`.
    ///
    /// # Errors
    /// A stalled fault that says which file or value cannot be used.
    pub async fn new(settings: Settings) -> Result<Self, Fault> {
        let unusable = |what: &str, why: String| Fault::stalled(Reason::InvalidSpec, format!("{what}: {why}"));
        let (base, host) = parse_registry(&settings.registry, settings.plain_http)
            .map_err(|why| unusable(&format!("--registry {}", settings.registry), why))?;
        let mut paths = settings.authorities.clone();
        let has_identity = settings.client_identity.is_some();
        if let Some((certificate, key)) = settings.client_identity {
            paths.extend([certificate, key]);
        }
        let limits = settings.limits;
        let client = Reloaded::new(paths, move |contents| {
            make_client(contents, has_identity, limits.connect)
        })
        .await;
        let login = match settings.credentials {
            None => None,
            Some(path) => {
                let what = format!("--credentials {}", path.display());
                let hosts = [settings.host, settings.registry.clone()];
                let read = Reloaded::new(vec![path], move |contents| find_login(contents, &hosts)).await;
                Some(read.map_err(|why| unusable(&what, why))?)
            }
        };
        Ok(Self {
            base,
            registry: settings.registry,
            host,
            client: client.map_err(|why| unusable("--ca-file, --client-cert, --client-key", why))?,
            login,
            limits,
            failed: LogLimit::default(),
            refused: LogLimit::default(),
        })
    }

    /// The response of the registry, or one that says why there is none.
    pub async fn send(&self, forwarded: Forwarded) -> Response<Body> {
        let late = self.limits.head;
        let asked = tokio::time::timeout(late, self.ask(&forwarded)).await;
        let response = asked.unwrap_or(Err(Failure::Late(late)));
        let failure = match response.map(|response| self.passed(response, &forwarded)) {
            Ok(Ok(response)) => return response,
            Ok(Err(away)) => Failure::Redirected(away),
            Err(failure) => failure,
        };
        let (status, message) = failure.described(&self.registry);
        if let Some(omitted) = self.failed.admits() {
            warn!(registry = %self.registry, omitted, "{message}");
        }
        let code = match status {
            StatusCode::BAD_GATEWAY => "UNKNOWN",
            _ => "UNAVAILABLE",
        };
        let mut response = registry_error(status, code, &message).map(whole);
        if status == StatusCode::SERVICE_UNAVAILABLE {
            response
                .headers_mut()
                .insert(RETRY_AFTER, HeaderValue::from_static("1"));
        }
        response
    }

    /// Sends the request, again while no connection is made: the registry may be starting.
    async fn ask(&self, forwarded: &Forwarded) -> Result<Response<Incoming>, Failure> {
        let login = match &self.login {
            Some(login) if !forwarded.fields.contains_key(AUTHORIZATION) => (*login.current().await).clone(),
            _ => None,
        };
        let uri = self.base.as_str().trim_end_matches('/').to_owned() + &forwarded.target;
        let began = Instant::now();
        let mut broke = false;
        loop {
            let mut request = Request::new(Empty::new());
            *request.method_mut() = forwarded.method.clone();
            *request.uri_mut() = uri
                .parse()
                .map_err(|error| Failure::Unreachable(format!("the target cannot be sent: {error}")))?;
            *request.headers_mut() = forwarded.fields.clone();
            request.headers_mut().insert(HOST, self.host.clone());
            if let Some(login) = &login {
                request.headers_mut().insert(AUTHORIZATION, login.clone());
            }
            let error = match self.client.current().await.request(request).await {
                Ok(response) => {
                    if login.is_some() && response.status() == StatusCode::UNAUTHORIZED {
                        self.log_refused_login();
                    }
                    return Ok(response);
                }
                Err(error) => error,
            };
            let why = causes(&error);
            if is_tls(&error) {
                return Err(Failure::Untrusted(why));
            }
            if !error.is_connect() && !broke {
                // The registry may have closed an unused connection just now. GET and HEAD may be sent twice.
                broke = true;
                continue;
            }
            if !error.is_connect() || began.elapsed() + RETRY_DELAY >= self.limits.connect {
                return Err(Failure::Unreachable(why));
            }
            tokio::time::sleep(RETRY_DELAY).await;
        }
    }

    fn log_refused_login(&self) {
        if let Some(omitted) = self.refused.admits() {
            warn!(
                registry = %self.registry,
                omitted,
                "the registry refuses the login in --credentials; the Secret may be older than that of the registry"
            );
        }
    }

    /// The response for the client.
    fn passed(&self, response: Response<Incoming>, forwarded: &Forwarded) -> Result<Response<Body>, RedirectedAway> {
        let (mut head, body) = response.into_parts();
        let from = self.base.join(&forwarded.target).unwrap_or_else(|_| self.base.clone());
        cleaned(head.status, &mut head.headers, &from)?;
        head.version = Version::HTTP_11;
        head.extensions = http::Extensions::new();
        Ok(Response::from_parts(
            head,
            Streamed::new(body, self.limits.stall).boxed_unsync(),
        ))
    }
}

impl Failure {
    fn described(&self, registry: &str) -> (StatusCode, String) {
        match self {
            Self::Unreachable(why) => (
                StatusCode::SERVICE_UNAVAILABLE,
                format!(
                    "the registry {registry} cannot be reached: {why}; check that its pods are ready, then pull again"
                ),
            ),
            Self::Untrusted(why) => (
                StatusCode::BAD_GATEWAY,
                format!(
                    "TLS with the registry {registry} fails: {why}; check that --ca-file has the authority of its certificate, and its names"
                ),
            ),
            Self::Late(limit) => (
                StatusCode::GATEWAY_TIMEOUT,
                format!(
                    "the registry {registry} did not respond in {} s; check its pods and its storage, then pull again",
                    limit.as_secs_f32()
                ),
            ),
            Self::Redirected(RedirectedAway(to)) => (
                StatusCode::BAD_GATEWAY,
                format!(
                    "the registry {registry} redirects to {to}, which is not the registry; set `storage.redirect.disable: true` in its configuration"
                ),
            ),
        }
    }
}

/// The base URL of the registry and its field Host.
fn parse_registry(registry: &str, plain_http: bool) -> Result<(Url, HeaderValue), String> {
    const WRITE: &str = "write host:port";
    let scheme = if plain_http { "http" } else { "https" };
    let base = Url::parse(&format!("{scheme}://{registry}/")).map_err(|error| format!("{error}; {WRITE}"))?;
    let is_bare =
        base.path() == "/" && base.query().is_none() && base.username().is_empty() && base.password().is_none();
    if !is_bare || base.fragment().is_some() {
        return Err(format!("it is not a host with a port; {WRITE}"));
    }
    let host = HeaderValue::try_from(registry).map_err(|_| WRITE.to_owned())?;
    Ok((base, host))
}

/// A client that trusts the files: authorities, then the certificate of the client and its key if `has_identity`.
fn make_client(contents: &[Option<Vec<u8>>], has_identity: bool, connect: Duration) -> Result<HttpClient, String> {
    let mut contents: Vec<&Vec<u8>> = contents.iter().flatten().collect();
    let mut trust = Trust::default();
    if has_identity {
        let missing = "the certificate of the client or its key does not exist";
        let (key, certificate) = (contents.pop().ok_or(missing)?, contents.pop().ok_or(missing)?);
        let key = std::str::from_utf8(key).map_err(|_| "the key of the client is not PEM")?;
        trust.certificate = Some(certificate.clone());
        trust.key = Some(SecretString::from(key));
    }
    for bundle in contents {
        trust = trust.with_authorities(Some(bundle));
    }
    let mut config = client_config(&trust).map_err(|error| error.to_string())?;
    // The connector sets it.
    config.alpn_protocols = Vec::new();
    let mut http = HttpConnector::new();
    http.enforce_http(false);
    http.set_nodelay(true);
    http.set_connect_timeout(Some(connect));
    let connector = HttpsConnectorBuilder::new()
        .with_tls_config(config)
        .https_or_http()
        .enable_http1()
        .wrap_connector(http);
    Ok(Client::builder(TokioExecutor::new())
        .timer(TokioTimer::new())
        .pool_timer(TokioTimer::new())
        .pool_idle_timeout(IDLE.0)
        .pool_max_idle_per_host(IDLE.1)
        .http1_max_buf_size(PIECE)
        .build(connector))
}

/// The value of Authorization by the first of `hosts` that the file knows.
fn find_login(contents: &[Option<Vec<u8>>], hosts: &[String]) -> Result<Option<HeaderValue>, String> {
    let Some(content) = contents.first().and_then(Option::as_ref) else {
        return Ok(None);
    };
    let keychain = Keychain::parse(content)?;
    let found = hosts.iter().find_map(|host| keychain.find(host, ""));
    let Some(Credentials {
        username,
        password,
        registry_token,
        ..
    }) = found
    else {
        return Err(format!("it has no entry for {}", hosts.join(" or ")));
    };
    let value = match registry_token {
        Some(token) => format!("Bearer {}", token.expose_secret()),
        None => format!(
            "Basic {}",
            STANDARD.encode(format!("{username}:{}", password.expose_secret()))
        ),
    };
    let mut value = HeaderValue::try_from(value).map_err(|_| "its login has characters that HTTP does not allow")?;
    value.set_sensitive(true);
    Ok(Some(value))
}

/// The causes of an error: the error itself says only at which step it happened.
fn causes(error: &Error) -> String {
    let mut words: Vec<String> = Vec::new();
    let mut cause = error.source();
    while let Some(error) = cause {
        let word = error.to_string();
        if words.last() != Some(&word) {
            words.push(word);
        }
        cause = error.source();
    }
    match words.is_empty() {
        true => error.to_string(),
        false => words.join(": "),
    }
}

/// Whether TLS failed, not the connection.
fn is_tls(error: &Error) -> bool {
    let mut cause = error.source();
    while let Some(error) = cause {
        if error.is::<rustls::Error>() {
            return true;
        }
        // The source of an IO error is that of the error inside it.
        cause = match error.downcast_ref::<std::io::Error>().and_then(std::io::Error::get_ref) {
            Some(inner) => Some(inner),
            None => error.source(),
        };
    }
    false
}

#[cfg(test)]
mod tests {
    use super::*;

    fn login(config: &str) -> Result<Option<String>, String> {
        let hosts = ["127.0.0.1:31999".to_owned(), "registry.home.svc:5001".to_owned()];
        let found = find_login(&[Some(config.as_bytes().to_vec())], &hosts)?;
        Ok(found.map(|value| value.to_str().unwrap().to_owned()))
    }

    #[test]
    fn the_login_of_the_images_host_comes_first() {
        let config = r#"{"auths": {"registry.home.svc:5001": {"auth": "YTpi"}, "127.0.0.1:31999": {"username": "c", "password": "d"}}}"#;
        assert_eq!(login(config).unwrap().as_deref(), Some("Basic Yzpk"));
        let config = r#"{"auths": {"registry.home.svc:5001": {"registrytoken": "t"}}}"#;
        assert_eq!(login(config).unwrap().as_deref(), Some("Bearer t"));
        let other = login(r#"{"auths": {"example.com": {"auth": "YTpi"}}}"#).unwrap_err();
        assert_eq!(other, "it has no entry for 127.0.0.1:31999 or registry.home.svc:5001");
        assert!(login("[]").is_err());
        assert_eq!(find_login(&[None], &[]).unwrap(), None);
    }

    #[test]
    fn a_registry_is_a_host_with_a_port() {
        let base = |registry: &str| parse_registry(registry, false).map(|(base, _)| base.to_string());
        assert_eq!(base("r.home.svc:5001").unwrap(), "https://r.home.svc:5001/");
        assert_eq!(base("[fd00::1]:5001").unwrap(), "https://[fd00::1]:5001/");
        assert_eq!(parse_registry("r:80", true).unwrap().0.scheme(), "http");
        for wrong in ["", "http://r", "r/v2", "r?a", "u:p@r", "r#a", "r:99999", "r r"] {
            assert!(base(wrong).unwrap_err().contains("write host:port"), "{wrong}");
        }
    }
}

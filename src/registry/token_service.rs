//! Requests tokens from a token service (distribution's token authentication; its OAuth2 for refresh tokens).

use std::time::{Duration, Instant};

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use bytes::Bytes;
use reqwest::Method;
use reqwest::header::{ACCEPT, AUTHORIZATION, CONTENT_TYPE, HeaderValue, LOCATION};
use secrecy::ExposeSecret;
use serde_json::{Map, Value};
use url::Url;

use super::body::read_body;
use super::endpoint::Credentials;
use super::error::{Error, Kind};
use super::explanation::decompress;
use super::http::{HttpClient, display_url, header_text};
use super::origin::Origin;
use super::throttle::retry_after;
use crate::decode;

/// Maximum response size in bytes.
const RESPONSE_LIMIT: usize = 64 * 1024;
/// Lifetime of a token without `expires_in` (distribution's documentation).
const DEFAULT_LIFETIME: Duration = Duration::from_secs(60);
/// Maximum lifetime of a token.
const MAX_LIFETIME: Duration = Duration::from_secs(3600);
/// Maximum length of a token in bytes. Servers accept at most 16 KiB in a header.
const MAX_TOKEN_LENGTH: usize = 16 * 1024;
/// Redirects that one request follows.
const MAX_REDIRECTS: usize = 5;
/// The OAuth2 client ID.
const CLIENT_ID: &str = "jackal-operator";

/// An access token.
#[derive(Clone)]
pub(super) struct Token {
    /// The value of the `Authorization` header.
    pub value: HeaderValue,
    /// When it is renewed, before it expires.
    pub renew_at: Instant,
}

/// A request for a token.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct TokenRequest {
    /// The URL of the token service.
    pub realm: Url,
    /// The service name that the token service expects.
    pub service: Option<String>,
    /// The scopes that the token must have.
    pub scopes: Vec<String>,
}

impl TokenRequest {
    /// Its length in bytes.
    pub fn length(&self) -> usize {
        let texts = self.service.iter().chain(&self.scopes);
        texts.fold(self.realm.as_str().len(), |sum, text| sum + text.len())
    }
}

/// The client of the token services of one registry.
pub(super) struct TokenService {
    pub http: HttpClient,
    pub credentials: Option<Credentials>,
    /// Whether the registry is reached over plain HTTP, so that its token service may be too.
    pub plain_http: bool,
    /// The timeout of one request.
    pub limit: Duration,
    pub origin: Origin,
}

/// Why the token service issued no token.
struct TokenFailure {
    /// The status of the response, if there was one.
    status: Option<u16>,
    error: Error,
}

impl TokenFailure {
    /// Whether the service may support the other kind of request.
    fn is_unsupported(&self) -> bool {
        matches!(self.status, Some(400 | 404 | 405 | 415 | 501))
    }

    /// The same for an OAuth2 request, which some services answer with 401 if they do not support it.
    fn may_lack_oauth(&self) -> bool {
        self.is_unsupported() || self.status == Some(401)
    }
}

impl TokenService {
    /// Requests a new token. An identity token is exchanged by OAuth2. A password is sent as the token specification
    /// requires, or by OAuth2 if the service supports only that.
    pub async fn fetch(&self, request: &TokenRequest) -> Result<Token, Error> {
        let label = format!("GET {}", display_url(&request.realm));
        if request.realm.scheme() != "https" && !self.plain_http {
            return Err(Error::new(
                Kind::Denied,
                label,
                "the registry is reached over HTTPS, but its token service over plain HTTP, which would expose the token and the credentials; configure a token realm with https in the registry",
            ));
        }
        let Some(credentials) = &self.credentials else {
            return self.get(request, None).await.map_err(|failure| failure.error);
        };
        if let Some(token) = &credentials.identity_token {
            let form = [
                ("grant_type", "refresh_token"),
                ("refresh_token", token.expose_secret()),
            ];
            return match self.post(request, &form).await {
                Err(failure) if failure.may_lack_oauth() && credentials.has_password() => {
                    self.get(request, Some(credentials)).await
                }
                result => result,
            }
            .map_err(|failure| failure.error);
        }
        match self.get(request, Some(credentials)).await {
            Err(failure) if failure.is_unsupported() => {
                let form = [
                    ("grant_type", "password"),
                    ("username", credentials.username.as_str()),
                    ("password", credentials.password.expose_secret()),
                ];
                let oauth = self.post(request, &form).await;
                oauth.map_err(|oauth| match oauth.is_unsupported() {
                    true => failure.error,
                    false => oauth.error,
                })
            }
            result => result.map_err(|failure| failure.error),
        }
    }

    async fn get(&self, request: &TokenRequest, credentials: Option<&Credentials>) -> Result<Token, TokenFailure> {
        let mut url = request.realm.clone();
        {
            let mut query = url.query_pairs_mut();
            if let Some(service) = &request.service {
                query.append_pair("service", service);
            }
            for scope in &request.scopes {
                query.append_pair("scope", scope);
            }
        }
        let label = format!("GET {}", display_url(&request.realm));
        let authorization = credentials.map(|credentials| basic_header(&label, credentials));
        let authorization = authorization
            .transpose()
            .map_err(|error| TokenFailure { status: None, error })?;
        self.exchange(Method::GET, url, &label, authorization, None).await
    }

    async fn post(&self, request: &TokenRequest, form: &[(&str, &str)]) -> Result<Token, TokenFailure> {
        let scopes = request.scopes.join(" ");
        let service = request.service.as_deref().map(|service| ("service", service));
        let scope = (!scopes.is_empty()).then_some(("scope", scopes.as_str()));
        let fields = form.iter().copied().chain([("client_id", CLIENT_ID)]);
        let body = url::form_urlencoded::Serializer::new(String::new())
            .extend_pairs(fields.chain(service).chain(scope))
            .finish();
        let label = format!("POST {}", display_url(&request.realm));
        self.exchange(Method::POST, request.realm.clone(), &label, None, Some(body.into()))
            .await
    }

    async fn exchange(
        &self,
        method: Method,
        mut url: Url,
        label: &str,
        authorization: Option<HeaderValue>,
        body: Option<Bytes>,
    ) -> Result<Token, TokenFailure> {
        let failed = |error: Error| TokenFailure {
            status: None,
            error: error.into_token_service_error(),
        };
        let attempt = async {
            for _ in 0..=MAX_REDIRECTS {
                let request = self.http.request(label, method.clone(), &url, false);
                let mut request = request.map_err(failed)?;
                request = request.header(ACCEPT, HeaderValue::from_static("application/json, */*;q=0.1"));
                if let Some(authorization) = &authorization {
                    request = request.header(AUTHORIZATION, authorization);
                }
                if let Some(body) = &body {
                    let kind = HeaderValue::from_static("application/x-www-form-urlencoded");
                    request = request.header(CONTENT_TYPE, kind).body(body.clone());
                }
                let mut response = self.http.send(label, request).await.map_err(failed)?;
                let status = response.status();
                if matches!(status.as_u16(), 301 | 302 | 307 | 308) || status == 303 && method == Method::GET {
                    let location = header_text(response.headers(), LOCATION);
                    url = self.redirect_target(label, &url, location).map_err(failed)?;
                    continue;
                }
                let after = retry_after(response.headers());
                let read = read_body(&mut response, RESPONSE_LIMIT, self.limit, label).await;
                if status.is_success() {
                    let body = read.map_err(failed)?.bytes;
                    return parse_token(label, &body).map_err(failed);
                }
                // The body of a service in a private network is not quoted: its address comes from the registry.
                let body = read.map(|body| body.bytes).unwrap_or_default();
                let error = match self.http.is_concealed(&url) && !self.http.is_public(&response) {
                    true => Error::from_status(label, status.as_u16(), after, &[]),
                    false => Error::from_status(label, status.as_u16(), after, &body),
                };
                return Err(TokenFailure {
                    status: Some(status.as_u16()),
                    error: error.into_token_service_error(),
                });
            }
            let detail = format!("the token service redirects more than {MAX_REDIRECTS} times");
            Err(failed(Error::new(Kind::TokenService, label, detail)))
        };
        let limit = self.limit;
        match tokio::time::timeout(limit, attempt).await {
            Ok(result) => result,
            Err(_) => Err(failed(Error::timed_out(label, limit))),
        }
    }

    /// Resolves a redirect, which must stay on the same host because it receives the credentials.
    fn redirect_target(&self, label: &str, from: &Url, location: Option<&str>) -> Result<Url, Error> {
        let to = self.origin.resolve_location(label, from, location)?;
        let encrypts = from.scheme() == "http"
            && to.scheme() == "https"
            && from.host_str() == to.host_str()
            && from.port().is_none()
            && to.port().is_none();
        if to.origin() == from.origin() || encrypts {
            return Ok(to);
        }
        let to = to.origin().ascii_serialization();
        let detail = format!(
            "the token service redirects to {to}, which does not receive credentials; configure that host as the token realm of the registry"
        );
        Err(Error::new(Kind::TokenService, label, detail))
    }
}

/// Parses the response. Only one of `token` and `access_token` is required; other fields of any type are ignored.
fn parse_token(label: &str, body: &[u8]) -> Result<Token, Error> {
    let protocol = |detail: &str| Error::new(Kind::Protocol, label, detail);
    let (content, is_complete) = decompress(body, RESPONSE_LIMIT);
    if !is_complete {
        return Err(protocol("the response is invalid gzip"));
    }
    // The message of the parser would quote the token.
    let fields: Map<String, Value> =
        decode::json(&content).map_err(|_| protocol("the response is not a JSON object"))?;
    let text = ["token", "access_token"]
        .into_iter()
        .filter_map(|field| fields.get(field)?.as_str())
        .map(str::trim)
        .find(|text| !text.is_empty())
        .ok_or_else(|| protocol("the response contains no token"))?;
    if text.len() > MAX_TOKEN_LENGTH {
        return Err(protocol(&format!("the token is longer than {MAX_TOKEN_LENGTH} bytes")));
    }
    let mut value = HeaderValue::try_from(format!("Bearer {text}"))
        .map_err(|_| protocol("the token has characters that are not allowed in a header"))?;
    value.set_sensitive(true);
    let seconds = match fields.get("expires_in") {
        Some(Value::Number(number)) => number.as_f64(),
        Some(Value::String(text)) => text.trim().trim_end_matches('s').parse().ok(),
        _ => None,
    };
    let lifetime = seconds
        .filter(|seconds: &f64| *seconds >= 1.0)
        .map_or(DEFAULT_LIFETIME, |seconds| {
            Duration::from_secs_f64(seconds.min(MAX_LIFETIME.as_secs_f64()))
        });
    // A token that expires during a request is refused, so it is renewed earlier.
    let margin = (lifetime / 4).min(Duration::from_secs(30));
    Ok(Token {
        value,
        renew_at: Instant::now() + lifetime - margin,
    })
}

/// The `Authorization` header for a user name and password.
pub(super) fn basic_header(label: &str, credentials: &Credentials) -> Result<HeaderValue, Error> {
    let pair = format!("{}:{}", credentials.username, credentials.password.expose_secret());
    sensitive_header(label, format!("Basic {}", BASE64_STANDARD.encode(pair)))
}

/// An `Authorization` header that is redacted in debug output.
pub(super) fn sensitive_header(label: &str, text: String) -> Result<HeaderValue, Error> {
    let mut value = HeaderValue::try_from(text).map_err(|_| {
        Error::new(
            Kind::Unauthorized,
            label,
            "the credentials have characters that are not allowed in a header",
        )
    })?;
    value.set_sensitive(true);
    Ok(value)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_are_renewed_before_they_expire() {
        let lifetime = |body: &str| parse_token("c", body.as_bytes()).map(|token| token.renew_at - Instant::now());
        let within = |body: &str, from: u64, to: u64| {
            let lifetime = lifetime(body).unwrap().as_secs();
            assert!((from..=to).contains(&lifetime), "{body}: {lifetime}");
        };
        within(r#"{"token":"t"}"#, 43, 45);
        within(r#"{"access_token":"t","expires_in":300}"#, 268, 270);
        within(r#"{"token":"","access_token":"t","expires_in":1e300}"#, 3568, 3570);
        within(r#"{"token":"t","expires_in":-5}"#, 43, 45);
        let long = format!(r#"{{"token":"{}"}}"#, "t".repeat(MAX_TOKEN_LENGTH + 1));
        for bad in ["", "{}", r#"{"token":""}"#, r#"{"token":"a\nb"}"#, "[1]", &long] {
            let error = parse_token("c", bad.as_bytes()).map(|_| ()).unwrap_err();
            assert_eq!(error.kind(), &Kind::Protocol, "{bad}");
        }
    }

    #[test]
    fn unexpected_field_types_are_ignored() {
        for (body, seconds) in [
            (r#"{"token":"t","expires_in":"300"}"#, 270),
            (r#"{"token":"t","expires_in":"300s"}"#, 270),
            (r#"{"token":"t","expires_in":300.9}"#, 270),
            (r#"{"token":"t","expires_in":0}"#, 45),
            (r#"{"token":"t","expires_in":null}"#, 45),
            (r#"{"token":"t","expires_in":"soon"}"#, 45),
            (r#"{"token":"t","expires_in":["1"]}"#, 45),
            (r#"{"token":"t","expires_in":60,"expires_in":300}"#, 270),
            (r#"{"token":null,"access_token":"t"}"#, 45),
            (r#"{"token":"t","access_token":null}"#, 45),
            (r#"{"token":"x","token":"t"}"#, 45),
            (r#"{"token":" t\n"}"#, 45),
            (
                r#"{"token":7,"access_token":"t","issued_at":1457510670,"scope":["a"],"more":{}}"#,
                45,
            ),
            ("\u{feff}{\"token\":\"t\",\"issued_at\":\"yesterday\"}", 45),
        ] {
            let token = parse_token("c", body.as_bytes()).unwrap();
            assert_eq!(token.value, "Bearer t", "{body}");
            let lifetime = (token.renew_at - Instant::now()).as_secs();
            assert!((seconds - 2..=seconds).contains(&lifetime), "{body}: {lifetime}");
        }
    }

    #[test]
    fn tokens_are_not_printed() {
        let token = parse_token("c", br#"{"token":"s3cret"}"#).unwrap();
        assert!(!format!("{:?}", token.value).contains("s3cret"));
        let error = parse_token("c", br#"{"token":["s3cret"]}"#).map(|_| ()).unwrap_err();
        assert!(!error.to_string().contains("s3cret"));
    }
}

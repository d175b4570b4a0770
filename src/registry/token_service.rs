//! Asking a token service for tokens (distribution's token authentication; its OAuth2 for refresh tokens).

use std::time::{Duration, Instant};

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use bytes::Bytes;
use reqwest::Method;
use reqwest::header::{ACCEPT, AUTHORIZATION, CONTENT_TYPE, HeaderValue, LOCATION};
use secrecy::ExposeSecret;
use serde_json::{Map, Value};
use url::Url;

use super::body::body_within;
use super::client::{shown, text_of};
use super::endpoint::Credentials;
use super::error::{Error, Kind};
use super::explanation::inflated;
use super::http::Http;
use super::origin::Origin;
use super::throttle::retry_after;
use crate::decode;

/// The longest answer in bytes that a token may come in.
const ANSWER_LIMIT: usize = 64 * 1024;
/// How long a token lasts when its giver does not say (distribution's documentation).
const DEFAULT_LIFE: Duration = Duration::from_secs(60);
/// No token is believed to last longer.
const LONGEST_LIFE: Duration = Duration::from_secs(3600);
/// How many redirects one request follows.
const REDIRECTS: usize = 5;
/// What we call ourselves to OAuth2.
const CLIENT: &str = "jackal-operator";

/// An access token.
#[derive(Clone)]
pub(super) struct Token {
    /// The whole `Authorization`.
    pub value: HeaderValue,
    /// When it is renewed.
    pub until: Instant,
}

/// What one token is for.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct TokenRequest {
    /// Where it is given.
    pub realm: Url,
    /// Which service it is for, as the realm calls it.
    pub service: Option<String>,
    /// What it must allow.
    pub scopes: Vec<String>,
}

/// The way to token services, for one registry.
pub(super) struct TokenService {
    pub http: Http,
    pub credentials: Option<Credentials>,
    /// Whether the registry is spoken to in the clear, so that its token service may be too.
    pub plain_http: bool,
    /// Bounds one answer.
    pub limit: Duration,
    pub origin: Origin,
}

/// Why a service gave no token.
struct Refusal {
    /// Its status, if it answered.
    status: Option<u16>,
    error: Error,
}

impl Refusal {
    /// Whether the service may know another kind of request.
    fn is_unsupported(&self) -> bool {
        matches!(self.status, Some(400 | 404 | 405 | 415 | 501))
    }

    /// The same of a request by OAuth2, which some want to be proved as any other.
    fn is_no_oauth(&self) -> bool {
        self.is_unsupported() || self.status == Some(401)
    }
}

impl TokenService {
    /// A new token. An identity token is exchanged for it by OAuth2; a password is sent as the token specification says,
    /// or by OAuth2 where a service only knows that.
    pub async fn fetch(&self, wanted: &TokenRequest) -> Result<Token, Error> {
        let call = format!("GET {}", shown(&wanted.realm));
        if wanted.realm.scheme() != "https" && !self.plain_http {
            return Err(Error::new(
                Kind::Denied,
                call,
                "the registry asks over HTTPS to fetch a token over plain HTTP, which would show it and the credentials to everybody on the way; give the registry a token realm with https",
            ));
        }
        let Some(credentials) = &self.credentials else {
            return self.get(wanted, None).await.map_err(|refusal| refusal.error);
        };
        if let Some(token) = &credentials.identity_token {
            let form = [
                ("grant_type", "refresh_token"),
                ("refresh_token", token.expose_secret()),
            ];
            return match self.post(wanted, &form).await {
                Err(refusal) if refusal.is_no_oauth() && credentials.has_password() => {
                    self.get(wanted, Some(credentials)).await
                }
                done => done,
            }
            .map_err(|refusal| refusal.error);
        }
        match self.get(wanted, Some(credentials)).await {
            Err(refusal) if refusal.is_unsupported() => {
                let form = [
                    ("grant_type", "password"),
                    ("username", credentials.username.as_str()),
                    ("password", credentials.password.expose_secret()),
                ];
                let second = self.post(wanted, &form).await;
                second.map_err(|second| match second.is_unsupported() {
                    true => refusal.error,
                    false => second.error,
                })
            }
            done => done.map_err(|refusal| refusal.error),
        }
    }

    async fn get(&self, wanted: &TokenRequest, credentials: Option<&Credentials>) -> Result<Token, Refusal> {
        let mut url = wanted.realm.clone();
        {
            let mut query = url.query_pairs_mut();
            if let Some(service) = &wanted.service {
                query.append_pair("service", service);
            }
            for scope in &wanted.scopes {
                query.append_pair("scope", scope);
            }
        }
        let call = format!("GET {}", shown(&wanted.realm));
        let authorization = credentials.map(|credentials| basic(&call, credentials));
        let authorization = authorization
            .transpose()
            .map_err(|error| Refusal { status: None, error })?;
        self.ask(Method::GET, url, &call, authorization, None).await
    }

    async fn post(&self, wanted: &TokenRequest, form: &[(&str, &str)]) -> Result<Token, Refusal> {
        let scopes = wanted.scopes.join(" ");
        let service = wanted.service.as_deref().map(|service| ("service", service));
        let scope = (!scopes.is_empty()).then_some(("scope", scopes.as_str()));
        let fields = form.iter().copied().chain([("client_id", CLIENT)]);
        let body = url::form_urlencoded::Serializer::new(String::new())
            .extend_pairs(fields.chain(service).chain(scope))
            .finish();
        let call = format!("POST {}", shown(&wanted.realm));
        self.ask(Method::POST, wanted.realm.clone(), &call, None, Some(body.into()))
            .await
    }

    async fn ask(
        &self,
        method: Method,
        mut url: Url,
        call: &str,
        authorization: Option<HeaderValue>,
        body: Option<Bytes>,
    ) -> Result<Token, Refusal> {
        let failed = |error: Error| Refusal {
            status: None,
            error: error.of_token_service(),
        };
        let exchange = async {
            for _ in 0..=REDIRECTS {
                let request = self.http.request(call, method.clone(), &url, false);
                let mut request = request.map_err(failed)?;
                request = request.header(ACCEPT, HeaderValue::from_static("application/json, */*;q=0.1"));
                if let Some(authorization) = &authorization {
                    request = request.header(AUTHORIZATION, authorization);
                }
                if let Some(body) = &body {
                    let kind = HeaderValue::from_static("application/x-www-form-urlencoded");
                    request = request.header(CONTENT_TYPE, kind).body(body.clone());
                }
                let mut response = self.http.send(call, request).await.map_err(failed)?;
                let status = response.status();
                if matches!(status.as_u16(), 301 | 302 | 307 | 308) || status == 303 && method == Method::GET {
                    let location = text_of(response.headers(), LOCATION);
                    url = self.redirected(call, &url, location).map_err(failed)?;
                    continue;
                }
                let after = retry_after(response.headers());
                let read = body_within(&mut response, ANSWER_LIMIT, self.limit, call).await;
                if status.is_success() {
                    let body = read.map_err(failed)?.bytes;
                    return read_token(call, &body).map_err(failed);
                }
                // Of a service in a private network nothing is told but its status: the registry alone says that it is one.
                let body = read.map(|body| body.bytes).unwrap_or_default();
                let error = match self.http.is_foreign(&url) && !self.http.is_public(&response) {
                    true => Error::status(call, status.as_u16(), after, &[]),
                    false => Error::status(call, status.as_u16(), after, &body),
                };
                return Err(Refusal {
                    status: Some(status.as_u16()),
                    error: error.of_token_service(),
                });
            }
            let detail = format!("the token service redirects more than {REDIRECTS} times");
            Err(failed(Error::new(Kind::TokenService, call, detail)))
        };
        let limit = self.limit;
        match tokio::time::timeout(limit, exchange).await {
            Ok(done) => done,
            Err(_) => Err(failed(Error::timed_out(call, limit))),
        }
    }

    /// Where a redirect leads, which must be the same host: it gets the credentials.
    fn redirected(&self, call: &str, from: &Url, location: Option<&str>) -> Result<Url, Error> {
        let to = self.origin.follow(call, from, location)?;
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
            "the token service redirects to {to}, which gets no credentials; name that in the registry's challenge instead"
        );
        Err(Error::new(Kind::TokenService, call, detail))
    }
}

/// The token in the answer of its giver. Of the fields only one of `token` and `access_token` must be there; what the
/// others hold, of whatever type, does not make a token useless.
fn read_token(call: &str, body: &[u8]) -> Result<Token, Error> {
    let protocol = |detail: &str| Error::new(Kind::Protocol, call, detail);
    let (inflated, whole) = inflated(body, ANSWER_LIMIT);
    if !whole {
        return Err(protocol("the answer is broken gzip"));
    }
    // The parser's message would cite the token.
    let answer: Map<String, Value> =
        decode::json(&inflated).map_err(|_| protocol("the answer is not a token's JSON"))?;
    let text = ["token", "access_token"]
        .into_iter()
        .filter_map(|field| answer.get(field)?.as_str())
        .map(str::trim)
        .find(|text| !text.is_empty())
        .ok_or_else(|| protocol("the answer has no token"))?;
    let mut value = HeaderValue::try_from(format!("Bearer {text}"))
        .map_err(|_| protocol("the token has characters that no header takes"))?;
    value.set_sensitive(true);
    let seconds = match answer.get("expires_in") {
        Some(Value::Number(number)) => number.as_f64(),
        Some(Value::String(text)) => text.trim().trim_end_matches('s').parse().ok(),
        _ => None,
    };
    let life = seconds
        .filter(|seconds: &f64| *seconds >= 1.0)
        .map_or(DEFAULT_LIFE, |seconds| {
            Duration::from_secs_f64(seconds.min(LONGEST_LIFE.as_secs_f64()))
        });
    // A token that ends on the way is refused, so it is renewed before.
    let margin = (life / 4).min(Duration::from_secs(30));
    Ok(Token {
        value,
        until: Instant::now() + life - margin,
    })
}

/// The `Authorization` of a name and a password.
pub(super) fn basic(call: &str, credentials: &Credentials) -> Result<HeaderValue, Error> {
    let pair = format!("{}:{}", credentials.username, credentials.password.expose_secret());
    sensitive(call, format!("Basic {}", BASE64_STANDARD.encode(pair)))
}

/// An `Authorization` that is not printed.
pub(super) fn sensitive(call: &str, text: String) -> Result<HeaderValue, Error> {
    let mut value = HeaderValue::try_from(text)
        .map_err(|_| Error::new(Kind::Unauthorized, call, "the credentials do not fit a header"))?;
    value.set_sensitive(true);
    Ok(value)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_end_before_they_expire() {
        let life = |body: &str| read_token("c", body.as_bytes()).map(|token| token.until - Instant::now());
        let within = |body: &str, from: u64, to: u64| {
            let life = life(body).unwrap().as_secs();
            assert!((from..=to).contains(&life), "{body}: {life}");
        };
        within(r#"{"token":"t"}"#, 43, 45);
        within(r#"{"access_token":"t","expires_in":300}"#, 268, 270);
        within(r#"{"token":"","access_token":"t","expires_in":1e300}"#, 3568, 3570);
        within(r#"{"token":"t","expires_in":-5}"#, 43, 45);
        for bad in ["", "{}", r#"{"token":""}"#, r#"{"token":"a\nb"}"#, "[1]"] {
            let error = read_token("c", bad.as_bytes()).map(|_| ()).unwrap_err();
            assert_eq!(error.kind(), &Kind::Protocol, "{bad}");
        }
    }

    #[test]
    fn odd_fields_leave_a_token_useful() {
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
            let token = read_token("c", body.as_bytes()).unwrap();
            assert_eq!(token.value, "Bearer t", "{body}");
            let life = (token.until - Instant::now()).as_secs();
            assert!((seconds - 2..=seconds).contains(&life), "{body}: {life}");
        }
    }

    #[test]
    fn nothing_secret_is_printed() {
        let token = read_token("c", br#"{"token":"s3cret"}"#).unwrap();
        assert!(!format!("{:?}", token.value).contains("s3cret"));
        let error = read_token("c", br#"{"token":["s3cret"]}"#).map(|_| ()).unwrap_err();
        assert!(!error.to_string().contains("s3cret"));
    }
}

//! Proving who asks: tokens and passwords (distribution specification's token authentication).

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::{Duration, Instant};

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use reqwest::header::HeaderValue;
use secrecy::ExposeSecret;
use serde::Deserialize;
use url::Url;

use super::challenge::Challenge;
use super::client::body_within;
use super::endpoint::Credentials;
use super::error::{Error, Kind};
use super::patience::retry_after;

/// The longest answer in bytes that a token may come in.
const ANSWER_LIMIT: usize = 64 * 1024;
/// How long a token lasts when its giver does not say (distribution's documentation).
const DEFAULT_LIFE: Duration = Duration::from_secs(60);
/// No token is believed to last longer.
const LONGEST_LIFE: Duration = Duration::from_secs(3600);
/// Tokens of more scopes than this are not kept.
const CELLS: usize = 512;

/// What a request must be allowed, as texts such as `repository:library/nginx:pull`. Equal scopes share a
/// token.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Scope(Vec<String>);

impl Scope {
    pub fn pull(repository: &str) -> Self {
        Self(vec![format!("repository:{repository}:pull")])
    }

    pub fn push(repository: &str) -> Self {
        Self(vec![format!("repository:{repository}:pull,push")])
    }

    /// To push to `repository` what lies in `from`.
    pub fn mount(repository: &str, from: &str) -> Self {
        Self(vec![
            format!("repository:{repository}:pull,push"),
            format!("repository:{from}:pull"),
        ])
    }

    pub fn delete(repository: &str) -> Self {
        Self(vec![format!("repository:{repository}:delete,pull")])
    }

    fn with(&self, demanded: Option<&str>) -> Vec<String> {
        let mut all = self.0.clone();
        for scope in demanded.into_iter().flat_map(str::split_whitespace).take(8) {
            if !all.iter().any(|known| known == scope) {
                all.push(scope.to_owned());
            }
        }
        all
    }
}

#[derive(Clone)]
struct Token {
    value: HeaderValue,
    until: Instant,
}

type Cell = Arc<tokio::sync::Mutex<Option<Token>>>;

/// The proofs for one registry.
pub(super) struct Tokens {
    http: reqwest::Client,
    credentials: Option<Credentials>,
    plain_http: bool,
    limit: Duration,
    /// What the registry asked for last; it does not change its mind often.
    challenge: RwLock<Option<Challenge>>,
    cells: Mutex<HashMap<Scope, Cell>>,
}

impl Tokens {
    /// `limit` bounds one answer of the giver of tokens.
    pub fn new(http: reqwest::Client, credentials: Option<Credentials>, plain_http: bool, limit: Duration) -> Self {
        Self {
            http,
            credentials,
            plain_http,
            limit,
            challenge: RwLock::default(),
            cells: Mutex::default(),
        }
    }

    /// What to send as `Authorization` before being asked: nothing until the registry asked once.
    pub async fn known(&self, call: &str, scope: &Scope) -> Result<Option<HeaderValue>, Error> {
        let challenge = self.challenge.read().unwrap_or_else(PoisonError::into_inner).clone();
        match challenge {
            None => Ok(None),
            // What was demanded of the request that was refused then is not demanded of this one.
            Some(Challenge::Bearer { realm, service, .. }) => {
                let challenge = Challenge::Bearer {
                    realm,
                    service,
                    scope: None,
                };
                self.answer(call, scope, &challenge, None).await.map(Some)
            }
            Some(Challenge::Basic) => self.answer(call, scope, &Challenge::Basic, None).await.map(Some),
        }
    }

    /// What to send as `Authorization` after the registry refused `rejected` and asked for `challenge`.
    pub async fn renewed(
        &self,
        call: &str,
        scope: &Scope,
        challenge: Challenge,
        rejected: Option<&HeaderValue>,
    ) -> Result<HeaderValue, Error> {
        let header = self.answer(call, scope, &challenge, rejected).await?;
        *self.challenge.write().unwrap_or_else(PoisonError::into_inner) = Some(challenge);
        Ok(header)
    }

    async fn answer(
        &self,
        call: &str,
        scope: &Scope,
        challenge: &Challenge,
        rejected: Option<&HeaderValue>,
    ) -> Result<HeaderValue, Error> {
        let Challenge::Bearer {
            realm,
            service,
            scope: demanded,
        } = challenge
        else {
            let credentials = self.credentials.as_ref();
            let credentials = credentials.ok_or_else(|| {
                Error::new(
                    Kind::Unauthorized,
                    call,
                    "the registry wants a name and a password, and none were given",
                )
            })?;
            return basic(call, credentials);
        };
        // Whoever comes while a token is fetched waits for that one.
        let cell = self.cell(scope);
        let mut cell = cell.lock().await;
        if let Some(token) = cell.as_ref()
            && token.until > Instant::now()
            && Some(&token.value) != rejected
        {
            return Ok(token.value.clone());
        }
        let scopes = scope.with(demanded.as_deref());
        let token = self.fetch(realm, service.as_deref(), &scopes).await?;
        Ok(cell.insert(token).value.clone())
    }

    fn cell(&self, scope: &Scope) -> Cell {
        let mut cells = self.cells.lock().unwrap_or_else(PoisonError::into_inner);
        if cells.len() >= CELLS {
            cells.retain(|_, cell| Arc::strong_count(cell) > 1);
        }
        cells.entry(scope.clone()).or_default().clone()
    }

    async fn fetch(&self, realm: &Url, service: Option<&str>, scopes: &[String]) -> Result<Token, Error> {
        let mut url = realm.clone();
        {
            let mut query = url.query_pairs_mut();
            service.map(|service| query.append_pair("service", service));
            for scope in scopes {
                query.append_pair("scope", scope);
            }
        }
        let call = format!("GET {}", super::client::shown(realm));
        let mut request = self.http.get(url);
        if realm.scheme() != "https" && !self.plain_http {
            return Err(Error::new(
                Kind::Denied,
                call,
                "the registry asks over HTTPS to fetch a token over plain HTTP, which would show it and the credentials to everybody on the way; give the registry a token realm with https",
            ));
        }
        if let Some(credentials) = &self.credentials {
            request = request.header(reqwest::header::AUTHORIZATION, basic(&call, credentials)?);
        }
        let answer = tokio::time::timeout(self.limit, async {
            let mut response = request
                .send()
                .await
                .map_err(|error| Error::transport(&call, &error.without_url()))?;
            let after = retry_after(response.headers());
            let body = body_within(&mut response, ANSWER_LIMIT, &call).await?;
            Ok((response.status(), after, body))
        });
        let (status, after, body) = answer.await.map_err(|_| Error::timed_out(&call, self.limit))??;
        if !status.is_success() {
            return Err(Error::status(&call, status.as_u16(), after, &body));
        }
        read(&call, &body)
    }
}

/// The token in the answer of its giver.
fn read(call: &str, body: &[u8]) -> Result<Token, Error> {
    #[derive(Deserialize)]
    struct Answer {
        token: Option<String>,
        access_token: Option<String>,
        expires_in: Option<f64>,
    }
    let protocol = |detail: &str| Error::new(Kind::Protocol, call, detail);
    // The parser's message would cite the token.
    let answer: Answer = serde_json::from_slice(body).map_err(|_| protocol("the answer is not a token's JSON"))?;
    let text = [answer.token, answer.access_token]
        .into_iter()
        .flatten()
        .find(|text| !text.is_empty())
        .ok_or_else(|| protocol("the answer has no token"))?;
    let mut value = HeaderValue::try_from(format!("Bearer {text}"))
        .map_err(|_| protocol("the token has characters that no header takes"))?;
    value.set_sensitive(true);
    let life = answer
        .expires_in
        .filter(|seconds| *seconds >= 1.0)
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

fn basic(call: &str, credentials: &Credentials) -> Result<HeaderValue, Error> {
    let pair = format!("{}:{}", credentials.username, credentials.password.expose_secret());
    let mut value = HeaderValue::try_from(format!("Basic {}", BASE64_STANDARD.encode(pair)))
        .map_err(|_| Error::new(Kind::Unauthorized, call, "the credentials do not fit a header"))?;
    value.set_sensitive(true);
    Ok(value)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_end_before_they_expire() {
        let life = |body: &str| read("c", body.as_bytes()).map(|token| token.until - Instant::now());
        let within = |body: &str, from: u64, to: u64| {
            let life = life(body).unwrap().as_secs();
            assert!((from..=to).contains(&life), "{body}: {life}");
        };
        within(r#"{"token":"t"}"#, 43, 45);
        within(r#"{"access_token":"t","expires_in":300}"#, 268, 270);
        within(r#"{"token":"","access_token":"t","expires_in":1e300}"#, 3568, 3570);
        within(r#"{"token":"t","expires_in":-5}"#, 43, 45);
        for bad in ["", "{}", r#"{"token":""}"#, r#"{"token":"a\nb"}"#, "[1]"] {
            let error = read("c", bad.as_bytes()).map(|_| ()).unwrap_err();
            assert_eq!(error.kind(), &Kind::Protocol, "{bad}");
        }
    }

    #[test]
    fn a_mount_asks_for_both_repositories() {
        let scope = Scope::mount("to/a", "from/b");
        assert_eq!(
            scope.with(Some("repository:to/a:pull,push registry:catalog:*")),
            [
                "repository:to/a:pull,push",
                "repository:from/b:pull",
                "registry:catalog:*"
            ]
        );
    }

    #[test]
    fn nothing_secret_is_printed() {
        let token = read("c", br#"{"token":"s3cret"}"#).unwrap();
        assert!(!format!("{:?}", token.value).contains("s3cret"));
        let error = read("c", br#"{"token":["s3cret"]}"#).map(|_| ()).unwrap_err();
        assert!(!error.to_string().contains("s3cret"));
    }
}

//! Authorizes requests to a registry: remembers which challenge each kind of request is answered with, and caches
//! tokens.

use std::num::NonZeroUsize;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use lru::LruCache;
use reqwest::Method;
use reqwest::header::{HeaderMap, HeaderValue, WWW_AUTHENTICATE};
use secrecy::ExposeSecret;
use url::Url;

use super::cache::bounded_cache;
use super::challenge::{Challenge, parse_challenges};
use super::endpoint::Credentials;
use super::error::{Error, Kind};
use super::http::HttpClient;
use super::origin::Origin;
use super::token_cache::TokenCache;
use super::token_service::{TokenRequest, TokenService, basic_header, sensitive_header};

/// Capacity of the cache of accepted challenges.
const CACHE_SIZE: NonZeroUsize = NonZeroUsize::new(512).unwrap();
/// Maximum length in bytes of a challenge that is cached.
const MAX_CACHED_LENGTH: usize = 1024;
/// Challenges that are answered for one request.
const MAX_CHALLENGES: usize = 4;

/// The permissions that a request needs, such as `repository:library/nginx:pull`. Requests with equal scopes share a
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

    /// To push to `repository` and pull from `from`.
    pub fn mount(repository: &str, from: &str) -> Self {
        Self(vec![
            format!("repository:{repository}:pull,push"),
            format!("repository:{from}:pull"),
        ])
    }

    /// To list all repositories.
    pub fn catalog() -> Self {
        Self(vec!["registry:catalog:*".to_owned()])
    }

    pub fn delete(repository: &str) -> Self {
        Self(vec![format!("repository:{repository}:delete,pull")])
    }

    /// Merges these and the `required` scopes: each resource once, with all of its actions.
    fn merge(&self, required: Option<&str>) -> Vec<String> {
        let mut all = self.0.clone();
        for scope in required.into_iter().flat_map(str::split_whitespace).take(8) {
            let (resource, actions) = scope.rsplit_once(':').unwrap_or((scope, ""));
            let same = |known: &&mut String| known.rsplit_once(':').is_some_and(|(known, _)| known == resource);
            match all.iter_mut().find(same) {
                None => all.push(scope.to_owned()),
                Some(known) => {
                    for action in actions.split(',').filter(|action| !action.is_empty()) {
                        let has = known
                            .rsplit(':')
                            .next()
                            .is_some_and(|all| all.split(',').any(|one| one == action));
                        if !has {
                            known.push(',');
                            known.push_str(action);
                        }
                    }
                }
            }
        }
        all
    }
}

/// Authorizes requests to one registry.
pub(super) struct Authorizer {
    service: TokenService,
    accepted: Mutex<AcceptedChallenges>,
    tokens: TokenCache,
}

/// The challenges whose answers the registry has accepted.
struct AcceptedChallenges {
    /// By scope and method, because registries may send different challenges per repository, and for reading and
    /// writing.
    by_request: LruCache<(Scope, Method), Challenge>,
    /// The last one, which is tried for other requests.
    last: Option<Challenge>,
}

impl Authorizer {
    /// `limit` is the timeout of one request to the token service.
    pub fn new(
        http: HttpClient,
        credentials: Option<Credentials>,
        plain_http: bool,
        limit: Duration,
        origin: Origin,
    ) -> Self {
        Self {
            service: TokenService {
                http,
                credentials,
                plain_http,
                limit,
                origin,
            },
            accepted: Mutex::new(AcceptedChallenges {
                by_request: bounded_cache(CACHE_SIZE),
                last: None,
            }),
            tokens: TokenCache::default(),
        }
    }

    /// Authorizes a request before the registry sends a challenge: with the challenge that was accepted for such a
    /// request, else with the last accepted one. Without either, the request is sent without authorization.
    pub async fn authorize<'a>(
        &'a self,
        label: &'a str,
        method: &'a Method,
        scope: &'a Scope,
    ) -> Result<RequestAuthorization<'a>, Error> {
        let mut authorization = RequestAuthorization {
            authorizer: self,
            label,
            method,
            scope,
            current: None,
            is_new: false,
            challenges_seen: Vec::new(),
            tried: Vec::new(),
            used_service_token: false,
            probed: false,
            failure: None,
        };
        let (known, last) = {
            let mut accepted = lock(&self.accepted);
            let known = accepted.by_request.get(&(scope.clone(), method.clone())).cloned();
            (known, accepted.last.clone())
        };
        let is_known = known.is_some();
        let Some(challenge) = known.or(last) else {
            return Ok(authorization);
        };
        match self.header_for(label, scope, &challenge, None, false).await {
            Ok((header, source)) => {
                authorization.is_new = source == HeaderSource::NewToken;
                authorization.current = Some((challenge, header));
            }
            // This request may need another challenge.
            Err(error) if !is_known && !error.is_temporary() => {
                tracing::debug!(%error, "sending a request without authorization");
            }
            Err(error) => return Err(error),
        }
        Ok(authorization)
    }

    fn record_accepted(&self, scope: &Scope, method: &Method, challenge: &Challenge) {
        // The registry sends it again.
        if challenge.length() > MAX_CACHED_LENGTH {
            return;
        }
        let key = (scope.clone(), method.clone());
        let mut accepted = lock(&self.accepted);
        if accepted.by_request.get(&key) == Some(challenge) {
            return;
        }
        accepted.by_request.put(key, challenge.clone());
        // The scope applies only to this request.
        accepted.last = Some(match challenge.clone() {
            Challenge::Bearer { realm, service, .. } => Challenge::Bearer {
                realm,
                service,
                scope: None,
            },
            Challenge::Basic => Challenge::Basic,
        });
    }

    /// The challenges of a response with `headers` to a request to `url`.
    fn challenges(&self, headers: &HeaderMap, url: &Url) -> Vec<Challenge> {
        let values = headers.get_all(WWW_AUTHENTICATE);
        let texts: Vec<_> = values
            .iter()
            .map(|value| String::from_utf8_lossy(value.as_bytes()))
            .collect();
        parse_challenges(texts.iter().map(AsRef::as_ref), url)
    }

    /// The challenges of `/v2/` (distribution specification, "Determining Support").
    async fn probe_challenges(&self) -> Vec<Challenge> {
        let base = self.service.origin.base();
        let (http, label) = (&self.service.http, "GET /v2/");
        let Ok(request) = http.request(label, Method::GET, base, false) else {
            return Vec::new();
        };
        match tokio::time::timeout(self.service.limit, http.send(label, request)).await {
            Ok(Ok(response)) if response.status() == 401 => self.challenges(response.headers(), base),
            _ => Vec::new(),
        }
    }

    /// The `Authorization` header for `challenge`. A cached token that equals `rejected` is replaced, unless it
    /// `is_new`.
    async fn header_for(
        &self,
        label: &str,
        scope: &Scope,
        challenge: &Challenge,
        rejected: Option<&HeaderValue>,
        is_new: bool,
    ) -> Result<(HeaderValue, HeaderSource), Error> {
        let credentials = self.service.credentials.as_ref();
        let Challenge::Bearer {
            realm,
            service,
            scope: required,
        } = challenge
        else {
            return match credentials.filter(|credentials| credentials.has_password()) {
                Some(credentials) => Ok((basic_header(label, credentials)?, HeaderSource::Credentials)),
                None => Err(Error::new(
                    Kind::Unauthorized,
                    label,
                    "the registry requires a user name and password, and none are configured",
                )),
            };
        };
        if let Some(token) = credentials.and_then(|credentials| credentials.registry_token.as_ref()) {
            let header = sensitive_header(label, format!("Bearer {}", token.expose_secret()))?;
            return Ok((header, HeaderSource::Credentials));
        }
        let request = TokenRequest {
            realm: self.service.origin.normalize(realm.clone()),
            service: service.clone(),
            scopes: scope.merge(required.as_deref()),
        };
        // Concurrent requests wait for one fetch and share its token.
        let slot = self.tokens.slot(&request);
        let mut kept = slot.token.lock().await;
        if let Some(token) = kept.as_ref()
            && token.renew_at > Instant::now()
            && (is_new || Some(&token.value) != rejected)
        {
            return Ok((token.value.clone(), HeaderSource::CachedToken));
        }
        let token = self.service.fetch(&request).await?;
        self.tokens.record(&slot, &token);
        Ok((kept.insert(token).value.clone(), HeaderSource::NewToken))
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The source of an `Authorization` header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum HeaderSource {
    /// The configured credentials.
    Credentials,
    /// A token that was issued for an earlier request.
    CachedToken,
    /// A token that was issued for this request.
    NewToken,
}

/// The authorization of one request.
pub(super) struct RequestAuthorization<'a> {
    authorizer: &'a Authorizer,
    label: &'a str,
    method: &'a Method,
    scope: &'a Scope,
    current: Option<(Challenge, HeaderValue)>,
    /// The token in `current` was issued for this request.
    is_new: bool,
    /// Challenges of the responses to this request, the preferred ones first.
    challenges_seen: Vec<Challenge>,
    tried: Vec<Challenge>,
    /// A challenge was answered with a token of the token service.
    used_service_token: bool,
    /// The challenges of `/v2/` were requested.
    probed: bool,
    /// Why the first challenge could not be answered.
    failure: Option<Error>,
}

impl RequestAuthorization<'_> {
    /// The value of the `Authorization` header.
    pub fn header(&self) -> Option<&HeaderValue> {
        self.current.as_ref().map(|(_, header)| header)
    }

    /// Whether the token service issued a token that the registry refused. The account is known then, and lacks the
    /// permission, or the content does not exist.
    pub fn used_service_token(&self) -> bool {
        self.used_service_token
    }

    /// Whether a response requires another authorization.
    pub fn is_challenge(&self, response: &reqwest::Response) -> bool {
        match response.status().as_u16() {
            401 => true,
            // RFC 6750, section 3.1: the scope of the token is insufficient.
            403 => {
                let challenges = self.authorizer.challenges(response.headers(), response.url());
                challenges.iter().any(Challenge::is_bearer)
            }
            _ => false,
        }
    }

    /// Chooses another authorization after `response` refused this one. Returns false when there is none left.
    ///
    /// # Errors
    /// Why no token was issued, when no other challenge can be answered.
    pub async fn answer_challenge(&mut self, response: &reqwest::Response) -> Result<bool, Error> {
        let authorizer = self.authorizer;
        let rejected = self.current.take().map(|(_, header)| header);
        let mut new_challenges = authorizer.challenges(response.headers(), response.url());
        if new_challenges.is_empty() && self.challenges_seen.is_empty() && !self.probed {
            self.probed = true;
            new_challenges = authorizer.probe_challenges().await;
            let credentials = authorizer.service.credentials.as_ref();
            if new_challenges.is_empty() && credentials.is_some_and(Credentials::has_password) {
                new_challenges.push(Challenge::Basic);
            }
        }
        for challenge in new_challenges {
            if !self.challenges_seen.contains(&challenge) {
                self.challenges_seen.push(challenge);
            }
        }
        self.challenges_seen.sort_by_key(|challenge| !challenge.is_bearer());
        for challenge in self.challenges_seen.clone() {
            if self.tried.contains(&challenge) || self.tried.len() >= MAX_CHALLENGES {
                continue;
            }
            self.tried.push(challenge.clone());
            let header = authorizer.header_for(self.label, self.scope, &challenge, rejected.as_ref(), self.is_new);
            match header.await {
                Ok((header, source)) => {
                    self.used_service_token |= source != HeaderSource::Credentials;
                    if rejected.as_ref() != Some(&header) {
                        self.is_new = source == HeaderSource::NewToken;
                        self.current = Some((challenge, header));
                        return Ok(true);
                    }
                }
                // The response to the token is more informative.
                Err(_) if self.used_service_token => {}
                Err(error) => {
                    tracing::debug!(%error, "a challenge cannot be answered");
                    self.failure.get_or_insert(error);
                }
            }
        }
        self.failure.take().map_or(Ok(false), Err)
    }

    /// Records that the registry accepted the authorization.
    pub fn record_accepted(&self) {
        if let Some((challenge, _)) = &self.current {
            self.authorizer.record_accepted(self.scope, self.method, challenge);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mount_has_the_scopes_of_both_repositories() {
        let scope = Scope::mount("to/a", "from/b");
        assert_eq!(
            scope.merge(Some("repository:to/a:pull,push registry:catalog:*")),
            [
                "repository:to/a:pull,push",
                "repository:from/b:pull",
                "registry:catalog:*"
            ]
        );
    }

    #[test]
    fn actions_of_one_resource_are_merged() {
        let merged = |scope: Scope, required| scope.merge(Some(required));
        assert_eq!(
            merged(Scope::push("a"), "repository:a:push,pull"),
            ["repository:a:pull,push"]
        );
        assert_eq!(
            merged(Scope::pull("a"), "repository:a:pull,push"),
            ["repository:a:pull,push"]
        );
        assert_eq!(
            merged(Scope::delete("a"), "repository:a:*"),
            ["repository:a:delete,pull,*"]
        );
        assert_eq!(merged(Scope::pull("a"), "aws"), ["repository:a:pull", "aws"]);
        assert_eq!(
            merged(Scope::pull("h:5000/a"), "repository:h:5000/a:pull"),
            ["repository:h:5000/a:pull"]
        );
    }
}

//! Proving who asks: which challenge each kind of request to a registry is answered by, and the tokens for that.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::{Duration, Instant};

use reqwest::Method;
use reqwest::header::{HeaderMap, HeaderValue, WWW_AUTHENTICATE};
use secrecy::ExposeSecret;
use url::Url;

use super::challenge::{Challenge, offered};
use super::endpoint::Credentials;
use super::error::{Error, Kind};
use super::http::Http;
use super::origin::Origin;
use super::token_service::{Token, TokenRequest, TokenService, basic, sensitive};

/// Tokens, and challenges of requests, of which more than this are not kept.
const CELLS: usize = 512;
/// How many challenges one request answers.
const ROUNDS: usize = 4;

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

    /// Each resource of this and of the `demanded` scopes once, with all of its actions.
    fn with(&self, demanded: Option<&str>) -> Vec<String> {
        let mut all = self.0.clone();
        for scope in demanded.into_iter().flat_map(str::split_whitespace).take(8) {
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

type Cell = Arc<tokio::sync::Mutex<Option<Token>>>;

/// The proofs for one registry.
pub(super) struct Tokens {
    service: TokenService,
    accepted: RwLock<Accepted>,
    cells: Mutex<HashMap<TokenRequest, Cell>>,
}

/// By which answers to which challenges requests were let in.
#[derive(Default)]
struct Accepted {
    /// Registries may ask otherwise in one repository than in another, and for writing than for reading.
    by_request: HashMap<(Scope, Method), Challenge>,
    /// The last of all: what is tried where nothing is known.
    last: Option<Challenge>,
}

impl Tokens {
    /// `limit` bounds one answer of a token service.
    pub fn new(
        http: Http,
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
            accepted: RwLock::default(),
            cells: Mutex::default(),
        }
    }

    /// What a request proves who asks by, before the registry asks for it: by what let such a request in before, else by
    /// what let in another; nothing until the registry asked once.
    pub async fn proof<'a>(
        &'a self,
        label: &'a str,
        method: &'a Method,
        scope: &'a Scope,
    ) -> Result<RequestAuthorization<'a>, Error> {
        let mut proof = RequestAuthorization {
            tokens: self,
            label,
            method,
            scope,
            current: None,
            is_new: false,
            offered: Vec::new(),
            tried: Vec::new(),
            answered: false,
            asked: false,
            failure: None,
        };
        let (known, last) = {
            let accepted = self.accepted.read().unwrap_or_else(PoisonError::into_inner);
            let known = accepted.by_request.get(&(scope.clone(), method.clone()));
            (known.cloned(), accepted.last.clone())
        };
        let is_known = known.is_some();
        let Some(challenge) = known.or(last) else {
            return Ok(proof);
        };
        match self.answer(label, scope, &challenge, None, false).await {
            Ok((header, given)) => {
                proof.is_new = given == Given::Now;
                proof.current = Some((challenge, header));
            }
            // It need not be what this request is asked for.
            Err(error) if !is_known && !error.temporary() => {
                tracing::debug!(%error, "sending a request without a proof");
            }
            Err(error) => return Err(error),
        }
        Ok(proof)
    }

    fn accept(&self, scope: &Scope, method: &Method, challenge: &Challenge) {
        let key = (scope.clone(), method.clone());
        {
            let accepted = self.accepted.read().unwrap_or_else(PoisonError::into_inner);
            if accepted.by_request.get(&key) == Some(challenge) {
                return;
            }
        }
        let mut accepted = self.accepted.write().unwrap_or_else(PoisonError::into_inner);
        if accepted.by_request.len() >= CELLS {
            accepted.by_request.clear();
        }
        accepted.by_request.insert(key, challenge.clone());
        // What was demanded of this request is not demanded of another one.
        accepted.last = Some(match challenge.clone() {
            Challenge::Bearer { realm, service, .. } => Challenge::Bearer {
                realm,
                service,
                scope: None,
            },
            Challenge::Basic => Challenge::Basic,
        });
    }

    /// The challenges of an answer with `headers` to a request to `url`.
    fn challenges(&self, headers: &HeaderMap, url: &Url) -> Vec<Challenge> {
        let asked = headers.get_all(WWW_AUTHENTICATE);
        let texts: Vec<_> = asked
            .iter()
            .map(|value| String::from_utf8_lossy(value.as_bytes()))
            .collect();
        offered(texts.iter().map(AsRef::as_ref), url)
    }

    /// What the registry asks of everybody at `/v2/` (distribution specification, "Determining Support").
    async fn asked_of_all(&self) -> Vec<Challenge> {
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

    /// What to send as `Authorization` for `challenge`, another than `rejected` where there may be another: a token that
    /// `is_new` is not fetched again.
    async fn answer(
        &self,
        label: &str,
        scope: &Scope,
        challenge: &Challenge,
        rejected: Option<&HeaderValue>,
        is_new: bool,
    ) -> Result<(HeaderValue, Given), Error> {
        let credentials = self.service.credentials.as_ref();
        let Challenge::Bearer {
            realm,
            service,
            scope: demanded,
        } = challenge
        else {
            return match credentials.filter(|credentials| credentials.has_password()) {
                Some(credentials) => Ok((basic(label, credentials)?, Given::ByUser)),
                None => Err(Error::new(
                    Kind::Unauthorized,
                    label,
                    "the registry wants a name and a password, and none were given",
                )),
            };
        };
        if let Some(token) = credentials.and_then(|credentials| credentials.registry_token.as_ref()) {
            let header = sensitive(label, format!("Bearer {}", token.expose_secret()))?;
            return Ok((header, Given::ByUser));
        }
        let wanted = TokenRequest {
            realm: self.service.origin.resolved(realm.clone()),
            service: service.clone(),
            scopes: scope.with(demanded.as_deref()),
        };
        // Whoever comes while a token is fetched waits for that one.
        let cell = self.cell(&wanted);
        let mut cell = cell.lock().await;
        if let Some(token) = cell.as_ref()
            && token.until > Instant::now()
            && (is_new || Some(&token.value) != rejected)
        {
            return Ok((token.value.clone(), Given::Before));
        }
        let token = self.service.fetch(&wanted).await?;
        Ok((cell.insert(token).value.clone(), Given::Now))
    }

    fn cell(&self, wanted: &TokenRequest) -> Cell {
        let mut cells = self.cells.lock().unwrap_or_else(PoisonError::into_inner);
        if cells.len() >= CELLS {
            cells.retain(|_, cell| Arc::strong_count(cell) > 1);
        }
        cells.entry(wanted.clone()).or_default().clone()
    }
}

/// By whom an `Authorization` was given.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Given {
    /// It is what the user gave.
    ByUser,
    /// By a token service, for another request.
    Before,
    /// By a token service, for this request.
    Now,
}

/// How one request proves who asks.
pub(super) struct RequestAuthorization<'a> {
    tokens: &'a Tokens,
    label: &'a str,
    method: &'a Method,
    scope: &'a Scope,
    current: Option<(Challenge, HeaderValue)>,
    /// The token in it was given for this request.
    is_new: bool,
    /// Challenges of the answers to this request, the better first.
    offered: Vec<Challenge>,
    tried: Vec<Challenge>,
    /// A challenge was answered by a token that was given for this request.
    answered: bool,
    /// `/v2/` was asked.
    asked: bool,
    /// Why the first challenge could not be answered.
    failure: Option<Error>,
}

impl RequestAuthorization<'_> {
    /// What to send as `Authorization`.
    pub fn header(&self) -> Option<&HeaderValue> {
        self.current.as_ref().map(|(_, header)| header)
    }

    /// Whether a token service gave a token for this request, and the registry refused that: who asks is known then, and
    /// may not, or what is asked for does not exist.
    pub fn was_answered(&self) -> bool {
        self.answered
    }

    /// Whether an answer asks for another proof.
    pub fn is_refusal(&self, response: &reqwest::Response) -> bool {
        match response.status().as_u16() {
            401 => true,
            // RFC 6750, section 3.1: a token that allows too little.
            403 => {
                let challenges = self.tokens.challenges(response.headers(), response.url());
                challenges.iter().any(Challenge::is_bearer)
            }
            _ => false,
        }
    }

    /// Another proof after `response` refused this one. False when there is none left.
    ///
    /// # Errors
    /// The reason why no token was given, when the registry cannot be asked in another way.
    pub async fn refused(&mut self, response: &reqwest::Response) -> Result<bool, Error> {
        let tokens = self.tokens;
        let rejected = self.current.take().map(|(_, header)| header);
        let mut offered = tokens.challenges(response.headers(), response.url());
        if offered.is_empty() && self.offered.is_empty() && !self.asked {
            self.asked = true;
            offered = tokens.asked_of_all().await;
            let given = tokens.service.credentials.as_ref();
            if offered.is_empty() && given.is_some_and(Credentials::has_password) {
                offered.push(Challenge::Basic);
            }
        }
        for challenge in offered {
            if !self.offered.contains(&challenge) {
                self.offered.push(challenge);
            }
        }
        self.offered.sort_by_key(|challenge| !challenge.is_bearer());
        for challenge in self.offered.clone() {
            if self.tried.contains(&challenge) || self.tried.len() >= ROUNDS {
                continue;
            }
            self.tried.push(challenge.clone());
            let answer = tokens.answer(self.label, self.scope, &challenge, rejected.as_ref(), self.is_new);
            match answer.await {
                Ok((header, given)) => {
                    self.answered |= given != Given::ByUser;
                    if rejected.as_ref() != Some(&header) {
                        self.is_new = given == Given::Now;
                        self.current = Some((challenge, header));
                        return Ok(true);
                    }
                }
                // What the registry says to a token tells more.
                Err(_) if self.answered => {}
                Err(error) => {
                    tracing::debug!(%error, "a challenge cannot be answered");
                    self.failure.get_or_insert(error);
                }
            }
        }
        self.failure.take().map_or(Ok(false), Err)
    }

    /// Notes that the registry let the request in.
    pub fn accepted(&self) {
        if let Some((challenge, _)) = &self.current {
            self.tokens.accept(self.scope, self.method, challenge);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

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
    fn a_resource_is_asked_for_once_with_all_its_actions() {
        let with = |scope: Scope, demanded| scope.with(Some(demanded));
        assert_eq!(
            with(Scope::push("a"), "repository:a:push,pull"),
            ["repository:a:pull,push"]
        );
        assert_eq!(
            with(Scope::pull("a"), "repository:a:pull,push"),
            ["repository:a:pull,push"]
        );
        assert_eq!(
            with(Scope::delete("a"), "repository:a:*"),
            ["repository:a:delete,pull,*"]
        );
        assert_eq!(with(Scope::pull("a"), "aws"), ["repository:a:pull", "aws"]);
        assert_eq!(
            with(Scope::pull("h:5000/a"), "repository:h:5000/a:pull"),
            ["repository:h:5000/a:pull"]
        );
    }
}

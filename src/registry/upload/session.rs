//! One upload as the registry knows it: where its bytes go, how many it has, and giving it up.

use std::time::Duration;

use reqwest::header::{AUTHORIZATION, CONTENT_LENGTH, HeaderValue, LOCATION, RANGE};
use reqwest::{Method, StatusCode};
use tokio::time::timeout;
use url::Url;

use crate::oci::Digest;
use crate::registry::client::{Call, Registry, RegistryResponse, text_of};
use crate::registry::error::{Error, Kind};
use crate::registry::repository::Repository;
use crate::registry::token::Scope;

/// The longest time that giving up a session may take.
const CANCEL_LIMIT: Duration = Duration::from_secs(20);
/// What is waited before each try of that, in milliseconds.
const CANCEL_PAUSES: [u64; 6] = [50, 100, 250, 1000, 4000, 8000];

/// A begun upload. Unless it was committed, dropping it tells the registry so.
pub(in crate::registry) struct Session {
    pub(super) registry: Registry,
    pub(super) scope: Scope,
    pub(super) url: Url,
    label: String,
    open: bool,
}

impl Session {
    /// Begins an upload, by one who has the turn to write.
    pub async fn begin(repository: &Repository) -> Result<Self, Error> {
        let call = Call::new(Method::POST, repository.uploads(), Scope::push(repository.name()))
            .with(CONTENT_LENGTH, HeaderValue::from_static("0"))
            .within_turn();
        let repository = repository.clone();
        to_its_end(async move {
            // Docker's client takes any success for it.
            let answer = repository.registry().expect(&call, &[200, 201, 202, 204]).await?;
            Self::begun(&repository, &call, &answer)
        })
        .await
    }

    /// The session that `answer`, to a POST, began.
    pub fn begun(repository: &Repository, call: &Call, answer: &RegistryResponse) -> Result<Self, Error> {
        let registry = repository.registry();
        Ok(Self {
            url: registry.follow_upload(&call.label, answer.url(), answer.header(LOCATION))?,
            registry: registry.clone(),
            scope: Scope::push(repository.name()),
            label: Call::new(Method::POST, repository.uploads(), call.scope.clone()).label,
            open: true,
        })
    }

    /// A request of this upload, for people: the session's own address differs from one try to the next.
    pub fn label(&self, method: &Method) -> String {
        self.label.replacen(Method::POST.as_str(), method.as_str(), 1)
    }

    /// Where the whole is committed under `digest`.
    pub fn committing(&self, digest: &Digest) -> Url {
        let mut url = self.url.clone();
        url.query_pairs_mut().append_pair("digest", digest.as_str());
        url
    }

    /// Goes where `answer` says that the next bytes go; where it does not say, they go where these did.
    pub fn moved(&mut self, answer: &RegistryResponse) -> Result<(), Error> {
        if let Some(location) = answer.header(LOCATION) {
            self.url = self.registry.follow_upload(&self.label, answer.url(), Some(location))?;
        }
        Ok(())
    }

    /// Nothing is left to give up.
    pub fn committed(&mut self) {
        self.open = false;
    }

    /// The number of bytes that the registry has (distribution specification, "Pushing a blob in chunks"); none when
    /// it does not know the upload any more, or does not say.
    pub async fn status(&mut self) -> Result<Option<u64>, Error> {
        let mut call = Call::new(Method::GET, self.url.clone(), self.scope.clone()).within_turn();
        call.label = self.label(&Method::GET);
        let answer = self.registry.send(&call).await?;
        if !answer.status().is_success() {
            tracing::debug!(status = %answer.status(), "the registry does not know the upload any more");
            return Ok(None);
        }
        if answer.header(LOCATION).is_some() {
            self.moved(&answer)?;
        }
        // Registries that have nothing say so by no range, or by the range of one byte.
        Ok(match answer.header(RANGE) {
            None => Some(0),
            Some(range) => received(range),
        })
    }
}

/// Waits for `beginning` an upload, which goes on when nobody waits any more: of an upload whose answer is not read nobody
/// can give up what it began.
pub(in crate::registry) async fn to_its_end<T: Send + 'static>(
    beginning: impl Future<Output = Result<T, Error>> + Send + 'static,
) -> Result<T, Error> {
    tokio::spawn(beginning).await.unwrap_or_else(|error| {
        let detail = format!("beginning an upload was given up: {error}");
        Err(Error::new(Kind::Interrupted, "POST of an upload", detail))
    })
}

impl Drop for Session {
    fn drop(&mut self) {
        if self.open
            && let Ok(runtime) = tokio::runtime::Handle::try_current()
        {
            runtime.spawn(cancel(self.registry.clone(), self.url.clone(), self.scope.clone()));
        }
    }
}

/// The number of bytes in `0-9`, which is that of none too where it would be one.
pub(in crate::registry) fn received(range: &str) -> Option<u64> {
    let range = range.trim().trim_start_matches("bytes").trim_start_matches(['=', ' ']);
    let (first, last) = range.split_once('-')?;
    match (first.trim(), last.trim().parse().ok()?) {
        ("0", 0) => Some(0),
        ("0", last) => u64::checked_add(last, 1),
        _ => None,
    }
}

/// Not told so, a registry forgets a session after some days. distribution 2.8 cannot be told once a request
/// broke off: it takes only the address that follows the bytes it has, and does not say which that is.
async fn cancel(registry: Registry, url: Url, scope: Scope) {
    match timeout(CANCEL_LIMIT, try_cancel(&registry, url, &scope)).await {
        Ok(Ok(status)) => tracing::debug!(%status, "gave an upload up"),
        Ok(Err(error)) => tracing::debug!(%error, "could not give an upload up"),
        Err(_) => tracing::debug!("giving an upload up took too long"),
    }
}

async fn try_cancel(registry: &Registry, mut url: Url, scope: &Scope) -> Result<StatusCode, Error> {
    let label = "DELETE of an upload";
    let ask = async |method: Method, url: &Url| {
        let proof = registry.proof(label, &method, url, scope).await?;
        let mut request = registry.http().request(label, method.clone(), url, false)?;
        if let Some(value) = proof.as_ref().and_then(|proof| proof.header()) {
            request = request.header(AUTHORIZATION, value);
        }
        registry.http().send(label, request).await
    };
    // A request that was just broken off may still be at its begin over there, and would bring back what is removed; or
    // at its end, on a slow way for seconds. And a registry that was killed is mostly started again.
    let mut last = Ok(StatusCode::RANGE_NOT_SATISFIABLE);
    for pause in CANCEL_PAUSES {
        tokio::time::sleep(Duration::from_millis(pause)).await;
        let asked = async {
            let response = ask(Method::DELETE, &url).await?;
            if response.status() != StatusCode::RANGE_NOT_SATISFIABLE {
                return Ok((response.status(), None));
            }
            // It has other bytes than the address says; its status has the right one.
            let response = ask(Method::GET, &url).await?;
            let known = registry.follow_upload(label, &url, text_of(response.headers(), LOCATION))?;
            Ok((StatusCode::RANGE_NOT_SATISFIABLE, Some(known)))
        };
        match asked.await {
            Ok((status, None)) => return Ok(status),
            Ok((status, Some(known))) => (last, url) = (Ok(status), known),
            Err(error) => last = Err(error),
        }
    }
    last
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_what_a_registry_has() {
        for (range, count) in [
            ("0-9", Some(10)),
            ("bytes=0-9", Some(10)),
            ("bytes 0-9", Some(10)),
            ("0-0", Some(0)),
            ("5-9", None),
            ("0-18446744073709551615", None),
            ("", None),
            ("0--1", None),
        ] {
            assert_eq!(received(range), count, "{range}");
        }
    }
}

//! Files that lie on a host as files, not as blobs of a repository: those of a chart repository, and what a url names.
//! They are asked for with the same limits, retries and rules of redirects.

use reqwest::Method;
use reqwest::header::{ETAG, HeaderValue, IF_NONE_MATCH};
use url::Url;

use super::advice::RegistryUse;
use super::body::{Body, body_within};
use super::client::{Call, Registry};
use super::download::Download;
use super::error::{DEFAULT_PATIENCE, Error, Kind};
use super::token::Scope;
use crate::fault::{Fault, Reason};
use crate::oci::Digest;

/// What came of asking for a small file.
#[derive(Debug)]
pub enum FileResponse {
    /// Its content, and the mark by which its host knows this state of it.
    Content(Body, Option<String>),
    /// It is what it was when its host gave the mark.
    Unchanged,
}

impl Registry {
    /// The content of the file at `url`, of this host, verified while it streams: another digest is an error in place of
    /// the end. The request is sent when the first of it is asked for; a broken connection is resumed.
    pub fn download_file(&self, url: Url, digest: &Digest) -> Download {
        Download::new(self.clone(), self.file_call(url), digest.clone(), None)
    }

    /// The content of the file at `url`, of this host, of at most `limit` bytes, unless it is as it was when it had
    /// the mark `known` (RFC 9110, "If-None-Match").
    pub async fn fetch_file(&self, url: Url, limit: usize, known: Option<&str>) -> Result<FileResponse, Error> {
        let mut call = self.file_call(url);
        if let Some(mark) = known.and_then(|mark| HeaderValue::from_str(mark).ok()) {
            call = call.with(IF_NONE_MATCH, mark);
        }
        let mut answer = self.expect(&call, &[200, 304]).await?;
        if answer.status() == 304 {
            return Ok(FileResponse::Unchanged);
        }
        let mark = answer.header(ETAG).filter(|mark| mark.len() <= 256).map(str::to_owned);
        let label = answer.label.clone();
        let content = body_within(&mut answer.response, limit, self.idle(), &label).await?;
        Ok(FileResponse::Content(content, mark))
    }

    fn file_call(&self, url: Url) -> Call {
        // A host that asks for a token is told what it is for.
        let scope = Scope::pull(url.path().trim_matches('/'));
        Call::new(Method::GET, url, scope)
    }
}

impl Error {
    /// The failure as one of fetching the file at `url`, whose host need not be a registry.
    pub fn into_fetch_fault(self, url: &str) -> Fault {
        let remedy = self.remedy(RegistryUse::Source).map(|remedy| format!("; {remedy}"));
        let said = format!("{}{}", self.detail(), remedy.unwrap_or_default());
        let what = format!("cannot fetch {url}: {}", said.replace("the registry", "the server"));
        let advise = |advice: &str| format!("{what}; {advice}");
        match self.kind() {
            Kind::NotFound => Fault::retryable(
                Reason::SourceNotFound,
                advise("check the address, or put the file there"),
            ),
            Kind::Unauthorized | Kind::Denied => Fault::retryable(
                Reason::AuthenticationFailed,
                advise("files are fetched without credentials: put it where anybody may read it"),
            ),
            Kind::Forbidden => Fault::retryable(Reason::PolicyDenied, what),
            Kind::DigestMismatch => Fault::retryable(
                Reason::DigestMismatch,
                advise("correct the digest if the file was replaced on purpose; nothing of it was kept"),
            ),
            Kind::TimedOut => Fault::retryable(
                Reason::TimedOut,
                advise("check the server and the network between, or raise stallTimeout"),
            ),
            Kind::RateLimited { after } => Fault::waiting(
                Reason::RateLimited,
                after.unwrap_or(DEFAULT_PATIENCE),
                advise("it is tried again by itself"),
            ),
            Kind::Address => Fault::stalled(Reason::InvalidSpec, what),
            Kind::Unavailable => Fault::retryable(Reason::RegistryUnavailable, what),
            Kind::TooLarge => Fault::retryable(Reason::SourceFailed, advise("put a smaller file there")),
            _ => Fault::retryable(Reason::SourceFailed, advise("it is tried again by itself")),
        }
    }
}

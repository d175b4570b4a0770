//! Files on HTTP servers that are not blobs of a repository: files of chart repositories, and files referenced by URL.
//! They share the limits, retries and redirect rules of registries.

use reqwest::Method;
use reqwest::header::{ETAG, HeaderValue, IF_NONE_MATCH};
use url::Url;

use super::advice::RegistryUse;
use super::body::{Body, read_body};
use super::client::{Registry, RegistryRequest};
use super::download::Download;
use super::error::{DEFAULT_RETRY_AFTER, Error, Kind};
use super::token::Scope;
use crate::fault::{Fault, Reason};
use crate::oci::Digest;

/// The response to a conditional request for a file.
#[derive(Debug)]
pub enum FileResponse {
    /// Its content and its ETag.
    Content(Body, Option<String>),
    /// The file still has the cached ETag.
    Unchanged,
}

impl Registry {
    /// Downloads the file at `url` on this host, verified while it streams: a wrong digest is an error in place of the
    /// end. The request is sent when the stream is first polled; a broken connection is resumed.
    pub fn download_file(&self, url: Url, digest: &Digest) -> Download {
        Download::new(self.clone(), self.file_request(url), digest.clone(), None)
    }

    /// Reads the file at `url` on this host, of at most `limit` bytes, unless it still has the ETag `cached_etag` (RFC
    /// 9110, "If-None-Match").
    pub async fn fetch_file(&self, url: Url, limit: usize, cached_etag: Option<&str>) -> Result<FileResponse, Error> {
        let mut request = self.file_request(url);
        if let Some(etag) = cached_etag.and_then(|etag| HeaderValue::from_str(etag).ok()) {
            request = request.with(IF_NONE_MATCH, etag);
        }
        let mut response = self.expect(&request, &[200, 304]).await?;
        if response.status() == 304 {
            return Ok(FileResponse::Unchanged);
        }
        let etag = response
            .header(ETAG)
            .filter(|etag| etag.len() <= 256)
            .map(str::to_owned);
        let label = response.label.clone();
        let content = read_body(&mut response.inner, limit, self.idle(), &label).await?;
        Ok(FileResponse::Content(content, etag))
    }

    fn file_request(&self, url: Url) -> RegistryRequest {
        // The scope for hosts that require a token.
        let scope = Scope::pull(url.path().trim_matches('/'));
        RegistryRequest::new(Method::GET, url, scope)
    }
}

impl Error {
    /// The fault of fetching the file at `url`, whose host need not be a registry.
    pub fn into_fetch_fault(self, url: &str) -> Fault {
        let advice = self.advice(RegistryUse::Source).map(|advice| format!("; {advice}"));
        let detail = format!("{}{}", self.detail(), advice.unwrap_or_default());
        let failure = format!("cannot fetch {url}: {}", detail.replace("the registry", "the server"));
        let advise = |advice: &str| format!("{failure}; {advice}");
        match self.kind() {
            Kind::NotFound => {
                Fault::retryable(Reason::SourceNotFound, advise("check the URL, or store the file there"))
            }
            Kind::Unauthorized | Kind::Denied => Fault::retryable(
                Reason::AuthenticationFailed,
                advise("files are fetched without credentials: make the file public"),
            ),
            Kind::Forbidden => Fault::retryable(Reason::PolicyDenied, failure),
            Kind::DigestMismatch => Fault::retryable(
                Reason::DigestMismatch,
                advise("correct the digest if the file was replaced intentionally; nothing was stored"),
            ),
            Kind::TimedOut => Fault::retryable(
                Reason::TimedOut,
                advise("check the server and the network, or raise stallTimeout"),
            ),
            Kind::RateLimited { after } => Fault::waiting(
                Reason::RateLimited,
                after.unwrap_or(DEFAULT_RETRY_AFTER),
                advise("it is retried automatically"),
            ),
            Kind::Address => Fault::stalled(Reason::InvalidSpec, failure),
            Kind::Unavailable => Fault::retryable(Reason::RegistryUnavailable, failure),
            Kind::TooLarge => Fault::retryable(Reason::SourceFailed, advise("use a smaller file")),
            _ => Fault::retryable(Reason::SourceFailed, advise("it is retried automatically")),
        }
    }
}

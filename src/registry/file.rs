//! Files that lie on a host as files, not as blobs of a repository: those of a chart repository, and what a url names.
//! They are asked for with the same limits, retries and rules of redirects.

use bytes::Bytes;
use reqwest::Method;
use reqwest::header::{ETAG, HeaderValue, IF_NONE_MATCH};
use url::Url;

use super::client::{Call, Registry, body_within};
use super::download::Download;
use super::error::Error;
use super::token::Scope;
use crate::oci::Digest;

/// What came of asking for a small file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SmallFile {
    /// Its content, and the mark by which its host knows this state of it.
    Content(Bytes, Option<String>),
    /// It is what it was when its host gave the mark.
    Unchanged,
}

impl Registry {
    /// The content of the file at `url`, of this host, verified while it streams: another digest is an error in place of
    /// the end. The request is sent when the first of it is asked for; a broken connection is resumed.
    pub fn file(&self, url: Url, digest: &Digest) -> Download {
        Download::new(self.clone(), self.file_call(url), digest.clone(), None)
    }

    /// The content of the file at `url`, of this host, of at most `limit` bytes, unless it is as it was when it had
    /// the mark `known` (RFC 9110, "If-None-Match").
    pub async fn small_file(&self, url: Url, limit: usize, known: Option<&str>) -> Result<SmallFile, Error> {
        let mut call = self.file_call(url);
        if let Some(mark) = known.and_then(|mark| HeaderValue::from_str(mark).ok()) {
            call = call.with(IF_NONE_MATCH, mark);
        }
        let mut answer = self.expect(&call, &[200, 304]).await?;
        if answer.status() == 304 {
            return Ok(SmallFile::Unchanged);
        }
        let mark = answer.header(ETAG).filter(|mark| mark.len() <= 256).map(str::to_owned);
        let label = answer.label.clone();
        let content = tokio::time::timeout(self.idle(), body_within(&mut answer.response, limit, &label))
            .await
            .map_err(|_| Error::timed_out(&label, self.idle()))??;
        Ok(SmallFile::Content(content, mark))
    }

    fn file_call(&self, url: Url) -> Call {
        // A host that asks for a token is told what it is for.
        let scope = Scope::pull(url.path().trim_matches('/'));
        Call::new(Method::GET, url, scope)
    }
}

//! Listings that come in pages: of tags, referrers and repositories (OCI distribution specification, "Listing Tags").

use std::collections::HashSet;

use bytes::Bytes;
use url::Url;

use super::client::{Registry, RegistryResponse};
use super::error::{Error, Kind};
use super::link::{next_page, path_of};
use super::repository::Repository;

/// How many pages in a row may list nothing new. A registry may filter what it lists after it cut the pages.
const EMPTY_PAGES: usize = 64;

/// A listing on its way. It is bounded by its bytes and by what it lists, not by the number of its pages.
pub(super) struct Pages {
    url: Url,
    visited: HashSet<Url>,
    /// Bytes that the pages to come may have together.
    bytes: usize,
    empty: usize,
}

impl Pages {
    /// The listing that begins at `url` and has at most `bytes`.
    pub fn at(url: Url, bytes: usize) -> Self {
        Self {
            visited: HashSet::from([url.clone()]),
            url,
            bytes,
            empty: 0,
        }
    }

    /// Where the page is that is read next.
    pub fn url(&self) -> &Url {
        &self.url
    }

    /// Goes to the page at `url`, to which no answer led.
    pub fn go_to(&mut self, url: Url) {
        self.visited.insert(url.clone());
        self.url = url;
    }

    /// The body of a page.
    pub async fn read(&mut self, repository: &Repository, answer: &mut RegistryResponse) -> Result<Bytes, Error> {
        let body = repository.body(answer, self.bytes).await?;
        self.bytes -= body.len();
        Ok(body)
    }

    /// Goes to the page that `answer` says is next; false when it was the last. `listed` is how many entries it had, and
    /// `new` how many of them no page before had.
    pub fn turn(
        &mut self,
        registry: &Registry,
        answer: &RegistryResponse,
        listed: usize,
        new: usize,
    ) -> Result<bool, Error> {
        let failed = |detail: &str| Error::new(Kind::Protocol, &answer.label, detail);
        let next = next_page(answer.response.headers(), &self.url)
            .map_err(|_| failed("the answer's Link header, which says where the listing goes on, cannot be read"))?;
        let Some(next) = next else {
            return Ok(false);
        };
        let next = match same_listing(&self.url, &next) {
            Some(next) => next,
            None => registry.follow(&answer.label, &self.url, Some(&next))?,
        };
        if listed > 0 && new == 0 || !self.visited.insert(next.clone()) {
            return Err(failed(
                "the listing goes around in a circle: its Link header leads to entries that it listed already",
            ));
        }
        self.empty = if new == 0 { self.empty + 1 } else { 0 };
        if self.empty >= EMPTY_PAGES {
            return Err(failed(&format!(
                "{EMPTY_PAGES} pages in a row list nothing, and the Link header of each leads to another"
            )));
        }
        self.url = next;
        Ok(true)
    }
}

/// The page `target` of the listing whose page is at `from`, if it is one of the same listing: another query of the same
/// path. Only its query is taken over. Registries behind proxies write their own name, scheme or prefix before the path,
/// and who asks knows better under which they answer.
fn same_listing(from: &Url, target: &str) -> Option<Url> {
    let target = from.join(target).ok()?;
    let query = target.query()?;
    // `tags/list`, `referrers/<digest>`, `v2/_catalog`.
    let end = |url: &Url| {
        let mut segments: Vec<String> = path_of(url).rsplit('/').take(2).map(str::to_owned).collect();
        segments.reverse();
        segments
    };
    if end(from) != end(&target) {
        return None;
    }
    let mut next = from.clone();
    next.set_query(Some(query));
    Some(next)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_of_the_same_listing_is_asked_for_where_the_first_was() {
        let from: Url = "https://r:5000/v2/a/tags/list?n=2".parse().unwrap();
        let next = |target: &str| same_listing(&from, target).map(String::from);
        let expected = Some("https://r:5000/v2/a/tags/list?last=b&n=2".to_owned());
        for target in [
            "/v2/a/tags/list?last=b&n=2",
            "?last=b&n=2",
            "list?last=b&n=2",
            "https://r:5000/v2/a/tags/list?last=b&n=2",
            "http://r/v2/a/tags/list?last=b&n=2",
            "https://internal.example/v2/a/tags/list?last=b&n=2#x",
            "/artifactory/api/docker/docker-local/v2/a/tags/list?last=b&n=2",
            "/a/tags/list/?last=b&n=2",
        ] {
            assert_eq!(next(target), expected, "{target}");
        }
        for other in ["/v2/a/tags/list", "/v2/a/other/list?n=1", "https://[", "/"] {
            assert_eq!(next(other), None, "{other}");
        }
        let from: Url = "https://r/v2/a/referrers/sha256:ab".parse().unwrap();
        let next = same_listing(&from, "/v2/a/referrers/sha256%3Aab?page=2").map(String::from);
        assert_eq!(next.as_deref(), Some("https://r/v2/a/referrers/sha256:ab?page=2"));
    }
}

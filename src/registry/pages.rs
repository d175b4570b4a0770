//! Paginated listings of tags, referrers and repositories (OCI distribution specification, "Listing Tags").

use std::collections::HashSet;

use bytes::Bytes;
use url::Url;

use super::body::read_document;
use super::client::{Registry, RegistryResponse};
use super::error::{Error, Kind};
use super::link::{next_page, normalized_path};
use crate::budget::{Exhausted, LISTINGS, Reservation};
use crate::oci::Digest;

/// Maximum number of consecutive pages without new entries. A registry may filter entries after it has split them into
/// pages.
const MAX_EMPTY_PAGES: usize = 64;

/// Maximum number of pages.
const MAX_PAGES: usize = 10_000;
/// Maximum length in bytes of a link to the next page: what servers accept in the first line of a request.
const MAX_LINK_LENGTH: usize = 8 * 1024;

/// The position in a listing. The listing is bounded by its bytes, entries and pages.
pub(super) struct Pages {
    url: Url,
    /// Digests of the URLs of the pages.
    visited: HashSet<Digest>,
    /// Bytes that the remaining pages may have.
    remaining_bytes: usize,
    empty_pages: usize,
    /// The memory of the entries.
    memory: Reservation,
}

impl Pages {
    /// Starts at `url`; the whole listing may have at most `bytes`.
    pub fn new(url: Url, bytes: usize) -> Self {
        Self {
            visited: HashSet::from([digest_of(&url)]),
            url,
            remaining_bytes: bytes,
            empty_pages: 0,
            memory: LISTINGS.reserve(),
        }
    }

    /// The URL of the next page to read.
    pub fn url(&self) -> &Url {
        &self.url
    }

    /// Continues at `url`, which no response linked to.
    pub fn go_to(&mut self, url: Url) {
        self.visited.insert(digest_of(&url));
        self.url = url;
    }

    /// Reads the body of a page.
    pub async fn read(&mut self, registry: &Registry, response: &mut RegistryResponse) -> Result<Bytes, Error> {
        let label = response.label.clone();
        let body = read_document(&mut response.inner, self.remaining_bytes, registry.idle(), &label).await?;
        self.remaining_bytes -= body.len();
        // Entries are kept with an index of them.
        let added = self.memory.add(2 * body.len());
        added.map_err(|exhausted| match exhausted {
            Exhausted::TooLarge(limit) => Error::new(
                Kind::TooLarge,
                &label,
                format!("the listing needs more than {} MiB of memory", limit >> 20),
            ),
            Exhausted::InUse => Error::new(
                Kind::Interrupted,
                &label,
                "the listing is long, and other listings use the available memory",
            ),
        })?;
        Ok(body)
    }

    /// Continues with the page that `response` links to; returns false after the last page. `listed` is the number of
    /// entries in this page, and `new` the number of entries that no earlier page had.
    pub fn advance(
        &mut self,
        registry: &Registry,
        response: &RegistryResponse,
        listed: usize,
        new: usize,
    ) -> Result<bool, Error> {
        let failed = |detail: &str| Error::new(Kind::Protocol, &response.label, detail);
        let next = next_page(response.inner.headers(), &self.url)
            .map_err(|_| failed("the Link header of the response, which names the next page, cannot be parsed"))?;
        let Some(next) = next else {
            return Ok(false);
        };
        if next.len() > MAX_LINK_LENGTH {
            return Err(failed(&format!(
                "the Link header of the response, which names the next page, is longer than {MAX_LINK_LENGTH} bytes"
            )));
        }
        if self.visited.len() >= MAX_PAGES {
            return Err(failed(&format!("the listing has more than {MAX_PAGES} pages")));
        }
        let next = match same_listing(&self.url, &next) {
            Some(next) => next,
            None => registry.resolve_location(&response.label, &self.url, Some(&next))?,
        };
        if listed > 0 && new == 0 || !self.visited.insert(digest_of(&next)) {
            return Err(failed(
                "the listing does not end: its Link header points to entries that were already listed",
            ));
        }
        self.empty_pages = if new == 0 { self.empty_pages + 1 } else { 0 };
        if self.empty_pages >= MAX_EMPTY_PAGES {
            return Err(failed(&format!(
                "{MAX_EMPTY_PAGES} consecutive pages list nothing new, and each links to another page"
            )));
        }
        self.url = next;
        Ok(true)
    }
}

fn digest_of(url: &Url) -> Digest {
    Digest::of(url.as_str().as_bytes())
}

/// Resolves `target` as a page of the same listing as `from`: the same path with another query. Only the query of
/// `target` is used, because registries behind proxies may link to their internal host, scheme or path prefix.
fn same_listing(from: &Url, target: &str) -> Option<Url> {
    let target = from.join(target).ok()?;
    let query = target.query()?;
    // `tags/list`, `referrers/<digest>`, `v2/_catalog`.
    let end = |url: &Url| {
        let mut segments: Vec<String> = normalized_path(url).rsplit('/').take(2).map(str::to_owned).collect();
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
    fn pages_of_the_same_listing_keep_the_host_and_path() {
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

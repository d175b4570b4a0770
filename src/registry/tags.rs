//! The tags of a repository (OCI distribution specification, "Listing tags").

use reqwest::Method;
use reqwest::header::LINK;
use serde::Deserialize;

use super::client::Call;
use super::error::{Error, Kind};
use super::repository::Repository;
use super::token::Scope;

/// The longest answer in bytes that is read.
const PAGE_LIMIT: usize = 1024 * 1024;
/// How many answers are read.
const PAGES: usize = 64;

impl Repository {
    /// Every tag, or none when there are more than `limit`. A repository that does not exist has none.
    pub async fn tags(&self, limit: usize) -> Result<Option<Vec<String>>, Error> {
        #[derive(Deserialize)]
        struct Page {
            tags: Option<Vec<String>>,
        }
        let registry = self.registry();
        let mut url = registry.url(self.name(), ["tags", "list"]);
        url.query_pairs_mut().append_pair("n", &limit.min(1000).to_string());
        let mut tags = Vec::new();
        for _ in 0..PAGES {
            let call = Call::new(Method::GET, url.clone(), Scope::pull(self.name()));
            let mut answer = registry.expect(&call, &[200, 404]).await?;
            if answer.status() == 404 {
                return Ok(Some(tags));
            }
            let next = answer.header(LINK).and_then(next_page).map(str::to_owned);
            let body = self.body(&mut answer, PAGE_LIMIT).await?;
            let page: Page = serde_json::from_slice(&body)
                .map_err(|_| Error::new(Kind::Protocol, &call.label, "the answer is not a list of tags"))?;
            tags.extend(page.tags.unwrap_or_default());
            if tags.len() > limit {
                return Ok(None);
            }
            match next {
                Some(next) => url = registry.follow(&call.label, &url, Some(&next))?,
                None => return Ok(Some(tags)),
            }
        }
        Ok(None)
    }
}

/// Where the next page is: `<URL>; rel="next"` (RFC 8288).
pub(super) fn next_page(link: &str) -> Option<&str> {
    let (url, parameters) = link.trim().strip_prefix('<')?.split_once('>')?;
    parameters
        .split(';')
        .map(str::trim)
        .any(|parameter| matches!(parameter, "rel=\"next\"" | "rel=next"))
        .then_some(url)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_where_the_next_page_is() {
        assert_eq!(
            next_page(r#"</v2/a/tags/list?last=x&n=2>; rel="next""#),
            Some("/v2/a/tags/list?last=x&n=2")
        );
        assert_eq!(next_page("<https://r/x>;rel=next"), Some("https://r/x"));
        for other in ["", "<x", "x>; rel=next", "<x>; rel=\"prev\"", "<x>"] {
            assert_eq!(next_page(other), None, "{other}");
        }
    }
}

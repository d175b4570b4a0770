//! Pages of listings (OCI distribution specification, "Listing Tags"). No IO.

use url::form_urlencoded;

/// The most entries of a page.
const LIMIT: usize = 10_000;

/// The parameters of a request for a listing.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct PageRequest {
    /// The most entries that the client wants.
    n: Option<usize>,
    /// The entry before the first that it wants.
    last: Option<String>,
    /// The registry that the names belong to.
    namespace: Option<String>,
}

/// A page of a listing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Page<'a> {
    /// Its entries, in order.
    pub entries: Vec<&'a str>,
    /// The parameters of the next page; `None` on the last.
    pub next: Option<String>,
}

impl PageRequest {
    /// Reads the query of a request; `None` where `n` is not a number.
    pub fn parse(query: &str) -> Option<Self> {
        let mut request = Self::default();
        for (name, value) in form_urlencoded::parse(query.as_bytes()) {
            match &*name {
                "n" if value.bytes().all(|byte| byte.is_ascii_digit()) && !value.is_empty() => {
                    request.n = Some(value.parse().unwrap_or(LIMIT));
                }
                "n" => return None,
                "last" => request.last = Some(value.into_owned()),
                "ns" => request.namespace = Some(value.into_owned()),
                _ => {}
            }
        }
        Some(request)
    }

    /// The page of `entries`, which are in order.
    pub fn page<'a>(&self, entries: impl Iterator<Item = &'a str>) -> Page<'a> {
        let limit = self.n.unwrap_or(LIMIT).min(LIMIT);
        let last = self.last.as_deref().unwrap_or_default();
        let mut entries = entries.filter(|entry| last.is_empty() || *entry > last);
        let page: Vec<&str> = entries.by_ref().take(limit).collect();
        let next = page.last().filter(|_| entries.next().is_some()).map(|last| {
            let mut query = form_urlencoded::Serializer::new(String::new());
            query.append_pair("last", last).append_pair("n", &limit.to_string());
            if let Some(namespace) = &self.namespace {
                query.append_pair("ns", namespace);
            }
            query.finish()
        });
        Page { entries: page, next }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ENTRIES: [&str; 4] = ["a", "b", "b-c", "d"];

    fn page(query: &str) -> (Vec<&str>, Option<String>) {
        let page = PageRequest::parse(query).unwrap().page(ENTRIES.into_iter());
        (page.entries, page.next)
    }

    #[test]
    fn pages_follow_each_other() {
        assert_eq!(page(""), (ENTRIES.to_vec(), None));
        assert_eq!(page("n=4"), (ENTRIES.to_vec(), None));
        assert_eq!(page("n=99999999999999999999999"), (ENTRIES.to_vec(), None));
        let (mut found, mut query) = (Vec::new(), "n=1".to_owned());
        loop {
            let (entries, next) = page(&query);
            found.extend(entries.into_iter().map(str::to_owned));
            let Some(next) = next else { break };
            query = next;
        }
        assert_eq!(found, ENTRIES);
    }

    #[test]
    fn a_page_begins_after_any_text() {
        assert_eq!(page("last=b"), (vec!["b-c", "d"], None));
        assert_eq!(page("last=b%2Da&n=1"), (vec!["b-c"], Some("last=b-c&n=1".to_owned())));
        assert_eq!(page("last=z"), (vec![], None));
        assert_eq!(page("n=0"), (vec![], None));
        assert_eq!(
            page("n=1&ns=docker.io&x=y").1,
            Some("last=a&n=1&ns=docker.io".to_owned())
        );
    }

    #[test]
    fn only_numbers_limit_a_page() {
        for query in ["n=", "n=-1", "n=a", "n=+1"] {
            assert_eq!(PageRequest::parse(query), None, "{query}");
        }
    }
}

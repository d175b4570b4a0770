//! List-valued header fields (RFC 9110, section 5.6.1) and the links in them (RFC 8288, "Link"), which point to the
//! next page of a listing of tags, referrers or repositories.

use reqwest::header::{HeaderMap, LINK};
use url::Url;

/// Maximum length in bytes of all `Link` fields of a response.
const TEXT_LIMIT: usize = 64 * 1024;

/// One value of a `Link` field.
#[derive(Debug, PartialEq, Eq)]
struct Link {
    target: String,
    /// In their original order; names are lower case.
    parameters: Vec<(String, String)>,
}

/// A `Link` field that cannot be parsed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Malformed;

/// The unresolved target of the first link to a next page in the response to a request to `from`.
///
/// A single link without `rel` counts as a link to the next page: the specification requires `rel`, but other clients
/// accept links without it.
pub(super) fn next_page(headers: &HeaderMap, from: &Url) -> Result<Option<String>, Malformed> {
    let mut links = Vec::new();
    let mut length = 0;
    for value in headers.get_all(LINK) {
        length += value.len();
        if length > TEXT_LIMIT {
            return Err(Malformed);
        }
        links.extend(parse(&String::from_utf8_lossy(value.as_bytes()))?);
    }
    // Some servers always send the field, with an empty target on the last page.
    links.retain(|link| !link.target.is_empty() && link.is_about(from));
    let next = links.iter().find(|link| link.is("next"));
    let unspecified = || {
        links
            .first()
            .filter(|link| links.len() == 1 && link.relations().is_none())
    };
    Ok(next.or_else(unspecified).map(|link| link.target.clone()))
}

/// The normalized path of a listing.
pub(super) fn normalized_path(url: &Url) -> String {
    let path = url.path().trim_end_matches('/');
    path.replace("%3A", ":").replace("%3a", ":")
}

impl Link {
    /// The first parameter of this name counts (RFC 8288, section 3.3).
    fn first(&self, name: &str) -> Option<&str> {
        let found = self.parameters.iter().find(|(known, _)| known == name);
        found.map(|(_, value)| value.as_str())
    }

    /// The relation types; one `rel` may contain several. `rel*`, whose value starts with a character set and a
    /// language (RFC 8187), is used if there is no `rel`.
    fn relations(&self) -> Option<&str> {
        let extended = || {
            let value = self.first("rel*")?;
            Some(value.splitn(3, '\'').nth(2).unwrap_or(value))
        };
        self.first("rel").or_else(extended)
    }

    /// Whether `relation` is one of the relation types.
    fn is(&self, relation: &str) -> bool {
        let relations = self.relations().unwrap_or_default();
        relations
            .split_whitespace()
            .any(|one| one.eq_ignore_ascii_case(relation))
    }

    /// Whether the link context is the listing that was requested at `from`; an anchor may name another one (RFC 8288,
    /// section 3.2). Like targets, anchors may contain an internal host and path prefix of a proxy, and may lack the
    /// query.
    fn is_about(&self, from: &Url) -> bool {
        let Some(anchor) = self.first("anchor") else {
            return true;
        };
        let Ok(anchor) = from.join(anchor) else {
            return false;
        };
        normalized_path(&anchor).ends_with(&normalized_path(from))
    }
}

/// The links of one field (RFC 8288, appendix B.2). Empty list elements are skipped.
fn parse(field: &str) -> Result<Vec<Link>, Malformed> {
    let mut links = Vec::new();
    let mut rest = field;
    loop {
        rest = rest.trim_start_matches(|c: char| c.is_whitespace() || c == ',');
        if rest.is_empty() {
            return Ok(links);
        }
        let target;
        (target, rest) = match rest.strip_prefix('<') {
            Some(bracketed) => bracketed.split_once('>').ok_or(Malformed)?,
            // Without brackets, as old versions of Quay send it. The target may contain a comma, so it extends to the
            // parameters.
            None => rest.split_at(rest.find(';').unwrap_or(rest.len())),
        };
        let parameters;
        (parameters, rest) = parse_parameters(rest);
        links.push(Link {
            target: target.trim().to_owned(),
            parameters,
        });
    }
}

/// The parameters at the start of `text`, up to the comma that ends them, and the remaining text.
fn parse_parameters(text: &str) -> (Vec<(String, String)>, &str) {
    let mut parameters = Vec::new();
    let mut rest = text.trim_start();
    loop {
        if rest.is_empty() || rest.starts_with(',') {
            return (parameters, rest);
        }
        rest = rest.trim_start_matches(';').trim_start();
        let end = rest.find(['=', ';', ',']).unwrap_or(rest.len());
        let name = rest[..end].trim().to_ascii_lowercase();
        rest = &rest[end..];
        let mut value = String::new();
        if let Some(after) = rest.strip_prefix('=') {
            (value, rest) = parse_value(after.trim_start());
        }
        if !name.is_empty() {
            parameters.push((name, value));
        }
        rest = rest.trim_start();
    }
}

/// A token or quoted string (RFC 9110, section 5.6.4) at the start of `text`, and the remaining text.
fn parse_value(text: &str) -> (String, &str) {
    let Some(quoted) = text.strip_prefix('"') else {
        let end = text.find([';', ',']).unwrap_or(text.len());
        return (text[..end].trim().trim_matches('\'').to_owned(), &text[end..]);
    };
    let mut value = String::new();
    let mut letters = quoted.char_indices();
    while let Some((at, letter)) = letters.next() {
        match letter {
            '"' => {
                // Text between the end of the string and the next delimiter is ignored.
                let rest = &quoted[at + 1..];
                return (value, &rest[rest.find([';', ',']).unwrap_or(rest.len())..]);
            }
            '\\' => value.extend(letters.next().map(|(_, escaped)| escaped)),
            other => value.push(other),
        }
    }
    (value, "")
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use reqwest::header::HeaderValue;

    use super::*;

    fn next(fields: &[&str]) -> Result<Option<String>, Malformed> {
        let mut headers = HeaderMap::new();
        for field in fields {
            headers.append(LINK, HeaderValue::from_bytes(field.as_bytes()).unwrap());
        }
        next_page(&headers, &"https://r/v2/a/tags/list?n=2".parse().unwrap())
    }

    #[test]
    fn the_next_page_is_found_in_all_notations() {
        for fields in [
            &[r#"</x>; rel="next""#][..],
            &["</x>;rel=next"],
            &[r#"</x>; rel="next", </last>; rel="last""#],
            &[r#"</last>; rel="last", </x>; rel="next""#],
            &[r#"</first>; rel="first""#, r#"</x>; rel="next""#],
            &[r#"</prev>; rel="prev", </first>; rel=first; title="1", </x>; rel="next""#],
            &["</x>; REL=Next"],
            &[r#"< /x > ; rel = "NEXT""#],
            &["</x>;rel='next'"],
            &[r#"</x>; title="a, b; rel=\"prev\""; rel="next""#],
            &[r#"</x>; rel="last next""#],
            &["</x>; rel=\"prev\tnext\""],
            &[r#"</x>; rel="next"; rel="prev""#],
            &[r#"</x>; crossorigin; rel="next""#],
            &[r#"</x>;;; rel="next";"#],
            &[r#", ,</x>; rel="next",,"#],
            &[r#"</x>; rel="next"; anchor="""#],
            &[r#"</x>; rel="next"; anchor="/v2/a/tags/list?n=2#top""#],
            &[r#"</x>; rel="next"; anchor="/v2/a/tags/list""#],
            &[r#"</x>; rel="next"; anchor="http://internal:8081/docker/v2/a/tags/list/""#],
            &[r#"<>; rel="first", </x>; rel="next""#],
            &["</x>; rel*=UTF-8''next"],
            &["</y>; rel*=UTF-8'en'prev, </x>; rel*=UTF-8'en'Next"],
            &[r#"</other>; rel="next"; anchor="/v2/b/tags/list", </x>; rel="next""#],
            &[r#"</x>; rel="next" junk, </last>; rel="last""#],
            &[r#"</x>; rel="next"#],
            // Without brackets or relation.
            &[r#"/x; rel="next""#],
            &["</x>"],
            &["</x>; title=more"],
        ] {
            assert_eq!(next(fields), Ok(Some("/x".to_owned())), "{fields:?}");
        }
        let target = "https://r/v2/a/tags/list?last=a,b;c&n=2";
        assert_eq!(
            next(&[&format!(r#"<{target}>; rel="next""#)]),
            Ok(Some(target.to_owned()))
        );
        assert_eq!(
            next(&["/v2/a/tags/list?next_page=gA%3D&n=50; rel=\"next\""]),
            Ok(Some("/v2/a/tags/list?next_page=gA%3D&n=50".to_owned()))
        );
    }

    #[test]
    fn other_links_are_ignored() {
        for fields in [
            &[][..],
            &[""],
            &[r#"</x>; rel="prev""#],
            &[r#"</x>; rel="nextish""#],
            &[r#"</x>; rel="prev"; rel="next""#],
            &[r#"</x>; rel="""#],
            &[r#"</x>; title="rel=next"; rel=last"#],
            &["</x>", "</y>"],
            &[r#"<>; rel="next""#],
            &["< >; rel=next"],
            &["<>"],
            &[r#"; rel="next""#],
            &["</x>; rel*=UTF-8''prev"],
            &[r#"</x>; rel="next"; anchor="/v2/b/tags/list""#],
            &[r#"</x>; rel="next"; anchor="https://other/""#],
        ] {
            assert_eq!(next(fields), Ok(None), "{fields:?}");
        }
        assert_eq!(next(&[r#"</x; rel="next""#]), Err(Malformed));
        assert_eq!(
            next(&[&format!("<{}>; rel=next", "a".repeat(TEXT_LIMIT))]),
            Err(Malformed)
        );
    }

    #[test]
    fn invalid_utf8_is_accepted() {
        let mut headers = HeaderMap::new();
        headers.append(
            LINK,
            HeaderValue::from_bytes(b"</x>; title=\"\xff\xfe\"; rel=\"next\"").unwrap(),
        );
        let from = "https://r/".parse().unwrap();
        assert_eq!(next_page(&headers, &from), Ok(Some("/x".to_owned())));
    }

    proptest! {
        #[test]
        fn never_panics(field in "[<>;,=\" \\\\a-z'é]{0,60}") {
            let _ = parse(&field);
        }
    }
}

//! List-valued header fields (RFC 9110, section 5.6.1) and the links in them (RFC 8288, "Link"): what a registry says of
//! the next page of a listing, be it of tags, referrers or repositories.

use reqwest::header::{HeaderMap, LINK};
use url::Url;

/// The longest text in bytes of all `Link` fields of an answer that is read.
const TEXT_LIMIT: usize = 64 * 1024;

/// One value of a `Link` field.
#[derive(Debug, PartialEq, Eq)]
struct Link {
    target: String,
    /// In the order that they are written, the names in lower case.
    parameters: Vec<(String, String)>,
}

/// A `Link` field that cannot be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Malformed;

/// The target of the first link to a next page in the answer to a request to `from`, as it is written there.
///
/// A link without any `rel` counts as one to the next page where nothing else says what it is: the specification demands
/// `rel`, and other clients follow what comes without.
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
    // Programs that always write the field write no target where there is no other page.
    links.retain(|link| !link.target.is_empty() && link.is_about(from));
    let next = links.iter().find(|link| link.is("next"));
    let unsaid = || {
        links
            .first()
            .filter(|link| links.len() == 1 && link.relations().is_none())
    };
    Ok(next.or_else(unsaid).map(|link| link.target.clone()))
}

/// The path of a listing in one form.
pub(super) fn path_of(url: &Url) -> String {
    let path = url.path().trim_end_matches('/');
    path.replace("%3A", ":").replace("%3a", ":")
}

impl Link {
    /// Of several parameters of one name the first counts (RFC 8288, section 3.3).
    fn first(&self, name: &str) -> Option<&str> {
        let found = self.parameters.iter().find(|(known, _)| known == name);
        found.map(|(_, value)| value.as_str())
    }

    /// Its relation types, of which one `rel` may hold several. `rel*`, which has its character set and language before
    /// them (RFC 8187), is read where there is no `rel`.
    fn relations(&self) -> Option<&str> {
        let extended = || {
            let value = self.first("rel*")?;
            Some(value.splitn(3, '\'').nth(2).unwrap_or(value))
        };
        self.first("rel").or_else(extended)
    }

    /// Whether `relation` is among its relation types.
    fn is(&self, relation: &str) -> bool {
        let relations = self.relations().unwrap_or_default();
        relations
            .split_whitespace()
            .any(|one| one.eq_ignore_ascii_case(relation))
    }

    /// Whether it is about the listing that was asked for at `from`; an anchor may name something else (RFC 8288, section
    /// 3.2). Like targets, anchors may have the name and the prefix that only a proxy knows, and may lack the query.
    fn is_about(&self, from: &Url) -> bool {
        let Some(anchor) = self.first("anchor") else {
            return true;
        };
        let Ok(anchor) = from.join(anchor) else {
            return false;
        };
        path_of(&anchor).ends_with(&path_of(from))
    }
}

/// The links of one field (RFC 8288, appendix B.2). Empty elements are passed over, as the rule of lists demands.
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
            // Without brackets, as Quay wrote it once. A comma may be part of it, so it reaches to its parameters.
            None => rest.split_at(rest.find(';').unwrap_or(rest.len())),
        };
        let parameters;
        (parameters, rest) = parameters_of(rest);
        links.push(Link {
            target: target.trim().to_owned(),
            parameters,
        });
    }
}

/// The parameters at the start of `text`, up to the comma that ends them, and what follows it.
fn parameters_of(text: &str) -> (Vec<(String, String)>, &str) {
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
            (value, rest) = value_of(after.trim_start());
        }
        if !name.is_empty() {
            parameters.push((name, value));
        }
        rest = rest.trim_start();
    }
}

/// A token or a quoted string (RFC 9110, section 5.6.4) at the start of `text`, and what follows it.
fn value_of(text: &str) -> (String, &str) {
    let Some(quoted) = text.strip_prefix('"') else {
        let end = text.find([';', ',']).unwrap_or(text.len());
        return (text[..end].trim().trim_matches('\'').to_owned(), &text[end..]);
    };
    let mut value = String::new();
    let mut letters = quoted.char_indices();
    while let Some((at, letter)) = letters.next() {
        match letter {
            '"' => {
                // Whatever stands between the end of the string and the next delimiter is no part of anything.
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
    fn the_next_page_is_found_wherever_it_stands() {
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
            // Without brackets, and without a relation.
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
    fn other_links_are_no_next_page() {
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
    fn bytes_that_are_no_text_do_no_harm() {
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

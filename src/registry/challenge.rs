//! What a registry asks for in `WWW-Authenticate` (RFC 9110, "Authentication"; distribution's token
//! authentication). Pure.

use url::Url;

/// The longest header in bytes that is read; a longer one is cut, and what is cut is not understood.
const HEADER_LIMIT: usize = 8 * 1024;
/// How many headers of one answer are read.
const HEADERS: usize = 8;

/// A way to prove who asks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Challenge {
    /// A token from `realm`.
    Bearer {
        /// Where tokens are given.
        realm: Url,
        /// What the token is for, as the realm calls it.
        service: Option<String>,
        /// What the token must allow.
        scope: Option<String>,
    },
    /// Name and password with every request.
    Basic,
}

impl Challenge {
    /// Whether it is answered by a token rather than by the password itself.
    pub fn is_bearer(&self) -> bool {
        matches!(self, Self::Bearer { .. })
    }
}

/// Every challenge of the headers of one answer to `url` that we can answer, each once. Tokens come first: better they
/// pass by the registry than the password.
pub(super) fn offered<'a>(headers: impl Iterator<Item = &'a str>, url: &Url) -> Vec<Challenge> {
    let mut all: Vec<Challenge> = Vec::new();
    for challenge in headers.take(HEADERS).flat_map(|header| parse(header, url)) {
        if !all.contains(&challenge) {
            all.push(challenge);
        }
    }
    all.sort_by_key(|challenge| !challenge.is_bearer());
    all
}

/// Every challenge of one header that we can answer; what is malformed or unknown is left out.
fn parse(header: &str, url: &Url) -> Vec<Challenge> {
    let mut rest = header.get(..HEADER_LIMIT).unwrap_or(header);
    if rest.len() > HEADER_LIMIT {
        return Vec::new();
    }
    let mut found = Vec::new();
    let mut current: Option<(String, Vec<(String, String)>)> = None;
    loop {
        rest = rest.trim_start_matches([' ', '\t', ',']);
        let (word, after) = rest.split_at(rest.find(|c| !is_token(c)).unwrap_or(rest.len()));
        if word.is_empty() {
            break;
        }
        rest = after.trim_start_matches([' ', '\t']);
        if let Some(after) = rest.strip_prefix('=') {
            let (value, after) = parameter(after.trim_start_matches([' ', '\t']));
            rest = after;
            if let Some((_, parameters)) = &mut current {
                parameters.push((word.to_ascii_lowercase(), value));
            }
        } else if let Some(scope) = current
            .as_mut()
            .and_then(|(_, parameters)| open_scope(parameters, word))
        {
            scope.push(',');
            scope.push_str(word);
        } else {
            found.extend(current.take().and_then(|challenge| understand(challenge, url)));
            current = Some((word.to_ascii_lowercase(), Vec::new()));
        }
    }
    found.extend(current.take().and_then(|challenge| understand(challenge, url)));
    found
}

/// Characters of a token, and those that a `token68` has besides.
fn is_token(c: char) -> bool {
    c.is_ascii_alphanumeric() || "!#$%&'*+-.^_`|~/".contains(c)
}

/// The scope that `word` is a further action of: it stands behind a comma of a scope without quotes.
fn open_scope<'p>(parameters: &'p mut [(String, String)], word: &str) -> Option<&'p mut String> {
    let is_action = ["pull", "push", "delete", "*"].contains(&word);
    let (name, scope) = parameters.last_mut().filter(|_| is_action)?;
    (name == "scope").then_some(scope)
}

/// A value, quoted or not, and what follows it.
fn parameter(text: &str) -> (String, &str) {
    if let Some((value, after)) = text.strip_prefix('\'').and_then(|quoted| quoted.split_once('\'')) {
        return (value.to_owned(), after);
    }
    let Some(quoted) = text.strip_prefix('"') else {
        // Registries write unquoted URLs too, so everything up to a separator belongs to the value.
        let end = text.find([',', ' ', '\t']).unwrap_or(text.len());
        return (text[..end].to_owned(), &text[end..]);
    };
    let mut value = String::new();
    let mut characters = quoted.char_indices();
    while let Some((at, character)) = characters.next() {
        match character {
            '"' => return (value, &quoted[at + 1..]),
            '\\' => value.extend(characters.next().map(|(_, escaped)| escaped)),
            _ => value.push(character),
        }
    }
    (value, "")
}

/// A URL that begins with its host, which is told from a word by its dots or its port.
fn without_scheme(text: &str, scheme: &str) -> Option<Url> {
    let url = Url::parse(&format!("{scheme}://{text}")).ok()?;
    let is_host = url.port().is_some() || url.host_str().is_some_and(|host| host.contains('.'));
    is_host.then_some(url)
}

fn understand((scheme, parameters): (String, Vec<(String, String)>), url: &Url) -> Option<Challenge> {
    let get = |name: &str| {
        parameters
            .iter()
            .find(|(key, value)| key == name && !value.is_empty())
            .map(|(_, value)| value.clone())
    };
    match scheme.as_str() {
        "basic" => Some(Challenge::Basic),
        "bearer" => {
            let realm = get("realm")?;
            let realm = realm.trim();
            let realm = match realm.contains("://") {
                true => Url::parse(realm).ok()?,
                // Some name a path of their own.
                false if realm.starts_with('/') => url.join(realm).ok()?,
                // Others leave the scheme out.
                false => without_scheme(realm, url.scheme())?,
            };
            let usable = matches!(realm.scheme(), "http" | "https")
                && realm.has_host()
                && realm.username().is_empty()
                && realm.password().is_none();
            usable.then(|| Challenge::Bearer {
                realm,
                service: get("service"),
                scope: get("scope"),
            })
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn bearer(realm: &str, service: Option<&str>, scope: Option<&str>) -> Challenge {
        Challenge::Bearer {
            realm: Url::parse(realm).unwrap(),
            service: service.map(str::to_owned),
            scope: scope.map(str::to_owned),
        }
    }

    fn here() -> Url {
        Url::parse("https://r:5000/v2/a/tags/list").unwrap()
    }

    #[test]
    fn a_realm_may_be_a_path_of_the_registry() {
        let challenge = bearer("https://r:5000/auth/token", Some("r"), None);
        assert_eq!(parse(r#"Bearer realm="/auth/token",service=r"#, &here()), [challenge]);
    }

    #[test]
    fn reads_what_registries_send() {
        let hub = r#"Bearer realm="https://auth.docker.io/token",service="registry.docker.io",scope="repository:library/nginx:pull,push",error="invalid_token""#;
        assert_eq!(
            parse(hub, &here()),
            [bearer(
                "https://auth.docker.io/token",
                Some("registry.docker.io"),
                Some("repository:library/nginx:pull,push")
            )]
        );
        assert_eq!(parse(r#"Basic realm="Registry Realm""#, &here()), [Challenge::Basic]);
        assert_eq!(parse("basic", &here()), [Challenge::Basic]);
        assert_eq!(
            parse("BEARER Realm=https://a/t?x=1 , Service = b", &here()),
            [bearer("https://a/t?x=1", Some("b"), None)]
        );
        assert_eq!(
            parse(r#"Bearer realm="https://a/t",service="say \"hi\"""#, &here()),
            [bearer("https://a/t", Some("say \"hi\""), None)]
        );
    }

    #[test]
    fn quotes_and_schemes_may_be_missing() {
        let challenge = bearer("https://a:1/t", Some("b"), Some("repository:a:pull,push"));
        for header in [
            "Bearer realm='https://a:1/t',service='b',scope='repository:a:pull,push'",
            "Bearer realm=https://a:1/t,service=b,scope=repository:a:pull,push",
            "Bearer realm=https://a:1/t,scope=repository:a:pull, push,service=b",
            r#"bearer realm="a:1/t",service="b",scope="repository:a:pull,push""#,
        ] {
            assert_eq!(parse(header, &here()), std::slice::from_ref(&challenge), "{header}");
        }
    }

    #[test]
    fn prefers_a_token() {
        let headers = [r#"Basic realm="x""#, r#"Negotiate, Bearer realm="https://a/t""#];
        let both = [bearer("https://a/t", None, None), Challenge::Basic];
        assert_eq!(offered(headers.into_iter(), &here()), both);
        let one = r#"Basic realm="a, Bearer realm=x", Bearer realm="https://a/t""#;
        assert_eq!(offered([one].into_iter(), &here()), both);
        assert_eq!(offered([one, one].into_iter(), &here()), both);
    }

    #[test]
    fn leaves_out_what_cannot_be_answered() {
        for bad in [
            "",
            ",,,",
            "Bearer",
            r#"Bearer realm="""#,
            r#"Bearer realm="not a url""#,
            r#"Bearer realm="file:///etc/passwd""#,
            r#"Bearer realm="https://user:password@host/""#,
            r#"Bearer realm="javascript:alert(1)""#,
            "Negotiate abc==",
            "=\"x\"",
            "\"",
            "Bearer realm=\"https:",
        ] {
            assert_eq!(offered([bad].into_iter(), &here()), [], "{bad}");
        }
        let long = format!("Basic {}", "a,".repeat(HEADER_LIMIT));
        assert!(parse(&long, &here()).len() <= 1);
    }

    proptest! {
        #[test]
        fn never_panics(text in "\\PC{0,200}") {
            let _ = parse(&text, &here());
        }

        #[test]
        fn ends_on_hostile_input(text in "[Bearlm=\",\\\\ é]{0,60}") {
            let _ = parse(&text, &here());
        }
    }
}

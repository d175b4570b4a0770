//! Parses `WWW-Authenticate` (RFC 9110, "Authentication"; distribution's token authentication). Pure.

use url::Url;

/// Maximum length of a header in bytes. The rest of a longer header is ignored.
const MAX_HEADER_BYTES: usize = 8 * 1024;
/// Headers of one response that are read.
const MAX_HEADERS: usize = 8;

/// A method of authentication.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Challenge {
    /// A token from `realm`.
    Bearer {
        /// The URL of the token service.
        realm: Url,
        /// The service name that the token service expects.
        service: Option<String>,
        /// The scope that the token must have.
        scope: Option<String>,
    },
    /// User name and password in every request.
    Basic,
}

impl Challenge {
    /// Its length in bytes.
    pub fn length(&self) -> usize {
        match self {
            Self::Basic => 0,
            Self::Bearer { realm, service, scope } => {
                let texts = service.iter().chain(scope);
                texts.fold(realm.as_str().len(), |sum, text| sum + text.len())
            }
        }
    }

    /// Whether it requires a token rather than the password itself.
    pub fn is_bearer(&self) -> bool {
        matches!(self, Self::Bearer { .. })
    }
}

/// The distinct supported challenges of the headers of one response to `url`. Tokens come first, because they do not
/// reveal the password to the registry.
pub(super) fn parse_challenges<'a>(headers: impl Iterator<Item = &'a str>, url: &Url) -> Vec<Challenge> {
    let mut all: Vec<Challenge> = Vec::new();
    for challenge in headers.take(MAX_HEADERS).flat_map(|header| parse_header(header, url)) {
        if !all.contains(&challenge) {
            all.push(challenge);
        }
    }
    all.sort_by_key(|challenge| !challenge.is_bearer());
    all
}

/// The supported challenges of one header; malformed and unknown ones are skipped.
fn parse_header(header: &str, url: &Url) -> Vec<Challenge> {
    let mut rest = header.get(..MAX_HEADER_BYTES).unwrap_or(header);
    if rest.len() > MAX_HEADER_BYTES {
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
            let (value, after) = parse_value(after.trim_start_matches([' ', '\t']));
            rest = after;
            if let Some((_, parameters)) = &mut current {
                parameters.push((word.to_ascii_lowercase(), value));
            }
        } else if let Some(scope) = current
            .as_mut()
            .and_then(|(_, parameters)| unquoted_scope(parameters, word))
        {
            scope.push(',');
            scope.push_str(word);
        } else {
            found.extend(current.take().and_then(|challenge| to_challenge(challenge, url)));
            current = Some((word.to_ascii_lowercase(), Vec::new()));
        }
    }
    found.extend(current.take().and_then(|challenge| to_challenge(challenge, url)));
    found
}

/// Characters of a token, and the additional ones of a `token68`.
fn is_token(c: char) -> bool {
    c.is_ascii_alphanumeric() || "!#$%&'*+-.^_`|~/".contains(c)
}

/// The unquoted scope that `word` extends by another action, if it follows a comma in such a scope.
fn unquoted_scope<'p>(parameters: &'p mut [(String, String)], word: &str) -> Option<&'p mut String> {
    let is_action = ["pull", "push", "delete", "*"].contains(&word);
    let (name, scope) = parameters.last_mut().filter(|_| is_action)?;
    (name == "scope").then_some(scope)
}

/// Parses a value, quoted or not; also returns the remaining text.
fn parse_value(text: &str) -> (String, &str) {
    if let Some((value, after)) = text.strip_prefix('\'').and_then(|quoted| quoted.split_once('\'')) {
        return (value.to_owned(), after);
    }
    let Some(quoted) = text.strip_prefix('"') else {
        // Some registries send unquoted URLs, so the value extends to the next separator.
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

/// A URL without scheme, which is recognized by a dot or port in its host.
fn add_scheme(text: &str, scheme: &str) -> Option<Url> {
    let url = Url::parse(&format!("{scheme}://{text}")).ok()?;
    let is_host = url.port().is_some() || url.host_str().is_some_and(|host| host.contains('.'));
    is_host.then_some(url)
}

fn to_challenge((scheme, parameters): (String, Vec<(String, String)>), url: &Url) -> Option<Challenge> {
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
                // Some registries send a path on their own host.
                false if realm.starts_with('/') => url.join(realm).ok()?,
                // Others omit the scheme.
                false => add_scheme(realm, url.scheme())?,
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

    fn request_url() -> Url {
        Url::parse("https://r:5000/v2/a/tags/list").unwrap()
    }

    #[test]
    fn a_realm_may_be_a_path_of_the_registry() {
        let challenge = bearer("https://r:5000/auth/token", Some("r"), None);
        assert_eq!(
            parse_header(r#"Bearer realm="/auth/token",service=r"#, &request_url()),
            [challenge]
        );
    }

    #[test]
    fn challenges_of_common_registries_are_parsed() {
        let hub = r#"Bearer realm="https://auth.docker.io/token",service="registry.docker.io",scope="repository:library/nginx:pull,push",error="invalid_token""#;
        assert_eq!(
            parse_header(hub, &request_url()),
            [bearer(
                "https://auth.docker.io/token",
                Some("registry.docker.io"),
                Some("repository:library/nginx:pull,push")
            )]
        );
        assert_eq!(
            parse_header(r#"Basic realm="Registry Realm""#, &request_url()),
            [Challenge::Basic]
        );
        assert_eq!(parse_header("basic", &request_url()), [Challenge::Basic]);
        assert_eq!(
            parse_header("BEARER Realm=https://a/t?x=1 , Service = b", &request_url()),
            [bearer("https://a/t?x=1", Some("b"), None)]
        );
        assert_eq!(
            parse_header(r#"Bearer realm="https://a/t",service="say \"hi\"""#, &request_url()),
            [bearer("https://a/t", Some("say \"hi\""), None)]
        );
    }

    #[test]
    fn missing_quotes_and_schemes_are_accepted() {
        let challenge = bearer("https://a:1/t", Some("b"), Some("repository:a:pull,push"));
        for header in [
            "Bearer realm='https://a:1/t',service='b',scope='repository:a:pull,push'",
            "Bearer realm=https://a:1/t,service=b,scope=repository:a:pull,push",
            "Bearer realm=https://a:1/t,scope=repository:a:pull, push,service=b",
            r#"bearer realm="a:1/t",service="b",scope="repository:a:pull,push""#,
        ] {
            assert_eq!(
                parse_header(header, &request_url()),
                std::slice::from_ref(&challenge),
                "{header}"
            );
        }
    }

    #[test]
    fn tokens_come_before_basic() {
        let headers = [r#"Basic realm="x""#, r#"Negotiate, Bearer realm="https://a/t""#];
        let both = [bearer("https://a/t", None, None), Challenge::Basic];
        assert_eq!(parse_challenges(headers.into_iter(), &request_url()), both);
        let one = r#"Basic realm="a, Bearer realm=x", Bearer realm="https://a/t""#;
        assert_eq!(parse_challenges([one].into_iter(), &request_url()), both);
        assert_eq!(parse_challenges([one, one].into_iter(), &request_url()), both);
    }

    #[test]
    fn malformed_and_unsupported_challenges_are_skipped() {
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
            assert_eq!(parse_challenges([bad].into_iter(), &request_url()), [], "{bad}");
        }
        let long = format!("Basic {}", "a,".repeat(MAX_HEADER_BYTES));
        assert!(parse_header(&long, &request_url()).len() <= 1);
    }

    proptest! {
        #[test]
        fn never_panics(text in "\\PC{0,200}") {
            let _ = parse_header(&text, &request_url());
        }

        #[test]
        fn terminates_on_hostile_input(text in "[Bearlm=\",\\\\ é]{0,60}") {
            let _ = parse_header(&text, &request_url());
        }
    }
}

//! Credentials by host and repository, from docker's `config.json` and from Secrets of the types
//! `kubernetes.io/dockerconfigjson` and `kubernetes.io/dockercfg`. No IO.
//!
//! The rules are those of docker (`cli/config/configfile`) and of the kubelet (`pkg/credentialprovider`). Input that
//! only one of them accepts is accepted.

use base64::Engine as _;
use base64::alphabet;
use base64::engine::DecodePaddingMode;
use base64::engine::general_purpose::{GeneralPurpose, GeneralPurposeConfig};
use secrecy::{ExposeSecret as _, SecretString};
use serde_json::{Map, Value};

use super::Credentials;
use crate::oci::{canonical_host, matches_pattern, split_port};

/// Credentials that are tried for one repository at most.
const MAX_CANDIDATES: usize = 16;
/// The user name of an identity token (docker credential helpers protocol).
const TOKEN_USER: &str = "<token>";
/// Base64 with or without padding, which some tools omit.
const BASE64: GeneralPurpose = GeneralPurpose::new(
    &alphabet::STANDARD,
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent),
);

/// The entries of one or more files.
#[derive(Clone, Debug, Default)]
pub struct Keychain {
    entries: Vec<(Key, Credentials)>,
    /// Credential helpers of particular registries (`credHelpers`).
    helpers: Vec<(Key, String)>,
    /// The credential helper of all other registries (`credsStore`).
    store: Option<String>,
}

/// The key of an entry: a host with its port, in which `*` matches any characters of one label, and a path prefix of
/// repositories.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Key {
    host: String,
    /// Without leading and trailing slashes; empty for all repositories.
    path: String,
}

impl Keychain {
    /// Parses a `config.json`, or the entry `.dockerconfigjson` of a Secret. The error never contains a password.
    pub fn parse(json: &[u8]) -> Result<Self, String> {
        let config = parse_object(json, "config.json")?;
        let entries = match find_field(&config, "auths") {
            None => Vec::new(),
            Some(Value::Object(auths)) => parse_entries(auths)?,
            Some(_) => return Err("its `auths` is not an object".to_owned()),
        };
        let mut helpers = Vec::new();
        match find_field(&config, "credHelpers") {
            None => {}
            Some(Value::Object(named)) => {
                for (key, name) in named {
                    match name {
                        Value::String(name) => helpers.extend(Key::parse(key).map(|key| (key, name.clone()))),
                        Value::Null => {}
                        _ => {
                            return Err(format!(
                                "the entry of {} in its `credHelpers` is not a string",
                                display_key(key)
                            ));
                        }
                    }
                }
            }
            Some(_) => return Err("its `credHelpers` is not an object".to_owned()),
        }
        Ok(Self {
            entries,
            helpers,
            store: string_field(&config, "credsStore")
                .map_err(|()| "its `credsStore` is not a string".to_owned())?
                .filter(|name| !name.is_empty()),
        })
    }

    /// Parses a `.dockercfg`, which has the content of `auths` in a `config.json`. The error never contains a password.
    pub fn parse_legacy(json: &[u8]) -> Result<Self, String> {
        Ok(Self {
            entries: parse_entries(&parse_object(json, ".dockercfg")?)?,
            ..Self::default()
        })
    }

    /// Appends the entries of `other`, without its credential helpers.
    pub fn extend(&mut self, other: Self) {
        self.entries.extend(other.entries);
    }

    /// The distinct credentials for `repository` on `host`, in the order in which they are to be tried: by descending
    /// key, so that the longest path and an exact host come first; those of one key in insertion order. This is the
    /// order of the kubelet.
    pub fn candidates(&self, host: &str, repository: &str) -> Vec<Credentials> {
        let mut matches: Vec<_> = self
            .entries
            .iter()
            .filter(|(key, _)| key.matches_repository(host, repository))
            .collect();
        matches.sort_by_key(|(key, _)| std::cmp::Reverse((&key.host, &key.path)));
        let mut candidates: Vec<Credentials> = Vec::new();
        for (_, credentials) in matches {
            if candidates.len() < MAX_CANDIDATES && !candidates.iter().any(|known| are_equal(known, credentials)) {
                candidates.push(credentials.clone());
            }
        }
        candidates
    }

    /// The first of [`Self::candidates`].
    pub fn find(&self, host: &str, repository: &str) -> Option<Credentials> {
        self.candidates(host, repository).into_iter().next()
    }

    /// The credentials for pushing to `host` under the path `prefix`. If no entry matches, those of the entries for
    /// paths on this host, provided that they are all equal: docker looks them up by host only.
    pub fn for_pushing(&self, host: &str, prefix: &str) -> Option<Credentials> {
        let of_host = || {
            let mut matches = self.entries.iter().filter(|(key, _)| key.matches_host(host));
            let (_, first) = matches.next()?;
            matches.all(|(_, other)| are_equal(first, other)).then(|| first.clone())
        };
        self.find(host, prefix).or_else(of_host)
    }

    /// The credential helper for `repository` on `host`, by the name that follows `docker-credential-`.
    pub fn helper(&self, host: &str, repository: &str) -> Option<&str> {
        let mut matches: Vec<_> = self
            .helpers
            .iter()
            .filter(|(key, _)| key.matches_repository(host, repository))
            .collect();
        matches.sort_by_key(|(key, _)| std::cmp::Reverse((&key.host, &key.path)));
        match matches.first() {
            // An empty name exempts a registry from the store.
            Some((_, name)) => Some(name.as_str()).filter(|name| !name.is_empty()),
            None => self.store.as_deref(),
        }
    }
}

/// Parses the response of a credential helper to `get`; `None` if it is empty. The error never contains a secret.
pub fn parse_helper_response(response: &[u8]) -> Result<Option<Credentials>, String> {
    let response = parse_object(response, "credential")?;
    let get = |name| string_field(&response, name).map_err(|()| format!("its `{name}` is not a string"));
    let username = get("Username")?.unwrap_or_default();
    let secret = get("Secret")?.unwrap_or_default();
    Ok((!secret.is_empty()).then(|| with_password(username, secret)))
}

impl Key {
    /// Parses a key of `auths`: a host, with optional scheme, port and path; the paths `/v1/` and `/v2/` are ignored.
    /// `None` if it contains no host.
    fn parse(text: &str) -> Option<Self> {
        let text = text.trim();
        let bare = match text.split_once("://") {
            Some((scheme, rest)) if ["https", "http"].iter().any(|known| scheme.eq_ignore_ascii_case(known)) => rest,
            _ => text,
        };
        let (host, path) = bare.split_once('/').unwrap_or((bare, ""));
        let path = path.trim_matches('/');
        let path = match path.split_once('/').unwrap_or((path, "")) {
            ("v1" | "v2", rest) => rest.trim_matches('/'),
            _ => path,
        };
        (!host.is_empty()).then(|| Self {
            host: canonical_host(host),
            path: path.to_owned(),
        })
    }

    /// Whether it matches `host`. Ports must be equal; an absent port matches only an absent one.
    fn matches_host(&self, host: &str) -> bool {
        let host = canonical_host(host);
        let ((pattern, own_port), (name, port)) = (split_port(&self.host), split_port(&host));
        let labels = || pattern.split('.').zip(name.split('.'));
        own_port == port
            && pattern.split('.').count() == name.split('.').count()
            && labels().all(|(pattern, label)| matches_pattern(pattern, label))
    }

    /// Whether it matches `repository` on `host`.
    fn matches_repository(&self, host: &str, repository: &str) -> bool {
        let path_matches = repository
            .strip_prefix(&self.path)
            .is_some_and(|rest| self.path.is_empty() || rest.is_empty() || rest.starts_with('/'));
        path_matches && self.matches_host(host)
    }
}

/// Parses a JSON object; an empty file counts as an empty object, and text after the object is ignored, as in docker.
fn parse_object(json: &[u8], what: &str) -> Result<Map<String, Value>, String> {
    let json = json.strip_prefix("\u{feff}".as_bytes()).unwrap_or(json);
    if json.trim_ascii().is_empty() {
        return Ok(Map::new());
    }
    match serde_json::Deserializer::from_slice(json).into_iter().next() {
        Some(Ok(Value::Object(fields))) => Ok(fields),
        None | Some(Ok(Value::Null)) => Ok(Map::new()),
        Some(Ok(_)) => Err(format!("not a docker {what}: it is not a JSON object")),
        // The message of serde_json would quote the value.
        Some(Err(error)) => Err(format!(
            "not a docker {what} (line {}, column {})",
            error.line(),
            error.column()
        )),
    }
}

/// Finds a field by its case-insensitive name, as Go does; `null` counts as absent.
fn find_field<'a>(object: &'a Map<String, Value>, name: &str) -> Option<&'a Value> {
    let exact = object.get(name);
    let any_case = || {
        let mut fields = object.iter();
        fields.find_map(|(key, value)| key.eq_ignore_ascii_case(name).then_some(value))
    };
    exact.or_else(any_case).filter(|value| !value.is_null())
}

fn string_field(object: &Map<String, Value>, name: &str) -> Result<Option<String>, ()> {
    match find_field(object, name) {
        None => Ok(None),
        Some(Value::String(text)) => Ok(Some(text.clone())),
        Some(_) => Err(()),
    }
}

/// The entries of `auths` that contain credentials. Others only name a host whose credentials a helper holds.
fn parse_entries(auths: &Map<String, Value>) -> Result<Vec<(Key, Credentials)>, String> {
    let mut entries: Vec<(bool, Key, Credentials)> = Vec::new();
    for (text, entry) in auths {
        let fields = match entry {
            Value::Object(fields) => fields,
            Value::Null => continue,
            _ => return Err(format!("the entry of {} is not an object", display_key(text))),
        };
        let credentials =
            parse_entry(fields).map_err(|reason| format!("the entry of {} {reason}", display_key(text)))?;
        if let (Some(key), Some(credentials)) = (Key::parse(text), credentials) {
            entries.push((*text != key.to_string(), key, credentials));
        }
    }
    // Docker prefers the plain spelling of a key over others.
    entries.sort_by_key(|(decorated, ..)| *decorated);
    Ok(entries
        .into_iter()
        .map(|(_, key, credentials)| (key, credentials))
        .collect())
}

impl std::fmt::Display for Key {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.path.as_str() {
            "" => formatter.write_str(&self.host),
            path => write!(formatter, "{}/{path}", self.host),
        }
    }
}

/// Parses an entry. `auth` takes precedence over `username` and `password`, and tokens over all of them.
fn parse_entry(entry: &Map<String, Value>) -> Result<Option<Credentials>, String> {
    let get = |name| match string_field(entry, name) {
        Ok(text) => Ok(text.filter(|text| !text.is_empty())),
        Err(()) => Err(format!("has a `{name}` that is not a string")),
    };
    let (username, password) = match get("auth")?.filter(|auth| !auth.trim().is_empty()) {
        Some(auth) => decode_auth(&auth)?,
        None => (
            get("username")?.unwrap_or_default(),
            get("password")?.unwrap_or_default(),
        ),
    };
    let identity_token = get("identitytoken")?.map(SecretString::from);
    let registry_token = get("registrytoken")?.map(SecretString::from);
    if identity_token.is_none() && registry_token.is_none() {
        let named = !username.is_empty() || !password.is_empty();
        return Ok(named.then(|| with_password(username, password)));
    }
    let username = match username.as_str() {
        TOKEN_USER => String::new(),
        _ => username,
    };
    Ok(Some(Credentials {
        identity_token,
        registry_token,
        ..Credentials::new(username, password)
    }))
}

/// A user name with an identity token if the name is [`TOKEN_USER`], otherwise with a password.
fn with_password(username: String, secret: String) -> Credentials {
    match username.as_str() {
        TOKEN_USER => Credentials::identity_token(String::new(), secret),
        _ => Credentials::new(username, secret),
    }
}

/// Decodes the user name and password of an `auth`: base64 of either alphabet; line breaks are ignored.
fn decode_auth(auth: &str) -> Result<(String, String), String> {
    let standard = |character: char| match character {
        '-' => '+',
        '_' => '/',
        other => other,
    };
    let encoded: String = auth
        .chars()
        .filter(|c| !c.is_ascii_whitespace())
        .map(standard)
        .collect();
    let bytes = BASE64.decode(encoded).map_err(|_| "has an `auth` that is not base64")?;
    let pair = String::from_utf8(bytes).map_err(|_| "has an `auth` that is not text")?;
    let (username, password) = pair.split_once(':').ok_or("has an `auth` without a colon")?;
    // Passwords do not end with control characters (RFC 7617, section 2), but docker pads with zero bytes and shells
    // append line breaks.
    let password = password.trim_matches('\0').trim_end_matches(['\r', '\n', '\0']);
    Ok((username.to_owned(), password.to_owned()))
}

fn are_equal(one: &Credentials, other: &Credentials) -> bool {
    let secret = |secret: &Option<SecretString>| secret.as_ref().map(|secret| secret.expose_secret().to_owned());
    one.username == other.username
        && one.password.expose_secret() == other.password.expose_secret()
        && secret(&one.identity_token) == secret(&other.identity_token)
        && secret(&one.registry_token) == secret(&other.registry_token)
}

/// A key for messages.
fn display_key(key: &str) -> String {
    super::error::clean(key)
}

#[cfg(test)]
mod tests;

//! Credentials by host and repository, as docker's `config.json` and Secrets of the types
//! `kubernetes.io/dockerconfigjson` and `kubernetes.io/dockercfg` hold them. No IO.
//!
//! The rules are those of docker (`cli/config/configfile`) and of the kubelet (`pkg/credentialprovider`); where one of the
//! two accepts what the other refuses, it is accepted.

use base64::Engine as _;
use base64::alphabet;
use base64::engine::DecodePaddingMode;
use base64::engine::general_purpose::{GeneralPurpose, GeneralPurposeConfig};
use secrecy::{ExposeSecret as _, SecretString};
use serde_json::{Map, Value};

use super::Credentials;
use crate::oci::{canonical_host, fits, split_port};

/// The most credentials that are tried for one repository.
const CANDIDATES: usize = 16;
/// The user name that says that the password is an identity token (docker credential helpers protocol).
const TOKEN_USER: &str = "<token>";
/// Base64 with or without padding: docker writes it with, some tools without.
const BASE64: GeneralPurpose = GeneralPurpose::new(
    &alphabet::STANDARD,
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent),
);

/// Entries of one or several files.
#[derive(Clone, Debug, Default)]
pub struct Keychain {
    entries: Vec<(Key, Credentials)>,
    /// Programs that hold the credentials of some registries (`credHelpers`).
    helpers: Vec<(Key, String)>,
    /// The program that holds those of all others (`credsStore`).
    store: Option<String>,
}

/// What an entry is about: a host with its port, in which `*` stands for any characters of one label, and a path that
/// repositories lie under.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Key {
    host: String,
    /// Without leading and trailing slashes; empty for all repositories.
    path: String,
}

impl Keychain {
    /// Reads a `config.json`, or an entry `.dockerconfigjson` of a Secret. The error says what is wrong with it and never
    /// repeats a password.
    pub fn parse(json: &[u8]) -> Result<Self, String> {
        let config = object(json, "config.json")?;
        let entries = match field(&config, "auths") {
            None => Vec::new(),
            Some(Value::Object(auths)) => entries(auths)?,
            Some(_) => return Err("its `auths` is not an object".to_owned()),
        };
        let mut helpers = Vec::new();
        match field(&config, "credHelpers") {
            None => {}
            Some(Value::Object(named)) => {
                for (key, name) in named {
                    match name {
                        Value::String(name) => helpers.extend(Key::of(key).map(|key| (key, name.clone()))),
                        Value::Null => {}
                        _ => {
                            return Err(format!(
                                "the entry of {} in its `credHelpers` is not a text",
                                shown(key)
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
            store: text(&config, "credsStore")
                .map_err(|()| "its `credsStore` is not a text".to_owned())?
                .filter(|name| !name.is_empty()),
        })
    }

    /// Reads a `.dockercfg`, which is what `auths` of a `config.json` is. The error is as that of [`Self::parse`].
    pub fn parse_legacy(json: &[u8]) -> Result<Self, String> {
        Ok(Self {
            entries: entries(&object(json, ".dockercfg")?)?,
            ..Self::default()
        })
    }

    /// Adds the entries of `other`, after the own ones. Its programs are not taken over.
    pub fn extend(&mut self, other: Self) {
        self.entries.extend(other.entries);
    }

    /// The credentials for `repository` on `host`, in the order in which they are to be tried, each once: by their keys in
    /// descending order, so that the longest path and an exact host come first, and those of one key as they were added.
    /// That is the order of the kubelet.
    pub fn candidates(&self, host: &str, repository: &str) -> Vec<Credentials> {
        let mut found: Vec<_> = self
            .entries
            .iter()
            .filter(|(key, _)| key.covers(host, repository))
            .collect();
        found.sort_by_key(|(key, _)| std::cmp::Reverse((&key.host, &key.path)));
        let mut candidates: Vec<Credentials> = Vec::new();
        for (_, credentials) in found {
            if candidates.len() < CANDIDATES && !candidates.iter().any(|known| same(known, credentials)) {
                candidates.push(credentials.clone());
            }
        }
        candidates
    }

    /// The first of [`Self::candidates`].
    pub fn find(&self, host: &str, repository: &str) -> Option<Credentials> {
        self.candidates(host, repository).into_iter().next()
    }

    /// The credentials for pushing to `host` below the path `prefix`. Where no entry covers that, those of the entries for
    /// paths of this host, if they all have the same: docker finds them by their hosts alone.
    pub fn for_pushing(&self, host: &str, prefix: &str) -> Option<Credentials> {
        let of_host = || {
            let mut found = self.entries.iter().filter(|(key, _)| key.is_of(host));
            let (_, first) = found.next()?;
            found.all(|(_, other)| same(first, other)).then(|| first.clone())
        };
        self.find(host, prefix).or_else(of_host)
    }

    /// The credential helper that is to be asked about `repository` on `host`, by the name that follows
    /// `docker-credential-`.
    pub fn helper(&self, host: &str, repository: &str) -> Option<&str> {
        let mut found: Vec<_> = self
            .helpers
            .iter()
            .filter(|(key, _)| key.covers(host, repository))
            .collect();
        found.sort_by_key(|(key, _)| std::cmp::Reverse((&key.host, &key.path)));
        match found.first() {
            // An empty name takes a registry out of the store.
            Some((_, name)) => Some(name.as_str()).filter(|name| !name.is_empty()),
            None => self.store.as_deref(),
        }
    }
}

/// What a credential helper answers to `get`; none where its answer is empty. The error never repeats a secret.
pub fn parse_helper_response(answer: &[u8]) -> Result<Option<Credentials>, String> {
    let answer = object(answer, "credential")?;
    let get = |name| text(&answer, name).map_err(|()| format!("its `{name}` is not a text"));
    let username = get("Username")?.unwrap_or_default();
    let secret = get("Secret")?.unwrap_or_default();
    Ok((!secret.is_empty()).then(|| with_password(username, secret)))
}

impl Key {
    /// Reads a key of `auths`: a host, with or without scheme, port and path; the paths `/v1/` and `/v2/` say nothing.
    /// None where it names no host.
    fn of(text: &str) -> Option<Self> {
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

    /// Whether it is about `host`. Ports must be equal, an absent one included.
    fn is_of(&self, host: &str) -> bool {
        let host = canonical_host(host);
        let ((pattern, own_port), (name, port)) = (split_port(&self.host), split_port(&host));
        let labels = || pattern.split('.').zip(name.split('.'));
        own_port == port
            && pattern.split('.').count() == name.split('.').count()
            && labels().all(|(pattern, label)| fits(pattern, label))
    }

    /// Whether it is about `repository` on `host`.
    fn covers(&self, host: &str, repository: &str) -> bool {
        let below = repository
            .strip_prefix(&self.path)
            .is_some_and(|rest| self.path.is_empty() || rest.is_empty() || rest.starts_with('/'));
        below && self.is_of(host)
    }
}

/// The object that a file holds; an empty file holds an empty one, as for docker.
fn object(json: &[u8], what: &str) -> Result<Map<String, Value>, String> {
    let json = json.strip_prefix("\u{feff}".as_bytes()).unwrap_or(json);
    if json.trim_ascii().is_empty() {
        return Ok(Map::new());
    }
    match serde_json::from_slice(json) {
        Ok(Value::Object(fields)) => Ok(fields),
        Ok(Value::Null) => Ok(Map::new()),
        Ok(_) => Err(format!("not a docker {what}: it is not a JSON object")),
        // serde_json's own message would quote the value that it could not read.
        Err(error) => Err(format!(
            "not a docker {what} (line {}, column {})",
            error.line(),
            error.column()
        )),
    }
}

/// A field by its name in any case, as Go reads JSON; `null` counts as absent.
fn field<'a>(object: &'a Map<String, Value>, name: &str) -> Option<&'a Value> {
    let exact = object.get(name);
    let any_case = || {
        let mut fields = object.iter();
        fields.find_map(|(key, value)| key.eq_ignore_ascii_case(name).then_some(value))
    };
    exact.or_else(any_case).filter(|value| !value.is_null())
}

fn text(object: &Map<String, Value>, name: &str) -> Result<Option<String>, ()> {
    match field(object, name) {
        None => Ok(None),
        Some(Value::String(text)) => Ok(Some(text.clone())),
        Some(_) => Err(()),
    }
}

/// The entries of `auths` that hold credentials; some only name a host whose credentials a helper holds.
fn entries(auths: &Map<String, Value>) -> Result<Vec<(Key, Credentials)>, String> {
    let mut found: Vec<(bool, Key, Credentials)> = Vec::new();
    for (text, entry) in auths {
        let fields = match entry {
            Value::Object(fields) => fields,
            Value::Null => continue,
            _ => return Err(format!("the entry of {} is not an object", shown(text))),
        };
        let credentials = of_entry(fields).map_err(|reason| format!("the entry of {} {reason}", shown(text)))?;
        if let (Some(key), Some(credentials)) = (Key::of(text), credentials) {
            found.push((*text != key.to_string(), key, credentials));
        }
    }
    // Of several ways to write one key docker takes the plain one first.
    found.sort_by_key(|(decorated, ..)| *decorated);
    Ok(found
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

/// The credentials of an entry. `auth` wins over `username` and `password`, tokens over all of them.
fn of_entry(entry: &Map<String, Value>) -> Result<Option<Credentials>, String> {
    let get = |name| match text(entry, name) {
        Ok(text) => Ok(text.filter(|text| !text.is_empty())),
        Err(()) => Err(format!("has a `{name}` that is not a text")),
    };
    let (username, password) = match get("auth")?.filter(|auth| !auth.trim().is_empty()) {
        Some(auth) => decoded(&auth)?,
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

/// A user name and what goes with it: an identity token where the name says so, else a password.
fn with_password(username: String, secret: String) -> Credentials {
    match username.as_str() {
        TOKEN_USER => Credentials::identity_token(String::new(), secret),
        _ => Credentials::new(username, secret),
    }
}

/// User name and password of an `auth`: base64 of either alphabet, in which line breaks do not count.
fn decoded(auth: &str) -> Result<(String, String), String> {
    let standard = |character: char| match character {
        '-' => '+',
        '_' => '/',
        other => other,
    };
    let packed: String = auth
        .chars()
        .filter(|c| !c.is_ascii_whitespace())
        .map(standard)
        .collect();
    let bytes = BASE64.decode(packed).map_err(|_| "has an `auth` that is not base64")?;
    let pair = String::from_utf8(bytes).map_err(|_| "has an `auth` that is not text")?;
    let (username, password) = pair.split_once(':').ok_or("has an `auth` without a colon")?;
    // No password ends with one of these (RFC 7617, section 2): docker pads with zeros, and shells add line breaks.
    let password = password.trim_matches('\0').trim_end_matches(['\r', '\n', '\0']);
    Ok((username.to_owned(), password.to_owned()))
}

fn same(one: &Credentials, other: &Credentials) -> bool {
    let secret = |secret: &Option<SecretString>| secret.as_ref().map(|secret| secret.expose_secret().to_owned());
    one.username == other.username
        && one.password.expose_secret() == other.password.expose_secret()
        && secret(&one.identity_token) == secret(&other.identity_token)
        && secret(&one.registry_token) == secret(&other.registry_token)
}

/// A key for people.
fn shown(key: &str) -> String {
    super::error::clean(key)
}

#[cfg(test)]
mod tests;

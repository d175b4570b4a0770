//! Credentials by host and repository, as docker's `config.json` and Secrets of type
//! `kubernetes.io/dockerconfigjson` hold them.

use std::collections::BTreeMap;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::Deserialize;

use super::Credentials;

/// Entries of one or several files. The longest key that a repository lies under wins, as for kubelet; among
/// equal keys the one that was added first.
#[derive(Clone, Debug, Default)]
pub struct Keychain(Vec<(String, Credentials)>);

#[derive(Deserialize)]
struct DockerConfig {
    #[serde(default)]
    auths: BTreeMap<String, Entry>,
}

#[derive(Deserialize)]
struct Entry {
    auth: Option<String>,
    username: Option<String>,
    password: Option<String>,
}

impl Keychain {
    /// Reads a `config.json`. The error says what is wrong with it and never repeats a password.
    pub fn parse(json: &[u8]) -> Result<Self, String> {
        // serde_json's own message would quote the value that it could not read.
        let config: DockerConfig = serde_json::from_slice(json).map_err(|error| {
            format!(
                "not a docker config.json (line {}, column {})",
                error.line(),
                error.column()
            )
        })?;
        let mut entries = Vec::new();
        for (key, entry) in config.auths {
            let Some(credentials) = entry
                .credentials()
                .map_err(|reason| format!("the entry of {key} {reason}"))?
            else {
                continue;
            };
            entries.push((normalise(&key), credentials));
        }
        Ok(Self(entries))
    }

    /// Adds the entries of `other`, after the own ones.
    pub fn extend(&mut self, other: Self) {
        self.0.extend(other.0);
    }

    /// The credentials for `repository` on `host`.
    pub fn find(&self, host: &str, repository: &str) -> Option<Credentials> {
        let path = format!("{}/{repository}", normalise(host));
        let lies_under = |key: &str| {
            path.strip_prefix(key)
                .is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
        };
        let mut best: Option<&(String, Credentials)> = None;
        for entry in self.0.iter().filter(|(key, _)| lies_under(key)) {
            if best.is_none_or(|(key, _)| entry.0.len() > key.len()) {
                best = Some(entry);
            }
        }
        best.map(|(_, credentials)| credentials.clone())
    }
}

impl Entry {
    fn credentials(self) -> Result<Option<Credentials>, &'static str> {
        let (username, password) = match (self.username, self.password, self.auth.filter(|auth| !auth.is_empty())) {
            (Some(username), Some(password), _) => (username, password),
            (_, _, Some(auth)) => {
                let decoded = STANDARD
                    .decode(auth.trim())
                    .map_err(|_| "has an `auth` that is not base64")?;
                let text = String::from_utf8(decoded).map_err(|_| "has an `auth` that is not text")?;
                let (username, password) = text.split_once(':').ok_or("has an `auth` without a colon")?;
                (username.to_owned(), password.trim_end_matches('\0').to_owned())
            }
            // An entry that only names a credential helper.
            _ => return Ok(None),
        };
        Ok(Some(Credentials::new(username, password)))
    }
}

/// `https://index.docker.io/v1/` and `docker.io` are one registry; schemes and `/v1/`, `/v2/` do not count.
fn normalise(key: &str) -> String {
    let bare = key
        .trim_start_matches("https://")
        .trim_start_matches("http://")
        .trim_end_matches('/');
    let bare = bare.trim_end_matches("/v1").trim_end_matches("/v2");
    let (host, path) = bare
        .split_once('/')
        .map_or((bare, None), |(host, path)| (host, Some(path)));
    let host = match host {
        "index.docker.io" | "registry-1.docker.io" => "docker.io",
        host => host,
    };
    path.map_or_else(|| host.to_owned(), |path| format!("{host}/{path}"))
}

#[cfg(test)]
mod tests {
    use secrecy::ExposeSecret as _;

    use super::*;

    fn user(keychain: &Keychain, host: &str, repository: &str) -> Option<String> {
        keychain.find(host, repository).map(|found| found.username)
    }

    #[test]
    fn longest_key_wins() {
        let json = br#"{"auths":{"https://index.docker.io/v1/":{"auth":"aHViOnM6cA=="},"r:5000":{"username":"all","password":"p"},"r:5000/team":{"username":"team","password":"p"},"helper":{}}}"#;
        let keychain = Keychain::parse(json).unwrap();
        assert_eq!(user(&keychain, "docker.io", "library/x").as_deref(), Some("hub"));
        assert_eq!(keychain.find("docker.io", "x").unwrap().password.expose_secret(), "s:p");
        assert_eq!(user(&keychain, "r:5000", "other/x").as_deref(), Some("all"));
        assert_eq!(user(&keychain, "r:5000", "team/x").as_deref(), Some("team"));
        assert_eq!(user(&keychain, "r:5000", "teams/x").as_deref(), Some("all"));
        assert_eq!(user(&keychain, "r:500", "x"), None);
        assert_eq!(user(&keychain, "helper", "x"), None);
    }

    #[test]
    fn errors_tell_no_secret() {
        for bad in [
            &br#"{"auths":{"r":{"auth":"hunter2!"}}}"#[..],
            br#"{"auths":{"r":"hunter2"}}"#,
            b"hunter2",
        ] {
            let error = Keychain::parse(bad).unwrap_err();
            assert!(!error.contains("hunter2"), "{error}");
        }
        assert!(
            !format!(
                "{:?}",
                Keychain::parse(br#"{"auths":{"r":{"username":"u","password":"hunter2"}}}"#)
            )
            .contains("hunter2")
        );
    }
}

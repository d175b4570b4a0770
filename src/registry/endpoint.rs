//! Address, trust, credentials and limits of a registry.

use std::num::NonZeroU32;
use std::sync::Arc;
use std::time::Duration;

use secrecy::{ExposeSecret as _, SecretString};
use url::Url;

use super::certificates::authorities;
use super::error::{Error, Kind};
use super::restrictions::Restrictions;
use crate::oci::{Digest, Hasher};

/// One registry: its address, trusted certificates, credentials and limits.
#[derive(Clone, Debug)]
pub struct Endpoint {
    /// Host and port as written in references, such as `docker.io` or `127.0.0.1:31999`.
    pub host: String,
    /// Other hosts, with their ports, that the registry uses for itself in responses, such as the pod address of a
    /// registry that is reached through its Service. URLs with these hosts mean this endpoint.
    pub aliases: Vec<String>,
    /// Plain HTTP instead of HTTPS. Only on explicit request (`insecure: true`).
    pub plain_http: bool,
    /// Certificates that are trusted in addition to those of the system.
    pub trust: Trust,
    /// The credentials; anonymous without them.
    pub credentials: Option<Credentials>,
    /// Time without progress after which a request times out.
    pub idle: Duration,
    /// The maximum number of concurrent read requests, and of concurrent write requests.
    pub connections: usize,
    /// Requests per second, which is also the burst size; `None` for no limit. Requests to the token service and to
    /// storage are not counted.
    pub rate: Option<NonZeroU32>,
    /// Minimum upload throughput in bytes per second. An upload that is slower for the time `idle` fails. 0 disables
    /// the check.
    pub throughput: u64,
    /// Restrictions on addresses and redirects; `None` for a registry that is fully trusted.
    pub restrictions: Option<Arc<Restrictions>>,
}

/// Request limits of a registry.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// As [`Endpoint::connections`].
    pub connections: usize,
    /// As [`Endpoint::rate`].
    pub rate: Option<NonZeroU32>,
    /// As [`Endpoint::throughput`].
    pub throughput: u64,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            connections: 8,
            rate: None,
            throughput: 1024,
        }
    }
}

/// Certificates as PEM (`ca.crt`, `tls.crt`, `tls.key` of a Secret).
#[derive(Clone, Debug, Default)]
pub struct Trust {
    /// CA certificates that are trusted in addition to those of the system.
    pub authorities: Option<Vec<u8>>,
    /// The client certificate with its chain.
    pub certificate: Option<Vec<u8>>,
    /// The private key of the client certificate.
    pub key: Option<SecretString>,
}

impl Trust {
    /// Reads a Secret whose entries `entry` returns by name: `ca.crt`, and `tls.crt` with `tls.key`. An empty entry
    /// counts as absent, because cert-manager writes an empty `ca.crt`. The error is a predicate whose subject is the
    /// Secret.
    pub fn from_secret<'a>(entry: impl Fn(&str) -> Option<&'a [u8]>) -> Result<Self, String> {
        let non_empty = |name: &str| entry(name).filter(|content| !content.trim_ascii().is_empty());
        let key = match non_empty("tls.key").map(std::str::from_utf8) {
            Some(Ok(key)) => Some(SecretString::from(key)),
            Some(Err(_)) => return Err("has a tls.key that is not PEM".to_owned()),
            None => None,
        };
        for name in ["ca.crt", "tls.crt"] {
            if let Some(Err(reason)) = non_empty(name).map(authorities) {
                return Err(format!("is unusable: {name} {reason}"));
            }
        }
        let bytes = |name: &str| non_empty(name).map(<[u8]>::to_vec);
        let trust = Self {
            authorities: bytes("ca.crt"),
            certificate: bytes("tls.crt"),
            key,
        };
        if trust.certificate.is_some() != trust.key.is_some() {
            return Err("has only one of tls.crt and tls.key: a client certificate needs both".to_owned());
        }
        if trust.authorities.is_none() && trust.certificate.is_none() {
            return Err("has neither ca.crt nor tls.crt; store the CA certificate in the entry ca.crt".to_owned());
        }
        Ok(trust)
    }

    /// A digest of the certificates, without the key.
    pub fn digest(&self) -> Digest {
        let mut hasher = Hasher::sha256();
        for part in [&self.authorities, &self.certificate] {
            let part = part.as_deref().unwrap_or_default();
            hasher.update(&(part.len() as u64).to_be_bytes());
            hasher.update(part);
        }
        hasher.finish()
    }

    /// Adds the CA certificates of another bundle.
    pub fn with_authorities(mut self, authorities: Option<&[u8]>) -> Self {
        if let Some(more) = authorities {
            let bundle = self.authorities.get_or_insert_default();
            bundle.push(b'\n');
            bundle.extend_from_slice(more);
        }
        self
    }
}

/// A user name with its password or access token, or a token that replaces both. Secrets are redacted in debug output.
#[derive(Clone, Debug)]
pub struct Credentials {
    /// The user name; may be empty when a token is set.
    pub username: String,
    /// The password; empty when a token is set.
    pub password: SecretString,
    /// An OAuth2 refresh token (`identitytoken` in docker's `config.json`), which the token service exchanges for
    /// access tokens.
    pub identity_token: Option<SecretString>,
    /// An access token of the registry (`registrytoken` in docker's `config.json`), sent unchanged.
    pub registry_token: Option<SecretString>,
}

impl Credentials {
    /// A user name with its password.
    pub fn new(username: impl Into<String>, password: impl Into<SecretString>) -> Self {
        Self {
            username: username.into(),
            password: password.into(),
            identity_token: None,
            registry_token: None,
        }
    }

    /// Credentials with an OAuth2 refresh token.
    pub fn identity_token(username: impl Into<String>, token: impl Into<SecretString>) -> Self {
        Self {
            identity_token: Some(token.into()),
            ..Self::new(username, String::new())
        }
    }

    /// Credentials with an access token that is sent unchanged.
    pub fn registry_token(token: impl Into<SecretString>) -> Self {
        Self {
            registry_token: Some(token.into()),
            ..Self::new(String::new(), String::new())
        }
    }

    /// Whether a user name or password is set.
    pub(super) fn has_password(&self) -> bool {
        !(self.username.is_empty() && self.password.expose_secret().is_empty())
    }
}

impl Endpoint {
    /// HTTPS to `host`, anonymous, with the CA certificates of the system, default [`Limits`] and an idle timeout of 60
    /// s.
    pub fn new(host: impl Into<String>) -> Self {
        let Limits {
            connections,
            rate,
            throughput,
        } = Limits::default();
        Self {
            host: host.into(),
            aliases: Vec::new(),
            plain_http: false,
            trust: Trust::default(),
            credentials: None,
            idle: Duration::from_secs(60),
            connections,
            rate,
            throughput,
            restrictions: None,
        }
    }

    /// Sets the request limits.
    pub fn with_limits(self, limits: Limits) -> Self {
        let Limits {
            connections,
            rate,
            throughput,
        } = limits;
        Self {
            connections,
            rate,
            throughput,
            ..self
        }
    }

    /// The base URL `https://host/v2/`. Docker Hub is served from another host than the one in references.
    pub(super) fn base_url(&self) -> Result<Url, Error> {
        let refuse = |reason: String| {
            let host: String = self.host.chars().take(160).collect();
            Error::new(
                Kind::Address,
                host,
                format!("{reason}; write the registry as host or host:port"),
            )
        };
        let host = match self.host.as_str() {
            "docker.io" | "index.docker.io" => "registry-1.docker.io",
            host => host,
        };
        let plain = |byte: u8| byte.is_ascii_alphanumeric() || b".-_:[]".contains(&byte);
        if host.is_empty() || !host.bytes().all(plain) {
            return Err(refuse("not a valid host".to_owned()));
        }
        let scheme = if self.plain_http { "http" } else { "https" };
        Url::parse(&format!("{scheme}://{host}/v2/")).map_err(|error| refuse(error.to_string()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn empty_entries_of_a_secret_count_as_absent() {
        let of = |entries: &[(&str, &'static str)]| {
            let found = |name: &str| entries.iter().find(|(known, _)| *known == name);
            Trust::from_secret(|name| found(name).map(|(_, content)| content.as_bytes())).map(|_| ())
        };
        let only = of(&[("ca.crt", "\n"), ("tls.key", "k")]).unwrap_err();
        assert!(only.starts_with("has only one of tls.crt and tls.key"), "{only}");
        for entries in [&[][..], &[("ca.crt", "")], &[("caFile", "x")]] {
            let none = of(entries).unwrap_err();
            assert!(none.starts_with("has neither ca.crt nor tls.crt"), "{none}");
        }
        let junk = of(&[("ca.crt", "junk")]).unwrap_err();
        assert!(
            junk.starts_with("is unusable: ca.crt contains no readable certificate"),
            "{junk}"
        );
    }

    #[test]
    fn the_base_url_has_the_host_that_serves_the_api() {
        let base = |host: &str| Endpoint::new(host).base_url().map(String::from);
        assert_eq!(base("docker.io").unwrap(), "https://registry-1.docker.io/v2/");
        assert_eq!(base("[::1]:5000").unwrap(), "https://[::1]:5000/v2/");
        let plain = Endpoint {
            plain_http: true,
            ..Endpoint::new("a:80")
        };
        assert_eq!(plain.base_url().unwrap().as_str(), "http://a/v2/");
        for bad in ["", "a/b", "user@host", "http://a", "a:b:c", "a b", "a:99999"] {
            assert_eq!(base(bad).unwrap_err().kind(), &Kind::Address, "{bad}");
        }
    }
}

//! Where a registry is and how it is spoken to.

use std::num::NonZeroU32;
use std::sync::Arc;
use std::time::Duration;

use secrecy::{ExposeSecret as _, SecretString};
use url::Url;

use super::certificates::authorities;
use super::error::{Error, Kind};
use super::restrictions::Restrictions;
use crate::oci::{Digest, Hasher};

/// One registry: its address, what is trusted, who asks, and how much at once.
#[derive(Clone, Debug)]
pub struct Endpoint {
    /// Host and port as references write it, such as `docker.io` or `127.0.0.1:31999`.
    pub host: String,
    /// Other hosts, with their ports, by which the registry names itself in its answers; such as what pods call a
    /// registry that is reached by its Service. A URL of an answer that names one of them means this endpoint.
    pub aliases: Vec<String>,
    /// Plain HTTP instead of HTTPS. Only when somebody asked for it (`insecure: true`).
    pub plain_http: bool,
    /// What is trusted besides the certificates of the system.
    pub trust: Trust,
    /// Who asks; without it, anonymously.
    pub credentials: Option<Credentials>,
    /// How long nothing may move before a request counts as timed out.
    pub idle: Duration,
    /// The number of reading requests, and of writing ones, that run at once.
    pub connections: usize,
    /// How many requests are sent in a second, and at once after a pause; without it, as many as `connections` allow.
    /// What its token service and its storage are asked is not counted.
    pub rate: Option<NonZeroU32>,
    /// The least bytes a second of the content of a blob on its way there; what is slower for as long as `idle` is given up.
    /// 0: none.
    pub throughput: u64,
    /// What it may be and where it may lead; none for a registry that is trusted to lead anywhere.
    pub restrictions: Option<Arc<Restrictions>>,
}

/// How much is asked of a registry: one for all, whatever is done there.
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

/// Certificates, as PEM (`ca.crt`, `tls.crt`, `tls.key` of a Secret).
#[derive(Clone, Debug, Default)]
pub struct Trust {
    /// Authorities that are trusted besides the system's.
    pub authorities: Option<Vec<u8>>,
    /// The certificate, with its chain, that we show.
    pub certificate: Option<Vec<u8>>,
    /// The certificate's key.
    pub key: Option<SecretString>,
}

impl Trust {
    /// What a Secret holds whose entries `entry` gives by their names: `ca.crt`, and `tls.crt` with `tls.key`. An empty
    /// entry is none, as cert-manager writes `ca.crt` where it has none. The error says what is wrong, and follows the name
    /// of the Secret.
    pub fn from_secret<'a>(entry: impl Fn(&str) -> Option<&'a [u8]>) -> Result<Self, String> {
        let filled = |name: &str| entry(name).filter(|content| !content.trim_ascii().is_empty());
        let key = match filled("tls.key").map(std::str::from_utf8) {
            Some(Ok(key)) => Some(SecretString::from(key)),
            Some(Err(_)) => return Err("has a tls.key that is not PEM".to_owned()),
            None => None,
        };
        for name in ["ca.crt", "tls.crt"] {
            if let Some(Err(reason)) = filled(name).map(authorities) {
                return Err(format!("is unusable: {name} {reason}"));
            }
        }
        let bytes = |name: &str| filled(name).map(<[u8]>::to_vec);
        let trust = Self {
            authorities: bytes("ca.crt"),
            certificate: bytes("tls.crt"),
            key,
        };
        if trust.certificate.is_some() != trust.key.is_some() {
            return Err("has only one of tls.crt and tls.key: a client certificate needs both".to_owned());
        }
        if trust.authorities.is_none() && trust.certificate.is_none() {
            return Err(
                "has neither ca.crt nor tls.crt; name the entry with the certificate of the authority ca.crt"
                    .to_owned(),
            );
        }
        Ok(trust)
    }

    /// What tells it from any other, without the key.
    pub fn digest(&self) -> Digest {
        let mut hasher = Hasher::sha256();
        for part in [&self.authorities, &self.certificate] {
            let part = part.as_deref().unwrap_or_default();
            hasher.update(&(part.len() as u64).to_be_bytes());
            hasher.update(part);
        }
        hasher.finish()
    }

    /// The same, and the `authorities` of a further bundle.
    pub fn with_authorities(mut self, authorities: Option<&[u8]>) -> Self {
        if let Some(more) = authorities {
            let bundle = self.authorities.get_or_insert_default();
            bundle.push(b'\n');
            bundle.extend_from_slice(more);
        }
        self
    }
}

/// A name and its password or access token, or a token that stands for both. What is secret is redacted where it is
/// printed for debugging.
#[derive(Clone, Debug)]
pub struct Credentials {
    /// The name; may be empty beside a token.
    pub username: String,
    /// The password; empty beside a token.
    pub password: SecretString,
    /// An OAuth2 refresh token (`identitytoken` of docker's `config.json`), which the token service exchanges for
    /// access tokens.
    pub identity_token: Option<SecretString>,
    /// An access token of the registry itself (`registrytoken` of docker's `config.json`), sent as it is.
    pub registry_token: Option<SecretString>,
}

impl Credentials {
    /// A name and its password.
    pub fn new(username: impl Into<String>, password: impl Into<SecretString>) -> Self {
        Self {
            username: username.into(),
            password: password.into(),
            identity_token: None,
            registry_token: None,
        }
    }

    /// An OAuth2 refresh token of a token service.
    pub fn identity_token(username: impl Into<String>, token: impl Into<SecretString>) -> Self {
        Self {
            identity_token: Some(token.into()),
            ..Self::new(username, String::new())
        }
    }

    /// An access token that the registry takes as it is.
    pub fn registry_token(token: impl Into<SecretString>) -> Self {
        Self {
            registry_token: Some(token.into()),
            ..Self::new(String::new(), String::new())
        }
    }

    /// Whether there is a name or a password.
    pub(super) fn has_password(&self) -> bool {
        !(self.username.is_empty() && self.password.expose_secret().is_empty())
    }
}

impl Endpoint {
    /// HTTPS to `host`, anonymously, with what the system trusts; the usual [`Limits`], 60 s of idleness.
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

    /// The same within `limits`.
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

    /// `https://host/v2/`. Docker's registry is not at the name that references call it by.
    pub(super) fn base(&self) -> Result<Url, Error> {
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
            return Err(refuse("this is not a host".to_owned()));
        }
        let scheme = if self.plain_http { "http" } else { "https" };
        Url::parse(&format!("{scheme}://{host}/v2/")).map_err(|error| refuse(error.to_string()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_may_have_empty_entries() {
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
        assert!(junk.starts_with("is unusable: ca.crt holds no certificate"), "{junk}");
    }

    #[test]
    fn base_is_where_the_registry_answers() {
        let base = |host: &str| Endpoint::new(host).base().map(String::from);
        assert_eq!(base("docker.io").unwrap(), "https://registry-1.docker.io/v2/");
        assert_eq!(base("[::1]:5000").unwrap(), "https://[::1]:5000/v2/");
        let plain = Endpoint {
            plain_http: true,
            ..Endpoint::new("a:80")
        };
        assert_eq!(plain.base().unwrap().as_str(), "http://a/v2/");
        for bad in ["", "a/b", "user@host", "http://a", "a:b:c", "a b", "a:99999"] {
            assert_eq!(base(bad).unwrap_err().kind(), &Kind::Address, "{bad}");
        }
    }
}

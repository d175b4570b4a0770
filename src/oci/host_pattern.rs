//! Host patterns in flags.

use std::fmt;
use std::str::FromStr;

use super::host::{split_port, without_default_port};

/// `host[:port]`; `host:*` for any port of a host; or `*.domain` for all subdomains of a domain, with the same options
/// for ports.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HostPattern {
    /// The host, or for a wildcard the domain with its leading dot; with the port, unless any port matches.
    text: String,
    is_wildcard: bool,
    any_port: bool,
}

/// A text that is not a host pattern.
#[derive(Clone, Debug, thiserror::Error, PartialEq, Eq)]
#[error("`{0}` is not host[:port] or *.domain[:port]; the port may be *")]
pub struct HostPatternError(String);

impl HostPattern {
    /// Whether `host` (host[:port]) matches.
    pub fn admits(&self, host: &str) -> bool {
        let full_host = without_default_port(host);
        let host = match self.any_port {
            true => split_port(&full_host).0,
            false => &full_host,
        };
        match self.is_wildcard {
            // At least one character must precede the dot.
            true => host.len() > self.text.len() && host.ends_with(&self.text),
            false => host == self.text,
        }
    }

    /// Whether it matches exactly one host and port.
    pub fn is_exact(&self) -> bool {
        !self.is_wildcard && !self.any_port
    }
}

impl FromStr for HostPattern {
    type Err = HostPatternError;

    fn from_str(text: &str) -> Result<Self, HostPatternError> {
        let error = || HostPatternError(text.chars().take(160).collect());
        let (is_wildcard, host) = match text.strip_prefix("*.") {
            Some(domain) => (true, format!(".{domain}")),
            None => (false, text.to_owned()),
        };
        let (host, any_port) = match host.strip_suffix(":*") {
            Some(host) => (host.to_owned(), true),
            None => (host, false),
        };
        let name = host.trim_start_matches('.');
        let known = |byte: u8| byte.is_ascii_alphanumeric() || b".-_:[]".contains(&byte);
        let has_port = any_port && !split_port(&host).1.is_empty();
        if name.is_empty() || name.starts_with(':') || !name.bytes().all(known) || has_port {
            return Err(error());
        }
        Ok(Self {
            text: without_default_port(&host),
            is_wildcard,
            any_port,
        })
    }
}

impl fmt::Display for HostPattern {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (wildcard, port) = (
            if self.is_wildcard { "*" } else { "" },
            if self.any_port { ":*" } else { "" },
        );
        write!(formatter, "{wildcard}{}{port}", self.text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn admits(pattern: &str, host: &str) -> bool {
        pattern.parse::<HostPattern>().unwrap().admits(host)
    }

    #[test]
    fn patterns_match_only_their_hosts() {
        for (pattern, host) in [
            ("ghcr.io", "GHCR.io:443"),
            ("ghcr.io", "ghcr.io."),
            ("*.Example.com", "x.y.example.com"),
            ("*.b.org:5000", "r.b.org:5000"),
            ("[::1]:5000", "[0:0::1]:5000"),
            ("10.0.0.1:5000", "0xa.1:5000"),
            ("10.0.0.1", "[::ffff:10.0.0.1]"),
            ("127.0.0.1:*", "127.0.0.1:31999"),
            ("127.0.0.1:*", "127.0.0.1"),
            ("[::1]:*", "[::1]:80"),
            ("*.svc:*", "registry.team-a.svc:5000"),
        ] {
            assert!(admits(pattern, host), "{pattern} {host}");
        }
        for (pattern, host) in [
            ("ghcr.io", "ghcr.io:5000"),
            ("ghcr.io", "ghcr.io.evil"),
            ("*.example.com", "example.com"),
            ("*.example.com", ".example.com"),
            ("*.example.com", "evilexample.com"),
            ("*.example.com", "a.example.com:80"),
            ("[::1]:5000", "[::1]"),
            ("127.0.0.1:*", "127.0.0.2:5000"),
            ("*.svc:*", "registry.svc.evil:5000"),
        ] {
            assert!(!admits(pattern, host), "{pattern} {host}");
        }
        for bad in [
            "", "*", "*.", "http://a", "a/b", "a*", ":5000", "*.:5", "a b", ":*", "a:5:*", "*:*", "a:**",
        ] {
            assert!(bad.parse::<HostPattern>().is_err(), "{bad}");
        }
        assert!("a:5".parse::<HostPattern>().unwrap().is_exact());
        for text in ["a:*", "*.a:5"] {
            let pattern: HostPattern = text.parse().unwrap();
            assert!(!pattern.is_exact());
            assert_eq!(pattern.to_string(), text);
        }
    }
}

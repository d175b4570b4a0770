//! Sets of hosts, as flags list them.

use std::fmt;
use std::str::FromStr;

use super::host::{split_port, without_usual_port};

/// `host[:port]`, `host:*` for every port of that host, or `*.domain` for every host below that domain, with the same
/// choice of ports.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HostPattern {
    /// The whole host, or with `below` the domain with its leading dot; with the port, unless it is for any.
    text: String,
    below: bool,
    any_port: bool,
}

/// A text that is no pattern of hosts.
#[derive(Clone, Debug, thiserror::Error, PartialEq, Eq)]
#[error("`{0}` is not host[:port] or *.domain[:port]; the port may be *")]
pub struct HostPatternError(String);

impl HostPattern {
    /// Whether `host` (host[:port]) is one of the set.
    pub fn admits(&self, host: &str) -> bool {
        let whole = without_usual_port(host);
        let host = match self.any_port {
            true => split_port(&whole).0,
            false => &whole,
        };
        match self.below {
            // Something has to stand before the dot.
            true => host.len() > self.text.len() && host.ends_with(&self.text),
            false => host == self.text,
        }
    }

    /// Whether it is for one host and port.
    pub fn is_exact(&self) -> bool {
        !self.below && !self.any_port
    }
}

impl FromStr for HostPattern {
    type Err = HostPatternError;

    fn from_str(text: &str) -> Result<Self, HostPatternError> {
        let error = || HostPatternError(text.chars().take(160).collect());
        let (below, host) = match text.strip_prefix("*.") {
            Some(domain) => (true, format!(".{domain}")),
            None => (false, text.to_owned()),
        };
        let (host, any_port) = match host.strip_suffix(":*") {
            Some(name) => (name.to_owned(), true),
            None => (host, false),
        };
        let named = host.trim_start_matches('.');
        let known = |byte: u8| byte.is_ascii_alphanumeric() || b".-_:[]".contains(&byte);
        let has_port = any_port && !split_port(&host).1.is_empty();
        if named.is_empty() || named.starts_with(':') || !named.bytes().all(known) || has_port {
            return Err(error());
        }
        Ok(Self {
            text: without_usual_port(&host),
            below,
            any_port,
        })
    }
}

impl fmt::Display for HostPattern {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (above, port) = (if self.below { "*" } else { "" }, if self.any_port { ":*" } else { "" });
        write!(formatter, "{above}{}{port}", self.text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn admits(pattern: &str, host: &str) -> bool {
        pattern.parse::<HostPattern>().unwrap().admits(host)
    }

    #[test]
    fn a_pattern_admits_its_hosts_and_no_others() {
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

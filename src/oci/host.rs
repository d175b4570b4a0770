//! Registry hosts, as `host[:port]`.

use std::net::Ipv6Addr;

use url::Host;

/// Normalises a host with its port: lower case, because host names are case-insensitive (RFC 4343), and IPv6 addresses
/// in brackets in the form of RFC 5952.
pub fn normalised_host(host: &str) -> String {
    let lower = host.to_ascii_lowercase();
    let address = lower.strip_prefix('[').and_then(|rest| rest.split_once(']'));
    match address {
        Some((address, port)) => match address.parse::<Ipv6Addr>() {
            Ok(address) => format!("[{address}]{port}"),
            Err(_) => lower,
        },
        None => lower,
    }
}

/// Whether two texts `host[:port]` name the same host and port; the default port is that of HTTPS. The host names of
/// Docker Hub are equal.
pub fn same_host(one: &str, other: &str) -> bool {
    let canonical = |host: &str| canonical_host(&without_default_port(host));
    canonical(one) == canonical(other)
}

/// The normalised host that references use for a registry with several names.
pub fn canonical_host(host: &str) -> String {
    let host = normalised_host(host);
    match host.as_str() {
        "index.docker.io" | "registry-1.docker.io" => "docker.io".to_owned(),
        _ => host,
    }
}

/// The host in the form of URLs, without the default port of HTTPS: IPv4 addresses in dotted form, and names without
/// the trailing dot.
pub fn without_default_port(host: &str) -> String {
    let host = url_form(&normalised_host(host));
    match host.strip_suffix(":443") {
        // Not the last group of an IPv6 address.
        Some(bare) if !bare.is_empty() && (bare.ends_with(']') || !bare.contains(':')) => bare.to_owned(),
        _ => host,
    }
}

/// Splits a host into its name, or address in brackets, and its port, which may be empty.
pub fn split_port(host: &str) -> (&str, &str) {
    match host.rsplit_once(':') {
        Some((name, port)) if !port.contains(']') => (name, port),
        _ => (host, ""),
    }
}

fn url_form(host: &str) -> String {
    let (name, port) = split_port(host);
    let colon = if port.is_empty() { "" } else { ":" };
    let bracketed = name.strip_prefix('[').and_then(|rest| rest.strip_suffix(']'));
    let mapped = bracketed.and_then(|address| address.parse::<Ipv6Addr>().ok()?.to_ipv4_mapped());
    let name = match (mapped, Host::parse(name)) {
        (Some(address), _) | (None, Ok(Host::Ipv4(address))) => address.to_string(),
        _ => name.strip_suffix('.').unwrap_or(name).to_owned(),
    };
    format!("{name}{colon}{port}")
}

/// Splits `[address]:port/rest` after the host; `None` if it does not start with an IPv6 address with an optional port.
pub(super) fn split_ipv6(text: &str) -> Option<(&str, &str)> {
    let (host, rest) = text.split_once('/')?;
    let (address, port) = host.strip_prefix('[')?.split_once(']')?;
    let known_port = match port.strip_prefix(':') {
        Some(digits) => digits.parse::<u16>().is_ok() && digits.bytes().all(|byte| byte.is_ascii_digit()),
        None => port.is_empty(),
    };
    (known_port && address.parse::<Ipv6Addr>().is_ok()).then_some((host, rest))
}

/// Whether `text` is a host with an optional port: a name, an IPv4 address, or an IPv6 address in brackets. Underscores
/// are accepted, because container names contain them.
pub fn is_host(text: &str) -> bool {
    let (name, port) = text.split_once(':').unwrap_or((text, "0"));
    let letter = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_');
    let label = |label: &str| {
        !label.is_empty() && label.bytes().all(letter) && !label.starts_with('-') && !label.ends_with('-')
    };
    let named = name.strip_suffix('.').unwrap_or(name).split('.').all(label);
    let has_port = port.bytes().all(|byte| byte.is_ascii_digit()) && port.parse::<u16>().is_ok();
    (named && has_port) || split_ipv6(&format!("{text}/")).is_some_and(|(host, _)| host == text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equivalent_hosts_are_equal() {
        for (host, form) in [
            ("Registry.Example", "registry.example"),
            ("LOCALHOST:5000", "localhost:5000"),
            ("[::1]:5000", "[::1]:5000"),
            ("[2001:DB8:0:0::1]", "[2001:db8::1]"),
            ("[nonsense", "[nonsense"),
        ] {
            assert_eq!(normalised_host(host), form);
        }
        for (one, other, same) in [
            ("R.example:443", "r.example", true),
            ("[::1]:443", "[0:0::1]", true),
            ("[fe80::443]", "[fe80::]", false),
            ("r:5000", "r", false),
            ("r.local", "r.local.evil", false),
            ("r.local.:5000", "r.local:5000", true),
            ("127.0.0.1:5000", "0x7f.1:5000", true),
            ("127.0.0.1:5000", "2130706433:5000", true),
            ("127.0.0.1", "[::ffff:7f00:1]", true),
            ("127.0.0.1", "127.0.0.2", false),
        ] {
            assert_eq!(same_host(one, other), same, "{one} {other}");
        }
    }

    #[test]
    fn hosts_are_names_or_addresses_with_optional_ports() {
        let hosts = [
            "r",
            "r.example",
            "r.example.",
            "R-1.example:5000",
            "my_registry:5000",
            "10.0.0.1:443",
        ];
        for host in hosts.into_iter().chain(["[::1]", "[fe80::1]:5000"]) {
            assert!(is_host(host), "{host}");
        }
        for other in [
            "",
            ":5000",
            "r:",
            "r:abc",
            "r:65536",
            "r:+5",
            ".",
            "..",
            "-r",
            "r example",
            "r/x",
            "r?x",
            "user@r",
            "::1",
            "::1:5000",
            "[::1",
            "[r]",
            "[::1]5000",
            "[::1]/x",
            "dir:out",
            "http://r",
        ] {
            assert!(!is_host(other), "{other}");
        }
    }
}

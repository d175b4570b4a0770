//! Image references, normalised like docker does.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use thiserror::Error;

use super::Digest;
use super::host::{normalised_host, split_ipv6};

/// `registry/repository[:tag][@digest]`. `nginx` becomes `docker.io/library/nginx:latest`; `latest` is only added if
/// there is neither a tag nor a digest. The registry host is normalised ([`normalised_host`]). A leading `oci://` is
/// accepted and dropped.
///
/// The grammar is that of the distribution project, parsed by `oci-spec`, which does not support IPv6 addresses. The
/// digest is also validated.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Reference {
    registry: String,
    repository: String,
    tag: Option<String>,
    digest: Option<Digest>,
}

/// Why a text is not a reference.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
#[error("`{text}` is not an image reference ({reason}); write it as [registry/]repository[:tag][@digest]")]
pub struct ReferenceError {
    text: String,
    reason: String,
}

impl Reference {
    /// Host and port of the registry, such as `docker.io` or `127.0.0.1:31999`.
    pub fn registry(&self) -> &str {
        &self.registry
    }

    /// The path within the registry, such as `library/nginx`.
    pub fn repository(&self) -> &str {
        &self.repository
    }

    /// The tag, if it is specified or implied.
    pub fn tag(&self) -> Option<&str> {
        self.tag.as_deref()
    }

    /// The digest, if specified.
    pub fn digest(&self) -> Option<&Digest> {
        self.digest.as_ref()
    }

    /// The name without tag and digest: `docker.io/library/nginx`.
    pub fn name(&self) -> String {
        format!("{}/{}", self.registry, self.repository)
    }

    /// The identifier for the registry: the digest if there is one, else the tag.
    pub fn identifier(&self) -> &str {
        match (&self.digest, self.tag()) {
            (Some(digest), _) => digest.as_str(),
            (None, Some(tag)) => tag,
            // The parser adds `latest` if both are missing.
            (None, None) => "latest",
        }
    }

    /// The reference without digest. A reference without a tag keeps its digest.
    pub fn without_digest(&self) -> Self {
        match &self.tag {
            Some(_) => Self {
                digest: None,
                ..self.clone()
            },
            None => self.clone(),
        }
    }

    /// The name in events of an engine: familiar, with the tag.
    pub fn engine_name(&self) -> String {
        self.without_digest().familiar()
    }

    /// The name as docker prints it, without `docker.io/` and `library/`. Engines use it in their image list, events
    /// and API.
    pub fn familiar(&self) -> String {
        let full_name = self.to_string();
        match full_name.strip_prefix("docker.io/") {
            Some(hub) => hub.strip_prefix("library/").unwrap_or(hub).to_owned(),
            None => full_name,
        }
    }
}

/// A placeholder for IPv6 addresses, which `oci-spec` cannot parse.
const IPV6_HOST: &str = "ipv6.invalid";

/// The reference in a form that `oci-spec` can parse, and the host that was replaced.
fn parseable(bare: &str) -> (String, Option<String>) {
    // The case of a digest algorithm is ignored too.
    let lower = bare
        .split_once('@')
        .map(|(name, digest)| format!("{name}@{}", digest.to_ascii_lowercase()));
    let bare = lower.as_deref().unwrap_or(bare);
    if let Some((host, rest)) = split_ipv6(bare) {
        return (format!("{IPV6_HOST}/{rest}"), Some(normalised_host(host)));
    }
    match bare.split_once('/') {
        // The first component is a host if it contains a dot or colon, or is localhost.
        Some((host, rest)) if host.contains(['.', ':']) || host.eq_ignore_ascii_case("localhost") => {
            (format!("{}/{rest}", normalised_host(host)), None)
        }
        _ => (bare.to_owned(), None),
    }
}

/// The port of the host, if it is invalid.
fn invalid_port(parseable: &str) -> Option<&str> {
    let (host, _) = parseable.split_once('/')?;
    let (_, port) = host.rsplit_once(':')?;
    let digits = !port.is_empty() && port.bytes().all(|byte| byte.is_ascii_digit());
    (digits && !port.parse::<u16>().is_ok_and(|port| port > 0)).then_some(port)
}

impl FromStr for Reference {
    type Err = ReferenceError;

    fn from_str(text: &str) -> Result<Self, ReferenceError> {
        use oci_spec::distribution::{ParseError, Reference as Parsed};

        let error = |reason: String| ReferenceError {
            text: text.chars().take(160).collect(),
            reason,
        };
        let bare = text.strip_prefix("oci://").unwrap_or(text);
        if let Some((scheme, _)) = bare.split_once("://") {
            return Err(error(format!("it is a URL; remove {scheme}://")));
        }
        // Longer than any valid name, tag and digest; avoids parsing long texts.
        if bare.len() > 1024 {
            return Err(error("longer than 1024 characters".to_owned()));
        }
        let (parseable, host) = parseable(bare);
        if let Some(port) = invalid_port(&parseable) {
            return Err(error(format!("{port} is not a valid port (1 to 65535)")));
        }
        let parsed: Parsed = parseable.parse().map_err(|e: ParseError| {
            let lower = parseable.to_ascii_lowercase().parse::<Parsed>();
            error(match (e, lower) {
                (ParseError::ReferenceInvalidFormat, Ok(_)) => ParseError::NameContainsUppercase.to_string(),
                (e, _) => e.to_string(),
            })
        })?;
        // The parser accepts these, but registries do not.
        if parsed.tag().is_some_and(|tag| !tag.is_ascii()) {
            return Err(error(ParseError::TagInvalidFormat.to_string()));
        }
        if parsed.repository().bytes().any(|byte| byte.is_ascii_uppercase()) {
            return Err(error(ParseError::NameContainsUppercase.to_string()));
        }
        let digest = parsed
            .digest()
            .map(str::parse)
            .transpose()
            .map_err(|e: super::DigestError| error(e.to_string()))?;
        Ok(Self {
            registry: host.unwrap_or_else(|| parsed.registry().to_owned()),
            repository: parsed.repository().to_owned(),
            tag: parsed.tag().map(str::to_owned),
            digest,
        })
    }
}

impl TryFrom<String> for Reference {
    type Error = ReferenceError;

    fn try_from(text: String) -> Result<Self, ReferenceError> {
        text.parse()
    }
}

impl From<Reference> for String {
    fn from(reference: Reference) -> Self {
        reference.to_string()
    }
}

impl fmt::Display for Reference {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}/{}", self.registry, self.repository)?;
        if let Some(tag) = &self.tag {
            write!(formatter, ":{tag}")?;
        }
        match &self.digest {
            Some(digest) => write!(formatter, "@{digest}"),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn reference(text: &str) -> Reference {
        text.parse().unwrap()
    }

    #[test]
    fn upper_case_is_rejected_only_in_the_repository() {
        let error = "UPPER/x:1".parse::<Reference>().unwrap_err().to_string();
        assert!(error.contains("(repository name must be lowercase)"), "{error}");
        let error = "ghcr.io/Acme/app:1".parse::<Reference>().unwrap_err().to_string();
        assert!(error.contains("(repository name must be lowercase)"), "{error}");
        for (text, normalised) in [
            ("Registry.example:5000/x:TAG", "registry.example:5000/x:TAG"),
            ("LOCALHOST/x", "localhost/x:latest"),
            ("Docker.IO/nginx", "docker.io/library/nginx:latest"),
            ("Index.Docker.io/nginx:1", "docker.io/library/nginx:1"),
        ] {
            assert_eq!(reference(text).to_string(), normalised);
        }
    }

    #[test]
    fn ipv6_hosts_and_upper_case_digests_are_accepted() {
        for (text, registry, repository, tag) in [
            ("[::1]:5000/app:1", "[::1]:5000", "app", Some("1")),
            ("[2001:DB8::0:1]/team/app", "[2001:db8::1]", "team/app", Some("latest")),
            ("oci://[fe80::1]:443/a/b/c:v", "[fe80::1]:443", "a/b/c", Some("v")),
        ] {
            let read = reference(text);
            assert_eq!(
                (read.registry(), read.repository(), read.tag()),
                (registry, repository, tag)
            );
            assert_eq!(reference(&read.to_string()), read);
        }
        let digest = Digest::of(b"");
        let upper = format!("[::1]:5000/app@sha256:{}", digest.hex().to_uppercase());
        assert_eq!(reference(&upper).digest(), Some(&digest));
        assert_eq!(reference(&upper).to_string(), format!("[::1]:5000/app@{digest}"));
    }

    #[test]
    fn names_are_normalised_like_in_docker() {
        for (text, full_name, familiar) in [
            ("nginx", "docker.io/library/nginx:latest", "nginx:latest"),
            (
                "index.docker.io/library/nginx:1",
                "docker.io/library/nginx:1",
                "nginx:1",
            ),
            ("me/app:dev", "docker.io/me/app:dev", "me/app:dev"),
            (
                "localhost:5000/a/b",
                "localhost:5000/a/b:latest",
                "localhost:5000/a/b:latest",
            ),
            ("oci://ghcr.io/x/y:1", "ghcr.io/x/y:1", "ghcr.io/x/y:1"),
        ] {
            assert_eq!(reference(text).to_string(), full_name);
            assert_eq!(reference(text).familiar(), familiar);
        }
    }

    #[test]
    fn the_digest_takes_precedence_over_the_tag() {
        let digest = Digest::of(b"");
        let both = reference(&format!("ghcr.io/x/y:1@{digest}"));
        assert_eq!((both.identifier(), both.tag()), (digest.as_str(), Some("1")));
        assert_eq!(both.without_digest(), reference("ghcr.io/x/y:1"));
        let digest_only = reference(&format!("x@{digest}"));
        assert_eq!(
            (digest_only.tag(), digest_only.without_digest()),
            (None, digest_only.clone())
        );
    }

    #[test]
    fn invalid_references_are_rejected() {
        for bad in [
            "",
            "i am not a ref at all",
            "http://urls.are/not/refs",
            "upper/CASE",
            "a:b:c",
            "a@sha256:00",
        ] {
            let error = bad.parse::<Reference>().unwrap_err().to_string();
            assert!(error.contains("is not an image reference"), "{error}");
        }
        for bad in [
            "[::1]",
            "[::1]:x/app",
            "[::1]:/app",
            "[::1]:70000/app",
            "[::1/app",
            "[g::1]/app",
            "[fe80::1%eth0]/app",
            "::1/app",
            "registry.example.:5000/app",
            "registry.example:/app",
            "registry..example/app",
            "app:größe",
            "größe/app:1",
            " app:1",
            "app:1\n",
            "app:",
            "app@",
            "app:1@sha384:00",
        ] {
            assert!(bad.parse::<Reference>().is_err(), "{bad}");
        }
        for (bad, why) in [
            ("registry.example:65536/app", "65536 is not a valid port"),
            ("registry.example:0/app", "0 is not a valid port"),
            ("registry.example:99999999999/app", "99999999999 is not a valid port"),
            ("docker://nginx:1", "remove docker://"),
            ("https://ghcr.io/x/y:1", "remove https://"),
            ("docker-daemon:app:1", "is not an image reference"),
        ] {
            let error = bad.parse::<Reference>().unwrap_err().to_string();
            assert!(error.contains(why), "{error}");
        }
    }

    #[test]
    fn references_at_the_limits_are_accepted() {
        let tag = "t".repeat(128);
        let digest = Digest::of(b"");
        let long: Digest = format!("sha512:{}", "ab".repeat(64)).parse().unwrap();
        for (text, full_name) in [
            (format!("a:{tag}"), format!("docker.io/library/a:{tag}")),
            ("localhost/app".to_owned(), "localhost/app:latest".to_owned()),
            ("r.example:1/a".to_owned(), "r.example:1/a:latest".to_owned()),
            ("r.example:65535/a".to_owned(), "r.example:65535/a:latest".to_owned()),
            (
                "docker.io/library".to_owned(),
                "docker.io/library/library:latest".to_owned(),
            ),
            (
                "xn--bcher-kva.example/a".to_owned(),
                "xn--bcher-kva.example/a:latest".to_owned(),
            ),
            (format!("r.example:5000/a@{long}"), format!("r.example:5000/a@{long}")),
            (
                format!("r.example/a:1@{}", digest.as_str().to_uppercase()),
                format!("r.example/a:1@{digest}"),
            ),
        ] {
            assert_eq!(reference(&text).to_string(), full_name);
        }
        assert!(format!("a:{tag}t").parse::<Reference>().is_err());
    }

    proptest! {
        #[test]
        fn parsed_references_round_trip(text in "\\PC{0,80}") {
            if let Ok(reference) = text.parse::<Reference>() {
                prop_assert_eq!(reference.to_string().parse::<Reference>().unwrap(), reference);
            }
        }
    }
}

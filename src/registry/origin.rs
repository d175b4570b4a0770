//! Determines which URLs in responses belong to the registry itself. Pure.

use url::Url;

use super::endpoint::Endpoint;
use super::error::{Error, Kind, clean};

/// The hosts of Docker Hub in references and in its responses.
const DOCKER_HUB: [&str; 3] = ["docker.io", "index.docker.io", "registry-1.docker.io"];

/// The base URL of a registry, and the other hosts that it uses for itself.
#[derive(Clone, Debug)]
pub(super) struct Origin {
    base: Url,
    aliases: Vec<Host>,
}

/// A host with optional port.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Host {
    name: String,
    /// `None` for the default port of the scheme.
    port: Option<u16>,
}

impl Host {
    fn parse(text: &str) -> Option<Self> {
        let url = Url::parse(&format!("http://{text}/")).ok()?;
        // The URL parser drops the default port of `http`, but the compared URL may have another scheme.
        let port = match text.rsplit_once(':') {
            Some((_, digits)) => digits.parse().ok(),
            None => None,
        };
        Some(Self {
            name: url.host_str()?.to_owned(),
            port,
        })
    }

    fn matches(&self, url: &Url) -> bool {
        url.host_str() == Some(&self.name)
            && match self.port {
                Some(port) => url.port_or_known_default() == Some(port),
                None => url.port().is_none(),
            }
    }
}

impl Origin {
    /// The origin of `endpoint`.
    ///
    /// # Errors
    /// When its host is invalid.
    pub fn for_endpoint(endpoint: &Endpoint) -> Result<Self, Error> {
        let base = endpoint.base_url()?;
        let hub = DOCKER_HUB.contains(&endpoint.host.as_str());
        let names = endpoint.aliases.iter().map(String::as_str);
        let aliases = names
            .chain(DOCKER_HUB.into_iter().filter(|_| hub))
            .filter_map(Host::parse)
            // A URL with the own host keeps its scheme.
            .filter(|alias| !alias.matches(&base))
            .collect();
        Ok(Self { base, aliases })
    }

    /// `https://host/v2/`.
    pub fn base(&self) -> &Url {
        &self.base
    }

    /// Whether `url` is on the registry, which may receive its credentials.
    pub fn is_own_url(&self, url: &Url) -> bool {
        url.origin() == self.base.origin()
    }

    /// Replaces an alias in `url` by the registry's own address, and plain HTTP by HTTPS if the registry is reached by
    /// HTTPS. The latter happens behind a proxy that terminates TLS without telling the registry.
    pub fn normalize(&self, mut url: Url) -> Url {
        let base = &self.base;
        if !matches!(url.scheme(), "http" | "https") {
            return url;
        }
        let same_port = url.port_or_known_default() == base.port_or_known_default()
            || url.port().is_none() && base.port().is_none();
        let upgrade = base.scheme() == "https" && url.host_str() == base.host_str() && same_port;
        if upgrade || self.aliases.iter().any(|alias| alias.matches(&url)) {
            let replaced = url.set_scheme(base.scheme()).is_ok()
                && url.set_host(base.host_str()).is_ok()
                && url.set_port(base.port()).is_ok();
            debug_assert!(replaced, "both are HTTP URLs");
        }
        url
    }

    /// Resolves the `Location` of a response to a request to `from`.
    ///
    /// # Errors
    /// When it is missing or invalid, or when it switches from HTTPS to plain HTTP on another host.
    pub fn resolve_location(&self, label: &str, from: &Url, location: Option<&str>) -> Result<Url, Error> {
        let protocol = |detail: String| Error::new(Kind::Protocol, label, detail);
        let location = location
            .map(str::trim)
            .filter(|location| !location.is_empty())
            .ok_or_else(|| protocol("the response has no Location".to_owned()))?;
        // Unlike RFC 3986, distribution's client resolves a path without leading slash from the root.
        let joined = match location.starts_with("v2/") {
            true => from.join(&format!("/{location}")),
            false => from.join(location),
        };
        let url = joined.map_err(|_| {
            protocol(format!(
                "the Location of the response is not a URL: {}",
                clean(location)
            ))
        })?;
        let url = self.normalize(url);
        match (url.scheme(), from.scheme()) {
            ("https", _) | ("http", "http") => Ok(url),
            ("http", _) => Err(protocol(
                "the registry redirects from HTTPS to plain HTTP; configure it for HTTPS (X-Forwarded-Proto of its proxy, or http.host)".to_owned(),
            )),
            _ => Err(protocol("the registry redirects to a URL that is not HTTP".to_owned())),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn origin(host: &str, aliases: &[&str], plain_http: bool) -> Origin {
        let aliases = aliases.iter().map(|alias| (*alias).to_owned()).collect();
        Origin::for_endpoint(&Endpoint {
            aliases,
            plain_http,
            ..Endpoint::new(host)
        })
        .unwrap()
    }

    fn resolve_location(origin: &Origin, location: &str) -> Result<String, Error> {
        let from = origin.base().join("a/blobs/uploads/").unwrap();
        origin.resolve_location("c", &from, Some(location)).map(String::from)
    }

    #[test]
    fn unsafe_locations_are_rejected() {
        let registry = origin("r", &[], false);
        assert_eq!(
            resolve_location(&registry, "/v2/a/x?_state=1").unwrap(),
            "https://r/v2/a/x?_state=1"
        );
        assert_eq!(
            resolve_location(&registry, "https://storage/x").unwrap(),
            "https://storage/x"
        );
        for other in ["https://r:444/v2/", "https://storage/"] {
            assert!(!registry.is_own_url(&other.parse().unwrap()));
        }
        for bad in [
            "http://storage/x",
            "http://r:81/x",
            "file:///etc/passwd",
            "https://",
            "",
        ] {
            assert_eq!(
                resolve_location(&registry, bad).unwrap_err().kind(),
                &Kind::Protocol,
                "{bad}"
            );
        }
        assert!(registry.resolve_location("c", registry.base(), None).is_err());
    }

    #[test]
    fn relative_locations_are_resolved_like_other_clients_do() {
        let registry = origin("r:5000", &[], false);
        for (location, url) in [
            (
                "uuid?_state=a%2Bb",
                "https://r:5000/v2/a/blobs/uploads/uuid?_state=a%2Bb",
            ),
            ("v2/a/blobs/uploads/uuid", "https://r:5000/v2/a/blobs/uploads/uuid"),
            ("?_state=1", "https://r:5000/v2/a/blobs/uploads/?_state=1"),
            ("//r:5000/v2/x", "https://r:5000/v2/x"),
            (" /v2/x ", "https://r:5000/v2/x"),
        ] {
            assert_eq!(resolve_location(&registry, location).unwrap(), url, "{location}");
        }
    }

    #[test]
    fn plain_http_locations_of_an_https_registry_become_https() {
        for (host, location, url) in [
            ("r", "http://r/v2/x", "https://r/v2/x"),
            ("r", "http://R:443/v2/x", "https://r/v2/x"),
            ("r", "https://r:443/v2/x", "https://r/v2/x"),
            ("r:5000", "http://r:5000/v2/x", "https://r:5000/v2/x"),
            ("r:443", "http://r/v2/x", "https://r/v2/x"),
        ] {
            assert_eq!(
                resolve_location(&origin(host, &[], false), location).unwrap(),
                url,
                "{host} {location}"
            );
        }
        // HTTPS URLs of a plain HTTP registry are not changed.
        let plain = origin("r:5000", &["r:5000"], true);
        assert_eq!(
            resolve_location(&plain, "https://r:5000/x").unwrap(),
            "https://r:5000/x"
        );
        assert_eq!(resolve_location(&plain, "http://r:5000/x").unwrap(), "http://r:5000/x");
    }

    #[test]
    fn aliases_are_replaced_by_the_endpoint() {
        let plain = origin(
            "registry.ns.svc:5000",
            &["127.0.0.1:31999", "registry.example.com", "[::1]:80"],
            true,
        );
        for location in [
            "http://127.0.0.1:31999/v2/x",
            "https://registry.example.com/v2/x",
            "http://registry.example.com:80/v2/x",
            "https://REGISTRY.example.com:443/v2/x",
            "http://[::1]/v2/x",
        ] {
            let url = resolve_location(&plain, location).unwrap();
            assert_eq!(url, "http://registry.ns.svc:5000/v2/x", "{location}");
        }
        for other in [
            "http://127.0.0.1:32000/v2/x",
            "http://registry.example.com:81/v2/x",
            "https://[::1]/v2/x",
        ] {
            assert_eq!(resolve_location(&plain, other).unwrap(), other);
        }
        let hub = origin("docker.io", &[], false);
        for location in [
            "https://docker.io/x",
            "https://index.docker.io/x",
            "http://registry-1.docker.io/x",
        ] {
            assert_eq!(
                resolve_location(&hub, location).unwrap(),
                "https://registry-1.docker.io/x"
            );
        }
        assert_eq!(
            resolve_location(&hub, "https://auth.docker.io/x").unwrap(),
            "https://auth.docker.io/x"
        );
    }
}

//! Which URLs in a registry's answers mean the registry itself. Pure.

use url::Url;

use super::endpoint::Endpoint;
use super::error::{Error, Kind, clean};

/// Docker's registry under the names that references and Docker's own answers give it.
const DOCKER_HUB: [&str; 3] = ["docker.io", "index.docker.io", "registry-1.docker.io"];

/// Where a registry answers, and by which other hosts it names itself.
#[derive(Clone, Debug)]
pub(super) struct Origin {
    base: Url,
    aliases: Vec<Host>,
}

/// A host as an endpoint writes it.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Host {
    name: String,
    /// None for the default of the scheme.
    port: Option<u16>,
}

impl Host {
    fn parse(text: &str) -> Option<Self> {
        let url = Url::parse(&format!("http://{text}/")).ok()?;
        // The parser leaves out the default port of its scheme, which need not be that of the URL compared.
        let port = match text.rsplit_once(':') {
            Some((_, digits)) => digits.parse().ok(),
            None => None,
        };
        Some(Self {
            name: url.host_str()?.to_owned(),
            port,
        })
    }

    fn names(&self, url: &Url) -> bool {
        url.host_str() == Some(&self.name)
            && match self.port {
                Some(port) => url.port_or_known_default() == Some(port),
                None => url.port().is_none(),
            }
    }
}

impl Origin {
    /// That of `endpoint`.
    ///
    /// # Errors
    /// When its host is none.
    pub fn of(endpoint: &Endpoint) -> Result<Self, Error> {
        let base = endpoint.base()?;
        let hub = DOCKER_HUB.contains(&endpoint.host.as_str());
        let names = endpoint.aliases.iter().map(String::as_str);
        let aliases = names
            .chain(DOCKER_HUB.into_iter().filter(|_| hub))
            .filter_map(Host::parse)
            // The scheme of its own host is respected.
            .filter(|alias| !alias.names(&base))
            .collect();
        Ok(Self { base, aliases })
    }

    /// `https://host/v2/`.
    pub fn base(&self) -> &Url {
        &self.base
    }

    /// Whether a request to `url` goes to the registry, which its credentials are for.
    pub fn is_own(&self, url: &Url) -> bool {
        url.origin() == self.base.origin()
    }

    /// `url` itself, or where it leads in the registry when it names that by an alias, or by plain HTTP although it is
    /// reached by HTTPS, as behind a proxy that ends TLS and does not say so.
    pub fn resolved(&self, mut url: Url) -> Url {
        let base = &self.base;
        if !matches!(url.scheme(), "http" | "https") {
            return url;
        }
        let same_port = url.port_or_known_default() == base.port_or_known_default()
            || url.port().is_none() && base.port().is_none();
        let upgrade = base.scheme() == "https" && url.host_str() == base.host_str() && same_port;
        if upgrade || self.aliases.iter().any(|alias| alias.names(&url)) {
            let moved = url.set_scheme(base.scheme()).is_ok()
                && url.set_host(base.host_str()).is_ok()
                && url.set_port(base.port()).is_ok();
            debug_assert!(moved, "both are HTTP URLs");
        }
        url
    }

    /// Where `location` of an answer to a request to `from` leads.
    ///
    /// # Errors
    /// When there is none, it is no URL, or it leads from HTTPS to plain HTTP of another host.
    pub fn follow(&self, label: &str, from: &Url, location: Option<&str>) -> Result<Url, Error> {
        let protocol = |detail: String| Error::new(Kind::Protocol, label, detail);
        let location = location
            .map(str::trim)
            .filter(|location| !location.is_empty())
            .ok_or_else(|| protocol("the answer has no Location".to_owned()))?;
        // Distribution's client, unlike RFC 3986, reads a path without its slash from the root.
        let joined = match location.starts_with("v2/") {
            true => from.join(&format!("/{location}")),
            false => from.join(location),
        };
        let url = joined.map_err(|_| protocol(format!("the answer's Location is no URL: {}", clean(location))))?;
        let url = self.resolved(url);
        match (url.scheme(), from.scheme()) {
            ("https", _) | ("http", "http") => Ok(url),
            ("http", _) => Err(protocol(
                "the registry leads from HTTPS to plain HTTP; tell it that it is reached by HTTPS (X-Forwarded-Proto of the proxy before it, or http.host)".to_owned(),
            )),
            _ => Err(protocol("the registry leads to something that is not HTTP".to_owned())),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn origin(host: &str, aliases: &[&str], plain_http: bool) -> Origin {
        let aliases = aliases.iter().map(|alias| (*alias).to_owned()).collect();
        Origin::of(&Endpoint {
            aliases,
            plain_http,
            ..Endpoint::new(host)
        })
        .unwrap()
    }

    fn follow(origin: &Origin, location: &str) -> Result<String, Error> {
        let from = origin.base().join("a/blobs/uploads/").unwrap();
        origin.follow("c", &from, Some(location)).map(String::from)
    }

    #[test]
    fn locations_stay_safe() {
        let registry = origin("r", &[], false);
        assert_eq!(
            follow(&registry, "/v2/a/x?_state=1").unwrap(),
            "https://r/v2/a/x?_state=1"
        );
        assert_eq!(follow(&registry, "https://storage/x").unwrap(), "https://storage/x");
        for other in ["https://r:444/v2/", "https://storage/"] {
            assert!(!registry.is_own(&other.parse().unwrap()));
        }
        for bad in [
            "http://storage/x",
            "http://r:81/x",
            "file:///etc/passwd",
            "https://",
            "",
        ] {
            assert_eq!(follow(&registry, bad).unwrap_err().kind(), &Kind::Protocol, "{bad}");
        }
        assert!(registry.follow("c", registry.base(), None).is_err());
    }

    #[test]
    fn relative_locations_are_read_as_clients_do() {
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
            assert_eq!(follow(&registry, location).unwrap(), url, "{location}");
        }
    }

    #[test]
    fn a_registry_behind_a_proxy_that_ends_tls_is_reached_by_tls() {
        for (host, location, url) in [
            ("r", "http://r/v2/x", "https://r/v2/x"),
            ("r", "http://R:443/v2/x", "https://r/v2/x"),
            ("r", "https://r:443/v2/x", "https://r/v2/x"),
            ("r:5000", "http://r:5000/v2/x", "https://r:5000/v2/x"),
            ("r:443", "http://r/v2/x", "https://r/v2/x"),
        ] {
            assert_eq!(
                follow(&origin(host, &[], false), location).unwrap(),
                url,
                "{host} {location}"
            );
        }
        // Who is reached in the clear and says TLS of the same host is believed.
        let plain = origin("r:5000", &["r:5000"], true);
        assert_eq!(follow(&plain, "https://r:5000/x").unwrap(), "https://r:5000/x");
        assert_eq!(follow(&plain, "http://r:5000/x").unwrap(), "http://r:5000/x");
    }

    #[test]
    fn an_alias_means_the_endpoint() {
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
            let url = follow(&plain, location).unwrap();
            assert_eq!(url, "http://registry.ns.svc:5000/v2/x", "{location}");
        }
        for other in [
            "http://127.0.0.1:32000/v2/x",
            "http://registry.example.com:81/v2/x",
            "https://[::1]/v2/x",
        ] {
            assert_eq!(follow(&plain, other).unwrap(), other);
        }
        let hub = origin("docker.io", &[], false);
        for location in [
            "https://docker.io/x",
            "https://index.docker.io/x",
            "http://registry-1.docker.io/x",
        ] {
            assert_eq!(follow(&hub, location).unwrap(), "https://registry-1.docker.io/x");
        }
        assert_eq!(
            follow(&hub, "https://auth.docker.io/x").unwrap(),
            "https://auth.docker.io/x"
        );
    }
}

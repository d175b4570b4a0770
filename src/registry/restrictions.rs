//! Restricts which addresses may be reached by hosts that tenants name, and by redirects of those hosts.
//!
//! Addresses are checked when a host name is resolved for a connection, so a later DNS response cannot bypass the
//! check. A proxy resolves names itself: with a proxy, only literal addresses are checked.

use std::collections::HashSet;
use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, PoisonError, RwLock};

use ipnet::IpNet;
use reqwest::dns::{Addrs, Name, Resolve, Resolving};
use url::{Host, Url};

use super::address_zone::{Zone, plain};
use crate::oci::HostPattern;

/// Environment variables that name a proxy.
const PROXY_VARIABLES: [&str; 6] = [
    "HTTP_PROXY",
    "http_proxy",
    "HTTPS_PROXY",
    "https_proxy",
    "ALL_PROXY",
    "all_proxy",
];

/// The lists of the administrator. An empty list allows nothing of its kind, except for [`Self::hosts`].
#[derive(Debug, Default)]
pub struct Restrictions {
    /// Networks whose addresses are always allowed.
    pub networks: Vec<IpNet>,
    /// Hosts that may be reached over plain HTTP.
    pub plain_http: Vec<HostPattern>,
    /// Hosts to which a registry may redirect uploads.
    pub upload_hosts: Vec<HostPattern>,
    /// Hosts that objects may name; empty for any. A redirect target in this list may have a private address.
    pub hosts: Vec<HostPattern>,
    /// The addresses of the API server.
    api_server: RwLock<HashSet<IpAddr>>,
    proxies: Proxies,
}

/// The proxies in the environment, which are always allowed.
#[derive(Debug, Default)]
struct Proxies {
    names: HashSet<String>,
    addresses: RwLock<HashSet<IpAddr>>,
}

/// Why a request is not allowed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum RestrictionError {
    /// The address is reserved for the machine itself or for the cluster.
    Reserved,
    /// A public registry redirects to a private address, or a registry to a private address of a host that is not
    /// listed.
    Private,
    /// A redirect to plain HTTP of this host.
    PlainHttp(String),
}

impl fmt::Display for RestrictionError {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Reserved => formatter.write_str(
                "the host has an address that the operator does not connect to for objects (loopback, link-local, unspecified, multicast, cloud platform or API server): use another host, or ask the administrator to list the network in --allow-network",
            ),
            Self::Private => formatter.write_str(
                "the registry redirects to a host with a private address, which is not allowed: ask the administrator to list the host in --source-host or the network in --allow-network",
            ),
            Self::PlainHttp(host) => write!(
                formatter,
                "the registry redirects to plain HTTP on {host}, which is not allowed: configure it to redirect to HTTPS, or ask the administrator to list the host in --insecure-registry"
            ),
        }
    }
}

impl std::error::Error for RestrictionError {}

impl Restrictions {
    /// Creates the restrictions, with the proxies of the environment.
    pub fn new(
        networks: Vec<IpNet>,
        plain_http: Vec<HostPattern>,
        upload_hosts: Vec<HostPattern>,
        hosts: Vec<HostPattern>,
    ) -> Self {
        Self {
            networks,
            plain_http,
            upload_hosts,
            hosts,
            api_server: RwLock::default(),
            proxies: Proxies::of(PROXY_VARIABLES.iter().filter_map(|name| std::env::var(name).ok())),
        }
    }

    /// Replaces the known addresses of the API server.
    pub fn set_api_server_addresses(&self, addresses: HashSet<IpAddr>) {
        *self.api_server.write().unwrap_or_else(PoisonError::into_inner) = addresses;
    }

    /// Whether `host` (host[:port]) may be reached over plain HTTP.
    pub fn allows_plain_http(&self, host: &str) -> bool {
        self.plain_http.iter().any(|pattern| pattern.admits(host))
    }

    /// Whether `host` (host[:port]) is listed explicitly, not by a pattern, as one that serves plain HTTP.
    pub fn serves_plain_http(&self, host: &str) -> bool {
        let mut exact = self.plain_http.iter().filter(|pattern| pattern.is_exact());
        exact.any(|pattern| pattern.admits(host))
    }

    /// Whether uploads may be sent to the host of `url`.
    pub(super) fn allows_upload_to(&self, url: &Url) -> bool {
        matches_any(&self.upload_hosts, url)
    }

    /// Whether the redirect target `url` must have a public address. `redirected_by_public` tells whether the
    /// redirecting host has one.
    pub(super) fn requires_public_address(&self, url: &Url, redirected_by_public: bool) -> bool {
        match self.hosts.is_empty() {
            true => redirected_by_public,
            false => !matches_any(&self.hosts, url),
        }
    }

    /// Checks a request to `url` as far as its text allows. `is_redirect` tells whether another host redirected there.
    pub(super) fn check(&self, url: &Url, is_redirect: bool, public_only: bool) -> Result<(), RestrictionError> {
        if is_redirect && url.scheme() == "http" && !matches_any(&self.plain_http, url) {
            return Err(RestrictionError::PlainHttp(host_with_port(url)));
        }
        match url.host() {
            Some(Host::Ipv4(address)) => self.check_address(address.into(), public_only),
            Some(Host::Ipv6(address)) => self.check_address(address.into(), public_only),
            // A proxy name is exempt from the check when it is resolved.
            Some(Host::Domain(name)) if self.proxies.names.contains(name) => Err(RestrictionError::Reserved),
            Some(Host::Domain(_)) | None => Ok(()),
        }
    }

    fn check_address(&self, address: IpAddr, public_only: bool) -> Result<(), RestrictionError> {
        let embedded = plain(address);
        let listed = |network: &IpNet| network.contains(&address) || network.contains(&embedded);
        if self.networks.iter().any(listed) {
            return Ok(());
        }
        let api_server = self.api_server.read().unwrap_or_else(PoisonError::into_inner);
        match Zone::of(embedded) {
            Zone::Reserved => Err(RestrictionError::Reserved),
            _ if api_server.contains(&embedded) => Err(RestrictionError::Reserved),
            Zone::Private if public_only => Err(RestrictionError::Private),
            Zone::Private | Zone::Public => Ok(()),
        }
    }

    /// Whether `address`, the peer of a response, is public. A response through a proxy counts as public.
    pub(super) fn is_public(&self, address: Option<SocketAddr>) -> bool {
        address.is_none_or(|address| {
            let address = plain(address.ip());
            let proxies = self.proxies.addresses.read().unwrap_or_else(PoisonError::into_inner);
            Zone::of(address) == Zone::Public || proxies.contains(&address)
        })
    }
}

impl Proxies {
    fn of(urls: impl Iterator<Item = String>) -> Self {
        let mut names = HashSet::new();
        let mut addresses = HashSet::new();
        for text in urls {
            let text = text.trim();
            let url = match text.contains("://") {
                true => Url::parse(text),
                false => Url::parse(&format!("http://{text}")),
            };
            match url.as_ref().ok().and_then(Url::host) {
                Some(Host::Domain(name)) => {
                    names.insert(name.to_owned());
                }
                Some(Host::Ipv4(address)) => {
                    addresses.insert(IpAddr::from(address));
                }
                Some(Host::Ipv6(address)) => {
                    addresses.insert(plain(address.into()));
                }
                None => {}
            }
        }
        Self {
            names,
            addresses: RwLock::new(addresses),
        }
    }
}

/// Whether the host of `url` matches one of `patterns`. The default port of its scheme may be omitted in a pattern.
fn matches_any(patterns: &[HostPattern], url: &Url) -> bool {
    let name = host_with_port(url);
    let with_port = url
        .port_or_known_default()
        .map(|port| format!("{}:{port}", url.host_str().unwrap_or_default()));
    patterns
        .iter()
        .any(|pattern| pattern.admits(&name) || with_port.as_ref().is_some_and(|host| pattern.admits(host)))
}

fn host_with_port(url: &Url) -> String {
    let host = url.host_str().unwrap_or_default();
    url.port()
        .map_or_else(|| host.to_owned(), |port| format!("{host}:{port}"))
}

/// Resolves names with the system resolver and returns only allowed addresses.
pub(super) struct Resolver {
    pub restrictions: Arc<Restrictions>,
    pub public_only: bool,
}

impl Resolve for Resolver {
    fn resolve(&self, name: Name) -> Resolving {
        let (restrictions, public_only) = (Arc::clone(&self.restrictions), self.public_only);
        Box::pin(async move {
            let addresses = tokio::net::lookup_host((name.as_str(), 0)).await?;
            let addresses: Vec<SocketAddr> = addresses.collect();
            if restrictions.proxies.names.contains(name.as_str()) {
                let mut proxy_addresses = restrictions
                    .proxies
                    .addresses
                    .write()
                    .unwrap_or_else(PoisonError::into_inner);
                proxy_addresses.extend(addresses.iter().map(|address| plain(address.ip())));
                return Ok(Box::new(addresses.into_iter()) as Addrs);
            }
            let mut first_error = None;
            let mut allowed = Vec::with_capacity(addresses.len());
            for address in addresses {
                match restrictions.check_address(address.ip(), public_only) {
                    Ok(()) => allowed.push(address),
                    Err(error) => {
                        tracing::debug!(name = name.as_str(), %address, "an address is not allowed");
                        first_error.get_or_insert(error);
                    }
                }
            }
            match first_error {
                Some(first_error) if allowed.is_empty() => Err(first_error.into()),
                _ => Ok(Box::new(allowed.into_iter()) as Addrs),
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn restrictions(networks: &[&str], plain_http: &[&str], hosts: &[&str]) -> Restrictions {
        let patterns = |texts: &[&str]| texts.iter().map(|text| text.parse().unwrap()).collect();
        let networks = networks.iter().map(|text| text.parse().unwrap()).collect();
        Restrictions::new(networks, patterns(plain_http), Vec::new(), patterns(hosts))
    }

    fn check(
        restrictions: &Restrictions,
        url: &str,
        is_redirect: bool,
        public_only: bool,
    ) -> Result<(), RestrictionError> {
        restrictions.check(&url.parse().unwrap(), is_redirect, public_only)
    }

    #[test]
    fn literal_addresses_are_checked_in_all_notations() {
        let none = restrictions(&[], &[], &[]);
        for host in [
            "127.0.0.1",
            "127.1",
            "0x7f.0.0.1",
            "2130706433",
            "017700000001",
            "127.0.0.1.",
            "[::1]",
            "[::ffff:127.0.0.1]",
            "[::ffff:7f00:1]",
            "[64:ff9b::a9fe:a9fe]",
            "169.254.169.254",
            "0",
            "user:password@127.0.0.1",
        ] {
            for url in [format!("https://{host}/v2/"), format!("https://{host}:5000/v2/")] {
                assert_eq!(
                    check(&none, &url, false, false),
                    Err(RestrictionError::Reserved),
                    "{url}"
                );
            }
        }
        assert_eq!(check(&none, "https://10.0.0.1/", false, false), Ok(()));
        assert_eq!(
            check(&none, "https://10.0.0.1/", true, true),
            Err(RestrictionError::Private)
        );
        assert_eq!(check(&none, "https://1.1.1.1/", true, true), Ok(()));
        let some = restrictions(&["127.0.0.0/8", "10.0.0.0/8"], &[], &[]);
        assert_eq!(check(&some, "https://[::ffff:127.0.0.1]/", true, true), Ok(()));
        assert_eq!(check(&some, "https://10.0.0.1/", true, true), Ok(()));
        assert_eq!(
            check(&some, "https://169.254.0.1/", false, false),
            Err(RestrictionError::Reserved)
        );
    }

    #[test]
    fn the_api_server_is_not_allowed() {
        let known = restrictions(&["10.2.0.0/16"], &[], &[]);
        known.set_api_server_addresses(["10.1.0.1", "10.2.0.1"].map(|text| text.parse().unwrap()).into());
        assert_eq!(
            check(&known, "https://10.1.0.1:6443/", false, false),
            Err(RestrictionError::Reserved)
        );
        assert_eq!(
            check(&known, "https://[::ffff:10.1.0.1]/", false, false),
            Err(RestrictionError::Reserved)
        );
        assert_eq!(check(&known, "https://10.2.0.1/", false, false), Ok(()));
        assert_eq!(check(&known, "https://10.1.0.2/", false, false), Ok(()));
    }

    #[test]
    fn redirects_to_plain_http_are_allowed_for_listed_hosts() {
        let some = restrictions(&[], &["storage.example:9000", "mirror.example"], &[]);
        for url in [
            "http://storage.example:9000/x",
            "http://mirror.example/x",
            "https://other.example/x",
        ] {
            assert_eq!(check(&some, url, true, false), Ok(()), "{url}");
        }
        for url in [
            "http://storage.example/x",
            "http://mirror.example:81/x",
            "http://other.example/x",
        ] {
            let error = check(&some, url, true, false).unwrap_err();
            assert!(matches!(error, RestrictionError::PlainHttp(_)), "{url}");
            assert_eq!(check(&some, url, false, false), Ok(()), "it is not a redirect");
        }
    }

    #[test]
    fn redirects_to_private_addresses_are_allowed_for_listed_hosts() {
        let url: Url = "https://storage.example/x".parse().unwrap();
        let open = restrictions(&[], &[], &[]);
        assert!(open.requires_public_address(&url, true) && !open.requires_public_address(&url, false));
        let listed = restrictions(&[], &[], &["storage.example"]);
        assert!(!listed.requires_public_address(&url, true));
        let others = restrictions(&[], &[], &["r.example"]);
        assert!(others.requires_public_address(&url, true) && others.requires_public_address(&url, false));
    }

    #[tokio::test]
    async fn host_names_are_checked_when_they_are_resolved() {
        let resolve = async |restrictions: Restrictions| {
            let resolver = Resolver {
                restrictions: Arc::new(restrictions),
                public_only: false,
            };
            let resolved = resolver.resolve("localhost".parse().unwrap()).await;
            resolved.map(Iterator::count).map_err(|error| error.to_string())
        };
        assert_eq!(
            resolve(restrictions(&[], &[], &[])).await,
            Err(RestrictionError::Reserved.to_string())
        );
        let networks = ["127.0.0.0/8", "::1/128"];
        assert!(resolve(restrictions(&networks, &[], &[])).await.unwrap() > 0);
        let with_proxy = Restrictions {
            proxies: Proxies::of(["http://localhost:3128".to_owned()].into_iter()),
            ..restrictions(&[], &[], &[])
        };
        let loopback = Some("127.0.0.1:3128".parse().unwrap());
        assert!(!with_proxy.is_public(loopback));
        assert_eq!(
            check(&with_proxy, "https://localhost/", false, false),
            Err(RestrictionError::Reserved)
        );
        assert!(resolve(with_proxy).await.unwrap() > 0);
    }
}

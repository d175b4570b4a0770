//! What the hosts that tenants name may have us reach: which addresses, by name or by number, and where they may lead.
//!
//! A host's name is looked at when it is resolved for a connection, so no later answer of its DNS server leads elsewhere
//! than was looked at. Where a proxy is used, it resolves names: only addresses that are written as such are looked at
//! then.

use std::collections::HashSet;
use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, PoisonError, RwLock};

use ipnet::IpNet;
use reqwest::dns::{Addrs, Name, Resolve, Resolving};
use url::{Host, Url};

use super::address_zone::{Zone, plain};
use crate::oci::HostPattern;

/// The variables that name a proxy.
const PROXIES: [&str; 6] = [
    "HTTP_PROXY",
    "http_proxy",
    "HTTPS_PROXY",
    "https_proxy",
    "ALL_PROXY",
    "all_proxy",
];

/// What the administrator lists. Without an entry of a list, nothing of its kind is allowed, but for [`Self::hosts`].
#[derive(Debug, Default)]
pub struct Restrictions {
    /// The networks whose addresses may be reached whatever they are otherwise.
    pub networks: Vec<IpNet>,
    /// The hosts that may be reached by plain HTTP.
    pub plain_http: Vec<HostPattern>,
    /// The hosts to which a registry may have uploads sent.
    pub upload_hosts: Vec<HostPattern>,
    /// The hosts that objects may name; empty for any. What a registry leads to may have a private address if it is one of
    /// them.
    pub hosts: Vec<HostPattern>,
    /// The addresses of the API server.
    api_server: RwLock<HashSet<IpAddr>>,
    proxies: Proxies,
}

/// The proxies of the environment: whoever names one there has connections made to it.
#[derive(Debug, Default)]
struct Proxies {
    names: HashSet<String>,
    addresses: RwLock<HashSet<IpAddr>>,
}

/// Why something may not be reached.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Refusal {
    /// The address is one that nobody but the machine itself or the cluster should reach.
    Reserved,
    /// A public registry leads to a private address, or one to a private address of a host that is not listed.
    Private,
    /// Plain HTTP of this host.
    PlainHttp(String),
}

impl fmt::Display for Refusal {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Reserved => formatter.write_str(
                "the host has an address that objects may not have the operator reach (loopback, link-local, unspecified, multicast, of the platform or of the API server): name another host, or have the administrator list the network in --allow-network",
            ),
            Self::Private => formatter.write_str(
                "the registry leads to a host with a private address, which is not followed: have the administrator list the host in --source-host or the network in --allow-network",
            ),
            Self::PlainHttp(host) => write!(
                formatter,
                "the registry leads to plain HTTP of {host}, which is not followed: have it lead to HTTPS, or have the administrator list the host in --insecure-registry"
            ),
        }
    }
}

impl std::error::Error for Refusal {}

impl Restrictions {
    /// Those of the lists, with the proxies that the environment names.
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
            proxies: Proxies::of(PROXIES.iter().filter_map(|name| std::env::var(name).ok())),
        }
    }

    /// Notes which addresses the API server has, in place of those that were known.
    pub fn set_api_server_addresses(&self, addresses: HashSet<IpAddr>) {
        *self.api_server.write().unwrap_or_else(PoisonError::into_inner) = addresses;
    }

    /// Whether `host` (host[:port]) may be reached by plain HTTP.
    pub fn allows_plain_http(&self, host: &str) -> bool {
        self.plain_http.iter().any(|pattern| pattern.admits(host))
    }

    /// Whether `host` (host[:port]) is listed by itself as one that speaks plain HTTP.
    pub fn serves_plain_http(&self, host: &str) -> bool {
        let mut exact = self.plain_http.iter().filter(|pattern| pattern.is_exact());
        exact.any(|pattern| pattern.admits(host))
    }

    /// Whether uploads may be sent to the host of `url`.
    pub(super) fn allows_upload_to(&self, url: &Url) -> bool {
        lists(&self.upload_hosts, url)
    }

    /// Whether `url`, to which another host leads, may have public addresses only. `led_by_public` is whether that other
    /// host has one.
    pub(super) fn is_for_public_only(&self, url: &Url, led_by_public: bool) -> bool {
        match self.hosts.is_empty() {
            true => led_by_public,
            false => !lists(&self.hosts, url),
        }
    }

    /// That a request to `url` may be sent as far as its text says, when another host leads there (`is_led`).
    pub(super) fn check(&self, url: &Url, is_led: bool, public_only: bool) -> Result<(), Refusal> {
        if is_led && url.scheme() == "http" && !lists(&self.plain_http, url) {
            return Err(Refusal::PlainHttp(name_of(url)));
        }
        match url.host() {
            Some(Host::Ipv4(address)) => self.check_address(address.into(), public_only),
            Some(Host::Ipv6(address)) => self.check_address(address.into(), public_only),
            // Its name is not looked at when it is resolved.
            Some(Host::Domain(name)) if self.proxies.names.contains(name) => Err(Refusal::Reserved),
            Some(Host::Domain(_)) | None => Ok(()),
        }
    }

    fn check_address(&self, address: IpAddr, public_only: bool) -> Result<(), Refusal> {
        let bare = plain(address);
        let listed = |network: &IpNet| network.contains(&address) || network.contains(&bare);
        if self.networks.iter().any(listed) {
            return Ok(());
        }
        let api_server = self.api_server.read().unwrap_or_else(PoisonError::into_inner);
        match Zone::of(bare) {
            Zone::Reserved => Err(Refusal::Reserved),
            _ if api_server.contains(&bare) => Err(Refusal::Reserved),
            Zone::Private if public_only => Err(Refusal::Private),
            Zone::Private | Zone::Public => Ok(()),
        }
    }

    /// Whether whoever answered from `address` is on the internet; what came through a proxy counts as such.
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

/// Whether the host of `url` is one of `patterns`; a port that is the usual one of its scheme need not be written.
fn lists(patterns: &[HostPattern], url: &Url) -> bool {
    let name = name_of(url);
    let with_port = url
        .port_or_known_default()
        .map(|port| format!("{}:{port}", url.host_str().unwrap_or_default()));
    patterns
        .iter()
        .any(|pattern| pattern.admits(&name) || with_port.as_ref().is_some_and(|host| pattern.admits(host)))
}

fn name_of(url: &Url) -> String {
    let host = url.host_str().unwrap_or_default();
    url.port()
        .map_or_else(|| host.to_owned(), |port| format!("{host}:{port}"))
}

/// Resolves names as the system does, and gives only addresses that may be reached.
pub(super) struct Resolver {
    pub restrictions: Arc<Restrictions>,
    pub public_only: bool,
}

impl Resolve for Resolver {
    fn resolve(&self, name: Name) -> Resolving {
        let (restrictions, public_only) = (Arc::clone(&self.restrictions), self.public_only);
        Box::pin(async move {
            let found = tokio::net::lookup_host((name.as_str(), 0)).await?;
            let found: Vec<SocketAddr> = found.collect();
            if restrictions.proxies.names.contains(name.as_str()) {
                let mut addresses = restrictions
                    .proxies
                    .addresses
                    .write()
                    .unwrap_or_else(PoisonError::into_inner);
                addresses.extend(found.iter().map(|address| plain(address.ip())));
                return Ok(Box::new(found.into_iter()) as Addrs);
            }
            let mut refusal = None;
            let mut allowed = Vec::with_capacity(found.len());
            for address in found {
                match restrictions.check_address(address.ip(), public_only) {
                    Ok(()) => allowed.push(address),
                    Err(refused) => {
                        tracing::debug!(name = name.as_str(), %address, "an address is not for objects");
                        refusal.get_or_insert(refused);
                    }
                }
            }
            match refusal {
                Some(refusal) if allowed.is_empty() => Err(refusal.into()),
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

    fn check(restrictions: &Restrictions, url: &str, is_led: bool, public_only: bool) -> Result<(), Refusal> {
        restrictions.check(&url.parse().unwrap(), is_led, public_only)
    }

    #[test]
    fn numbers_are_looked_at_however_they_are_written() {
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
                assert_eq!(check(&none, &url, false, false), Err(Refusal::Reserved), "{url}");
            }
        }
        assert_eq!(check(&none, "https://10.0.0.1/", false, false), Ok(()));
        assert_eq!(check(&none, "https://10.0.0.1/", true, true), Err(Refusal::Private));
        assert_eq!(check(&none, "https://1.1.1.1/", true, true), Ok(()));
        let some = restrictions(&["127.0.0.0/8", "10.0.0.0/8"], &[], &[]);
        assert_eq!(check(&some, "https://[::ffff:127.0.0.1]/", true, true), Ok(()));
        assert_eq!(check(&some, "https://10.0.0.1/", true, true), Ok(()));
        assert_eq!(
            check(&some, "https://169.254.0.1/", false, false),
            Err(Refusal::Reserved)
        );
    }

    #[test]
    fn the_api_server_is_not_for_objects() {
        let known = restrictions(&["10.2.0.0/16"], &[], &[]);
        known.set_api_server_addresses(["10.1.0.1", "10.2.0.1"].map(|text| text.parse().unwrap()).into());
        assert_eq!(
            check(&known, "https://10.1.0.1:6443/", false, false),
            Err(Refusal::Reserved)
        );
        assert_eq!(
            check(&known, "https://[::ffff:10.1.0.1]/", false, false),
            Err(Refusal::Reserved)
        );
        assert_eq!(check(&known, "https://10.2.0.1/", false, false), Ok(()));
        assert_eq!(check(&known, "https://10.1.0.2/", false, false), Ok(()));
    }

    #[test]
    fn plain_http_of_another_host_is_followed_where_it_is_listed() {
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
            let refused = check(&some, url, true, false).unwrap_err();
            assert!(matches!(refused, Refusal::PlainHttp(_)), "{url}");
            assert_eq!(check(&some, url, false, false), Ok(()), "it was named by somebody else");
        }
    }

    #[test]
    fn a_list_of_hosts_says_which_private_ones_are_led_to() {
        let url: Url = "https://storage.example/x".parse().unwrap();
        let open = restrictions(&[], &[], &[]);
        assert!(open.is_for_public_only(&url, true) && !open.is_for_public_only(&url, false));
        let listed = restrictions(&[], &[], &["storage.example"]);
        assert!(!listed.is_for_public_only(&url, true));
        let others = restrictions(&[], &[], &["r.example"]);
        assert!(others.is_for_public_only(&url, true) && others.is_for_public_only(&url, false));
    }

    #[tokio::test]
    async fn names_are_looked_at_when_they_are_resolved() {
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
            Err(Refusal::Reserved.to_string())
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
            Err(Refusal::Reserved)
        );
        assert!(resolve(with_proxy).await.unwrap() > 0);
    }
}

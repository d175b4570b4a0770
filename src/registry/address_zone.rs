//! Classifies IP addresses by the network that they belong to. Pure.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// Metadata and host services of cloud platforms, which only the machine itself may query. Link-local addresses are
/// covered separately.
const PLATFORM: [IpAddr; 5] = [
    // Azure host, Alibaba and Oracle metadata, EC2 and Google metadata over IPv6.
    IpAddr::V4(Ipv4Addr::new(168, 63, 129, 16)),
    IpAddr::V4(Ipv4Addr::new(100, 100, 100, 200)),
    IpAddr::V4(Ipv4Addr::new(192, 0, 0, 192)),
    IpAddr::V6(Ipv6Addr::new(0xfd00, 0xec2, 0, 0, 0, 0, 0, 0x254)),
    IpAddr::V6(Ipv6Addr::new(0xfd20, 0xce, 0, 0, 0, 0, 0, 0x254)),
];

/// A kind of network.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Zone {
    /// The internet.
    Public,
    /// A private network.
    Private,
    /// Loopback, link-local, platform services, multicast and unspecified addresses.
    Reserved,
}

impl Zone {
    /// The zone of `address`, which must be in its [`plain`] form.
    pub fn of(address: IpAddr) -> Self {
        if PLATFORM.contains(&address) {
            return Self::Reserved;
        }
        match address {
            IpAddr::V4(address) => Self::of_v4(address),
            IpAddr::V6(address) => Self::of_v6(address),
        }
    }

    fn of_v4(address: Ipv4Addr) -> Self {
        match address.octets() {
            [0 | 127 | 224..=255, ..] | [169, 254, ..] => Self::Reserved,
            // RFC 1918, RFC 6598, RFC 6890 and RFC 2544.
            [10, ..]
            | [172, 16..=31, ..]
            | [192, 168, ..]
            | [100, 64..=127, ..]
            | [192, 0, 0, _]
            | [198, 18 | 19, ..] => Self::Private,
            _ => Self::Public,
        }
    }

    fn of_v6(address: Ipv6Addr) -> Self {
        let first = address.segments()[0];
        match first {
            _ if address.is_unspecified() || address.is_loopback() || address.is_multicast() => Self::Reserved,
            0xfe80..=0xfebf => Self::Reserved,
            // Unique local (RFC 4193) and the former site-local range.
            0xfc00..=0xfdff | 0xfec0..=0xfeff => Self::Private,
            _ => Self::Public,
        }
    }
}

/// Returns the IPv4 address that is embedded in the IPv6 address `address`, otherwise `address` unchanged. Embedded
/// forms: mapped and compatible (RFC 4291), NAT64 (RFC 6052, RFC 8215), translated (RFC 2765) and 6to4 (RFC 3056).
pub(super) fn plain(address: IpAddr) -> IpAddr {
    let IpAddr::V6(v6) = address else {
        return address;
    };
    let v4 = |high: u16, low: u16| {
        let ([a, b], [c, d]) = (high.to_be_bytes(), low.to_be_bytes());
        IpAddr::V4(Ipv4Addr::new(a, b, c, d))
    };
    match v6.segments() {
        // `::` and `::1` embed no IPv4 address.
        [0, 0, 0, 0, 0, 0, 0, 0 | 1] => address,
        [0, 0, 0, 0, 0, 0 | 0xffff, high, low]
        | [0, 0, 0, 0, 0xffff, 0, high, low]
        | [0x64, 0xff9b, 0, 0, 0, 0, high, low]
        | [0x64, 0xff9b, 1, _, _, _, high, low]
        | [0x2002, high, low, ..] => v4(high, low),
        _ => address,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn embedded_ipv4_addresses_get_the_zone_of_the_ipv4_address() {
        for (zone, addresses) in [
            (
                Zone::Reserved,
                &[
                    "0.0.0.0",
                    "0.1.2.3",
                    "127.0.0.1",
                    "127.255.0.3",
                    "169.254.169.254",
                    "224.0.0.1",
                    "255.255.255.255",
                    "240.0.0.1",
                    "168.63.129.16",
                    "100.100.100.200",
                    "::",
                    "::1",
                    "fe80::1",
                    "febf::1",
                    "ff02::1",
                    "fd00:ec2::254",
                    "::ffff:127.0.0.1",
                    "::127.0.0.1",
                    "::ffff:0:127.0.0.1",
                    "64:ff9b::127.0.0.1",
                    "64:ff9b::169.254.169.254",
                    "64:ff9b:1::7f00:1",
                    "2002:7f00:1::1",
                    "2002:a9fe:a9fe::",
                ][..],
            ),
            (
                Zone::Private,
                &[
                    "10.0.0.1",
                    "172.16.0.1",
                    "172.31.255.255",
                    "192.168.1.1",
                    "100.64.0.1",
                    "fc00::1",
                    "fdff::1",
                    "fec0::1",
                    "::ffff:10.0.0.1",
                    "64:ff9b::10.0.0.1",
                    "2002:c0a8:101::",
                ],
            ),
            (
                Zone::Public,
                &[
                    "1.1.1.1",
                    "172.15.0.1",
                    "172.32.0.1",
                    "100.63.0.1",
                    "100.128.0.1",
                    "169.253.0.1",
                    "223.255.255.255",
                    "2606:4700::1111",
                    "64:ff9b::1.1.1.1",
                    "2002:101:101::",
                ],
            ),
        ] {
            for text in addresses {
                assert_eq!(Zone::of(plain(text.parse().unwrap())), zone, "{text}");
            }
        }
    }
}

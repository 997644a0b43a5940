//! The addresses that may be called.
//!
//! Only public unicast addresses may be called, unless the operator lists a network. An IPv4 address inside an IPv6 address
//! is checked as an IPv4 address. This covers IPv4-mapped addresses and the well-known NAT64 prefix, through which hosts
//! without IPv4 reach the IPv4 internet.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use crate::error::{Error, Result};

/// A network, for example `10.0.0.0/8` or `fd00::/8`, or a single address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Network {
    address: IpAddr,
    prefix: u8,
}

impl Network {
    /// Reads a network in CIDR notation, or a single address.
    ///
    /// # Errors
    /// 22023.
    pub fn parse(text: &str) -> Result<Network> {
        let refuse = || {
            Error::invalid(format!("malformed network \"{text}\"")).hint("A network looks like 10.0.0.0/8 or fd00::/8.")
        };
        let (address, prefix) = match text.split_once('/') {
            Some((address, prefix)) => (address, Some(prefix.parse::<u8>().map_err(|_| refuse())?)),
            None => (text, None),
        };
        let address: IpAddr = address.parse().map_err(|_| refuse())?;
        let longest = if address.is_ipv4() { 32 } else { 128 };
        let prefix = prefix.unwrap_or(longest);
        if prefix > longest { Err(refuse()) } else { Ok(Network { address, prefix }) }
    }

    /// Returns whether the network contains `address`. IPv4-mapped addresses count as IPv4.
    pub fn contains(&self, address: IpAddr) -> bool {
        let shift4 = 32 - u32::from(self.prefix.min(32));
        let shift6 = 128 - u32::from(self.prefix);
        match (self.address.to_canonical(), address.to_canonical()) {
            (IpAddr::V4(a), IpAddr::V4(b)) => (a.to_bits() ^ b.to_bits()).checked_shr(shift4).unwrap_or(0) == 0,
            (IpAddr::V6(a), IpAddr::V6(b)) => (a.to_bits() ^ b.to_bits()).checked_shr(shift6).unwrap_or(0) == 0,
            _ => false,
        }
    }
}

/// The operator's rules for outgoing connections.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Egress {
    allow: Vec<Network>,
    /// Ranges of ports that may be called. Empty: any port.
    ports: Vec<(u16, u16)>,
}

impl Egress {
    /// Reads the comma-separated list of networks that may be called although they are not public.
    ///
    /// # Errors
    /// 22023 that names the malformed entry.
    pub fn parse(list: &str) -> Result<Egress> {
        let allow = list.split(',').map(str::trim).filter(|entry| !entry.is_empty()).map(Network::parse);
        Ok(Egress { allow: allow.collect::<Result<_>>()?, ports: Vec::new() })
    }

    /// Restricts the ports to this comma-separated list (`443, 8000-8999`). An empty list allows any port.
    ///
    /// # Errors
    /// 22023 that names the malformed entry.
    pub fn with_ports(mut self, list: &str) -> Result<Egress> {
        self.ports.clear();
        for entry in list.split(',').map(str::trim).filter(|entry| !entry.is_empty()) {
            let (low, high) = entry.split_once('-').unwrap_or((entry, entry));
            match (low.trim().parse(), high.trim().parse()) {
                (Ok(low), Ok(high)) if low <= high => self.ports.push((low, high)),
                _ => {
                    return Err(Error::invalid(format!("malformed port \"{entry}\""))
                        .hint("A list of ports looks like 443, 8000-8999."));
                }
            }
        }
        Ok(self)
    }

    /// Returns whether this port of `address` may be called.
    pub fn allows_port(&self, address: IpAddr, port: u16) -> bool {
        let allowed = self.ports.is_empty() || self.ports.iter().any(|(low, high)| (*low..=*high).contains(&port));
        allowed && self.allows(address)
    }

    /// Returns whether `address` may be called.
    pub fn allows(&self, address: IpAddr) -> bool {
        self.allow.iter().any(|network| network.contains(address)) || is_public(address)
    }
}

const fn v4(a: u8, b: u8, c: u8, d: u8, prefix: u8) -> Network {
    Network { address: IpAddr::V4(Ipv4Addr::new(a, b, c, d)), prefix }
}

const fn v6(a: u16, b: u16, c: u16, prefix: u8) -> Network {
    Network { address: IpAddr::V6(Ipv6Addr::new(a, b, c, 0, 0, 0, 0, 0)), prefix }
}

/// The networks that are not globally reachable unicast, from IANA's special-purpose registries (RFC 6890 and its updates).
const FORBIDDEN: &[Network] = &[
    v4(0, 0, 0, 0, 8),        // this network
    v4(10, 0, 0, 0, 8),       // private
    v4(100, 64, 0, 0, 10),    // shared (CGNAT)
    v4(127, 0, 0, 0, 8),      // loopback
    v4(169, 254, 0, 0, 16),   // link-local, cloud metadata
    v4(172, 16, 0, 0, 12),    // private
    v4(192, 0, 0, 0, 24),     // protocol assignments
    v4(192, 0, 2, 0, 24),     // documentation
    v4(192, 31, 196, 0, 24),  // AS112
    v4(192, 52, 193, 0, 24),  // AMT
    v4(192, 88, 99, 0, 24),   // 6to4 relay
    v4(192, 168, 0, 0, 16),   // private
    v4(192, 175, 48, 0, 24),  // AS112
    v4(198, 18, 0, 0, 15),    // benchmarking
    v4(198, 51, 100, 0, 24),  // documentation
    v4(203, 0, 113, 0, 24),   // documentation
    v4(224, 0, 0, 0, 4),      // multicast
    v4(240, 0, 0, 0, 4),      // reserved, broadcast
    v6(0, 0, 0, 8),           // unspecified, loopback, IPv4-compatible
    v6(0x64, 0xff9b, 1, 48),  // local-use NAT64
    v6(0x100, 0, 0, 64),      // discard
    v6(0x2001, 0, 0, 23),     // protocol assignments, Teredo and ORCHID among them
    v6(0x2001, 0xdb8, 0, 32), // documentation
    v6(0x2002, 0, 0, 16),     // 6to4
    v6(0x3fff, 0, 0, 20),     // documentation
    v6(0x5f00, 0, 0, 16),     // segment routing
    v6(0xfc00, 0, 0, 7),      // unique local
    v6(0xfe80, 0, 0, 10),     // link-local
    v6(0xfec0, 0, 0, 10),     // site-local
    v6(0xff00, 0, 0, 8),      // multicast
];

/// Returns whether an address is public unicast.
pub fn is_public(address: IpAddr) -> bool {
    let address = match address.to_canonical() {
        IpAddr::V6(v6) => embedded_v4(v6).map_or(IpAddr::V6(v6), IpAddr::V4),
        v4 => v4,
    };
    !FORBIDDEN.iter().any(|network| network.contains(address))
}

/// Returns the IPv4 address inside an address of the well-known NAT64 prefix (RFC 6052).
fn embedded_v4(address: Ipv6Addr) -> Option<Ipv4Addr> {
    let bits = address.to_bits();
    (bits >> 32 == 0x0064_ff9b_0000_0000_0000_0000).then(|| Ipv4Addr::from_bits((bits & 0xffff_ffff) as u32))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn public(text: &str) -> bool {
        is_public(text.parse().unwrap())
    }

    #[test]
    fn forbidden_ranges() {
        for address in [
            "0.0.0.0",
            "10.1.2.3",
            "100.64.0.1",
            "100.127.255.255",
            "127.0.0.1",
            "127.9.9.9",
            "169.254.169.254",
            "172.16.0.1",
            "172.31.255.255",
            "192.0.0.1",
            "192.0.2.1",
            "192.88.99.1",
            "192.168.1.1",
            "198.18.0.1",
            "198.19.255.255",
            "198.51.100.7",
            "203.0.113.7",
            "224.0.0.1",
            "239.1.1.1",
            "240.0.0.1",
            "255.255.255.255",
            "::",
            "::1",
            "::7f00:1",
            "::ffff:127.0.0.1",
            "::ffff:10.0.0.1",
            "64:ff9b::7f00:1",
            "64:ff9b::a00:1",
            "64:ff9b:1::1",
            "100::1",
            "2001::1",
            "2001:db8::1",
            "2002:808:808::1",
            "2002:c0a8:101::1",
            "3fff::1",
            "5f00::1",
            "fc00::1",
            "fd12:3456::1",
            "fe80::1",
            "fec0::1",
            "ff02::1",
        ] {
            assert!(!public(address), "{address}");
        }
    }

    #[test]
    fn public_addresses() {
        for address in [
            "1.1.1.1",
            "8.8.8.8",
            "100.63.255.255",
            "100.128.0.0",
            "172.15.255.255",
            "172.32.0.0",
            "192.0.1.1",
            "198.17.255.255",
            "198.20.0.0",
            "223.255.255.255",
            "2606:4700::1111",
            "2a00:1450::1",
            "64:ff9b::808:808",
            "::ffff:8.8.8.8",
        ] {
            assert!(public(address), "{address}");
        }
    }

    #[test]
    fn the_operator_can_allow_a_network() {
        let egress = Egress::parse(" 127.0.0.0/8, fd00::/8 ,10.1.2.3").unwrap();
        for (address, allowed) in [
            ("127.0.0.1", true),
            ("::ffff:127.0.0.1", true),
            ("fd00::1", true),
            ("10.1.2.3", true),
            ("10.1.2.4", false),
            ("::1", false),
            ("8.8.8.8", true),
        ] {
            assert_eq!(egress.allows(address.parse().unwrap()), allowed, "{address}");
        }
        assert!(!Egress::default().allows("127.0.0.1".parse().unwrap()));
        for list in ["10.0.0.0/33", "x", "10.0.0/8", "fd00::/129", "10.0.0.0/-1", "10.0.0.0/"] {
            assert!(Egress::parse(list).is_err(), "{list}");
        }
        assert!(Network::parse("0.0.0.0/0").unwrap().contains("10.0.0.1".parse().unwrap()));
        assert!(Network::parse("::/0").unwrap().contains("fd00::1".parse().unwrap()));
    }

    #[test]
    fn the_operator_can_limit_the_ports() {
        let egress = Egress::default().with_ports("443, 8000-8999").unwrap();
        let public = "8.8.8.8".parse().unwrap();
        for (port, allowed) in [(443, true), (80, false), (7999, false), (8000, true), (8999, true), (9000, false)] {
            assert_eq!(egress.allows_port(public, port), allowed, "{port}");
        }
        assert!(!egress.allows_port("10.0.0.1".parse().unwrap(), 443));
        assert!(Egress::default().allows_port(public, 1));
        for list in ["x", "1-", "2-1", "70000"] {
            assert!(Egress::default().with_ports(list).is_err(), "{list}");
        }
    }

    proptest! {
        #[test]
        fn a_mapped_address_is_judged_as_what_it_is(bits: u32) {
            let v4 = Ipv4Addr::from_bits(bits);
            prop_assert_eq!(is_public(v4.into()), is_public(v4.to_ipv6_mapped().into()));
            let nat64 = Ipv6Addr::from_bits(0x0064_ff9b_u128 << 96 | u128::from(bits));
            prop_assert_eq!(is_public(v4.into()), is_public(nat64.into()));
        }
    }
}

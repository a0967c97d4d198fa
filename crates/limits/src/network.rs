//! The network of an address.

use std::net::{IpAddr, Ipv6Addr};

/// The network by which an address's failures are counted. An IPv6 client owns the 2^64 addresses of its /64 (RFC 6177, and RFC
/// 4291 §2.5.1), so the /64 counts as one; an IPv4 address counts by itself, also when it is written as an IPv6 address (RFC
/// 4291 §2.5.5.2).
#[must_use]
pub fn network_of(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(address) => Ipv6Addr::from_bits(address.to_bits() >> 64 << 64).into(),
        address => address,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_host_is_one_network_however_its_address_is_written() {
        for (address, network) in [
            ("192.0.2.1", "192.0.2.1"),
            ("::ffff:192.0.2.1", "192.0.2.1"),
            ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::"),
            ("2001:db8:1:2::", "2001:db8:1:2::"),
            ("2001:db8:1:3:ffff:ffff:ffff:ffff", "2001:db8:1:3::"),
            ("::1", "::"),
        ] {
            let network_of = network_of(address.parse().expect("an address"));
            assert_eq!(network_of.to_string(), network, "{address}");
        }
    }
}

//! The policy of addresses that a node may advertise: clients and other nodes are sent there, so an address must be one at
//! which a node can be, and not one with a meaning of its own on the machine or in the network of whoever dials it.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use thiserror::Error;

/// Metadata services of clouds outside the link-local range: AWS over IPv6, GCP over IPv6, Alibaba, Azure, Oracle.
const METADATA: [IpAddr; 5] = [
    IpAddr::V6(Ipv6Addr::new(0xfd00, 0xec2, 0, 0, 0, 0, 0, 0x254)),
    IpAddr::V6(Ipv6Addr::new(0xfd20, 0xce, 0, 0, 0, 0, 0, 0x254)),
    IpAddr::V4(Ipv4Addr::new(100, 100, 100, 200)),
    IpAddr::V4(Ipv4Addr::new(168, 63, 129, 16)),
    IpAddr::V4(Ipv4Addr::new(192, 0, 0, 192)),
];

/// An address that a node must not advertise.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("{address} is {kind}; start the node with --advertise and an address that clients can dial")]
pub struct Forbidden {
    address: SocketAddr,
    kind: &'static str,
}

/// Checks the addresses of a node. `same_host` tells that the node runs on the master's machine, where loopback is an
/// address like any other.
///
/// # Errors
/// The first address that is not allowed.
pub fn check(addresses: &[SocketAddr], same_host: bool) -> Result<(), Forbidden> {
    for address in addresses {
        if let Some(kind) = forbidden(address.ip().to_canonical(), same_host) {
            return Err(Forbidden { address: *address, kind });
        }
    }
    Ok(())
}

fn forbidden(ip: IpAddr, same_host: bool) -> Option<&'static str> {
    let link_local = match ip {
        IpAddr::V4(ip) => ip.is_link_local(),
        IpAddr::V6(ip) => ip.is_unicast_link_local(),
    };
    let reserved = match ip {
        // "This network" and class E (RFC 1122, section 3.2.1.3; RFC 1112, section 4).
        IpAddr::V4(ip) => ip.octets()[0] == 0 || ip.octets()[0] >= 240,
        IpAddr::V6(_) => false,
    };
    match ip {
        ip if ip.is_unspecified() => Some("the unspecified address"),
        IpAddr::V4(ip) if ip.is_broadcast() => Some("the broadcast address"),
        ip if ip.is_multicast() => Some("a multicast address"),
        // 169.254.169.254 is among these.
        _ if link_local => Some("a link-local address"),
        ip if METADATA.contains(&ip) => Some("the address of a cloud's metadata service"),
        _ if reserved => Some("a reserved address"),
        ip if ip.is_loopback() && !same_host => {
            Some("a loopback address, which only nodes on the master's host may advertise")
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_with_a_meaning_of_their_own_are_refused() {
        for (ip, elsewhere, here) in [
            ("192.0.2.1", true, true),
            ("10.0.0.1", true, true),
            ("fd00::1", true, true),
            ("2001:db8::1", true, true),
            ("127.0.0.1", false, true),
            ("127.8.0.1", false, true),
            ("::1", false, true),
            ("::ffff:127.0.0.1", false, true),
            ("0.0.0.0", false, false),
            ("::", false, false),
            ("0.1.2.3", false, false),
            ("169.254.169.254", false, false),
            ("::ffff:169.254.169.254", false, false),
            ("169.254.1.1", false, false),
            ("fe80::1", false, false),
            ("fd00:ec2::254", false, false),
            ("100.100.100.200", false, false),
            ("224.0.0.1", false, false),
            ("ff02::1", false, false),
            ("255.255.255.255", false, false),
            ("240.0.0.1", false, false),
        ] {
            let good: SocketAddr = ([192, 0, 2, 9], 7443).into();
            let addresses = [good, SocketAddr::new(ip.parse().expect("an address"), 7443)];
            assert_eq!([check(&addresses, false).is_ok(), check(&addresses, true).is_ok()], [elsewhere, here], "{ip}");
        }
        let error = check(&[([169, 254, 169, 254], 1).into()], true).expect_err("refused").to_string();
        assert!(error.starts_with("169.254.169.254:1 is a link-local address") && error.contains("--advertise"));
    }
}

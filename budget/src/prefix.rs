//! The source prefix of an address: the part that one client cannot vary.

use std::{
    fmt,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    str::FromStr,
};

use thiserror::Error;

/// The prefix of an address. Addresses with equal prefixes count as one client.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Prefix {
    /// The address with all bits after the prefix cleared.
    network: IpAddr,
    /// Length in bits.
    length: u8,
}

/// An address without its prefix length where the prefix is the whole address, else CIDR notation.
impl fmt::Display for Prefix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.network, self.length) {
            (IpAddr::V4(network), 32) => write!(f, "{network}"),
            (network, length) => write!(f, "{network}/{length}"),
        }
    }
}

/// Lengths of the prefixes, in bits, for both families.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PrefixLengths {
    v4: u8,
    v6: u8,
}

/// An IPv4 address, and what an IPv6 provider gives to one household at least.
impl Default for PrefixLengths {
    fn default() -> Self {
        Self { v4: 32, v6: 64 }
    }
}

impl PrefixLengths {
    /// The prefix of an address. An IPv4-mapped IPv6 address counts as IPv4.
    pub fn prefix(self, address: IpAddr) -> Prefix {
        match address.to_canonical() {
            IpAddr::V4(address) => {
                let mask = u32::MAX.checked_shl(32 - u32::from(self.v4)).unwrap_or(0);
                Prefix { network: Ipv4Addr::from_bits(address.to_bits() & mask).into(), length: self.v4 }
            }
            IpAddr::V6(address) => {
                let mask = u128::MAX.checked_shl(128 - u32::from(self.v6)).unwrap_or(0);
                Prefix { network: Ipv6Addr::from_bits(address.to_bits() & mask).into(), length: self.v6 }
            }
        }
    }
}

/// `IPV4,IPV6`, for example `32,64`.
impl fmt::Display for PrefixLengths {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{},{}", self.v4, self.v6)
    }
}

/// A text that is not two prefix lengths.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("`{0}`: write the lengths of IPv4 (1 to 32) and IPv6 prefixes (1 to 128), for example 32,64")]
pub struct PrefixLengthsError(String);

impl FromStr for PrefixLengths {
    type Err = PrefixLengthsError;

    fn from_str(text: &str) -> Result<Self, PrefixLengthsError> {
        let lengths = text.split_once(',').and_then(|(v4, v6)| {
            let (v4, v6) = (v4.trim().parse().ok()?, v6.trim().parse().ok()?);
            ((1..=32).contains(&v4) && (1..=128).contains(&v6)).then_some(Self { v4, v6 })
        });
        lengths.ok_or_else(|| PrefixLengthsError(text.to_owned()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prefixes_are_compared_and_shown() {
        let usual = PrefixLengths::default();
        let wide: PrefixLengths = "24, 56".parse().expect("lengths");
        let all: PrefixLengths = "1,1".parse().expect("lengths");
        for (lengths, address, shown) in [
            (usual, "192.0.2.9", "192.0.2.9"),
            (usual, "::ffff:192.0.2.9", "192.0.2.9"),
            (usual, "2001:db8:1:2:3:4:5:6", "2001:db8:1:2::/64"),
            (wide, "192.0.2.9", "192.0.2.0/24"),
            (wide, "2001:db8:1:2ff::1", "2001:db8:1:200::/56"),
            (all, "200.1.1.1", "128.0.0.0/1"),
            (all, "ff02::1", "8000::/1"),
        ] {
            assert_eq!(lengths.prefix(address.parse().expect("an address")).to_string(), shown);
        }
        let of = |address: &str| usual.prefix(address.parse().expect("an address"));
        assert_eq!(of("2001:db8::1"), of("2001:db8::ffff:1"));
        assert_ne!(of("2001:db8::1"), of("2001:db8:0:1::1"));
        assert_ne!(of("127.0.0.1"), of("127.0.0.2"));
    }

    #[test]
    fn lengths_are_parsed() {
        assert_eq!("32,64".parse(), Ok(PrefixLengths::default()));
        assert_eq!(PrefixLengths::default().to_string(), "32,64");
        for wrong in ["", "32", "0,64", "33,64", "32,0", "32,129", "32;64", "32,64,1"] {
            assert_eq!(wrong.parse::<PrefixLengths>(), Err(PrefixLengthsError(wrong.to_owned())));
        }
    }
}

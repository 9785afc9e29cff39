//! Set-up information and seats, validated: a client checks messages of the master and of nodes.

use std::{
    net::{IpAddr, SocketAddr},
    ops::Range,
    time::Duration,
};

use super::{
    MAX_ADDRESSES,
    catalog::is_media_type,
    invalid::{Check, Invalid},
};
use crate::{
    id::{ContentId, NodeName},
    pb::v1,
    ticket::MAX_TOKEN_BYTES,
    title::Title,
    tree::{GROUP, MAX_SIZE, PAGE_GROUPS},
    units::Bitrate,
};

/// The set-up information of a session.
#[derive(Clone, Debug, PartialEq)]
pub struct SetupInfo {
    /// The title.
    pub title: Title,
    /// Its content; `None` while the node has not hashed it.
    pub content: Option<ContentId>,
    /// Bytes of the whole title, at least 1.
    pub size: u64,
    /// For example `video/mp4`.
    pub media_type: String,
    /// Milliseconds, 0 when unknown.
    pub duration_ms: u64,
    /// Mean rate.
    pub bitrate: Bitrate,
    /// Whether it plays before it is whole.
    pub streamable: bool,
    /// The bytes that come: whole groups, but for the title's last.
    pub range: Range<u64>,
}

impl TryFrom<v1::Setup> for SetupInfo {
    type Error = Invalid;

    fn try_from(setup: v1::Setup) -> Result<Self, Invalid> {
        let mut check = Check::default();
        let title = check.take("title", Title::parse(&setup.title));
        let content = if setup.content_id.is_empty() {
            None
        } else {
            check.take("content_id", setup.content_id.parse::<ContentId>())
        };
        check.require((1..=MAX_SIZE).contains(&setup.size), "size", || format!("1 to {MAX_SIZE} bytes"));
        check.require(is_media_type(&setup.media_type), "media_type", || "expected type/subtype".to_owned());
        check.require(u64::from(setup.page_groups) == PAGE_GROUPS, "page_groups", || {
            format!("this client knows pages of {PAGE_GROUPS} groups only")
        });
        let range = setup.range.unwrap_or_default();
        let whole = range.start.is_multiple_of(GROUP) && (range.end.is_multiple_of(GROUP) || range.end == setup.size);
        check.require(whole && range.start < range.end && range.end <= setup.size, "range", || {
            "expected whole groups within the title".to_owned()
        });
        check.done(title.map(|title| Self {
            title,
            content,
            size: setup.size,
            media_type: setup.media_type,
            duration_ms: setup.duration_ms,
            bitrate: Bitrate(setup.bitrate_bps),
            streamable: setup.streamable,
            range: range.start..range.end,
        }))
    }
}

/// Whether an address is that of one machine: a client sends to no group of them.
fn is_dialled(address: &SocketAddr) -> bool {
    let ip = address.ip().to_canonical();
    let broadcast = matches!(ip, IpAddr::V4(v4) if v4.is_broadcast());
    !(address.port() == 0 || ip.is_unspecified() || ip.is_multicast() || broadcast)
}

/// One place to get a title, validated.
#[derive(Clone, PartialEq, Eq)]
pub struct SeatAddress {
    /// The node.
    pub node: NodeName,
    /// Where to dial, best first.
    pub addresses: Vec<SocketAddr>,
    /// SHA-256 of the certificates to accept.
    pub pins: Vec<[u8; 32]>,
    /// The right to the title there.
    pub ticket: String,
    /// How long a session may run on it; `None` for ever.
    pub lifetime: Option<Duration>,
}

impl std::fmt::Debug for SeatAddress {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SeatAddress")
            .field("node", &self.node)
            .field("addresses", &self.addresses)
            .finish_non_exhaustive()
    }
}

impl TryFrom<v1::Seat> for SeatAddress {
    type Error = Invalid;

    fn try_from(seat: v1::Seat) -> Result<Self, Invalid> {
        let mut check = Check::default();
        let node = check.take("node", NodeName::parse(&seat.node));
        let parsed = seat.addresses.iter().take(MAX_ADDRESSES).filter_map(|text| text.parse().ok());
        let addresses: Vec<SocketAddr> = parsed.filter(is_dialled).collect();
        check.require(!addresses.is_empty(), "addresses", || "no address that can be dialled".to_owned());
        let pins: Vec<[u8; 32]> = seat
            .certificate_sha256
            .iter()
            .take(MAX_ADDRESSES)
            .filter_map(|text| {
                let mut pin = [0; 32];
                hex::decode_to_slice(text, &mut pin).ok().map(|()| pin)
            })
            .collect();
        check.require(!pins.is_empty(), "certificate_sha256", || "no certificate to pin".to_owned());
        let ticket = seat.ticket;
        check.require((1..=MAX_TOKEN_BYTES).contains(&ticket.len()), "ticket", || "missing or too long".to_owned());
        let lifetime = (seat.lifetime_s > 0).then(|| Duration::from_secs(seat.lifetime_s));
        check.done(node.map(|node| Self { node, addresses, pins, ticket, lifetime }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn setups() {
        let good = v1::Setup {
            title: "a".into(),
            content_id: "00".repeat(32),
            size: GROUP + 1,
            media_type: "video/mp4".into(),
            range: Some(v1::ByteRange { start: 0, end: GROUP + 1 }),
            page_groups: 256,
            ..v1::Setup::default()
        };
        assert!(SetupInfo::try_from(good.clone()).is_ok());
        let range = |start, end| Some(v1::ByteRange { start, end });
        for (what, wrong) in [
            ("crooked start", v1::Setup { range: range(1, GROUP), ..good.clone() }),
            ("crooked end", v1::Setup { range: range(0, 5), ..good.clone() }),
            ("past the end", v1::Setup { range: range(0, 2 * GROUP), ..good.clone() }),
            ("nothing", v1::Setup { range: range(GROUP, GROUP), ..good.clone() }),
            ("no range", v1::Setup { range: None, ..good.clone() }),
            ("empty title", v1::Setup { size: 0, ..good.clone() }),
            ("other pages", v1::Setup { page_groups: 1, ..good.clone() }),
            ("content id", v1::Setup { content_id: "00".into(), ..good.clone() }),
        ] {
            assert!(SetupInfo::try_from(wrong).is_err(), "{what}");
        }
    }

    #[test]
    fn seats() {
        let good = v1::Seat {
            node: "n".into(),
            addresses: vec!["[::1]:1".into(), "nonsense".into()],
            certificate_sha256: vec!["00".repeat(32)],
            ticket: "t".into(),
            zone: String::new(),
            lifetime_s: 0,
        };
        assert_eq!(SeatAddress::try_from(good.clone()).map(|seat| seat.addresses.len()), Ok(1));
        for wrong in ["127.0.0.1:0", "0.0.0.0:1", "[::]:1", "224.0.0.1:1", "[ff02::1]:1", "255.255.255.255:1"] {
            assert!(
                SeatAddress::try_from(v1::Seat { addresses: vec![wrong.into()], ..good.clone() }).is_err(),
                "{wrong}"
            );
        }
        for wrong in [
            v1::Seat { addresses: vec![], ..good.clone() },
            v1::Seat { certificate_sha256: vec!["00".into()], ..good.clone() },
            v1::Seat { ticket: "t".repeat(5000), ..good.clone() },
            v1::Seat { ticket: String::new(), ..good.clone() },
        ] {
            assert!(SeatAddress::try_from(wrong).is_err());
        }
    }
}

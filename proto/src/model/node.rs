//! What a node tells its master, validated.

use std::{net::SocketAddr, time::Duration};

use super::{
    MAX_ADDRESSES, MAX_PAGE_ENTRIES,
    equipment::Equipment,
    invalid::{Check, Invalid},
};
use crate::{
    id::{self, BootId, ContentId, NodeName},
    pb::v1,
    title::Title,
    tree,
    units::{self, Bitrate, MAX_RATE},
};

/// A node introduces itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hello {
    /// Its name; the caller compares it with the certificate.
    pub node: NodeName,
    /// This start of it.
    pub boot: BootId,
    /// Its software.
    pub version: String,
    /// Its zone, empty for none.
    pub zone: String,
    /// What the operator allows.
    pub capacity: Bitrate,
    /// Where and how to dial it.
    pub presence: Presence,
    /// Counts the attachments of this start, from 1.
    pub attachment: u64,
    /// What it can do.
    pub equipment: Equipment,
    /// Bytes of disk for copies that the master orders.
    pub replica_bytes: u64,
}

/// Where and how to dial a node, and whether it wants to be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Presence {
    /// QUIC addresses, best first.
    pub addresses: Vec<SocketAddr>,
    /// SHA-256 of the media certificates, current first.
    pub certificates: Vec<[u8; 32]>,
    /// Takes no new sessions.
    pub draining: bool,
    /// How long the sessions that still run then may do so.
    pub drain_left: Duration,
}

impl TryFrom<v1::Hello> for Hello {
    type Error = Invalid;

    fn try_from(hello: v1::Hello) -> Result<Self, Invalid> {
        let mut check = Check::default();
        let node = check.take("node", NodeName::parse(&hello.node));
        let boot = check.take("boot_id", hello.boot_id.parse::<BootId>());
        let zone = check.take("zone", id::zone(&hello.zone)).unwrap_or_default().to_owned();
        check.require((1..=MAX_RATE).contains(&hello.capacity_bps), "capacity_bps", || {
            format!("1 to {MAX_RATE} bit/s, not {}", hello.capacity_bps)
        });
        check.require(hello.attachment > 0, "attachment", || "counts from 1".to_owned());
        let version = hello.version.chars().filter(|c| !c.is_control()).take(64).collect();
        let presence = check.take("presence", hello.presence.unwrap_or_default().try_into());
        let equipment = check.take("equipment", hello.equipment.unwrap_or_default().try_into()).unwrap_or_default();
        let whole = node.zip(boot).zip(presence).map(|((node, boot), presence)| Self {
            node,
            boot,
            version,
            zone,
            capacity: Bitrate(hello.capacity_bps),
            presence,
            attachment: hello.attachment,
            equipment,
            replica_bytes: hello.replica_bytes,
        });
        check.done(whole)
    }
}

impl TryFrom<v1::Presence> for Presence {
    type Error = Invalid;

    fn try_from(presence: v1::Presence) -> Result<Self, Invalid> {
        let mut check = Check::default();
        let addresses: Vec<SocketAddr> = presence
            .addresses
            .iter()
            .take(MAX_ADDRESSES + 1)
            .enumerate()
            .filter_map(|(i, text)| {
                let address = text.parse::<SocketAddr>().map_err(|_| "expected IP:PORT");
                check.take(&format!("addresses[{i}]"), address)
            })
            .collect();
        check.require((1..=MAX_ADDRESSES).contains(&presence.addresses.len()), "addresses", || {
            format!("1 to {MAX_ADDRESSES}, not {}", presence.addresses.len())
        });
        for (i, address) in addresses.iter().enumerate() {
            check.require(address.port() != 0 && !address.ip().is_unspecified(), &format!("addresses[{i}]"), || {
                format!("{address} cannot be dialled; set the address to advertise")
            });
        }
        check.require((1..=MAX_ADDRESSES).contains(&presence.certificate_sha256.len()), "certificate_sha256", || {
            format!("1 to {MAX_ADDRESSES}, not {}", presence.certificate_sha256.len())
        });
        let certificates = presence.certificate_sha256.iter().take(MAX_ADDRESSES).enumerate();
        let certificates = certificates
            .filter_map(|(i, hash)| {
                let hash = <[u8; 32]>::try_from(hash.as_slice()).map_err(|_| "expected 32 bytes");
                check.take(&format!("certificate_sha256[{i}]"), hash)
            })
            .collect();
        let drain_left = Duration::from_millis(presence.drain_left_ms);
        check.done(Some(Self { addresses, certificates, draining: presence.draining, drain_left }))
    }
}

impl Presence {
    /// As a message.
    pub fn to_pb(&self) -> v1::Presence {
        v1::Presence {
            addresses: self.addresses.iter().map(ToString::to_string).collect(),
            certificate_sha256: self.certificates.iter().map(|hash| hash.to_vec()).collect(),
            draining: self.draining,
            drain_left_ms: units::millis(self.drain_left),
        }
    }
}

/// One file of one volume.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CatalogCopy {
    /// Its name.
    pub title: Title,
    /// Its volume, counted from 0.
    pub volume: u16,
    /// Its content, once hashed.
    pub content: Option<ContentId>,
    /// Bytes, at least 1.
    pub size: u64,
    /// Unix milliseconds.
    pub modified_ms: i64,
    /// Mean rate.
    pub bitrate: Bitrate,
    /// Milliseconds, 0 when unknown.
    pub duration_ms: u64,
    /// For example `video/mp4`.
    pub media_type: String,
    /// Whether it plays before it is whole.
    pub streamable: bool,
    /// How it came to the node.
    pub origin: Origin,
}

/// How a copy came to its node.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Origin {
    /// The operator put it there.
    #[default]
    Operator,
    /// Ordered by the master, and whole.
    Replica,
    /// Ordered by the master; its beginning is served while the rest arrives.
    Growing,
}

impl Origin {
    /// As a message; one of a newer node is taken for the operator's, and left alone.
    fn from_pb(origin: i32) -> Self {
        match v1::Origin::try_from(origin) {
            Ok(v1::Origin::Replica) => Self::Replica,
            Ok(v1::Origin::Growing) => Self::Growing,
            Ok(v1::Origin::Operator) | Err(_) => Self::Operator,
        }
    }

    fn to_pb(self) -> v1::Origin {
        match self {
            Self::Operator => v1::Origin::Operator,
            Self::Replica => v1::Origin::Replica,
            Self::Growing => v1::Origin::Growing,
        }
    }
}

impl CatalogCopy {
    /// As a message.
    pub fn to_pb(&self) -> v1::CatalogCopy {
        v1::CatalogCopy {
            title: self.title.to_string(),
            volume: self.volume.into(),
            content_id: self.content.map(|id| id.0.to_vec()).unwrap_or_default(),
            size: self.size,
            modified_ms: self.modified_ms,
            bitrate_bps: self.bitrate.0,
            duration_ms: self.duration_ms,
            media_type: self.media_type.clone(),
            streamable: self.streamable,
            origin: self.origin.to_pb().into(),
        }
    }
}

/// Whether a text is a media type: `type/subtype` in lower case, at most 64 bytes.
pub(crate) fn is_media_type(text: &str) -> bool {
    let part = |part: &str| {
        !part.is_empty()
            && part.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || matches!(b, b'-' | b'.' | b'+'))
    };
    text.len() <= 64 && text.split_once('/').is_some_and(|(kind, sub)| part(kind) && part(sub))
}

impl TryFrom<v1::CatalogCopy> for CatalogCopy {
    type Error = Invalid;

    fn try_from(copy: v1::CatalogCopy) -> Result<Self, Invalid> {
        let mut check = Check::default();
        let title = check.take("title", Title::parse(&copy.title));
        let volume = check.take("volume", u16::try_from(copy.volume)).unwrap_or_default();
        let content = if copy.content_id.is_empty() {
            None
        } else {
            check.take("content_id", ContentId::try_from(copy.content_id.as_slice()))
        };
        check.require((1..=tree::MAX_SIZE).contains(&copy.size), "size", || {
            format!("1 to {} bytes, not {}", tree::MAX_SIZE, copy.size)
        });
        check.require(copy.bitrate_bps <= MAX_RATE, "bitrate_bps", || format!("at most {MAX_RATE} bit/s"));
        check.require(is_media_type(&copy.media_type), "media_type", || "expected type/subtype".to_owned());
        check.done(title.map(|title| Self {
            title,
            volume,
            content,
            size: copy.size,
            modified_ms: copy.modified_ms,
            bitrate: Bitrate(copy.bitrate_bps),
            duration_ms: copy.duration_ms,
            media_type: copy.media_type,
            streamable: copy.streamable,
            origin: Origin::from_pb(copy.origin),
        }))
    }
}

/// A part of a catalog, or a change of it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CatalogPage {
    /// Starts a whole new catalog.
    pub restart: bool,
    /// Ends a whole catalog; true on changes.
    pub complete: bool,
    /// New or changed copies.
    pub copies: Vec<CatalogCopy>,
    /// Copies that are gone: title and volume.
    pub removals: Vec<(Title, u16)>,
    /// Files that are not offered.
    pub rejected_files: u32,
    /// Those of them whose bytes are not what they were when they were hashed.
    pub damaged_files: u32,
}

impl TryFrom<v1::CatalogPage> for CatalogPage {
    type Error = Invalid;

    fn try_from(page: v1::CatalogPage) -> Result<Self, Invalid> {
        let mut check = Check::default();
        let entries = page.copies.len() + page.removals.len();
        if entries > MAX_PAGE_ENTRIES {
            return Err(Invalid::one("copies", format!("at most {MAX_PAGE_ENTRIES} a page, not {entries}")));
        }
        let copies = page.copies.into_iter().enumerate();
        let copies = copies.filter_map(|(i, copy)| check.take(&format!("copies[{i}]"), copy.try_into())).collect();
        let removals = page.removals.into_iter().enumerate();
        let removals = removals
            .filter_map(|(i, removal)| {
                let title = check.take(&format!("removals[{i}].title"), Title::parse(&removal.title))?;
                let volume = check.take(&format!("removals[{i}].volume"), u16::try_from(removal.volume))?;
                Some((title, volume))
            })
            .collect();
        check.done(Some(Self {
            restart: page.restart,
            complete: page.complete,
            copies,
            removals,
            rejected_files: page.rejected_files,
            damaged_files: page.damaged_files,
        }))
    }
}

/// A node's report of one second.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// Grows with every report of one boot.
    pub sequence: u64,
    /// Milliseconds since the node started.
    pub uptime_ms: u64,
    /// Media bytes since the start.
    pub sent_bytes: u64,
    /// Bit/s since the last report.
    pub egress: Bitrate,
    /// The part that fetches would give up; at most `egress`.
    pub elastic: Bitrate,
    /// Bit/s promised to running sessions.
    pub committed: Bitrate,
    /// Sessions that run.
    pub sessions: u32,
    /// Bit/s that others took of its link.
    pub background: Bitrate,
    /// Bit/s that its reserved sessions would have taken from a node that is fast enough.
    pub demand: Bitrate,
    /// Bit/s of `demand` that they got; at most that.
    pub delivered: Bitrate,
    /// Bytes free for copies that the master orders.
    pub replica_free: u64,
}

impl TryFrom<v1::Report> for Report {
    type Error = Invalid;

    fn try_from(report: v1::Report) -> Result<Self, Invalid> {
        let mut check = Check::default();
        for (field, rate) in [
            ("egress_bps", report.egress_bps),
            ("committed_bps", report.committed_bps),
            ("background_bps", report.background_bps),
            ("demand_bps", report.demand_bps),
        ] {
            check.require(rate <= MAX_RATE, field, || format!("at most {MAX_RATE} bit/s"));
        }
        check.require(report.elastic_bps <= report.egress_bps, "elastic_bps", || "at most egress_bps".to_owned());
        check.require(report.delivered_bps <= report.demand_bps, "delivered_bps", || "at most demand_bps".to_owned());
        check.done(Some(Self {
            sequence: report.sequence,
            uptime_ms: report.uptime_ms,
            sent_bytes: report.sent_bytes,
            egress: Bitrate(report.egress_bps),
            elastic: Bitrate(report.elastic_bps),
            committed: Bitrate(report.committed_bps),
            sessions: report.sessions,
            background: Bitrate(report.background_bps),
            demand: Bitrate(report.demand_bps),
            delivered: Bitrate(report.delivered_bps),
            replica_free: report.replica_free_bytes,
        }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hello() -> v1::Hello {
        v1::Hello {
            node: "node-1".into(),
            boot_id: BootId(1).to_string(),
            version: "0.1".into(),
            capacity_bps: 1,
            presence: Some(v1::Presence {
                addresses: vec!["127.0.0.1:1".into()],
                certificate_sha256: vec![vec![0; 32]],
                draining: false,
                drain_left_ms: 0,
            }),
            attachment: 1,
            ..v1::Hello::default()
        }
    }

    #[test]
    fn hellos() {
        assert!(Hello::try_from(hello()).is_ok());
        let presence = |addresses: &[&str], certificates: Vec<Vec<u8>>| {
            let addresses = addresses.iter().map(ToString::to_string).collect();
            Some(v1::Presence { drain_left_ms: 0, addresses, certificate_sha256: certificates, draining: false })
        };
        for (what, wrong) in [
            ("no name", v1::Hello { node: String::new(), ..hello() }),
            ("no boot", v1::Hello { boot_id: "x".into(), ..hello() }),
            ("capacity 0", v1::Hello { capacity_bps: 0, ..hello() }),
            ("capacity too high", v1::Hello { capacity_bps: u64::MAX, ..hello() }),
            ("no presence", v1::Hello { presence: None, ..hello() }),
            ("host name", v1::Hello { presence: presence(&["host:1"], vec![vec![0; 32]]), ..hello() }),
            ("unspecified", v1::Hello { presence: presence(&["0.0.0.0:1"], vec![vec![0; 32]]), ..hello() }),
            ("port 0", v1::Hello { presence: presence(&["127.0.0.1:0"], vec![vec![0; 32]]), ..hello() }),
            ("short hash", v1::Hello { presence: presence(&["127.0.0.1:1"], vec![vec![0; 31]]), ..hello() }),
            ("no hash", v1::Hello { presence: presence(&["127.0.0.1:1"], vec![]), ..hello() }),
            ("many", v1::Hello { presence: presence(&["127.0.0.1:1"; 17], vec![vec![0; 32]]), ..hello() }),
        ] {
            assert!(Hello::try_from(wrong).is_err(), "{what}");
        }
    }

    #[test]
    fn copies() {
        let good = v1::CatalogCopy {
            title: "a".into(),
            size: 1,
            media_type: "video/mp4".into(),
            ..v1::CatalogCopy::default()
        };
        let copy = CatalogCopy::try_from(good.clone()).expect("valid");
        assert_eq!(copy.to_pb(), good);
        for (what, wrong) in [
            ("path", v1::CatalogCopy { title: "../a".into(), ..good.clone() }),
            ("empty", v1::CatalogCopy { size: 0, ..good.clone() }),
            ("huge", v1::CatalogCopy { size: u64::MAX, ..good.clone() }),
            ("volume", v1::CatalogCopy { volume: 70_000, ..good.clone() }),
            ("content", v1::CatalogCopy { content_id: vec![1; 5], ..good.clone() }),
            ("type", v1::CatalogCopy { media_type: "<script>".into(), ..good.clone() }),
            ("rate", v1::CatalogCopy { bitrate_bps: u64::MAX, ..good.clone() }),
        ] {
            assert!(CatalogCopy::try_from(wrong).is_err(), "{what}");
        }
    }

    #[test]
    fn reports() {
        let good = v1::Report { egress_bps: 5, elastic_bps: 5, ..v1::Report::default() };
        assert!(Report::try_from(good).is_ok());
        for (what, wrong) in [
            ("more elastic than sent", v1::Report { elastic_bps: 6, ..good }),
            ("lie", v1::Report { egress_bps: u64::MAX, ..good }),
        ] {
            assert!(Report::try_from(wrong).is_err(), "{what}");
        }
    }
}

//! A node's introduction and its reports to the master, validated.

use std::{net::SocketAddr, time::Duration};

use super::{
    MAX_ADDRESSES,
    equipment::Equipment,
    invalid::{Check, Invalid},
};
use crate::{
    id::{self, BootId, NodeName},
    pb::v1,
    text::printable_within,
    units::{self, Bitrate, MAX_RATE},
};

/// A node's introduction.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hello {
    /// Its name; the caller compares it with the certificate.
    pub node: NodeName,
    /// Identifier of this start of the process.
    pub boot: BootId,
    /// Its software.
    pub version: String,
    /// Its zone, empty for none.
    pub zone: String,
    /// Capacity: media bit/s that the operator allows.
    pub capacity: Bitrate,
    /// Addresses and certificates to dial.
    pub presence: Presence,
    /// Counts the attachments of this start, from 1.
    pub attachment: u64,
    /// Its capabilities.
    pub equipment: Equipment,
    /// Bytes of disk for copies that the master orders.
    pub replica_bytes: u64,
}

/// Addresses and certificates of a node, and its drain state.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Presence {
    /// QUIC addresses, best first.
    pub addresses: Vec<SocketAddr>,
    /// SHA-256 of the media certificates, current first.
    pub certificates: Vec<[u8; 32]>,
    /// It accepts no new sessions.
    pub draining: bool,
    /// Time until a drain ends the remaining sessions.
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
        let version = printable_within(&hello.version, 64);
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
    /// Bit/s that fetches would give up; at most `egress`.
    pub elastic: Bitrate,
    /// Sum of the reserved rates of running sessions, bit/s.
    pub committed: Bitrate,
    /// Sessions that run.
    pub sessions: u32,
    /// Bit/s of other traffic on its link.
    pub background: Bitrate,
    /// Bit/s that its reserved sessions would have taken had the node been fast enough.
    pub demand: Bitrate,
    /// Bit/s of `demand` that was sent; at most `demand`.
    pub delivered: Bitrate,
    /// Bytes free for copies that the master orders.
    pub replica_free: u64,
    /// Refusals by budget since the start.
    pub refused: BudgetRefusals,
}

/// Numbers of clients' attempts that a node has refused because their network had its share.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct BudgetRefusals {
    /// Handshakes in progress.
    pub handshakes: u64,
    /// Connections.
    pub connections: u64,
    /// Streams without a session.
    pub streams: u64,
    /// Sessions.
    pub sessions: u64,
}

impl BudgetRefusals {
    /// The numbers with the names of their resources.
    pub fn by_resource(&self) -> [(&'static str, u64); 4] {
        let Self { handshakes, connections, streams, sessions } = *self;
        [("handshakes", handshakes), ("connections", connections), ("streams", streams), ("sessions", sessions)]
    }

    /// As a message.
    pub fn to_pb(self) -> v1::BudgetRefusals {
        let Self { handshakes, connections, streams, sessions } = self;
        v1::BudgetRefusals { handshakes, connections, streams, sessions }
    }
}

impl From<v1::BudgetRefusals> for BudgetRefusals {
    fn from(message: v1::BudgetRefusals) -> Self {
        let v1::BudgetRefusals { handshakes, connections, streams, sessions } = message;
        Self { handshakes, connections, streams, sessions }
    }
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
            refused: report.refused_by_budget.unwrap_or_default().into(),
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
    fn reports() {
        let good = v1::Report { egress_bps: 5, elastic_bps: 5, ..v1::Report::default() };
        assert!(Report::try_from(good).is_ok());
        let refused = BudgetRefusals { handshakes: 1, connections: 2, streams: 3, sessions: 4 };
        let counts = v1::Report { refused_by_budget: Some(refused.to_pb()), ..good };
        assert_eq!(Report::try_from(counts).map(|report| report.refused), Ok(refused));
        for (what, wrong) in [
            ("more elastic than sent", v1::Report { elastic_bps: 6, ..good }),
            ("lie", v1::Report { egress_bps: u64::MAX, ..good }),
        ] {
            assert!(Report::try_from(wrong).is_err(), "{what}");
        }
    }
}

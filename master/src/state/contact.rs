//! Contact data of a node: what a client needs to dial it, and the key that signs its tickets.

use std::net::SocketAddr;

use usher_proto::{
    Fault, SessionId, Title,
    code::Code,
    model::Hello,
    pb::v1,
    ticket::{Claims, FeedGrant, Key, Purpose},
};

use crate::core::Now;

/// Contact data of an attached node.
pub(crate) struct NodeContact {
    pub(crate) node: String,
    pub(crate) zone: String,
    pub(crate) addresses: Vec<String>,
    pub(crate) pins: Vec<String>,
    pub(crate) key: Key,
}

impl NodeContact {
    /// A seat on the node with a signed ticket. Signing takes about a microsecond.
    pub(crate) fn seat(&self, claims: &Claims) -> Result<v1::Seat, Fault> {
        let ticket = self.key.sign(claims).map_err(|_| Fault::new(Code::Internal, "the ticket was not signed"))?;
        Ok(v1::Seat {
            lifetime_s: claims.until.map_or(0, |until| until.saturating_sub(claims.nbf)),
            node: self.node.clone(),
            addresses: self.addresses.clone(),
            certificate_sha256: self.pins.clone(),
            ticket,
            zone: self.zone.clone(),
        })
    }

    /// Claims for a feed on this node with the rights of `grant`, valid until `until` (`None` is unlimited).
    pub(crate) fn feed_claims(
        &self,
        now: Now,
        until: Option<u64>,
        title: &Title,
        session: SessionId,
        grant: &FeedGrant,
        rate: u64,
    ) -> Claims {
        Claims {
            until,
            feed: Some(grant.to_claims()),
            rate,
            ..Claims::new(&self.node, session, title, Purpose::Play, now.unix_ms / 1000)
        }
    }
}

/// Contact data of a node at the addresses that clients receive.
pub(super) fn contact(hello: &Hello, addresses: impl Iterator<Item = SocketAddr>, key: Key) -> NodeContact {
    NodeContact {
        node: hello.node.to_string(),
        zone: hello.zone.clone(),
        addresses: addresses.map(|address| address.to_string()).collect(),
        pins: hello.presence.certificates.iter().map(hex::encode).collect(),
        key,
    }
}

//! Orders of copies, validated.

use usher_proto::{Bitrate, Code, ContentId, Fault, Title, model::SeatAddress, pb::v1::Replicate, tree};

use crate::core::pull::ReplicaSpec;

/// A validated order of a copy.
pub(super) struct PullOrder {
    pub(super) wanted: ReplicaSpec,
    pub(super) seat: SeatAddress,
    /// Rate limit; 0 for none.
    pub(super) rate: Bitrate,
    pub(super) request_id: String,
}

impl TryFrom<Replicate> for PullOrder {
    type Error = Fault;

    fn try_from(order: Replicate) -> Result<Self, Fault> {
        let bad = |what: String| Fault::new(Code::BadRequest, format!("order of a copy: {what}"));
        let title = Title::parse(&order.title).map_err(|error| bad(error.to_string()))?;
        let content =
            ContentId::try_from(order.content_id.as_slice()).map_err(|_| bad("it has no content id".into()))?;
        if !(1..=tree::MAX_SIZE).contains(&order.size) {
            return Err(bad(format!("a title has 1 to {} bytes, not {}", tree::MAX_SIZE, order.size)));
        }
        let seat = SeatAddress::try_from(order.source.unwrap_or_default()).map_err(|error| bad(error.to_string()))?;
        let wanted = ReplicaSpec { title, content, size: order.size };
        Ok(Self { wanted, seat, rate: Bitrate(order.rate_bps), request_id: order.request_id })
    }
}

//! What is wanted of a master, and the request that says so. Refuses to know how it is got.

use std::time::Duration;

use usher_proto::{
    ContentId, NodeName,
    model::{Failed, Range, What},
    pb::v1,
    ticket::Purpose,
};

/// What is wanted.
#[derive(Clone, Debug)]
pub(crate) struct Order {
    pub(crate) what: What,
    pub(crate) purpose: Purpose,
    pub(crate) range: Range,
    pub(crate) zone: String,
    /// Without any progress for this long the order fails.
    pub(crate) timeout: Duration,
    /// Nodes that may send it at once; `None` for as many as help.
    pub(crate) sources: Option<usize>,
}

impl Order {
    /// The request for it, or, once the content is known, for exactly that; without these nodes, and telling of those
    /// that failed.
    pub(crate) fn request(
        &self,
        content: Option<ContentId>,
        exclude: &[NodeName],
        failed: &[Failed],
    ) -> v1::ResolveRequest {
        use v1::resolve_request::What as Pb;
        let what = match (&self.what, content) {
            (_, Some(content)) | (&What::Content(content), None) => Pb::ContentId(content.to_string()),
            (What::Title(title), None) => Pb::Title(title.to_string()),
        };
        let purpose = match self.purpose {
            Purpose::Play => v1::Purpose::Play,
            Purpose::Fetch => v1::Purpose::Fetch,
        };
        let failed = failed
            .iter()
            .map(|failed| v1::SeatFailure { node: failed.node.to_string(), reason: failed.code.reason().to_owned() });
        v1::ResolveRequest {
            what: Some(what),
            purpose: purpose.into(),
            range: Some(self.range.to_pb()),
            mode: v1::Mode::Redirect.into(),
            exclude: exclude.iter().map(ToString::to_string).collect(),
            zone: self.zone.clone(),
            rate_bps: 0,
            failed: failed.collect(),
            requirements: None,
        }
    }
}

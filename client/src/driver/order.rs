//! The order that a session places with the master. Leaves the transport to [`crate::master`].

use std::time::Duration;

use usher_proto::{
    ContentId, NodeName,
    model::{Failed, Range, What},
    pb::v1,
    ticket::Purpose,
};

/// A wanted title, and the terms on which it is wanted.
#[derive(Clone, Debug)]
pub(crate) struct Order {
    pub(crate) what: What,
    pub(crate) purpose: Purpose,
    pub(crate) range: Range,
    pub(crate) zone: String,
    /// The order fails after this time without progress.
    pub(crate) timeout: Duration,
    /// Nodes that may send at once; `None` for as many as help.
    pub(crate) sources: Option<usize>,
    /// The master asks the node to open the title before it answers.
    pub(crate) brokered: bool,
}

impl Order {
    /// The request to the master; for exactly `content` once that is known, without the nodes in `exclude`, and with a
    /// report of the seats that failed.
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
        v1::ResolveRequest {
            what: Some(what),
            purpose: purpose.into(),
            range: Some(self.range.to_pb()),
            mode: if self.brokered { v1::Mode::Brokered } else { v1::Mode::Redirect }.into(),
            exclude: exclude.iter().map(ToString::to_string).collect(),
            zone: self.zone.clone(),
            rate_bps: 0,
            failed: failures(failed),
            requirements: None,
        }
    }
}

/// Reports of failed seats, as the master takes them.
pub(super) fn failures(failed: &[Failed]) -> Vec<v1::SeatFailure> {
    failed.iter().map(Failed::to_pb).collect()
}

//! Copies of a node's catalog that were not taken: counted, logged, and reported to the node.

use std::time::{Duration, Instant};

use tracing::warn;
use usher_proto::pb::v1::{self, attach_response::Body};

use super::SharedState;
use crate::{
    core::{catalog::RefusedCopies, roster::AttachmentId},
    metrics::ReasonLabel,
};

/// Time between two messages about one limit.
const INTERVAL: Duration = Duration::from_secs(60);

/// A limit of what a node may list.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum CatalogLimit {
    /// The titles that an operator allows the node.
    Titles,
    /// The memory of the catalog.
    Memory,
}

impl CatalogLimit {
    fn reason(self) -> &'static str {
        match self {
            Self::Titles => {
                "they are outside the prefixes that the master allows this node; see `[[node]]` in the master's configuration"
            }
            Self::Memory => {
                "the memory for titles is used up, or this node has its share of it; list fewer titles, or start the master \
                 with a larger --catalog-memory"
            }
        }
    }

    fn label(self) -> &'static str {
        match self {
            Self::Titles => "prefix",
            Self::Memory => "memory",
        }
    }
}

impl SharedState {
    /// Counts copies that were not taken; informs log and node once a minute.
    pub(super) fn note_refused(&self, attachment: AttachmentId, limit: CatalogLimit, refused: RefusedCopies) {
        if refused.copies == 0 {
            return;
        }
        let label = ReasonLabel { reason: limit.label() };
        self.metrics.titles_refused.get_or_create(&label).inc_by(refused.copies.into());
        let mut inner = self.lock();
        let now = Instant::now();
        let node = inner.node_name(attachment.node);
        let memory = inner.cluster.catalog().bytes_of(attachment.node);
        let Some(channel) = inner.channels.get_mut(&attachment.node).filter(|one| one.attachment == attachment) else {
            return;
        };
        let (waiting, last) = channel.refused.entry(limit).or_default();
        waiting.merge(refused);
        if last.is_some_and(|last| now.saturating_duration_since(last) < INTERVAL) {
            return;
        }
        *last = Some(now);
        let RefusedCopies { copies, example } = std::mem::take(waiting);
        let title = example.map(|title| title.to_string()).unwrap_or_default();
        warn!(node, copies, title, memory, reason = limit.reason(), "titles of a node are not listed");
        let order = v1::CatalogRefused { copies: copies.into(), title, reason: limit.reason().to_owned() };
        self.send_unanswered(&inner, attachment.node, "catalog_refused", Some(Body::CatalogRefused(order)));
    }
}

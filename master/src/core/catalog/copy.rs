//! Copies: the packed form that the catalog stores, and the view that others read.

use usher_proto::{ContentId, model::Origin};

use crate::core::NodeId;

/// Identity of a copy's content.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum ContentIdentity {
    /// Content id. Sorts before `Sized`.
    Hashed(ContentId),
    /// Size in bytes, for a copy that is not hashed yet: equal sizes count as equal contents.
    Sized(u64),
}

/// One file on one volume of one node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CopyView {
    /// The node.
    pub node: NodeId,
    /// Its volume.
    pub volume: u16,
    /// Unix milliseconds.
    pub modified_ms: i64,
    /// How the copy got there.
    pub origin: Origin,
}

/// One file on one volume of one node, packed into 80 bytes.
pub(super) struct StoredCopy {
    /// Zero unless `HASHED` is set.
    pub(super) content: [u8; 32],
    pub(super) size: u64,
    pub(super) modified_ms: i64,
    pub(super) bitrate: u64,
    /// Capped at 49 days.
    pub(super) duration_ms: u32,
    pub(super) node: u32,
    pub(super) generation: u32,
    pub(super) title: u32,
    /// Next copy of the title, or next free slot.
    pub(super) next: u32,
    pub(super) volume: u16,
    /// Index of the media type; flags in the top four bits.
    pub(super) media: u16,
}

pub(super) const HASHED: u16 = 1 << 15;
pub(super) const STREAMABLE: u16 = 1 << 14;
pub(super) const REPLICA: u16 = 1 << 13;
pub(super) const GROWING: u16 = 1 << 12;
pub(super) const MEDIA: u16 = GROWING - 1;

impl StoredCopy {
    pub(super) fn hashed(&self) -> Option<ContentId> {
        (self.media & HASHED != 0).then_some(ContentId(self.content))
    }

    pub(super) fn origin(&self) -> Origin {
        match self.media & (REPLICA | GROWING) {
            0 => Origin::Operator,
            REPLICA => Origin::Replica,
            _ => Origin::Growing,
        }
    }

    pub(super) fn view(&self) -> CopyView {
        CopyView { node: NodeId(self.node), volume: self.volume, modified_ms: self.modified_ms, origin: self.origin() }
    }

    pub(super) fn identity(&self) -> ContentIdentity {
        self.hashed().map_or(ContentIdentity::Sized(self.size), ContentIdentity::Hashed)
    }
}

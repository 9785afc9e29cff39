//! The catalog's memory: an upper limit over all nodes, the part of each node, and its return when titles go.
//!
//! The limit is a *dynamic threshold*: one node may take as much as is left, so that a node alone gets at most half, and
//! there is always a rest for others.

use usher_proto::{Title, model::CatalogCopy};

use super::{
    Catalog, NodeId, TitleEntry,
    copy::StoredCopy,
    holder_of,
    slab::{self, NONE},
};

/// Bytes of a copy: its slot, with the reserve of the slab.
pub(super) const COPY: u64 = 90;

/// Bytes of a title beside its name: its slot, its places in the indexes by name and by content, and the allocation of the
/// name.
const TITLE: u64 = 150;

/// A node may take one part in this many in any case.
const FLOOR: u64 = 64;

/// Bytes of a title with its name.
pub(super) fn title(title: &Title) -> u64 {
    TITLE + title.as_str().len() as u64
}

/// Memory in use, and its limit.
pub(super) struct Memory {
    limit: u64,
    used: u64,
}

impl Default for Memory {
    fn default() -> Self {
        Self::within(u64::MAX)
    }
}

impl Memory {
    pub(super) fn within(limit: u64) -> Self {
        Self { limit, used: 0 }
    }
}

impl slab::Reusable for StoredCopy {
    fn is_free(&self) -> bool {
        self.title == NONE
    }
}

impl slab::Reusable for TitleEntry {
    fn is_free(&self) -> bool {
        self.name.is_none()
    }
}

impl Catalog {
    /// Bytes in use, by a count of entries.
    pub fn bytes(&self) -> u64 {
        self.memory.used
    }

    /// Bytes in use by a node's copies, and by the titles that it listed first.
    pub fn bytes_of(&self, node: NodeId) -> u64 {
        holder_of(&self.holders, node).bytes
    }

    /// Whether there is memory for a copy. A copy that replaces another one needs none.
    pub(super) fn has_room(&self, node: NodeId, copy: &CatalogCopy) -> bool {
        let entry = self.number(copy.title.as_str());
        if entry.is_some_and(|entry| self.place(entry, node, copy.volume).1.is_some()) {
            return true;
        }
        let cost = COPY + if entry.is_none() { title(&copy.title) } else { 0 };
        let Memory { limit, used } = self.memory;
        let free = limit.saturating_sub(used);
        cost <= free && self.bytes_of(node).saturating_add(cost) <= free.max(limit / FLOOR)
    }

    pub(super) fn charge(&mut self, node: NodeId, bytes: u64) {
        self.memory.used += bytes;
        self.holder(node).bytes += bytes;
    }

    pub(super) fn discharge(&mut self, node: NodeId, bytes: u64) {
        self.memory.used = self.memory.used.saturating_sub(bytes);
        let holder = self.holder(node);
        holder.bytes = holder.bytes.saturating_sub(bytes);
    }

    /// Charges another holder for a title that `node` no longer lists.
    pub(super) fn pass_payment(&mut self, entry: u32, node: u32) {
        if self.entries[entry].payer != node || self.live(entry).any(|(_, copy)| copy.node == node) {
            return;
        }
        let heir = self.live(entry).map(|(_, copy)| copy.node).next();
        let bytes = self.entries[entry].name.as_ref().map(title);
        if let Some((heir, bytes)) = heir.zip(bytes) {
            self.discharge(NodeId(node), bytes);
            self.charge(NodeId(heir), bytes);
            self.entries[entry].payer = heir;
        }
    }

    /// Returns the memory of tables that are mostly unused.
    pub(super) fn trim(&mut self) {
        self.copies.trim();
        self.entries.trim();
        let entries = &self.entries;
        self.by_name.trim(|entry| entries[entry].name.as_ref().map_or("", Title::as_str));
    }
}

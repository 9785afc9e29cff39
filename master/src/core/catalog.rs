//! The virtual catalog: every copy of every title on every node, merged. Owns copies, names and indexes, in a compact
//! layout: a title with one copy costs about 200 bytes beyond its name. Knows nodes by number only; the caller supplies
//! which of them are attached.
//!
//! The copies of a title form a list ordered by (node, volume) and linked through a slab, so a title allocates only its
//! name. Each copy carries the generation of its node's catalog in which it was last named. Replacing a catalog or
//! losing a node changes one number and takes effect at once; invalid copies are collected later in small steps
//! ([`Catalog::sweep`]), so no caller waits for a hundred thousand removals.

mod copy;
mod lookup;
mod media;
mod memory;
mod name_index;
mod owner;
mod page;
mod slab;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet, HashMap};

use usher_proto::{
    ContentId, Title,
    model::{CatalogCopy, Origin},
};

pub use self::{
    copy::{ContentIdentity, CopyView},
    lookup::{ContentKey, TitleMetadata, TitleVersion},
    page::{PageError, PageOutcome, RefusedCopies},
};
use self::{
    copy::{GROWING, HASHED, REPLICA, STREAMABLE, StoredCopy},
    media::MediaTypes,
    memory::Memory,
    name_index::NameIndex,
    slab::{NONE, Slab},
};
use super::NodeId;

/// Limit of copies per node. A node with more is broken or hostile: this many take 1 GB.
pub const MAX_COPIES: u32 = 5_000_000;

/// Copies visited by one step of the sweep: well under a millisecond under the lock.
pub const SWEEP_STEP: usize = 4096;

/// A title's name, first copy and owner.
struct TitleEntry {
    /// `None` in a free slot.
    name: Option<Title>,
    head: u32,
    /// Number of the node that listed the title first, or of the one that holds the same content since that node's copies
    /// are gone. Its content is the title's.
    owner: u32,
    /// The node that is charged for the title's memory.
    payer: u32,
    /// Distinguishes this title from earlier ones in the slot.
    born: u32,
}

/// Number of a title; invalid once the title is gone.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct TitleId {
    entry: u32,
    born: u32,
}

/// Bookkeeping of one node's catalog.
#[derive(Clone, Copy, Default)]
struct NodeCatalog {
    /// Generation of copies named from now on.
    generation: u32,
    /// Copies of older generations are invalid.
    oldest: u32,
    /// Valid copies.
    copies: u32,
    /// Copies of the current generation.
    fresh: u32,
    /// Memory of its copies and of the titles that it pays for.
    bytes: u64,
}

/// The merged catalog.
#[derive(Default)]
pub struct Catalog {
    names: BTreeMap<Title, u32>,
    by_name: NameIndex,
    births: u32,
    entries: Slab<TitleEntry>,
    copies: Slab<StoredCopy>,
    /// First 32 bits of a content id, then the title's number. Look-ups compare whole ids afterwards, so contents with
    /// equal prefixes cost time only; a hash table of whole ids would cost 50 bytes per title.
    contents: BTreeSet<u64>,
    /// Titles with more than one content, and some that had them until a node was lost.
    conflicts: BTreeSet<u32>,
    /// Contents that an operator chose.
    decided: HashMap<Title, ContentId>,
    media: MediaTypes,
    holders: Vec<NodeCatalog>,
    memory: Memory,
    /// Position of the sweep, and the number of slots it has yet to visit.
    cursor: usize,
    unswept: usize,
}

impl Catalog {
    /// Returns an empty catalog without a limit of memory.
    pub fn new() -> Self {
        Self::default()
    }

    /// Returns an empty catalog that takes at most about `bytes` of memory.
    pub fn within(bytes: u64) -> Self {
        Self { memory: Memory::within(bytes), ..Self::default() }
    }

    /// Adds or replaces one copy. Returns whether the title has more than one content now and had not before.
    pub fn set(&mut self, node: NodeId, copy: &CatalogCopy) -> bool {
        self.settle_owner(copy.title.as_str());
        let title = self.entry(node, &copy.title);
        let before = self.conflict(title);
        let holder = *self.holder(node);
        let (previous, found) = self.place(title, node, copy.volume);
        let at = match found {
            Some(at) => {
                let StoredCopy { generation, next, .. } = self.copies[at];
                let old = self.hashed(at);
                let counts = self.holder(node);
                counts.copies += u32::from(generation < holder.oldest);
                counts.fresh += u32::from(generation != holder.generation);
                self.copies[at] = self.made(node, title, next, holder.generation, copy);
                self.unindex(title, old);
                at
            }
            None => {
                let next = match previous {
                    Some(previous) => self.copies[previous].next,
                    None => self.entries[title].head,
                };
                let made = self.made(node, title, next, holder.generation, copy);
                let at = self.copies.push(made);
                match previous {
                    Some(previous) => self.copies[previous].next = at,
                    None => self.entries[title].head = at,
                }
                self.charge(node, memory::COPY);
                let holder = self.holder(node);
                holder.copies += 1;
                holder.fresh += 1;
                at
            }
        };
        if let Some(content) = self.hashed(at) {
            self.contents.insert(index_key(&content, title));
        }
        self.handle_listed(title, at);
        let after = self.conflict(title);
        if after {
            self.conflicts.insert(title);
        } else if before {
            self.conflicts.remove(&title);
        }
        !before && after
    }

    /// Removes one copy, if present.
    pub fn remove(&mut self, node: NodeId, title: &Title, volume: u16) {
        self.settle_owner(title.as_str());
        let Some(entry) = self.number(title.as_str()) else { return };
        let (previous, Some(at)) = self.place(entry, node, volume) else { return };
        let generation = self.copies[at].generation;
        let holder = self.holder(node);
        holder.copies -= u32::from(generation >= holder.oldest);
        holder.fresh -= u32::from(generation == holder.generation);
        self.unlink(entry, previous, at);
    }

    /// Collects some invalid copies. Returns whether more remain.
    pub fn sweep(&mut self) -> bool {
        for _ in 0..SWEEP_STEP.min(self.unswept) {
            self.unswept -= 1;
            self.cursor = if self.cursor + 1 < self.copies.len() { self.cursor + 1 } else { 0 };
            let Ok(at) = u32::try_from(self.cursor) else { continue };
            let Some(copy) = self.copies.slot(at) else { continue };
            if copy.title == NONE || self.is_live(copy) {
                continue;
            }
            let (title, node, volume) = (copy.title, NodeId(copy.node), copy.volume);
            if let (previous, Some(at)) = self.place(title, node, volume) {
                self.unlink(title, previous, at);
            }
        }
        if self.unswept == 0 {
            self.trim();
        }
        self.unswept > 0
    }

    /// Number of titles.
    pub fn titles(&self) -> usize {
        self.names.len()
    }

    /// Number of copies on one node.
    pub fn copies_of(&self, node: NodeId) -> u32 {
        holder_of(&self.holders, node).copies
    }

    /// Bytes allocated by the slabs.
    pub fn slab_bytes(&self) -> usize {
        self.entries.bytes() + self.copies.bytes()
    }

    fn holder(&mut self, node: NodeId) -> &mut NodeCatalog {
        if self.holders.len() <= node.index() {
            self.holders.resize_with(node.index() + 1, NodeCatalog::default);
        }
        &mut self.holders[node.index()]
    }

    fn is_live(&self, copy: &StoredCopy) -> bool {
        copy.generation >= holder_of(&self.holders, NodeId(copy.node)).oldest
    }

    /// Number of a title; assigned if the title is new, and paid for by the node.
    fn entry(&mut self, node: NodeId, title: &Title) -> u32 {
        if let Some(entry) = self.number(title.as_str()) {
            return entry;
        }
        self.births = self.births.wrapping_add(1);
        let entry = self.entries.push(TitleEntry {
            name: Some(title.clone()),
            head: NONE,
            owner: NONE,
            payer: node.0,
            born: self.births,
        });
        self.names.insert(title.clone(), entry);
        self.charge(node, memory::title(title));
        let entries = &self.entries;
        self.by_name.insert(title.as_str(), entry, |entry| entries[entry].name.as_ref().map_or("", Title::as_str));
        entry
    }

    /// Number of a title, if known.
    fn number(&self, title: &str) -> Option<u32> {
        self.by_name.find(title, |entry| self.entries[entry].name.as_ref().is_some_and(|name| name.as_str() == title))
    }

    /// Position of a node's and volume's copy in a title's list, and the copy before that position.
    fn place(&self, title: u32, node: NodeId, volume: u16) -> (Option<u32>, Option<u32>) {
        let mut previous = None;
        for (at, copy) in self.all(title) {
            match (copy.node, copy.volume).cmp(&(node.0, volume)) {
                std::cmp::Ordering::Less => previous = Some(at),
                std::cmp::Ordering::Equal => return (previous, Some(at)),
                std::cmp::Ordering::Greater => break,
            }
        }
        (previous, None)
    }

    fn made(&mut self, node: NodeId, title: u32, next: u32, generation: u32, copy: &CatalogCopy) -> StoredCopy {
        let mut media = self.media.number(&copy.media_type);
        media |= if copy.content.is_some() { HASHED } else { 0 };
        media |= if copy.streamable { STREAMABLE } else { 0 };
        media |= match copy.origin {
            Origin::Operator => 0,
            Origin::Replica => REPLICA,
            Origin::Growing => REPLICA | GROWING,
        };
        StoredCopy {
            content: copy.content.map_or([0; 32], |id| id.0),
            size: copy.size,
            modified_ms: copy.modified_ms,
            bitrate: copy.bitrate.0,
            duration_ms: u32::try_from(copy.duration_ms).unwrap_or(u32::MAX),
            node: node.0,
            generation,
            title,
            next,
            volume: copy.volume,
            media,
        }
    }

    fn hashed(&self, at: u32) -> Option<ContentId> {
        self.copies[at].hashed()
    }

    /// Unlinks a copy from its title's list; removes the title with its last copy.
    fn unlink(&mut self, title: u32, previous: Option<u32>, at: u32) {
        let (next, content) = (self.copies[at].next, self.hashed(at));
        let (node, identity) = (self.copies[at].node, self.copies[at].identity());
        match previous {
            Some(previous) => self.copies[previous].next = next,
            None => self.entries[title].head = next,
        }
        self.copies[at].title = NONE;
        self.copies.free(at);
        self.discharge(NodeId(node), memory::COPY);
        self.unindex(title, content);
        self.handle_unlisted(title, node, identity);
        if self.conflicts.contains(&title) && !self.conflict(title) {
            self.conflicts.remove(&title);
        }
        if self.entries[title].head == NONE {
            if let Some(name) = self.entries[title].name.take() {
                self.discharge(NodeId(self.entries[title].payer), memory::title(&name));
                self.names.remove(&name);
                self.by_name.remove(name.as_str(), title);
            }
            self.entries.free(title);
        }
    }

    /// Removes a content from the index unless another copy of the title still needs the entry.
    fn unindex(&mut self, title: u32, content: Option<ContentId>) {
        let Some(content) = content else { return };
        let key = index_key(&content, title);
        if !self.all(title).any(|(_, copy)| copy.hashed().is_some_and(|id| index_key(&id, title) == key)) {
            self.contents.remove(&key);
        }
    }

    /// All copies of a title, invalid ones included.
    fn all(&self, title: u32) -> impl Iterator<Item = (u32, &StoredCopy)> {
        let mut at = self.entries[title].head;
        std::iter::from_fn(move || {
            let copy = self.copies.slot(at)?;
            let this = at;
            at = copy.next;
            Some((this, copy))
        })
    }

    /// Whether a title has more than one hashed content.
    fn conflict(&self, title: u32) -> bool {
        let mut contents = self.live(title).filter_map(|(_, copy)| copy.hashed());
        contents.next().is_some_and(|first| contents.any(|other| other != first))
    }

    fn live(&self, title: u32) -> impl Iterator<Item = (u32, &StoredCopy)> {
        self.all(title).filter(|(_, copy)| self.is_live(copy))
    }
}

fn holder_of(holders: &[NodeCatalog], node: NodeId) -> NodeCatalog {
    holders.get(node.index()).copied().unwrap_or_default()
}

fn index_key(content: &ContentId, title: u32) -> u64 {
    let [a, b, c, d, ..] = content.0;
    u64::from(u32::from_be_bytes([a, b, c, d])) << 32 | u64::from(title)
}

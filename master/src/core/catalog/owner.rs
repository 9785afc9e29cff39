//! The owner of a title, whose content a request by name gets: the node that listed the title first. A node that lists it
//! later with another content changes nothing until an operator decides. An owner that replaces its file changes the
//! title; when its copies are gone, a holder of the same content takes its place.

use std::cmp::Reverse;

use usher_proto::{ContentId, Title, model::Origin};

use super::{
    Catalog, NodeId,
    copy::{ContentIdentity, StoredCopy},
    slab::NONE,
};

/// Most decisions of operators. Decisions are made one by one, so that more are a mistake.
const MAX_DECISIONS: usize = 10_000;

impl Catalog {
    /// Makes a content the one that requests for a title get while a copy of it exists. Returns false if none exists, or
    /// if too many decisions were made.
    pub fn decide(&mut self, title: &Title, content: ContentId) -> bool {
        let identity = ContentIdentity::Hashed(content);
        let known = self.under(title.as_str(), identity).is_some();
        let room = self.decided.len() < MAX_DECISIONS || self.decided.contains_key(title);
        let decide = known && room;
        if decide {
            self.decided.insert(title.clone(), content);
        }
        decide
    }

    /// Restores a decision that was made earlier, whether or not a copy of the content is known yet.
    pub fn restore_decision(&mut self, title: Title, content: ContentId) {
        if self.decided.len() < MAX_DECISIONS {
            self.decided.insert(title, content);
        }
    }

    /// The decisions of operators, in no particular order.
    pub fn decisions(&self) -> impl Iterator<Item = (&Title, &ContentId)> {
        self.decided.iter()
    }

    /// Titles with more than one content, in order; at most `limit`.
    pub fn conflicts(&self, limit: usize) -> Vec<Title> {
        let titles = self.conflicts.iter().filter(|title| self.conflict(**title));
        let mut names: Vec<Title> = titles.filter_map(|title| self.entries[*title].name.clone()).collect();
        names.sort_unstable();
        names.truncate(limit);
        names
    }

    /// The content that requests for a title with several contents get by decision or ownership; `None` while the owner
    /// has no copy.
    pub(super) fn chosen(&self, title: u32) -> Option<ContentIdentity> {
        let entry = &self.entries[title];
        let decided = entry.name.as_ref().and_then(|name| self.decided.get(name));
        let decided = decided.map(|content| ContentIdentity::Hashed(*content));
        if let Some(identity) =
            decided.filter(|identity| self.live(title).any(|(_, copy)| copy.identity() == *identity))
        {
            return Some(identity);
        }
        // Copies that await their removal still name the content that the owner had.
        let own = |copies: &mut dyn Iterator<Item = &StoredCopy>| {
            let own = copies.filter(|copy| copy.node == entry.owner);
            own.max_by_key(|copy| (copy.hashed().is_some(), copy.modified_ms)).map(StoredCopy::identity)
        };
        let identity = own(&mut self.live(title).map(|(_, copy)| copy))
            .or_else(|| own(&mut self.all(title).map(|(_, copy)| copy)))?;
        let ContentIdentity::Sized(size) = identity else { return Some(identity) };
        // While the owner's file is being hashed, another copy of the same size is the same file, as far as is known.
        let same = self.live(title).filter(|(_, copy)| copy.hashed().is_some() && copy.size == size);
        let same = same.min_by_key(|(_, copy)| (copy.node, Reverse(copy.modified_ms)));
        Some(same.map_or(identity, |(_, copy)| copy.identity()))
    }

    /// Handles a copy that was listed: the first lister becomes the owner. An operator's file takes the place of copies
    /// that were made of it.
    pub(super) fn handle_listed(&mut self, title: u32, at: u32) {
        let owner = self.entries[title].owner;
        let copy = &self.copies[at];
        let (node, identity, origin) = (copy.node, copy.identity(), copy.origin());
        let from_copies = || {
            let mut own = self.live(title).filter(|(_, copy)| copy.node == owner).peekable();
            own.peek().is_some()
                && own.all(|(_, copy)| copy.origin() != Origin::Operator && copy.identity() == identity)
        };
        if owner == NONE || (owner != node && origin == Origin::Operator && from_copies()) {
            self.entries[title].owner = node;
        }
    }

    /// Handles a copy that was removed: when it was the owner's last, a holder of the same content becomes the owner. An
    /// owner without an heir may come back.
    pub(super) fn handle_unlisted(&mut self, title: u32, node: u32, identity: ContentIdentity) {
        self.pass_payment(title, node);
        if self.entries[title].owner != node || self.live(title).any(|(_, copy)| copy.node == node) {
            return;
        }
        let heirs = self.live(title).filter(|(_, copy)| copy.identity() == identity);
        let heir = heirs.min_by_key(|(_, copy)| (copy.origin() != Origin::Operator, copy.node));
        if let Some(heir) = heir.map(|(_, copy)| copy.node) {
            self.entries[title].owner = heir;
        }
    }

    /// Collects the owner's copies if all are invalid, so that its heir is known before the title changes.
    pub(super) fn settle_owner(&mut self, title: &str) {
        while let Some(entry) = self.number(title) {
            let owner = self.entries[entry].owner;
            if self.live(entry).any(|(_, copy)| copy.node == owner) {
                return;
            }
            let invalid = self.all(entry).find(|(_, copy)| copy.node == owner).map(|(_, copy)| copy.volume);
            let Some(volume) = invalid else { return };
            let (previous, Some(at)) = self.place(entry, NodeId(owner), volume) else { return };
            self.unlink(entry, previous, at);
        }
    }
}

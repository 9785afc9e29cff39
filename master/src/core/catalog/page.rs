//! Pages of a node's catalog: whole catalogs, which replace the one before, and changes.

use thiserror::Error;
use usher_proto::{Title, model::CatalogPage};

use super::{Catalog, MAX_COPIES, NodeId};

/// Why a page was rejected.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum PageError {
    /// More copies than [`MAX_COPIES`].
    #[error("a node's catalog has at most {MAX_COPIES} copies; split the library over several nodes")]
    TooLarge,
}

/// Effect of a page that operators should know of.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PageOutcome {
    /// Titles that have had more than one content since this page.
    pub conflicts: u32,
    /// The first of them.
    pub example: Option<Title>,
    /// Copies outside the titles that the node may list.
    pub outside: RefusedCopies,
    /// Copies for which the catalog has no memory left.
    pub full: RefusedCopies,
}

/// Copies of a page that were not taken.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RefusedCopies {
    /// Their number.
    pub copies: u32,
    /// The title of the first.
    pub example: Option<Title>,
}

impl RefusedCopies {
    fn add(&mut self, title: &Title) {
        self.copies = self.copies.saturating_add(1);
        self.example.get_or_insert_with(|| title.clone());
    }

    /// Adds those of another page.
    pub fn merge(&mut self, other: Self) {
        self.copies = self.copies.saturating_add(other.copies);
        self.example = self.example.take().or(other.example);
    }
}

impl Catalog {
    /// Applies a page of a node's catalog: part of a whole catalog, or changes. Removals are applied after copies.
    pub fn page(&mut self, node: NodeId, page: &CatalogPage) -> Result<PageOutcome, PageError> {
        self.page_within(node, page, |_| true)
    }

    /// The same for a node that may list only some titles. Other copies, and copies for which there is no memory, are not
    /// taken; the rest of the page is.
    pub fn page_within(
        &mut self,
        node: NodeId,
        page: &CatalogPage,
        may_list: impl Fn(&Title) -> bool,
    ) -> Result<PageOutcome, PageError> {
        if page.restart {
            self.restart(node);
        }
        let held = self.holder(node).copies;
        let after = u32::try_from(page.copies.len()).ok().and_then(|new| held.checked_add(new));
        // Replaced copies are counted as added, which matters only at the limit.
        if after.is_none_or(|after| after > MAX_COPIES) || self.copies.is_nearly_full(page.copies.len()) {
            return Err(PageError::TooLarge);
        }
        let mut outcome = PageOutcome::default();
        for copy in &page.copies {
            if !may_list(&copy.title) {
                outcome.outside.add(&copy.title);
                continue;
            }
            if !self.has_room(node, copy) {
                outcome.full.add(&copy.title);
                continue;
            }
            if self.set(node, copy) {
                outcome.conflicts += 1;
                outcome.example.get_or_insert_with(|| copy.title.clone());
            }
        }
        for (title, volume) in &page.removals {
            self.remove(node, title, *volume);
        }
        if page.complete {
            self.complete(node);
        }
        Ok(outcome)
    }

    /// Starts a new catalog of a node. The previous one stays valid until [`Self::complete`].
    pub fn restart(&mut self, node: NodeId) {
        let holder = self.holder(node);
        holder.generation += 1;
        holder.fresh = 0;
    }

    /// Completes a catalog: copies not named since the last restart become invalid.
    pub fn complete(&mut self, node: NodeId) {
        let holder = self.holder(node);
        if holder.oldest != holder.generation {
            holder.oldest = holder.generation;
            let void = holder.copies > holder.fresh;
            holder.copies = holder.fresh;
            if void {
                self.unswept = self.copies.len();
            }
        }
    }

    /// Removes all copies of a node.
    pub fn forget(&mut self, node: NodeId) {
        self.restart(node);
        self.complete(node);
    }
}

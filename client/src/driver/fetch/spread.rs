//! The assignments of a transfer's groups to sources, and the groups received ahead of their turn. Outlives the sources.

use std::{collections::BTreeMap, ops::Range};

use usher_proto::verify::Group;

use crate::{
    clock,
    core::sources::{Assignments, Id},
};

/// See the module.
#[derive(Default)]
pub(super) struct Spread {
    pub(super) assignments: Assignments,
    ahead: BTreeMap<u64, Group>,
    /// The next source's id.
    pub(super) next: Id,
}

impl Spread {
    /// Wants these groups.
    pub(super) fn new(groups: Range<u64>) -> Self {
        Self { assignments: Assignments::new(groups), ..Self::default() }
    }

    /// Takes groups from a source; returns those whose turn it is, from `next` on.
    pub(super) fn in_turn(&mut self, id: Id, groups: Vec<Group>, mut next: u64) -> Vec<Group> {
        for group in groups {
            if self.assignments.handle_group(clock::now(), id, group.index) {
                self.ahead.insert(group.index, group);
            }
        }
        let mut ready = Vec::new();
        while let Some(group) = self.ahead.remove(&next) {
            ready.push(group);
            next += 1;
        }
        ready
    }
}

//! Media types by number, bounded: a library of a hundred thousand titles has about five.

use std::collections::HashMap;

/// Limit of distinct types. A node that sends more is misbehaving.
const MAX_TYPES: usize = 4095;

/// Name of every type beyond the limit.
const OTHER: &str = "application/octet-stream";

#[derive(Default)]
pub(super) struct MediaTypes {
    names: Vec<Box<str>>,
    numbers: HashMap<Box<str>, u16>,
}

impl MediaTypes {
    /// Number of a type, below 2^12; an unassigned number once the table is full.
    pub(super) fn number(&mut self, name: &str) -> u16 {
        if let Some(number) = self.numbers.get(name) {
            return *number;
        }
        let next = u16::try_from(self.names.len()).unwrap_or(u16::MAX);
        if self.names.len() < MAX_TYPES {
            self.names.push(name.into());
            self.numbers.insert(name.into(), next);
        }
        next.min(MAX_TYPES as u16)
    }

    /// Name of a type by number.
    pub(super) fn name(&self, number: u16) -> &str {
        self.names.get(usize::from(number)).map_or(OTHER, |name| name)
    }
}

//! Media types by number: a library of a hundred thousand titles has five of them. Refuses to grow without end.

use std::collections::HashMap;

/// Most types that are kept; a node that sends more invents them.
const MAX_TYPES: usize = 4095;

/// What is said of a type past the limit.
const OTHER: &str = "application/octet-stream";

#[derive(Default)]
pub(super) struct MediaTypes {
    names: Vec<Box<str>>,
    numbers: HashMap<Box<str>, u16>,
}

impl MediaTypes {
    /// The type's number, below 2^12; that of a type that does not exist once there are too many.
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

    /// The type with this number.
    pub(super) fn name(&self, number: u16) -> &str {
        self.names.get(usize::from(number)).map_or(OTHER, |name| name)
    }
}

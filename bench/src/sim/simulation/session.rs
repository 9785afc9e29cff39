//! The running sessions, found by number in one step. A number is never used twice.

use crate::sim::units::Time;

/// Where a session is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Place {
    /// On its way to a first seat; it is not offered yet.
    Asking,
    /// Playing from a node.
    Node(u32),
    /// On no node: its bits are lost.
    Unserved,
}

/// One session.
#[derive(Debug)]
pub(super) struct Session {
    pub(super) id: u64,
    pub(super) title: u32,
    pub(super) rate: u64,
    pub(super) zone: u32,
    pub(super) duration: Time,
    pub(super) place: Place,
    /// Where it is in its node's list.
    pub(super) index: u32,
    /// Asked for a second answer already.
    pub(super) retried: bool,
    /// The answer's seats; the first is tried next.
    pub(super) seats: std::collections::VecDeque<u32>,
    /// Nodes that it excludes.
    pub(super) exclude: Vec<u32>,
    /// Those of them that were full.
    pub(super) full: Vec<u32>,
    /// Its tickets let it in up to a tenth above a node's capacity.
    pub(super) burst: bool,
}

/// All sessions. The lower half of a number is the slot, the upper half counts its uses.
#[derive(Debug, Default)]
pub(super) struct Sessions {
    slots: Vec<Option<Session>>,
    uses: Vec<u32>,
    free: Vec<u32>,
}

impl Sessions {
    /// Takes up a session and gives it a number.
    pub(super) fn open(&mut self, title: u32, rate: u64, zone: u32, duration: Time) -> u64 {
        let slot = self.free.pop().unwrap_or_else(|| {
            self.slots.push(None);
            self.uses.push(0);
            self.slots.len() as u32 - 1
        });
        self.uses[slot as usize] += 1;
        let id = u64::from(self.uses[slot as usize]) << 32 | u64::from(slot);
        self.slots[slot as usize] = Some(Session {
            id,
            title,
            rate,
            zone,
            duration,
            place: Place::Asking,
            index: 0,
            retried: false,
            seats: std::collections::VecDeque::new(),
            exclude: Vec::new(),
            full: Vec::new(),
            burst: false,
        });
        id
    }

    /// The session `id`, unless it is over.
    pub(super) fn find(&mut self, id: u64) -> Option<&mut Session> {
        self.slots.get_mut(id as u32 as usize)?.as_mut().filter(|session| session.id == id)
    }

    /// Ends the session `id`.
    pub(super) fn close(&mut self, id: u64) {
        let slot = id as u32;
        if self.find(id).is_some() {
            self.slots[slot as usize] = None;
            self.free.push(slot);
        }
    }
}

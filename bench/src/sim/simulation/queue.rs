//! The events to come, in order of time, and of their making where times are equal.

use std::{cmp::Ordering, collections::BinaryHeap};

use crate::sim::{
    policy::{Delta, Report},
    units::Time,
    workload::Arrival,
};

/// A future event.
#[derive(Debug)]
pub(super) enum Event {
    /// A client asks for a title.
    Arrive { arrival: Arrival },
    /// A client reaches its next seat.
    Dial { session: u64 },
    /// Its dial got no answer.
    TimedOut { session: u64 },
    /// A client that lost its node asks again; `suspect` if the node did not answer.
    Again { session: u64, suspect: Option<u32> },
    /// Its session ends.
    End { session: u64 },
    /// A new second of background.
    Second,
    /// The next window of the counted time.
    Window,
    /// All policies tick.
    Tick,
    /// One policy asked for a tick.
    Wake { master: u32 },
    /// A change of the plan.
    Fault { index: u32 },
    /// A node measures and reports.
    Measure { node: u32, boot: u64 },
    /// A report comes to a master.
    Report { master: u32, node: u32, report: Box<Report> },
    /// A node sends its batch.
    Flush { node: u32, boot: u64 },
    /// A batch comes to a master.
    Delta { master: u32, node: u32, delta: Box<Delta> },
    /// A move has come to both nodes and the client.
    Move { master: u32, session: u64, from: u32, to: u32 },
    /// A copy has gone on for a step.
    Copy { index: u32 },
    /// A probe is answered, or not.
    Probed { master: u32, node: u32, alive: bool },
}

/// The future events.
#[derive(Debug, Default)]
pub(super) struct Queue {
    heap: BinaryHeap<Entry>,
    made: u64,
}

impl Queue {
    pub(super) fn push(&mut self, at: Time, event: Event) {
        self.made += 1;
        self.heap.push(Entry { at, number: self.made, event });
    }

    pub(super) fn pop(&mut self) -> Option<(Time, Event)> {
        self.heap.pop().map(|entry| (entry.at, entry.event))
    }
}

#[derive(Debug)]
struct Entry {
    at: Time,
    number: u64,
    event: Event,
}

impl Ord for Entry {
    /// The heap gives the greatest first, so earlier is greater.
    fn cmp(&self, other: &Self) -> Ordering {
        (other.at, other.number).cmp(&(self.at, self.number))
    }
}

impl PartialOrd for Entry {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for Entry {
    fn eq(&self, other: &Self) -> bool {
        self.number == other.number
    }
}

impl Eq for Entry {}

//! Sessions by id, by node and by work: one slot each, linked so that every change is a constant number of steps.
//! Refuses to know what a promise is.

use std::{collections::HashMap, time::Instant};

use usher_proto::{SessionId, ticket::Purpose};

use super::{NodeId, State};
use crate::core::catalog::Work;

const NONE: u32 = u32::MAX;

/// One session.
#[derive(Clone, Copy, Debug)]
pub(super) struct Slot {
    pub(super) session: SessionId,
    pub(super) node: NodeId,
    pub(super) rate: u64,
    pub(super) state: State,
    pub(super) moves: u8,
    pub(super) purpose: Purpose,
    /// When the promise, or the order to move, is void.
    pub(super) expires: Option<Instant>,
}

#[derive(Clone, Copy)]
struct Linked {
    slot: Slot,
    /// Its work, and its neighbours in the list of that work's sessions on its node.
    work: u32,
    previous: u32,
    next: u32,
}

/// The number of a work that has sessions; good until the ledger changes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WorkRef(u32);

/// The sessions of one work on one node.
struct Shelf {
    node: NodeId,
    /// Where this work is in the list of the node's works.
    at: u32,
    /// The first of its sessions.
    head: u32,
}

struct Known {
    /// `None` for the sessions of which nobody knows the title.
    work: Option<Work>,
    shelves: Vec<Shelf>,
}

/// A work, and its sessions on one node.
pub struct Place<'a> {
    /// The work; `None` when its title is not known.
    pub work: Option<Work>,
    table: &'a Table,
    head: u32,
}

impl Place<'_> {
    /// The session that takes the least of those that run, take at least `need` bit/s, were moved fewer than `moves`
    /// times, and are `free`: its id and bit/s.
    pub fn least(&self, need: u64, moves: u8, free: impl Fn(&SessionId) -> bool) -> Option<(SessionId, u64)> {
        let fit = self.movable(moves).filter(|(session, rate)| *rate >= need && free(session));
        fit.min_by_key(|(session, rate)| (*rate, *session))
    }

    /// All that run and were moved fewer than `moves` times.
    pub fn movable(&self, moves: u8) -> impl Iterator<Item = (SessionId, u64)> {
        let fit = move |slot: &&Slot| slot.state == State::Running && slot.moves < moves;
        self.slots().filter(fit).map(|slot| (slot.session, slot.rate))
    }

    /// All that run and are not on their way elsewhere, however often they were moved.
    pub fn running(&self) -> impl Iterator<Item = (SessionId, u64)> {
        let running = self.slots().filter(|slot| slot.state == State::Running);
        running.map(|slot| (slot.session, slot.rate))
    }

    /// How many run, on their way elsewhere or not.
    pub fn taken(&self) -> usize {
        self.slots().filter(|slot| slot.state != State::Promised).count()
    }

    fn slots(&self) -> impl Iterator<Item = &Slot> {
        let mut at = self.head;
        std::iter::from_fn(move || {
            let linked = self.table.slots.get(at as usize)?;
            at = linked.next;
            Some(&linked.slot)
        })
    }
}

#[derive(Default)]
pub(super) struct Table {
    by_session: HashMap<SessionId, u32>,
    slots: Vec<Linked>,
    free: Vec<u32>,
    by_work: HashMap<Option<Work>, u32>,
    works: Vec<Known>,
    free_works: Vec<u32>,
    by_node: Vec<Vec<WorkRef>>,
}

impl Table {
    pub(super) fn len(&self) -> usize {
        self.by_session.len()
    }

    pub(super) fn find(&self, session: SessionId) -> Option<&Slot> {
        self.by_session.get(&session).map(|at| &self.slots[*at as usize].slot)
    }

    pub(super) fn work(&self, session: SessionId) -> Option<Work> {
        let linked = self.slots[*self.by_session.get(&session)? as usize];
        self.works[linked.work as usize].work
    }

    /// Puts a session that is not there yet.
    pub(super) fn insert(&mut self, slot: Slot, work: Option<Work>) {
        let linked = Linked { slot, work: self.known(work), previous: NONE, next: NONE };
        let at = match self.free.pop() {
            Some(at) => {
                self.slots[at as usize] = linked;
                at
            }
            None => {
                self.slots.push(linked);
                number(self.slots.len() - 1)
            }
        };
        self.by_session.insert(slot.session, at);
        self.link(at);
    }

    pub(super) fn remove(&mut self, session: SessionId) -> Option<Slot> {
        let at = self.by_session.remove(&session)?;
        let work = self.slots[at as usize].work;
        self.unlink(at);
        self.forget_if_empty(work);
        self.free.push(at);
        Some(self.slots[at as usize].slot)
    }

    pub(super) fn change(&mut self, session: SessionId, change: impl FnOnce(&mut Slot)) {
        let Some(&at) = self.by_session.get(&session) else { return };
        let before = self.slots[at as usize].slot.node;
        let mut slot = self.slots[at as usize].slot;
        change(&mut slot);
        if slot.node == before {
            self.slots[at as usize].slot = slot;
        } else {
            self.unlink(at);
            self.slots[at as usize].slot = slot;
            self.link(at);
        }
    }

    pub(super) fn works(&self, node: NodeId) -> &[WorkRef] {
        self.by_node.get(node.index()).map_or(&[], Vec::as_slice)
    }

    pub(super) fn place(&self, node: NodeId, work: WorkRef) -> Option<Place<'_>> {
        let known = self.works.get(work.0 as usize)?;
        let shelf = known.shelves.iter().find(|shelf| shelf.node == node)?;
        Some(Place { work: known.work, table: self, head: shelf.head })
    }

    pub(super) fn sessions_of(&self, node: NodeId) -> Vec<SessionId> {
        let places = self.works(node).iter().filter_map(|work| self.place(node, *work));
        places.flat_map(|place| place.slots().map(|slot| slot.session).collect::<Vec<_>>()).collect()
    }

    pub(super) fn moving_to(&self, node: NodeId) -> Vec<SessionId> {
        let slots = self.by_session.values().map(|at| &self.slots[*at as usize].slot);
        slots.filter(|slot| slot.state == State::Moving(node)).map(|slot| slot.session).collect()
    }

    fn known(&mut self, work: Option<Work>) -> u32 {
        if let Some(&at) = self.by_work.get(&work) {
            return at;
        }
        let at = match self.free_works.pop() {
            Some(at) => {
                // Its list is empty and keeps its room.
                self.works[at as usize].work = work;
                at
            }
            None => {
                self.works.push(Known { work, shelves: Vec::new() });
                number(self.works.len() - 1)
            }
        };
        self.by_work.insert(work, at);
        at
    }

    fn forget_if_empty(&mut self, work: u32) {
        let known = &self.works[work as usize];
        if known.shelves.is_empty() {
            self.by_work.remove(&known.work);
            self.free_works.push(work);
        }
    }

    fn link(&mut self, at: u32) {
        let Linked { slot: Slot { node, .. }, work, .. } = self.slots[at as usize];
        if self.by_node.len() <= node.index() {
            self.by_node.resize_with(node.index() + 1, Vec::new);
        }
        let shelves = &mut self.works[work as usize].shelves;
        let next = match shelves.iter_mut().find(|shelf| shelf.node == node) {
            Some(shelf) => std::mem::replace(&mut shelf.head, at),
            None => {
                let works = &mut self.by_node[node.index()];
                works.push(WorkRef(work));
                shelves.push(Shelf { node, at: number(works.len() - 1), head: at });
                NONE
            }
        };
        (self.slots[at as usize].previous, self.slots[at as usize].next) = (NONE, next);
        if let Some(next) = self.slots.get_mut(next as usize) {
            next.previous = at;
        }
    }

    fn unlink(&mut self, at: u32) {
        let Linked { slot: Slot { node, .. }, work, previous, next } = self.slots[at as usize];
        if let Some(next) = self.slots.get_mut(next as usize) {
            next.previous = previous;
        }
        if let Some(previous) = self.slots.get_mut(previous as usize) {
            previous.next = next;
            return;
        }
        let shelves = &mut self.works[work as usize].shelves;
        let Some(index) = shelves.iter().position(|shelf| shelf.node == node) else { return };
        if next != NONE {
            shelves[index].head = next;
            return;
        }
        // It was the last: the node has no session of this work any more.
        let shelf = shelves.swap_remove(index);
        let works = &mut self.by_node[node.index()];
        works.swap_remove(shelf.at as usize);
        if let Some(&WorkRef(moved)) = works.get(shelf.at as usize)
            && let Some(other) = self.works[moved as usize].shelves.iter_mut().find(|other| other.node == node)
        {
            other.at = shelf.at;
        }
    }
}

/// A table of four thousand million sessions would need more memory than machines have.
fn number(index: usize) -> u32 {
    u32::try_from(index).unwrap_or(NONE)
}

//! Sessions by id, node and content: one slot each, linked so that every change takes constant time.

use std::{collections::HashMap, time::Instant};

use usher_proto::{SessionId, ticket::Purpose};

use super::{NodeId, SessionState, Source, unredeemed::Ticket};
use crate::core::catalog::ContentKey;

const NONE: u32 = u32::MAX;

/// One session.
#[derive(Clone, Copy, Debug)]
pub(super) struct Slot {
    pub(super) session: SessionId,
    pub(super) node: NodeId,
    /// Bit/s of its ticket, which it needs elsewhere.
    pub(super) rate: u64,
    /// Bit/s that its node reserves for it; less than `rate` while its reader takes less.
    pub(super) reserved: u64,
    pub(super) state: SessionState,
    pub(super) moves: u8,
    pub(super) purpose: Purpose,
    /// Time at which the reservation or move expires.
    pub(super) expires: Option<Instant>,
    /// The client, if it is accounted.
    pub(super) source: Option<Source>,
    /// A ticket was issued for it that was not redeemed anywhere: nothing runs yet.
    pub(super) fresh: bool,
}

impl Slot {
    /// The reservation as one that may be released; `None` for sessions that run or move, and for unknown clients.
    pub(super) fn ticket(&self) -> Option<Ticket> {
        let Slot { session, node, rate, fresh, .. } = *self;
        let (source, expires) = self.source.zip(self.expires).filter(|_| fresh)?;
        Some(Ticket { node, source, session, rate, expires })
    }
}

#[derive(Clone, Copy)]
struct LinkedSlot {
    slot: Slot,
    /// Index of its content, and its neighbours in the list of that content's sessions on its node.
    content: u32,
    previous: u32,
    next: u32,
}

/// Number of a content with sessions; valid until the ledger changes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ContentRef(u32);

/// The sessions of one content on one node.
struct SessionList {
    node: NodeId,
    /// Position of this content among the node's contents.
    at: u32,
    /// First session.
    head: u32,
}

struct ContentEntry {
    /// `None` for sessions of unknown titles.
    content: Option<ContentKey>,
    lists: Vec<SessionList>,
}

/// A content and its sessions on one node.
pub struct NodeSessions<'a> {
    /// The content; `None` if the title is unknown.
    pub content: Option<ContentKey>,
    table: &'a SessionTable,
    head: u32,
}

impl NodeSessions<'_> {
    /// The smallest running session of at least `need` bit/s that was moved fewer than `moves` times and is `free`: its
    /// id and bit/s.
    pub fn least(&self, need: u64, moves: u8, free: impl Fn(&SessionId) -> bool) -> Option<(SessionId, u64)> {
        let fit = self.movable(moves).filter(|(session, rate)| *rate >= need && free(session));
        fit.min_by_key(|(session, rate)| (*rate, *session))
    }

    /// Running sessions that are not being moved, were moved fewer than `moves` times and hold their whole rate, which
    /// a move would free; `None` stands for all that run.
    pub fn movable(&self, moves: impl Into<Option<u8>>) -> impl Iterator<Item = (SessionId, u64)> {
        let moves = moves.into();
        let fit = move |slot: &&Slot| {
            let frees = |moves| slot.moves < moves && slot.reserved == slot.rate;
            slot.state == SessionState::Running && moves.is_none_or(frees)
        };
        self.slots().filter(fit).map(|slot| (slot.session, slot.rate))
    }

    /// Number of running sessions, moving ones included.
    pub fn taken(&self) -> usize {
        self.slots().filter(|slot| slot.state != SessionState::Reserved).count()
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
pub(super) struct SessionTable {
    by_session: HashMap<SessionId, u32>,
    slots: Vec<LinkedSlot>,
    free: Vec<u32>,
    by_content: HashMap<Option<ContentKey>, u32>,
    contents: Vec<ContentEntry>,
    free_contents: Vec<u32>,
    by_node: Vec<Vec<ContentRef>>,
    /// Bit/s of running sessions by node.
    running: Vec<u64>,
}

impl SessionTable {
    pub(super) fn len(&self) -> usize {
        self.by_session.len()
    }

    pub(super) fn find(&self, session: SessionId) -> Option<&Slot> {
        self.by_session.get(&session).map(|at| &self.slots[*at as usize].slot)
    }

    pub(super) fn content(&self, session: SessionId) -> Option<ContentKey> {
        let linked = self.slots[*self.by_session.get(&session)? as usize];
        self.contents[linked.content as usize].content
    }

    /// Inserts a session that is not present.
    pub(super) fn insert(&mut self, slot: Slot, content: Option<ContentKey>) {
        let linked = LinkedSlot { slot, content: self.known(content), previous: NONE, next: NONE };
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
        self.count(&slot, 1);
    }

    /// Bit/s of the sessions that run on a node, moving ones included.
    pub(super) fn running_rate(&self, node: NodeId) -> u64 {
        self.running.get(node.index()).copied().unwrap_or(0)
    }

    /// Adds a running session's rate to its node's sum, or subtracts it.
    fn count(&mut self, slot: &Slot, sign: i8) {
        if slot.state == SessionState::Reserved {
            return;
        }
        if self.running.len() <= slot.node.index() {
            self.running.resize(slot.node.index() + 1, 0);
        }
        let sum = &mut self.running[slot.node.index()];
        *sum = if sign > 0 { sum.saturating_add(slot.rate) } else { sum.saturating_sub(slot.rate) };
    }

    pub(super) fn remove(&mut self, session: SessionId) -> Option<Slot> {
        let at = self.by_session.remove(&session)?;
        let content = self.slots[at as usize].content;
        self.unlink(at);
        self.forget_if_empty(content);
        self.free.push(at);
        let slot = self.slots[at as usize].slot;
        self.count(&slot, -1);
        Some(slot)
    }

    pub(super) fn change(&mut self, session: SessionId, change: impl FnOnce(&mut Slot)) {
        let Some(&at) = self.by_session.get(&session) else { return };
        let before = self.slots[at as usize].slot.node;
        let mut slot = self.slots[at as usize].slot;
        self.count(&slot, -1);
        change(&mut slot);
        self.count(&slot, 1);
        if slot.node == before {
            self.slots[at as usize].slot = slot;
        } else {
            self.unlink(at);
            self.slots[at as usize].slot = slot;
            self.link(at);
        }
    }

    pub(super) fn contents(&self, node: NodeId) -> &[ContentRef] {
        self.by_node.get(node.index()).map_or(&[], Vec::as_slice)
    }

    pub(super) fn sessions_of(&self, node: NodeId, content: ContentRef) -> Option<NodeSessions<'_>> {
        let known = self.contents.get(content.0 as usize)?;
        let list = known.lists.iter().find(|list| list.node == node)?;
        Some(NodeSessions { content: known.content, table: self, head: list.head })
    }

    pub(super) fn session_ids(&self, node: NodeId) -> Vec<SessionId> {
        let places = self.contents(node).iter().filter_map(|content| self.sessions_of(node, *content));
        places.flat_map(|place| place.slots().map(|slot| slot.session).collect::<Vec<_>>()).collect()
    }

    pub(super) fn moving_to(&self, node: NodeId) -> Vec<SessionId> {
        let slots = self.by_session.values().map(|at| &self.slots[*at as usize].slot);
        slots.filter(|slot| slot.state == SessionState::Moving(node)).map(|slot| slot.session).collect()
    }

    fn known(&mut self, content: Option<ContentKey>) -> u32 {
        if let Some(&at) = self.by_content.get(&content) {
            return at;
        }
        let at = match self.free_contents.pop() {
            Some(at) => {
                // Its list is empty and keeps its allocation.
                self.contents[at as usize].content = content;
                at
            }
            None => {
                self.contents.push(ContentEntry { content, lists: Vec::new() });
                number(self.contents.len() - 1)
            }
        };
        self.by_content.insert(content, at);
        at
    }

    fn forget_if_empty(&mut self, content: u32) {
        let known = &self.contents[content as usize];
        if known.lists.is_empty() {
            self.by_content.remove(&known.content);
            self.free_contents.push(content);
        }
    }

    fn link(&mut self, at: u32) {
        let LinkedSlot { slot: Slot { node, .. }, content, .. } = self.slots[at as usize];
        if self.by_node.len() <= node.index() {
            self.by_node.resize_with(node.index() + 1, Vec::new);
        }
        let lists = &mut self.contents[content as usize].lists;
        let next = match lists.iter_mut().find(|list| list.node == node) {
            Some(list) => std::mem::replace(&mut list.head, at),
            None => {
                let contents = &mut self.by_node[node.index()];
                contents.push(ContentRef(content));
                lists.push(SessionList { node, at: number(contents.len() - 1), head: at });
                NONE
            }
        };
        (self.slots[at as usize].previous, self.slots[at as usize].next) = (NONE, next);
        if let Some(next) = self.slots.get_mut(next as usize) {
            next.previous = at;
        }
    }

    fn unlink(&mut self, at: u32) {
        let LinkedSlot { slot: Slot { node, .. }, content, previous, next } = self.slots[at as usize];
        if let Some(next) = self.slots.get_mut(next as usize) {
            next.previous = previous;
        }
        if let Some(previous) = self.slots.get_mut(previous as usize) {
            previous.next = next;
            return;
        }
        let lists = &mut self.contents[content as usize].lists;
        let Some(index) = lists.iter().position(|list| list.node == node) else { return };
        if next != NONE {
            lists[index].head = next;
            return;
        }
        // Last one: the node has no more sessions of this content.
        let list = lists.swap_remove(index);
        let contents = &mut self.by_node[node.index()];
        contents.swap_remove(list.at as usize);
        if let Some(&ContentRef(moved)) = contents.get(list.at as usize)
            && let Some(other) = self.contents[moved as usize].lists.iter_mut().find(|other| other.node == node)
        {
            other.at = list.at;
        }
    }
}

/// 2^32 sessions would exceed a machine's memory.
fn number(index: usize) -> u32 {
    u32::try_from(index).unwrap_or(NONE)
}

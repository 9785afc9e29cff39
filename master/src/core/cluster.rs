//! The whole core behind one door: catalog, roster and ledger, kept in step. Owns what an event of one means for the
//! others, and the decision: look up, choose, reserve.

mod decide;
#[cfg(test)]
mod tests;

use std::time::Instant;

use usher_proto::{
    SessionId, Title,
    model::{CatalogPage, Hello, Presence, Report},
};

pub use self::decide::{Ask, Decision, Refused};
use super::{
    NodeId, Now, balancer,
    catalog::{Catalog, Found, PageError, PageOutcome},
    ledger::Ledger,
    roster::{AttachError, Change, Ignored, Link, Roster, State},
};

/// Something that people who watch want to hear.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event {
    /// A node attached.
    Attached(NodeId),
    /// A node's state changed.
    State(NodeId, State),
}

/// See the module.
#[derive(Default)]
pub struct Cluster {
    catalog: Catalog,
    roster: Roster,
    ledger: Ledger,
    events: Vec<Event>,
    scratch: decide::Scratch,
}

impl Cluster {
    /// A cluster of no nodes.
    pub fn new() -> Self {
        Self::default()
    }

    /// Attaches a node.
    pub fn attach(&mut self, now: Now, hello: Hello) -> Result<Link, AttachError> {
        let (link, fresh) = self.roster.attach(now, hello)?;
        if fresh {
            // The key of the tickets went with the old process.
            self.ledger.release_all(link.node);
        }
        self.events.push(Event::Attached(link.node));
        Ok(link)
    }

    /// The channel of an attachment closed.
    pub fn detach(&mut self, now: Now, link: Link) {
        if self.roster.detach(now, link) {
            self.events.push(Event::State(link.node, State::Gone));
        }
    }

    /// Takes a page of a node's catalog; `None` when the attachment is replaced.
    pub fn page(&mut self, link: Link, page: &CatalogPage) -> Result<Option<PageOutcome>, PageError> {
        let Some(node) = self.roster.current(link) else { return Ok(None) };
        node.rejected_files = page.rejected_files;
        node.catalog_known |= page.complete;
        self.catalog.page(link.node, page).map(Some)
    }

    /// Takes a report: the lease is renewed, and what it settles is no longer booked twice.
    pub fn report(&mut self, now: Now, link: Link, mut report: Report) -> Result<(), Ignored> {
        let settled = std::mem::take(&mut report.settled);
        let state = self.roster.report(now, link, report)?;
        for session in settled {
            self.ledger.release(session);
        }
        self.events.extend(state.map(|state| Event::State(link.node, state)));
        Ok(())
    }

    /// Takes a change of a node's presence.
    pub fn presence(&mut self, link: Link, presence: Presence) {
        let state = self.roster.presence(link, presence);
        self.events.extend(state.map(|state| Event::State(link.node, state)));
    }

    /// Ends a reservation whose session will not be.
    pub fn release(&mut self, session: SessionId) {
        self.ledger.release(session);
    }

    /// Does what time alone brings: leases and reservations end, and the catalog collects a step of what is void.
    pub fn handle(&mut self, now: Now) {
        self.ledger.expire(now.instant);
        for (node, change) in self.roster.handle(now) {
            match change {
                Change::State(state) => self.events.push(Event::State(node, state)),
                Change::CopiesVoid => self.catalog.forget(node),
                Change::Forgotten => self.ledger.release_all(node),
            }
        }
    }

    /// Collects some of the copies that are void; true while there are more.
    pub fn sweep(&mut self) -> bool {
        self.catalog.sweep()
    }

    /// When [`Self::handle`] has something to do next.
    pub fn deadline(&self) -> Option<Instant> {
        self.ledger.deadline().into_iter().chain(self.roster.deadline()).min()
    }

    /// What has happened since the last call.
    pub fn events(&mut self) -> Vec<Event> {
        std::mem::take(&mut self.events)
    }

    /// The catalog.
    pub fn catalog(&self) -> &Catalog {
        &self.catalog
    }

    /// The roster.
    pub fn roster(&self) -> &Roster {
        &self.roster
    }

    /// The ledger.
    pub fn ledger(&self) -> &Ledger {
        &self.ledger
    }

    /// The contents of a title, in the order of a request by name.
    pub fn versions(&self, title: &Title) -> Vec<Found> {
        self.catalog.versions(title.as_str(), |node| self.roster.attached(node))
    }

    /// Titles from a prefix on; see [`Catalog::list`].
    pub fn list<'a>(&'a self, prefix: &'a str, after: Option<&'a str>) -> impl Iterator<Item = Found> + 'a {
        self.catalog.list(prefix, after, |node| self.roster.attached(node))
    }

    /// What one node has left, booked first: bit/s.
    pub fn load(&self, node: NodeId) -> (u64, u64) {
        let Some(known) = self.roster.node(node) else { return (0, 0) };
        let booked = balancer::booked(node, known, &self.ledger);
        (booked, balancer::headroom(known, booked))
    }
}

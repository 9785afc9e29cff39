//! What nodes and clients tell the core: catalogs, reports, sessions, presence, answers and hints. Owns what each of these
//! means for catalog, roster and ledger together.

use std::{collections::HashSet, time::Duration};

use usher_proto::{
    Code, NodeName, SessionId,
    model::{Begun, CatalogPage, Presence, Report, Sessions, What},
};

use super::{Cluster, Event, Order};
use crate::core::{
    Now,
    catalog::{Key, PageError, PageOutcome, Work},
    feeds::Use,
    roster::{Ignored, Link},
};

impl Cluster {
    /// Takes a page of a node's catalog; `None` when the attachment is replaced.
    pub fn page(&mut self, link: Link, page: &CatalogPage) -> Result<Option<PageOutcome>, PageError> {
        let Some(node) = self.roster.current(link) else { return Ok(None) };
        (node.rejected_files, node.damaged_files) = (page.rejected_files, page.damaged_files);
        node.catalog_known |= page.complete;
        self.catalog.page(link.node, page).map(Some)
    }

    /// Takes a report: the lease is renewed, and the books are brought up to date.
    pub fn report(&mut self, now: Now, link: Link, report: Report) -> Result<(), Ignored> {
        let state = self.roster.report(now, link, report)?;
        if self.settings.moves && self.is_overloaded(now, link.node) {
            self.overloaded.push(link.node);
        }
        self.events.extend(state.map(|state| Event::State(link.node, state)));
        Ok(())
    }

    /// Takes what a node tells of its sessions: promises become sessions that run, or end.
    pub fn sessions(&mut self, now: Now, link: Link, sessions: Sessions) -> Result<(), Ignored> {
        if !self.roster.is_current(link) {
            return Err(Ignored::Superseded);
        }
        let node = link.node;
        if sessions.restart {
            self.listed.insert(node, HashSet::new());
        }
        for begun in &sessions.begun {
            let work = self.ledger.work(begun.session).or_else(|| self.work(begun));
            if begun.title.is_live() {
                self.feeds.used(begun.session, Use { title: begun.title.clone(), to: None });
            }
            self.ledger.begun(node, begun.session, work, begun.rate.0, begun.purpose);
            if let Some(listed) = self.listed.get_mut(&node) {
                listed.insert(begun.session);
            }
        }
        // After those that began: a short session does both between two messages.
        let mut ended = 0_u64;
        for session in &sessions.ended {
            self.feeds.left(*session);
            ended = ended.saturating_add(self.ledger.ended(node, *session).unwrap_or(0));
        }
        for turned in &sessions.turned {
            self.ledger.turned(node, turned.session);
            if let (Code::NoCapacity, Some(limit)) = (turned.code, turned.limit) {
                self.roster.limited(now.instant, link, limit.0);
            }
        }
        if sessions.complete
            && let Some(listed) = self.listed.remove(&node)
        {
            self.ledger.retain(node, |session| listed.contains(&session));
        }
        let uptime = Duration::from_millis(sessions.uptime_ms);
        let state = self.roster.told(now.instant, link, uptime, sessions.committed.0, ended);
        self.events.extend(state.map(|state| Event::State(node, state)));
        Ok(())
    }

    /// A node answered a probe.
    pub fn probed(&mut self, now: Now, link: Link) {
        let state = self.roster.alive(now.instant, link);
        self.events.extend(state.map(|state| Event::State(link.node, state)));
    }

    /// A client, told from others by a number, says that a node does not answer.
    pub fn hint(&mut self, now: Now, node: &NodeName, client: u64) {
        let Some(id) = self.roster.id(node) else { return };
        if self.roster.witness(now.instant, id, client) {
            self.probe(now, id);
        }
    }

    /// A client got wrong bytes of a title from a node, which is to look at what it has under that name.
    pub fn doubt(&mut self, now: Now, node: &NodeName, what: &What) {
        let Some(node) = self.roster.id(node).filter(|node| self.roster.attached(*node)) else { return };
        let mut found = Vec::new();
        match what {
            What::Title(title) => found = self.versions(title),
            What::Content(content) => self.catalog.by_content(content, &mut found),
        }
        // What is not hashed yet was not verified by its name.
        found.retain(|found| matches!(found.key, Key::Hashed(_)));
        found.retain(|found| self.catalog.holders(found).any(|holder| holder == node));
        for work in found.iter().map(|found| self.catalog.work(found)) {
            if self.doubts.ask(now.instant, node, work) {
                self.orders.push(Order::Recheck { work, node });
            }
        }
    }

    /// A node told how the order to move a session went.
    pub fn moved(&mut self, session: SessionId, done: bool) {
        if !done {
            self.ledger.stays(session);
            self.calm.refused(session);
        }
    }

    /// Takes a change of a node's presence.
    pub fn presence(&mut self, now: Now, link: Link, presence: Presence) {
        if !self.roster.is_current(link) {
            return;
        }
        let state = self.roster.presence(link, presence);
        self.note_drain(now, link.node);
        self.events.extend(state.map(|state| Event::State(link.node, state)));
    }

    /// The content that a session has begun with, if the catalog knows it.
    fn work(&self, begun: &Begun) -> Option<Work> {
        let attached = |node| self.roster.attached(node);
        let found = match begun.content {
            None => self.catalog.by_title(begun.title.as_str(), attached)?,
            Some(content) => self.catalog.under(begun.title.as_str(), Key::Hashed(content))?,
        };
        Some(self.catalog.work(&found))
    }
}

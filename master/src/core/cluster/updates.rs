//! Inputs from nodes and clients: catalogs, reports, sessions, presence, answers and hints. Owns their effect on
//! catalog, roster and ledger together.

use std::{collections::HashSet, net::SocketAddr, time::Duration};

use usher_proto::{
    Code, ContentId, NodeName, SessionId, Title,
    model::{Begun, CatalogPage, Presence, Report, Sessions},
};

use super::{Cluster, ClusterEvent, Order};
use crate::core::{
    Now,
    catalog::{ContentIdentity, ContentKey, PageError, PageOutcome},
    feeds::FeedSession,
    ledger::Booking,
    roster::{AttachmentId, Ignored},
};

impl Cluster {
    /// Handles a page of a node's catalog; `None` if the attachment was replaced.
    pub fn handle_page(
        &mut self,
        attachment: AttachmentId,
        page: &CatalogPage,
    ) -> Result<Option<PageOutcome>, PageError> {
        let Some(node) = self.roster.current(attachment) else { return Ok(None) };
        (node.rejected_files, node.damaged_files) = (page.rejected_files, page.damaged_files);
        node.catalog_known |= page.complete;
        let limits = self.settings.limits.get(&node.hello.node);
        let may_list = |title: &Title| limits.is_none_or(|limits| limits.allow(title));
        self.catalog.page_within(attachment.node, page, may_list).map(Some)
    }

    /// Handles a report: renews the lease and updates the load estimate.
    pub fn handle_report(&mut self, now: Now, attachment: AttachmentId, report: Report) -> Result<(), Ignored> {
        let delivered = report.delivered.0;
        let state = self.roster.handle_report(now, attachment, report)?;
        // Sessions that the master did not assign prove nothing.
        let assigned = self.ledger.running_rate(attachment.node);
        if let Some(node) = self.roster.current(attachment) {
            node.estimate.handle_proof(delivered.min(assigned));
            // Before its load is compared with its capacity: a master that was started again would shed sessions.
            node.estimate.trust(node.estimate.proven());
        }
        if self.settings.moves && self.is_overloaded(now, attachment.node) {
            self.overloaded.push(attachment.node);
        }
        self.events.extend(state.map(|state| ClusterEvent::State(attachment.node, state)));
        Ok(())
    }

    /// Handles session updates of a node: reservations become running sessions, and sessions end. Sessions that this
    /// cluster did not issue change nothing. Returns their number.
    pub fn handle_sessions(
        &mut self,
        now: Now,
        attachment: AttachmentId,
        mut sessions: Sessions,
    ) -> Result<usize, Ignored> {
        if !self.roster.is_current(attachment) {
            return Err(Ignored::Superseded);
        }
        let node = attachment.node;
        let key = self.settings.session_key.as_ref();
        let invented = key.map_or(0, |key| sessions.retain(|session| key.issued(session)));
        if sessions.restart {
            self.listed.insert(node, HashSet::new());
        }
        let lists = self.listed.contains_key(&node);
        for begun in &sessions.begun {
            let key = self.ledger.content(begun.session).or_else(|| self.content_key(begun));
            if begun.title.is_live() {
                self.feeds.add_session(begun.session, FeedSession { title: begun.title.clone(), to: None });
            }
            let Begun { session, rate, purpose, .. } = *begun;
            let booking = Booking { session, node, content: key, rate: rate.0, purpose };
            let redeemed = self.ledger.handle_begun(now.instant, booking, lists);
            if let Some((planner, key)) = self.planner.as_mut().zip(key).filter(|_| redeemed) {
                planner.handle_request(now.instant, key, rate.0);
            }
            match self.listed.get_mut(&node) {
                Some(listed) => drop(listed.insert(begun.session)),
                None => self.roster.handle_begun(now.instant, node),
            }
        }
        for change in &sessions.rates {
            self.ledger.handle_rate_changed(node, change.session, change.rate.0);
        }
        // Applied after new sessions: a short one starts and ends within one message.
        let mut ended = 0_u64;
        for session in &sessions.ended {
            ended = ended.saturating_add(self.ledger.handle_ended(node, *session).unwrap_or(0));
            // A session that moved runs at its new seat.
            if self.ledger.session(*session).is_none() {
                self.feeds.remove_session(*session);
            }
        }
        for turned in &sessions.turned {
            self.ledger.handle_refused(now.instant, node, turned.session);
            if let (Code::NoCapacity, Some(limit)) = (turned.code, turned.limit) {
                self.roster.handle_limit(now.instant, attachment, limit.0);
            }
        }
        if sessions.complete
            && let Some(listed) = self.listed.remove(&node)
        {
            self.ledger.retain(node, |session| listed.contains(&session));
        }
        let uptime = Duration::from_millis(sessions.uptime_ms);
        let state = self.roster.handle_sessions(now.instant, attachment, uptime, sessions.committed.0, ended);
        self.events.extend(state.map(|state| ClusterEvent::State(node, state)));
        Ok(invented)
    }

    /// Handles the answer to a probe.
    pub fn handle_probe_answer(&mut self, now: Now, attachment: AttachmentId) {
        let state = self.roster.handle_sign_of_life(now.instant, attachment);
        self.events.extend(state.map(|state| ClusterEvent::State(attachment.node, state)));
    }

    /// Handles a client's report that a node does not answer. A report is a reason to test the node, never a verdict: only
    /// a probe that stays unanswered makes the node suspect. The node's address is dialled only if the client has `proven`
    /// that it was sent there.
    pub fn handle_hint(&mut self, now: Now, node: &NodeName, proven: bool) {
        let Some(id) = self.roster.id(node) else { return };
        self.probe(now, id);
        if proven {
            self.roster.handle_hint(now.instant, id);
            self.dial_back(now);
        }
    }

    /// Orders the dials that are due.
    pub(super) fn dial_back(&mut self, now: Now) {
        self.orders.extend(self.roster.poll_dials(now.instant).into_iter().map(Order::DialBack));
    }

    /// Handles the result of dialling a node's addresses.
    pub fn handle_dialled(&mut self, now: Now, attachment: AttachmentId, answered: Vec<SocketAddr>) {
        self.roster.handle_dialled(now.instant, attachment, answered);
    }

    /// Handles a client's report of wrong bytes: orders the node to recheck its copies of that content.
    pub fn handle_damaged_copy(&mut self, now: Now, node: &NodeName, content: &ContentId) {
        let Some(node) = self.roster.id(node).filter(|node| self.roster.attached(*node)) else { return };
        let mut found = Vec::new();
        self.catalog.by_content(content, &mut found);
        found.retain(|found| self.catalog.holders(found).any(|holder| holder == node));
        for key in found.iter().map(|found| self.catalog.key(found)) {
            if self.rechecks.allow(now.instant, node, key) {
                self.orders.push(Order::Recheck { key, node });
            }
        }
    }

    /// Handles a node's answer to a move order.
    pub fn handle_move_answer(&mut self, session: SessionId, done: bool) {
        if !done {
            self.ledger.cancel_move(session);
            self.background.refused(session);
        }
    }

    /// Handles a change of a node's presence.
    pub fn handle_presence(&mut self, now: Now, attachment: AttachmentId, presence: Presence) {
        if !self.roster.is_current(attachment) {
            return;
        }
        let state = self.roster.handle_presence(now.instant, attachment, presence);
        self.dial_back(now);
        self.note_drain(now, attachment.node);
        self.events.extend(state.map(|state| ClusterEvent::State(attachment.node, state)));
    }

    /// The content of a started session, if the catalog knows it.
    fn content_key(&self, begun: &Begun) -> Option<ContentKey> {
        let attached = |node| self.roster.attached(node);
        let found = match begun.content {
            None => self.catalog.by_title(begun.title.as_str(), attached)?,
            Some(content) => self.catalog.under(begun.title.as_str(), ContentIdentity::Hashed(content))?,
        };
        Some(self.catalog.key(&found))
    }
}

//! Limits of viewers with an identity: sessions at once and their rate, as their tokens permit.

use usher_proto::{Bitrate, SessionId, TokenId, ViewerId};

use super::{Cluster, Order, Refused, SeatRequest};
use crate::core::{NodeId, ledger::SessionState, viewers::ViewerUse};

impl Cluster {
    /// Whether the request's viewer may have one more session, of this rate.
    pub(super) fn check_viewer(&self, request: &SeatRequest<'_>, rate: Bitrate) -> Result<(), Refused> {
        let Some(viewer) = request.viewer else { return Ok(()) };
        let (most, most_rate) = (viewer.rights.max_sessions, viewer.rights.max_rate);
        if most.is_none() && most_rate.is_none() {
            return Ok(());
        }
        let left: Vec<NodeId> = request.exclude.iter().filter_map(|name| self.roster.id(name)).collect();
        let usage = self.viewers.usage(viewer.id, &self.ledger, &left);
        if let Some(most) = most.filter(|most| usage.sessions >= *most) {
            return Err(Refused::ViewerSessions { what: request.what.clone(), most });
        }
        match most_rate {
            Some(most) if usage.rate.saturating_add(rate.0) > most.0 => {
                Err(Refused::ViewerRate { what: request.what.clone(), rate, most })
            }
            _ => Ok(()),
        }
    }

    /// Adds the session of a decision to its viewer's.
    pub(super) fn note_viewer(&mut self, request: &SeatRequest<'_>, session: SessionId) {
        if let Some(viewer) = request.viewer {
            self.viewers.insert(viewer.id, viewer.token, session);
        }
    }

    /// Handles a renewal: a master that was restarted learns whose session it is.
    pub fn handle_renewal(&mut self, viewer: ViewerId, token: Option<TokenId>, session: SessionId) {
        if self.ledger.session(session).is_some() {
            self.viewers.insert(viewer, token, session);
        }
    }

    /// Viewers with sessions, by id, and what each has.
    pub fn viewers(&self) -> Vec<(ViewerId, ViewerUse)> {
        self.viewers.list(&self.ledger)
    }

    /// Handles the revocation of viewers and tokens. Returns the number of their sessions; with `end`, their nodes are
    /// ordered to end them.
    pub fn handle_revocation(&mut self, viewers: &[ViewerId], tokens: &[TokenId], end: bool) -> usize {
        let sessions = self.viewers.of(viewers, tokens).into_iter();
        let sessions = sessions.filter_map(|session| Some((session, self.ledger.session(session)?)));
        let sessions: Vec<_> = sessions.map(|(session, known)| (session, known.node, known.state)).collect();
        for (session, node, state) in sessions.iter().copied().filter(|_| end) {
            // A session that moves may run at either node.
            let other = if let SessionState::Moving(to) = state { Some(to) } else { None };
            for node in std::iter::once(node).chain(other) {
                self.orders.push(Order::EndRevoked { session, node });
            }
        }
        sessions.len()
    }
}

//! Viewers with an identity: their rights, and which sessions each of them has. The ledger knows what of these still exists;
//! this table forgets the rest.

use std::collections::{HashMap, VecDeque};

use usher_proto::{SessionId, TokenId, ViewerId};
use usher_token::Rights;

use super::{NodeId, ledger::Ledger};

/// Sessions examined per round, at least; each is examined again until it is over.
const SWEEP: usize = 256;

/// A viewer with a valid token.
#[derive(Clone, Debug)]
pub struct TokenViewer {
    /// The viewer.
    pub id: ViewerId,
    /// Its token; `None` if the token has no id.
    pub token: Option<TokenId>,
    /// The rights that the token gives.
    pub rights: Rights,
}

/// A session of a viewer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct ViewerSession {
    session: SessionId,
    token: Option<TokenId>,
}

/// The sessions of a viewer at a time, summed up.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ViewerUse {
    /// Sessions that run or hold a reservation.
    pub sessions: u32,
    /// Bit/s of these.
    pub rate: u64,
}

/// The sessions of viewers with an identity.
#[derive(Debug, Default)]
pub struct ViewerSessions {
    viewers: HashMap<ViewerId, Vec<ViewerSession>>,
    /// All sessions, the ones examined longest ago first.
    queue: VecDeque<(ViewerId, SessionId)>,
}

impl ViewerSessions {
    /// Adds a session of a viewer; one that is known keeps its place.
    pub fn insert(&mut self, viewer: ViewerId, token: Option<TokenId>, session: SessionId) {
        let sessions = self.viewers.entry(viewer).or_default();
        match sessions.iter_mut().find(|one| one.session == session) {
            Some(known) => known.token = token,
            None => {
                sessions.push(ViewerSession { session, token });
                self.queue.push_back((viewer, session));
            }
        }
    }

    /// The use of one viewer. Of its sessions on the `left` nodes, which a client has given up, the largest is not counted:
    /// the client replaces it.
    pub fn usage(&self, viewer: ViewerId, ledger: &Ledger, left: &[NodeId]) -> ViewerUse {
        let mut usage = ViewerUse::default();
        let mut replaced = None;
        for known in self.sessions(viewer).filter_map(|one| ledger.session(one.session)) {
            usage.sessions += 1;
            usage.rate = usage.rate.saturating_add(known.rate);
            if left.contains(&known.node) {
                replaced = replaced.max(Some(known.rate));
            }
        }
        if let Some(rate) = replaced {
            usage.sessions -= 1;
            usage.rate -= rate;
        }
        usage
    }

    /// Viewers with sessions, by id, and what each has.
    pub fn list(&self, ledger: &Ledger) -> Vec<(ViewerId, ViewerUse)> {
        let all = self.viewers.keys().map(|viewer| (*viewer, self.usage(*viewer, ledger, &[])));
        let mut all: Vec<_> = all.filter(|(_, usage)| usage.sessions > 0).collect();
        all.sort_unstable_by_key(|(viewer, _)| *viewer);
        all
    }

    /// The sessions of these viewers, and those that began with one of these tokens.
    pub fn of(&self, viewers: &[ViewerId], tokens: &[TokenId]) -> Vec<SessionId> {
        let revoked = |viewer: &ViewerId, one: &ViewerSession| {
            viewers.contains(viewer) || one.token.is_some_and(|token| tokens.contains(&token))
        };
        let all = self.viewers.iter().flat_map(|(viewer, sessions)| sessions.iter().map(move |one| (viewer, one)));
        all.filter(|(viewer, one)| revoked(viewer, one)).map(|(_, one)| one.session).collect()
    }

    /// Forgets some of the sessions that are over.
    pub fn sweep(&mut self, ledger: &Ledger) {
        for _ in 0..SWEEP.max(self.queue.len() / 64).min(self.queue.len()) {
            let Some((viewer, session)) = self.queue.pop_front() else { return };
            if ledger.session(session).is_some() {
                self.queue.push_back((viewer, session));
                continue;
            }
            if let Some(sessions) = self.viewers.get_mut(&viewer) {
                sessions.retain(|one| one.session != session);
                if sessions.is_empty() {
                    self.viewers.remove(&viewer);
                }
            }
        }
    }

    fn sessions(&self, viewer: ViewerId) -> impl Iterator<Item = &ViewerSession> {
        self.viewers.get(&viewer).into_iter().flatten()
    }
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use usher_proto::ticket::Purpose;

    use super::*;
    use crate::core::{Now, ledger::Booking};

    const ALICE: ViewerId = ViewerId(1);
    const BOB: ViewerId = ViewerId(2);

    fn reserve(ledger: &mut Ledger, session: u128, node: u32, rate: u64) -> SessionId {
        let now = Now { instant: Instant::now(), unix_ms: 0 };
        let (session, purpose) = (SessionId(session), Purpose::Play);
        ledger.reserve(now, Booking { session, node: NodeId(node), content: None, rate, purpose }, None);
        session
    }

    #[test]
    fn sessions_count_while_the_ledger_knows_them() {
        let (mut ledger, mut viewers) = (Ledger::default(), ViewerSessions::default());
        let token = Some(TokenId(7));
        for (viewer, token, session, node, rate) in
            [(ALICE, token, 1, 0, 5), (ALICE, None, 2, 1, 3), (BOB, token, 3, 0, 9)]
        {
            let session = reserve(&mut ledger, session, node, rate);
            viewers.insert(viewer, token, session);
            viewers.insert(viewer, token, session);
        }
        let usage = |sessions, rate| ViewerUse { sessions, rate };
        assert_eq!(viewers.list(&ledger), [(ALICE, usage(2, 8)), (BOB, usage(1, 9))]);
        // A client replaces one session of a node that it gave up.
        for (left, expected) in
            [(vec![], usage(2, 8)), (vec![0], usage(1, 3)), (vec![0, 1], usage(1, 3)), (vec![9], usage(2, 8))]
        {
            let left: Vec<NodeId> = left.into_iter().map(NodeId).collect();
            assert_eq!(viewers.usage(ALICE, &ledger, &left), expected);
        }
        assert_eq!(viewers.of(&[ALICE], &[]), [SessionId(1), SessionId(2)]);
        let mut by_token = viewers.of(&[], &[TokenId(7)]);
        by_token.sort_unstable();
        assert_eq!(by_token, [SessionId(1), SessionId(3)]);

        ledger.release(SessionId(1));
        ledger.release(SessionId(3));
        assert_eq!(viewers.list(&ledger), [(ALICE, usage(1, 3))]);
        viewers.sweep(&ledger);
        assert_eq!((viewers.viewers.len(), viewers.queue.len()), (1, 1));
        ledger.release(SessionId(2));
        viewers.sweep(&ledger);
        assert!(viewers.viewers.is_empty() && viewers.queue.is_empty());
        assert_eq!(viewers.usage(ALICE, &ledger, &[]), ViewerUse::default());
    }
}

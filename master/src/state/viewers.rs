//! Viewers with an identity, as operators see them.

use usher_proto::{SessionId, TokenId, ViewerId, pb::v1};

use super::{SharedState, now};
use crate::core::viewers::ViewerUse;

impl SharedState {
    /// Viewers with sessions, by id.
    pub(crate) fn viewers(&self) -> Vec<v1::Viewer> {
        let viewers = self.lock().cluster.viewers().into_iter();
        let viewer = |(id, usage): (ViewerId, ViewerUse)| v1::Viewer {
            id: id.to_string(),
            sessions: usage.sessions,
            rate_bps: usage.rate,
        };
        viewers.map(viewer).collect()
    }

    /// Handles a revocation, and orders nodes to `end` the sessions. Returns their number.
    pub(crate) fn revoked(&self, viewers: &[ViewerId], tokens: &[TokenId], end: bool) -> usize {
        let mut inner = self.lock();
        let sessions = inner.cluster.handle_revocation(viewers, tokens, end);
        self.send_orders(&mut inner, now());
        sessions
    }

    /// Learns whose session it is that was renewed.
    pub(crate) fn renewed(&self, viewer: ViewerId, token: Option<TokenId>, session: SessionId) {
        self.lock().cluster.handle_renewal(viewer, token, session);
    }
}

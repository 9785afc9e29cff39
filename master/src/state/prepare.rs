//! `Prepare`: a question to a node about a brokered request, and the wait for its answer.

use std::sync::Arc;

use tokio::sync::oneshot;
use usher_proto::{Fault, code::Code, pb::v1};

use super::SharedState;
use crate::core::{NodeId, roster::AttachmentId};

/// A node's answer to a `Prepare`.
pub(crate) type PrepareAnswer = Result<v1::Setup, Fault>;

/// A `Prepare` without an answer.
pub(super) struct PendingPrepare {
    pub(super) attachment: AttachmentId,
    answer: oneshot::Sender<PrepareAnswer>,
}

impl SharedState {
    /// Sends a `Prepare` to a node; `None` if its channel is closed or full. Dropping the returned [`PrepareCall`]
    /// withdraws the question.
    pub(crate) fn prepare(self: &Arc<Self>, node: NodeId, ticket: String, request_id: &str) -> Option<PrepareCall> {
        let (sender, answer) = oneshot::channel();
        let mut inner = self.lock();
        let id = inner.number();
        let channel = inner.channels.get(&node)?;
        let body = v1::attach_response::Body::Prepare(v1::Prepare { id, ticket, request_id: request_id.to_owned() });
        channel.to_node.try_send(Ok(v1::AttachResponse { body: Some(body) })).ok()?;
        let attachment = channel.attachment;
        inner.pending.insert(id, PendingPrepare { attachment, answer: sender });
        Some(PrepareCall { state: Arc::clone(self), id, answer })
    }

    /// Handles a node's answer to a `Prepare`. Late or unexpected answers are ignored.
    pub(crate) fn prepared(&self, attachment: AttachmentId, id: u64, answer: PrepareAnswer) {
        let mut inner = self.lock();
        if inner.pending.get(&id).is_some_and(|pending| pending.attachment == attachment)
            && let Some(pending) = inner.pending.remove(&id)
            && pending.answer.send(answer).is_err()
        {
            tracing::debug!(id, "prepare answer ignored: its request is gone");
        }
    }
}

/// A question that waits for a node's answer.
pub(crate) struct PrepareCall {
    state: Arc<SharedState>,
    id: u64,
    answer: oneshot::Receiver<PrepareAnswer>,
}

impl PrepareCall {
    /// Waits for the answer; fails if the node's channel closes.
    pub(crate) async fn answer(&mut self) -> PrepareAnswer {
        let lost = || Fault::new(Code::Unavailable, "its channel to the master closed");
        (&mut self.answer).await.unwrap_or_else(|_| Err(lost()))
    }
}

impl Drop for PrepareCall {
    fn drop(&mut self) {
        self.state.lock().pending.remove(&self.id);
    }
}

//! Seats that failed for a client: what it reports about their nodes, and the proof that it was sent there.

use tracing::debug;
use usher_proto::{
    code::Code,
    model::Failed,
    ticket::{self, Ticket},
};

use crate::state::{SharedState, now};

/// Passes failed seats to the core: nodes that did not answer, and nodes that sent wrong bytes. Other failures show that
/// a node is alive.
pub(super) fn report<'a>(state: &SharedState, failed: impl IntoIterator<Item = &'a Failed>) {
    for failed in failed {
        match failed.code {
            Code::Timeout | Code::Network | Code::Unavailable => {
                state.hint(&failed.node, proof(state, failed).is_some());
            }
            // Nothing is known of the bytes of a title that was not hashed when the ticket was signed.
            Code::VerificationFailed => {
                if let Some(content) = proof(state, failed).and_then(|ticket| ticket.content) {
                    state.damaged_copy(&failed.node, &content);
                }
            }
            _ => {}
        }
    }
}

/// The ticket of a failed seat, if it proves that the client was sent there.
fn proof(state: &SharedState, failed: &Failed) -> Option<Ticket> {
    let contact = state.contact(&failed.node).filter(|_| !failed.ticket.is_empty())?;
    let keys = std::slice::from_ref(&contact.key);
    let held = ticket::verify_held(keys, &failed.node, now().unix_ms / 1000, &failed.ticket);
    held.inspect_err(|error| debug!(node = %failed.node, %error, "report of a failed seat without a proof")).ok()
}

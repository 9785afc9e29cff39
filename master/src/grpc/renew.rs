//! Renewal of a running session's ticket: the right to it is checked again.

use usher_proto::{
    Fault,
    code::Code,
    model::Renew,
    pb::v1,
    ticket::{self, RenewError, Right, Ticket},
};

use super::{access::Caller, publish::Sender};
use crate::{
    state::{SharedState, now},
    viewers::Viewers,
};

/// Signs a ticket again with the key of the node's current attachment, if its holder still has the right to it.
pub(super) fn renewed(
    state: &SharedState,
    viewers: &Viewers,
    renew: &Renew,
    caller: Result<Caller, Fault>,
    sender: Result<Sender, Fault>,
) -> Result<v1::RenewResponse, Fault> {
    let Renew { node, ticket } = renew;
    let gone = || Fault::new(Code::NotFound, format!("node `{node}` is not attached; resolve again"));
    let contact = state.contact(node).ok_or_else(gone)?;
    let now = now();
    let (seconds, until) = (now.unix_ms / 1000, state.until(now));
    let until = until.or_else(|| Some(caller.as_ref().ok()?.viewer()?.rights.expires));
    let ticket = ticket::renew(&contact.key, node, seconds, until, ticket).map_err(|error| match error {
        RenewError::Restarted => Fault::new(Code::NotFound, error.to_string()),
        RenewError::Ticket(error) => Fault::from(&error),
    })?;
    let renewed = ticket::verify_renewal(std::slice::from_ref(&contact.key), node, seconds, &ticket);
    let renewed = renewed.map_err(|error| Fault::from(&error))?;
    permit(viewers, &renewed, caller, sender)?;
    if let Some(viewer) = renewed.viewer {
        state.renewed(viewer, renewed.token, renewed.session);
    }
    Ok(v1::RenewResponse { ticket, lifetime_s: until.map_or(0, |until| until.saturating_sub(seconds)) })
}

/// Whether the caller may go on: a publisher by its certificate or token, a viewer by its token.
fn permit(
    viewers: &Viewers,
    ticket: &Ticket,
    caller: Result<Caller, Fault>,
    sender: Result<Sender, Fault>,
) -> Result<(), Fault> {
    let publishes = ticket.feed.as_ref().is_some_and(|grant| grant.right == Right::Publish);
    if !publishes {
        return caller?.require_renewal(ticket);
    }
    // A publisher with a certificate got its ticket for it; a token may have been revoked since.
    if viewers.need_token() || ticket.viewer.is_some() {
        sender?.require(&ticket.title)?;
    }
    Ok(())
}

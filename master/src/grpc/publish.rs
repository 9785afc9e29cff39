//! Permission to publish a feed, and the answer with seats for the publisher.

use std::sync::Arc;

use tonic::Request;
use usher_certs::{Identity, Role};
use usher_proto::{
    Fault, Title,
    code::Code,
    model::Publish,
    pb::v1,
    ticket::{FeedGrant, LIFETIME_SECS, Right},
};
use usher_token::Action;

use super::{
    access::{allow, by_token},
    answers::TicketTerms,
    peer,
};
use crate::{
    core::viewers::TokenViewer,
    state::{NodeContact, PublishSeats, SharedState, timestamp},
    viewers::Viewers,
};

/// The sender of a feed, known by a certificate or by a token.
pub(super) struct Sender {
    identity: Option<Identity>,
    /// Looked at where there is no certificate.
    viewer: Option<Arc<TokenViewer>>,
}

impl Sender {
    /// The sender of a request.
    pub(super) fn of<T>(viewers: &Viewers, request: &Request<T>) -> Result<Self, Fault> {
        let identity = peer::identity(request)?;
        let looked_at = identity.is_none() && viewers.accept_tokens();
        let viewer = if looked_at { by_token(viewers, request.metadata())? } else { None };
        Ok(Self { identity, viewer })
    }

    /// The viewer whose token this is.
    pub(super) fn viewer(&self) -> Option<&TokenViewer> {
        self.viewer.as_deref()
    }

    /// The sender's name for logs, if it may send this feed: a certificate is for `live/NAME` and `live/NAME/…`, an
    /// operator's for all, a token for its titles.
    pub(super) fn require(&self, title: &Title) -> Result<String, Fault> {
        match &self.viewer {
            Some(viewer) => {
                allow(&viewer.rights, Action::Publish, title.as_str()).map(|()| format!("viewer {}", viewer.id))
            }
            None => certified(self.identity.as_ref(), title),
        }
    }
}

fn certified(identity: Option<&Identity>, title: &Title) -> Result<String, Fault> {
    let feed = title.as_str().strip_prefix("live/").unwrap_or_default();
    match identity {
        Some(identity) if identity.role == Role::Admin => Ok(identity.name.clone()),
        Some(identity) if identity.role == Role::Publisher => {
            let rest = feed.strip_prefix(&identity.name);
            if rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('/')) {
                return Ok(identity.name.clone());
            }
            let text = format!(
                "the certificate of {identity} is for live/{name} and live/{name}/…, not for `{title}`",
                name = identity.name
            );
            Err(Fault::new(Code::Denied, text))
        }
        Some(identity) => {
            let text = format!("{identity} may not publish; use a certificate from `usher certs issue publisher NAME`");
            Err(Fault::new(Code::Denied, text))
        }
        None => {
            let name = feed.split('/').next().unwrap_or_default();
            let text = format!(
                "publishing `{title}` needs a client certificate: `usher certs issue publisher {name}`, or an operator's; \
                 or a token that permits to publish"
            );
            Err(Fault::new(Code::Unauthenticated, text))
        }
    }
}

/// Seats for a publisher, with tickets.
pub(super) fn answer(
    state: &SharedState,
    publish: &Publish,
    id: &str,
    viewer: Option<&TokenViewer>,
) -> Result<v1::PublishResponse, Fault> {
    let Publish { title, publisher, rate, take_over, record, .. } = publish;
    let seats = state.ingest(publish).map_err(|why| {
        let fault = Fault::from(&why);
        Fault { message: format!("`{title}`: {}", fault.message), ..fault }
    })?;
    let PublishSeats { contacts, reason, seed, key, now } = seats;
    let (expires, session) = ((now.unix_ms / 1000).saturating_add(LIFETIME_SECS), state.session());
    let grant = FeedGrant {
        right: Right::Publish,
        key,
        publisher: *publisher,
        first: now.unix_ms,
        take_over: *take_over,
        record: *record,
    };
    let rate = rate.map_or(0, |rate| rate.0);
    let terms = TicketTerms { id, until: state.until(now), viewer };
    let seat = |contact: &NodeContact| {
        contact.seat(&terms.apply(contact.feed_claims(now, terms.until, title, session, &grant, rate)))
    };
    Ok(v1::PublishResponse {
        session_id: session.to_string(),
        seats: contacts.iter().map(|contact| seat(contact)).collect::<Result<_, Fault>>()?,
        feed_seed: seed.to_vec(),
        reason,
        expires_at: Some(timestamp(expires.saturating_mul(1000))),
        request_id: id.to_owned(),
    })
}

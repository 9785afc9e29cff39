//! Answers of `usher.v1.Tickets`: seats with signed tickets, refusals, and one log line per decision.

use std::time::Duration;

use tracing::debug;
use usher_proto::{
    ContentId, Fault,
    code::Code,
    feed::FeedKey,
    model::{Invalid, Mode, Range, Resolve, What},
    pb::v1,
    ticket::{Claims, FeedGrant, LIFETIME_SECS, Right},
};

use crate::{
    core::viewers::TokenViewer,
    state::{NodeContact, Placement, timestamp},
};

/// Time that a node has to open a title. A spinning disk that wakes up takes longer, and another holder does not.
pub(super) const PREPARE_TIMEOUT: Duration = Duration::from_secs(2);

/// The terms that all tickets of one answer share.
pub(super) struct TicketTerms<'a> {
    /// The request id.
    pub(super) id: &'a str,
    /// Unix seconds until which a session may run; `None` for ever.
    pub(super) until: Option<u64>,
    /// The viewer, if it has an identity.
    pub(super) viewer: Option<&'a TokenViewer>,
}

impl TicketTerms<'_> {
    /// Claims under these terms. Where sessions have no lifetime, a viewer's session ends with its token.
    pub(super) fn apply(&self, claims: Claims) -> Claims {
        let Self { id, until, viewer } = self;
        let until = until.or_else(|| viewer.map(|viewer| viewer.rights.expires));
        let (sub, tid) = (viewer.map(|viewer| viewer.id), viewer.and_then(|viewer| viewer.token));
        Claims { rid: (*id).to_owned(), until, sub, tid, ..claims }
    }
}

/// Builds the answer to a decided request. Tickets are signed outside the lock.
pub(super) fn answer(
    resolve: &Resolve,
    seated: &Placement,
    terms: &TicketTerms<'_>,
) -> Result<v1::ResolveResponse, Fault> {
    let Placement { decision, contacts, reason, now, live } = seated;
    if contacts.is_empty() {
        // All channels closed within one hold of the lock: not expected, but then there is no seat.
        return Err(Fault::new(Code::Unavailable, "the chosen node has just left; try again").after(PREPARE_TIMEOUT));
    }
    let issued = now.unix_ms / 1000;
    let expires = issued.saturating_add(LIFETIME_SECS);
    let watch = live.as_ref().and_then(|live| {
        let key = FeedKey::try_from(live.key.as_slice()).ok()?;
        Some(FeedGrant::to_get(Right::Watch, key))
    });
    let claims = |contact: &NodeContact| Claims {
        feed: watch.as_ref().map(FeedGrant::to_claims),
        cid: decision.content.as_ref().map(ContentId::to_string),
        start: resolve.range.start,
        end: resolve.range.end,
        rate: decision.rate.0,
        burst: decision.burst,
        ..Claims::new(&contact.node, decision.session, &decision.title, resolve.purpose, issued)
    };
    Ok(v1::ResolveResponse {
        session_id: decision.session.to_string(),
        title: decision.title.to_string(),
        content_id: decision.content.map(|content| content.to_string()).unwrap_or_default(),
        size: decision.size,
        rate_bps: decision.rate.0,
        seats: contacts
            .iter()
            .map(|contact| contact.seat(&terms.apply(claims(contact))))
            .collect::<Result<_, Fault>>()?,
        setup: None,
        reason: reason.clone(),
        expires_at: Some(timestamp(expires.saturating_mul(1000))),
        request_id: terms.id.to_owned(),
        live: live.clone(),
    })
}

/// A feed has no byte ranges, and its node supplies the set-up information.
pub(super) fn redirected(resolve: &Resolve) -> Result<(), Invalid> {
    let live = matches!(&resolve.what, What::Title(title) if title.is_live());
    match resolve {
        Resolve { mode: Mode::Brokered, .. } if live => Err(Invalid::one("mode", "feeds support MODE_REDIRECT only")),
        Resolve { range, .. } if live && *range != Range::default() => {
            Err(Invalid::one("range", "a feed has no byte ranges; its Open states where to begin"))
        }
        _ => Ok(()),
    }
}

/// The refusal of the last node asked, as the client receives it.
pub(super) fn after_refusal(node: &str, fault: Fault) -> Fault {
    let message = format!("no other holder can serve, and {node} refused: {}", fault.message);
    let retry_after = fault.retry_after.or_else(|| fault.code.retry().then_some(PREPARE_TIMEOUT));
    Fault { message, retry_after, ..fault }
}

/// Logs a decision.
pub(super) fn log_decision(resolve: &Resolve, done: &Result<v1::ResolveResponse, Fault>) {
    match done {
        Ok(response) => debug!(
            title = %response.title,
            session = %response.session_id,
            node = response.seats.first().map_or("", |seat| &seat.node),
            rate = response.rate_bps,
            reason = %response.reason,
            "request resolved"
        ),
        Err(fault) => {
            debug!(title = %resolve.what, reason = fault.code.reason(), error = %fault, "request refused");
        }
    }
}

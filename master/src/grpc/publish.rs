//! Permission to publish a feed, and the answer with seats for the publisher.

use usher_certs::{Identity, Role};
use usher_proto::{
    Fault, Title,
    code::Code,
    model::Publish,
    pb::v1,
    ticket::{Claims, FeedGrant, LIFETIME_SECS, Right},
};

use crate::state::{NodeContact, PublishSeats, SharedState, session, timestamp};

/// The publisher's name, if its certificate is for this feed: `live/NAME` and `live/NAME/…`, or any feed for operators.
pub(super) fn allowed(identity: Option<Identity>, title: &Title) -> Result<String, Fault> {
    let feed = title.as_str().strip_prefix("live/").unwrap_or_default();
    match identity {
        Some(identity) if identity.role == Role::Admin => Ok(identity.name),
        Some(identity) if identity.role == Role::Publisher => {
            let rest = feed.strip_prefix(&identity.name);
            if rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('/')) {
                return Ok(identity.name);
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
                "publishing `{title}` needs a client certificate: `usher certs issue publisher {name}`, or an operator's"
            );
            Err(Fault::new(Code::Unauthenticated, text))
        }
    }
}

/// Seats for a publisher, with tickets.
pub(super) fn answer(state: &SharedState, publish: &Publish, id: &str) -> Result<v1::PublishResponse, Fault> {
    let Publish { title, publisher, rate, take_over, record, .. } = publish;
    let seats = state.ingest(publish).map_err(|why| {
        let fault = Fault::from(&why);
        Fault { message: format!("`{title}`: {}", fault.message), ..fault }
    })?;
    let PublishSeats { contacts, reason, seed, key, now } = seats;
    let (expires, session) = ((now.unix_ms / 1000).saturating_add(LIFETIME_SECS), session());
    let grant = FeedGrant {
        right: Right::Publish,
        key,
        publisher: *publisher,
        first: now.unix_ms,
        take_over: *take_over,
        record: *record,
    };
    let rate = rate.map_or(0, |rate| rate.0);
    let seat = |contact: &NodeContact| {
        let claims = contact.feed_claims(now, state.until(now), title, session, &grant, rate);
        contact.seat(&Claims { rid: id.to_owned(), ..claims })
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

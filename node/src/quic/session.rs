//! One stream from its first message: admits a session and runs it, or renews one. Sessions of titles are in `title`,
//! those of feeds in `feed`.

use std::{future::pending, sync::Arc};

use tokio::time;
use tokio_util::sync::CancellationToken;
use tracing::{Instrument as _, Span, field, info_span};
use usher_budget::{Permit, Prefix};
use usher_proto::{
    Code, Fault,
    pb::wire::{Open, Renewed},
    ticket::Right,
    wire::{self, Kind},
};
use usher_transport::{RecvStream, SendStream};

use super::{
    ending::{encoded, refuse, send_last},
    feed::{self, FeedSession},
    header::{self, FirstMessage, HeaderError},
    ranges,
    scope::ConnectionScope,
    settings::QuicSettings,
    title::{self, TitleSession},
};
use crate::{
    budgets::Resource,
    context::{self, SessionStream},
    services::Services,
};

/// An admitted session.
enum AdmittedSession {
    Title(Box<TitleSession>),
    Feed(Box<FeedSession>),
}

/// Runs a session until it is complete, its client leaves, or the `scope` ends it. Holds `place` until it is admitted.
pub(super) async fn run(
    services: Arc<Services>,
    settings: QuicSettings,
    (mut send, mut receive): (SendStream, RecvStream),
    place: Permit<Prefix>,
    scope: ConnectionScope,
) {
    let gone = &scope.gone;
    let node = services.context.name.as_str();
    let span = info_span!("session", node, request_id = field::Empty, session = field::Empty, title = field::Empty);
    let session = async {
        let open = tokio::select! {
            open = time::timeout(settings.open_timeout, header::read(&mut receive)) => open,
            () = gone.cancelled() => return,
        };
        let (open, decoder) = match open {
            Ok(Ok(FirstMessage::Open(open, decoder))) => (*open, decoder),
            Ok(Ok(FirstMessage::Renew(renew))) => {
                return answer(&mut send, services.renew(&renew.ticket), gone).await;
            }
            Ok(Err(HeaderError::Gone)) => return,
            Ok(Err(HeaderError::Bad(fault))) => return refuse(&mut send, &fault, gone).await,
            Err(_) => {
                let fault = Fault::new(Code::Timeout, "no Open message came in time");
                return refuse(&mut send, &fault, gone).await;
            }
        };
        let more = open.more;
        match admit(&services, open, &scope).await {
            Ok(AdmittedSession::Feed(session)) => {
                drop(place);
                feed::serve(&services, settings, *session, (&mut send, &mut receive, decoder), &scope).await;
            }
            Ok(AdmittedSession::Title(session)) => {
                drop(place);
                let (sender, requests) = more.then(ranges::channel).unzip();
                let reading = async {
                    match sender {
                        // Boxed, so that the many sessions that request no further range do not hold its state.
                        Some(sender) => Box::pin(ranges::read(&mut receive, decoder, sender)).await,
                        None => pending().await,
                    }
                };
                title::serve(&services, settings, session, &mut send, (requests, reading), &scope).await;
            }
            Err(fault) => refuse(&mut send, &fault, gone).await,
        }
    };
    session.instrument(span).await;
    // Dropped only now: dropping it stops the client's side of the stream.
    drop(receive);
}

/// Admits the session of an Open message. Its ticket is redeemed even when the session is refused after that.
async fn admit(services: &Arc<Services>, open: Open, scope: &ConnectionScope) -> Result<AdmittedSession, Fault> {
    let context = &services.context;
    let ticket = context.verify(&open.ticket);
    let by_ticket = ticket.as_ref().map_or("", |ticket| ticket.request_id.as_str());
    let id = if open.request_id.is_empty() { by_ticket } else { &open.request_id };
    let span = Span::current();
    span.record("request_id", context::request_id(id).as_str());
    let ticket = ticket?;
    span.record("session", field::display(ticket.session)).record("title", field::display(&ticket.title));
    let (id, burst) = (ticket.session, ticket.burst);
    let admitted = async {
        let in_use = scope.uses.enter();
        // A node that relays a feed serves many viewers, so it has places of its own.
        let relays = ticket.feed.as_ref().is_some_and(|feed| feed.right == Right::Relay);
        let stream = SessionStream {
            connection: scope.connection.stable_id() as u64,
            holder: (!relays).then_some(scope.prefix),
            priority: open.priority,
        };
        if ticket.feed.is_some() || open.watch.is_some() || open.publish.is_some() {
            let session = FeedSession::admit(services, ticket, open, stream, in_use).await?;
            return Ok(AdmittedSession::Feed(Box::new(session)));
        }
        Ok(AdmittedSession::Title(Box::new(TitleSession::admit(context, ticket, open, stream, in_use).await?)))
    };
    admitted.await.inspect_err(|fault: &Fault| {
        if fault.code == Code::BudgetExceeded {
            services.budgets.refused(Resource::Sessions, scope.prefix);
        }
        context.record_refusal(id, burst, fault);
    })
}

/// Answers a renewal: the seconds that the session may run, or why it may not.
async fn answer(send: &mut SendStream, renewed: Result<u64, Fault>, gone: &CancellationToken) {
    let renewed = renewed.map(|lifetime_s| Renewed { lifetime_s });
    match renewed.and_then(|renewed| encoded(Kind::Renewed, wire::message(Kind::Renewed, &renewed))) {
        Ok(frame) => send_last(send, &frame, gone).await,
        Err(fault) => refuse(send, &fault, gone).await,
    }
}

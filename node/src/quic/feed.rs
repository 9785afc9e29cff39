//! The session of a feed on its stream: a viewer, a relaying node, or a publisher. Admission and the end of the session
//! are here; the groups travel in `live`.

use std::time::{Duration, Instant};

use tokio::time;
use usher_proto::{
    Code, Fault,
    model::Offer,
    pb::{
        v1::{FeedSetup, Setup},
        wire::{FeedStart, Open},
    },
    ticket::{FeedGrant, Right, Ticket},
    wire::{self, Decoder, Kind},
};
use usher_transport::{RecvStream, SendStream};

use super::{
    ending::{LAST_FRAME, SessionError, attribute, conclude, encoded, expired, log},
    scope::ConnectionScope,
    settings::QuicSettings,
    uses::InUse,
};
use crate::{
    context::{ActiveSession, SessionStream},
    live::{
        PublisherGuard, SubscriberGuard,
        ingest::{self, Ended},
        watch::WatchSession,
    },
    send_window::Pace,
    services::Services,
};

/// Time that a viewer waits for a feed that is not here yet.
const FEED_WAIT: Duration = Duration::from_secs(5);

/// An admitted session of a feed.
pub(super) struct FeedSession {
    ticket: Ticket,
    role: FeedRole,
    _in_use: InUse,
}

enum FeedRole {
    Viewer { subscriber: SubscriberGuard, active: Box<ActiveSession>, start: FeedStart },
    Publisher(Box<PublisherGuard>),
}

impl FeedSession {
    /// Checks the Open message against the ticket, redeems it, and starts the session.
    ///
    /// # Errors
    /// `TICKET_MISMATCH`, `UNAVAILABLE` when the feed does not arrive in time, and those of
    /// [`crate::context::NodeContext::begin_feed`] and [`crate::live::Feeds::publish`].
    pub(super) async fn admit(
        services: &Services,
        ticket: Ticket,
        open: Open,
        stream: SessionStream,
        in_use: InUse,
    ) -> Result<Self, Fault> {
        let mismatch = |what: &str| Err(Fault::new(Code::TicketMismatch, format!("{what}; resolve again")));
        let Some(FeedGrant { right, key, .. }) = ticket.feed else {
            return mismatch("the ticket is for a title, and a feed was asked for");
        };
        let Services { context, live, .. } = services;
        let role = match (right, open.watch, open.publish) {
            (Right::Watch | Right::Relay, Some(start), None) => {
                context.ensure_serving()?;
                let subscriber = live.subscribe(&ticket.title, key, right == Right::Relay, &start)?;
                let known = time::timeout(FEED_WAIT, subscriber.feed.medium_known()).await;
                let late = |_| {
                    let text = format!("`{}` does not come from any other node yet", ticket.title);
                    Fault::new(Code::Unavailable, text).after(Duration::from_millis(500))
                };
                known.map_err(late)??;
                // Not redeemed before the feed is here: a client that waited in vain may use its ticket again.
                context.redeem(&ticket)?;
                let active = Box::new(context.begin_feed(&ticket, stream)?);
                FeedRole::Viewer { subscriber, active, start }
            }
            (Right::Publish, None, Some(offer)) => {
                context.ensure_serving()?;
                context.redeem(&ticket)?;
                let offer = Offer::try_from(offer).map_err(|error| Fault::new(Code::BadRequest, error.to_string()))?;
                let grant = ticket.feed.as_ref().expect("it is one for a feed");
                FeedRole::Publisher(Box::new(live.publish(&ticket.title, grant, offer)?))
            }
            (Right::Publish, ..) => {
                return mismatch("the ticket is to publish, and the Open says nothing of that");
            }
            _ => return mismatch("the ticket is to watch a feed, and the Open does not say where to begin"),
        };
        Ok(Self { ticket, role, _in_use: in_use })
    }
}

/// Runs a session until it is complete, its client leaves, or the `scope` ends it.
pub(super) async fn serve(
    services: &Services,
    settings: QuicSettings,
    session: FeedSession,
    (send, receive, decoder): (&mut SendStream, &mut RecvStream, Decoder),
    scope: &ConnectionScope,
) {
    let FeedSession { ticket, role, _in_use } = session;
    let (live, began) = (&services.live, Instant::now());
    let lease = services.leases.enter(&ticket);
    let expired = expired(&lease, settings.ticket_grace);
    let subscription = live.subscription();
    let setup = |setup: Setup, first_group, newest_group| {
        let feed = FeedSetup { subscription, first_group, newest_group, window_ms: live.window_ms() };
        Setup { feed: Some(feed), ..setup }
    };
    let gone = || Err(SessionError::Gone("the client left"));
    let (result, moved_to, bytes) = match role {
        FeedRole::Publisher(mut publisher) => {
            ingest::open(&scope.connection);
            let (first, newest) = publisher.feed.first_group(ticket.feed.as_ref().map_or(0, |feed| feed.first));
            let setup = setup(publisher.feed.setup(), first, newest);
            let run = async {
                send_setup(send, &setup).await?;
                let place = (&scope.router, subscription);
                match ingest::run(live, &mut publisher, &scope.connection, place, (receive, decoder)).await {
                    Ended::Finished => Ok(()),
                    Ended::Left => gone(),
                    Ended::Refused(fault) => Err(SessionError::Refused(fault)),
                }
            };
            let result = tokio::select! {
                result = run => result,
                fault = expired => Err(SessionError::Refused(fault)),
                () = scope.gone.cancelled() => gone(),
            };
            (result, None, 0)
        }
        FeedRole::Viewer { subscriber, mut active, start } => {
            let mut movable = services.moves.register(ticket.session);
            let share = scope.window.join(Pace::Feed);
            let first = subscriber.feed.start_group(&start);
            let setup = setup(subscriber.feed.setup(), first, subscriber.feed.newest());
            let latency = if start.latency_ms == 0 { Duration::MAX } else { Duration::from_millis(start.latency_ms) };
            let run = async {
                send_setup(send, &setup).await?;
                let watch = WatchSession {
                    subscriber: &subscriber,
                    connection: &scope.connection,
                    control: send,
                    active: &mut active,
                    share: &share,
                    movable: &mut movable,
                    subscription,
                    first,
                    latency,
                    stall: settings.stall_timeout,
                };
                Ok(watch.run().await?)
            };
            let result = tokio::select! {
                result = run => result,
                () = left(receive) => gone(),
                fault = expired => Err(SessionError::Refused(fault)),
                () = scope.gone.cancelled() => gone(),
            };
            let moved_to = if result.is_ok() { movable.complete_move() } else { None };
            (result, moved_to, active.bytes())
        }
    };
    let result = attribute(result, scope);
    if result.is_ok() && send.finish().is_ok() {
        // The client ends its side once it has received everything.
        tokio::select! {
            _ = time::timeout(LAST_FRAME, left(receive)) => {}
            () = scope.gone.cancelled() => {}
        }
    }
    let outcome = conclude(send, result, moved_to, scope).await;
    log(&ticket, bytes, began.elapsed(), &outcome);
}

/// Waits until the client ends its side of the stream, on which it sends nothing more.
async fn left(receive: &mut RecvStream) {
    let mut ignored = [0; 64];
    while let Ok(Some(_)) = receive.read(&mut ignored).await {}
}

async fn send_setup(send: &mut SendStream, setup: &Setup) -> Result<(), SessionError> {
    let frame = encoded(Kind::Setup, wire::message(Kind::Setup, setup)).map_err(SessionError::Refused)?;
    send.write_chunk(frame).await.map_err(|_| SessionError::Gone("the client left"))
}

//! One session of a feed on its stream: who watches it, relays it or publishes it. What travels is `live`'s; here is what
//! all sessions have: they are let in, end for the same reasons, and the client learns why.

use std::{sync::Arc, time::Duration};

use tokio::time;
use tracing::info;
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
    super::{Settings, code, flight::Pace, idle::Use},
    Ends, FAREWELL, LAST_WORD, framed, refuse,
};
use crate::{
    house::{House, Running, StreamOf},
    live::{
        Publishing, Watching,
        ingest::{self, Ended},
        watch::{Lost, Watch},
    },
};

/// How long a viewer waits for a feed that is not here yet.
const COMES: Duration = Duration::from_secs(5);

/// A session that is let in.
pub(super) struct Admitted {
    ticket: Ticket,
    role: Role,
    _use: Use,
}

enum Role {
    Viewer { watching: Watching, running: Box<Running>, start: FeedStart },
    Publisher(Box<Publishing>),
}

/// From an Open message of a feed to a session that runs.
pub(super) async fn admit(
    house: &Arc<House>,
    ticket: Ticket,
    open: Open,
    stream: StreamOf,
    held: Use,
) -> Result<Admitted, Fault> {
    let mismatch = |what: &str| Err(Fault::new(Code::TicketMismatch, format!("{what}; resolve again")));
    let Some(FeedGrant { right, key, .. }) = ticket.feed else {
        return mismatch("the ticket is for a title, and a feed was asked for");
    };
    let role = match (right, open.watch, open.publish) {
        (Right::Watch | Right::Relay, Some(start), None) => {
            house.admits()?;
            let watching = house.live.enter(&ticket.title, key, right == Right::Relay, &start)?;
            let known = time::timeout(COMES, watching.room.known()).await;
            let late = |_| {
                let text = format!("`{}` does not come from any other node yet", ticket.title);
                Fault::new(Code::Unavailable, text).after(Duration::from_millis(500))
            };
            known.map_err(late)??;
            // Not before it comes to something: who waited in vain may come again.
            house.redeem(&ticket)?;
            let running = Box::new(house.begin_feed(&ticket, stream)?);
            Role::Viewer { watching, running, start }
        }
        (Right::Publish, None, Some(offer)) => {
            house.admits()?;
            house.redeem(&ticket)?;
            let offer = Offer::try_from(offer).map_err(|error| Fault::new(Code::BadRequest, error.to_string()))?;
            let grant = ticket.feed.as_ref().expect("it is one for a feed");
            Role::Publisher(Box::new(house.live.publish(&ticket.title, grant, offer)?))
        }
        (Right::Publish, ..) => return mismatch("the ticket is to publish, and the Open says nothing of that"),
        _ => return mismatch("the ticket is to watch a feed, and the Open does not say where to begin"),
    };
    Ok(Admitted { ticket, role, _use: held })
}

/// Runs a session until it is over, its client leaves, or one of the `ends`.
pub(super) async fn serve(
    house: &Arc<House>,
    settings: Settings,
    admitted: Admitted,
    (send, receive, decoder): (&mut SendStream, &mut RecvStream, Decoder),
    ends: &Ends,
) {
    let Admitted { ticket, role, _use } = admitted;
    let held = house.leases.enter(&ticket);
    let over = async {
        held.over(settings.ticket_grace).await;
        Fault::new(Code::TicketExpired, "the session's ticket ran out and was not renewed; resolve again")
    };
    let subscription = house.live.subscription();
    let (result, bytes) = match role {
        Role::Publisher(mut publishing) => {
            ingest::open(&ends.connection);
            let setup = publishing.room.setup();
            let (first, newest) = publishing.room.first(ticket.feed.as_ref().map_or(0, |feed| feed.first));
            let feed =
                FeedSetup { subscription, first_group: first, newest_group: newest, window_ms: house.live.window_ms() };
            let run = async {
                say(send, Setup { feed: Some(feed), ..setup }).await?;
                let place = (&ends.board, subscription);
                match ingest::run(&house.live, &mut publishing, &ends.connection, place, (receive, decoder)).await {
                    Ended::Finished => Ok(()),
                    Ended::Left => Err(Lost::Gone),
                    Ended::Refused(fault) => Err(Lost::Fault(fault)),
                }
            };
            let result = tokio::select! {
                result = run => result,
                fault = over => Err(Lost::Fault(fault)),
                () = ends.gone.cancelled() => Err(Lost::Gone),
            };
            (result, 0)
        }
        Role::Viewer { watching, mut running, start } => {
            let mut enrolled = house.moves.enrol(ticket.session);
            let sending = ends.flight.join(Pace::Feed);
            let first = watching.room.start(&start);
            let (setup, newest) = (watching.room.setup(), watching.room.newest());
            let feed =
                FeedSetup { subscription, first_group: first, newest_group: newest, window_ms: house.live.window_ms() };
            let latency = if start.latency_ms == 0 { Duration::MAX } else { Duration::from_millis(start.latency_ms) };
            let run = async {
                say(send, Setup { feed: Some(feed), ..setup }).await?;
                let watch = Watch {
                    watching: &watching,
                    connection: &ends.connection,
                    control: send,
                    running: &mut running,
                    sending: &sending,
                    enrolled: &mut enrolled,
                    subscription,
                    first,
                    latency,
                    stall: settings.stall_timeout,
                };
                watch.run().await
            };
            let result = tokio::select! {
                result = run => result,
                () = left(receive) => Err(Lost::Gone),
                fault = over => Err(Lost::Fault(fault)),
                () = ends.gone.cancelled() => Err(Lost::Gone),
            };
            if result.is_ok() {
                enrolled.left();
            }
            (result, running.bytes())
        }
    };
    let result = match result {
        Err(Lost::Gone) if ends.stop.is_cancelled() => {
            Err(Lost::Fault(Fault::new(Code::Draining, "the node is shutting down")))
        }
        result => result,
    };
    let outcome = match result {
        Ok(()) => {
            // The client ends its side when it has all that it wants of this one.
            if send.finish().is_ok() {
                tokio::select! {
                    _ = time::timeout(LAST_WORD, left(receive)) => {}
                    () = ends.gone.cancelled() => {}
                }
            }
            "complete".to_owned()
        }
        Err(Lost::Gone) => {
            drop(send.reset(code(Code::Cancelled)));
            "the client left".to_owned()
        }
        Err(Lost::Fault(fault)) => {
            if ends.stop.is_cancelled() {
                drop(send.reset(code(fault.code)));
                drop(time::timeout(FAREWELL, send.stopped()).await);
            } else {
                refuse(send, &fault, &ends.gone).await;
            }
            format!("{}: {fault}", fault.code.reason())
        }
    };
    let right = ticket.feed.as_ref().map(|feed| feed.right);
    info!(title = %ticket.title, session = %ticket.session, ?right, bytes, outcome, "session of a feed ended");
}

/// Waits until the client ends its side of the session's stream, on which it has nothing to say.
async fn left(receive: &mut RecvStream) {
    let mut nothing = [0; 64];
    while let Ok(Some(_)) = receive.read(&mut nothing).await {}
}

async fn say(send: &mut SendStream, setup: Setup) -> Result<(), Lost> {
    let frame = framed(Kind::Setup, wire::message(Kind::Setup, &setup)).map_err(Lost::Fault)?;
    send.write_chunk(frame).await.map_err(|_| Lost::Gone)
}

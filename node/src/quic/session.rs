//! One session on its stream, from Open to the last acknowledgement. What is decided is decided in `core::session`;
//! this is the hand that does it. However it ends, the client learns of it and nothing of it stays.

use std::{
    future::{Future, pending},
    sync::Arc,
};

use bytes::Bytes;
use quinn::StoppedError;
use tokio::{sync::mpsc::error::TryRecvError, time};
use tokio_util::sync::CancellationToken;
use tracing::{Instrument as _, Span, debug, field, info, info_span};
use usher_proto::{
    Bitrate, Code, Fault, Title,
    pb::{
        v1::ByteRange,
        wire::{Finish, Open, Renewed},
    },
    ticket::Ticket,
    tree::PAGE_GROUPS,
    wire::{self, Kind},
};
use usher_transport::{Connection, RecvStream, SendStream};

mod feed;

use super::{
    Settings,
    asks::{self, Asks},
    code,
    flight::{Flight, Pace},
    header::{self, First},
    idle::{Use, Uses},
    send::{SendError, Sender},
};
use crate::{
    core::session::{Session, Step},
    house::{self, House, Opened, Running, StreamOf},
    live::Board,
    moves::{Enrolled, Order},
};

/// How long a refusal or an answer may take to be read before the stream is forgotten.
const LAST_WORD: time::Duration = time::Duration::from_secs(10);

/// How long a client may take to acknowledge that its session was ended.
pub(super) const FAREWELL: time::Duration = time::Duration::from_millis(500);

/// A session's connection, and what ends the session from without.
#[derive(Clone)]
pub(super) struct Ends {
    /// The connection is lost, or `stop`.
    pub(super) gone: CancellationToken,
    /// The node shuts down.
    pub(super) stop: CancellationToken,
    pub(super) connection: Connection,
    /// Where the groups of its publishers go.
    pub(super) board: Board,
    /// What of it is on its way.
    pub(super) flight: Arc<Flight>,
    /// What it is used for; unused, it is closed.
    pub(super) uses: Uses,
}

/// A session that is let in.
enum Admitted {
    File(Box<AdmittedFile>),
    Feed(Box<feed::Admitted>),
}

/// One of a title with a file.
struct AdmittedFile {
    opened: Box<Opened>,
    running: Running,
    /// Of its stream.
    priority: i32,
    _use: Use,
}

/// Runs a session until it is over, its client leaves, or one of the `ends`.
pub(super) async fn run(
    house: Arc<House>,
    settings: Settings,
    mut send: SendStream,
    mut receive: RecvStream,
    ends: Ends,
) {
    let gone = &ends.gone;
    let span = info_span!("session", rid = field::Empty);
    let session = async {
        let open = tokio::select! {
            open = time::timeout(settings.open_timeout, header::read(&mut receive)) => open,
            () = gone.cancelled() => return,
        };
        let (open, decoder) = match open {
            Ok(Ok(First::Open(open, decoder))) => (*open, decoder),
            Ok(Ok(First::Renew(renew))) => return answer(&mut send, house.renew(&renew.ticket), gone).await,
            Ok(Err(header::HeaderError::Gone)) => return,
            Ok(Err(header::HeaderError::Bad(fault))) => return refuse(&mut send, &fault, gone).await,
            Err(_) => {
                let fault = Fault::new(Code::Timeout, "no Open message came in time");
                return refuse(&mut send, &fault, gone).await;
            }
        };
        let more = open.more;
        match admit(&house, open, &ends).await {
            Ok(Admitted::Feed(admitted)) => {
                feed::serve(&house, settings, *admitted, (&mut send, &mut receive, decoder), &ends).await;
            }
            Ok(Admitted::File(admitted)) => {
                let (sender, asks) = more.then(asks::channel).unzip();
                let asking = async {
                    match sender {
                        // Few ask for more: the others should not hold room for it.
                        Some(sender) => Box::pin(asks::read(&mut receive, decoder, sender)).await,
                        None => pending().await,
                    }
                };
                serve(&house, settings, admitted, &mut send, (asks, asking), &ends).await;
            }
            Err(fault) => refuse(&mut send, &fault, gone).await,
        }
    };
    session.instrument(span).await;
    // The client's half is kept until here: dropping it tells the client to stop.
    drop(receive);
}

/// From an Open message to a session that runs. A ticket is redeemed by the first who shows it, whatever comes of it.
async fn admit(house: &Arc<House>, open: Open, ends: &Ends) -> Result<Admitted, Fault> {
    let ticket = house.verify(&open.ticket);
    let by_ticket = ticket.as_ref().map_or("", |ticket| ticket.request_id.as_str());
    let id = if open.request_id.is_empty() { by_ticket } else { &open.request_id };
    Span::current().record("rid", house::request_id(id).as_str());
    let ticket = ticket?;
    let (id, burst) = (ticket.session, ticket.burst);
    let admitted = async {
        let held = ends.uses.enter();
        let stream = StreamOf { connection: ends.connection.stable_id() as u64, priority: open.priority };
        if ticket.feed.is_some() || open.watch.is_some() || open.publish.is_some() {
            return Ok(Admitted::Feed(Box::new(feed::admit(house, ticket, open, stream, held).await?)));
        }
        house.redeem(&ticket)?;
        let opened = Box::new(house.open(ticket, open.range, open.more).await?);
        let running = house.begin(&opened, stream)?;
        Ok(Admitted::File(Box::new(AdmittedFile { opened, running, priority: open.priority, _use: held })))
    };
    admitted.await.inspect_err(|fault| house.turn(id, burst, fault))
}

/// Answers a renewal: for how many seconds the session may run, or why not.
async fn answer(send: &mut SendStream, renewed: Result<u64, Fault>, gone: &CancellationToken) {
    let renewed = renewed.map(|lifetime_s| Renewed { lifetime_s });
    match renewed.and_then(|renewed| framed(Kind::Renewed, wire::message(Kind::Renewed, &renewed))) {
        Ok(frame) => say(send, &frame, gone).await,
        Err(fault) => refuse(send, &fault, gone).await,
    }
}

/// Says no.
async fn refuse(send: &mut SendStream, fault: &Fault, gone: &CancellationToken) {
    debug!(reason = fault.code.reason(), message = %fault, "refused");
    say(send, &wire::refused(fault), gone).await;
}

/// Sends the last frame of a stream, and sees to it that it can be read.
async fn say(send: &mut SendStream, frame: &[u8], gone: &CancellationToken) {
    let word = async {
        if send.write_all(frame).await.is_ok() && send.finish().is_ok() {
            drop(send.stopped().await);
        }
    };
    tokio::select! {
        _ = time::timeout(LAST_WORD, word) => {}
        () = gone.cancelled() => {}
    }
}

async fn serve(
    house: &Arc<House>,
    settings: Settings,
    admitted: Box<AdmittedFile>,
    send: &mut SendStream,
    (asks, asking): (Option<Asks>, impl Future<Output = ()>),
    ends: &Ends,
) {
    let AdmittedFile { opened, mut running, priority, _use } = *admitted;
    let mut enrolled = house.moves.enrol(opened.session.ticket().session);
    let ticket = opened.session.ticket().clone();
    let (held, media) = (house.leases.enter(&ticket), opened.media.clone());
    drop(send.set_priority(priority));
    let stopped = send.stopped();
    let result = tokio::select! {
        // The end of a good session wakes both of the first two.
        biased;
        result = deliver(house, settings, opened, (send, &ends.flight), asks, &mut running, &mut enrolled) => result,
        // Seen here also while the session waits for the disk, the pacer or the hashes.
        left = stopped => Err(if left.is_ok() { SendError::Stopped } else { SendError::Gone("connection lost") }),
        () = ends.gone.cancelled() => Err(SendError::Gone("connection lost")),
        () = asking => Err(SendError::Gone("given up by the client")),
        () = media.damaged() => {
            Err(Fault::new(Code::ContentChanged, "the copy is damaged; resolve again").into())
        }
        () = held.over(settings.ticket_grace) => {
            Err(Fault::new(Code::TicketExpired, "the session's ticket ran out and was not renewed; resolve again").into())
        }
    };
    let result = match result {
        Err(SendError::Gone(_) | SendError::Stopped) if ends.stop.is_cancelled() => {
            Err(Fault::new(Code::Draining, "the node is shutting down").into())
        }
        result => result,
    };
    let outcome = match result {
        Ok(()) => enrolled.left().map_or_else(|| "complete".to_owned(), |to| format!("moved to {to}")),
        Err(SendError::Stopped) => {
            drop(send.reset(code(Code::Cancelled)));
            // One who has the new seat may leave this one early.
            enrolled.left().map_or_else(|| "stopped by the client".to_owned(), |to| format!("moved to {to}, and left"))
        }
        Err(SendError::Gone(how)) => {
            drop(send.reset(code(Code::Cancelled)));
            how.to_owned()
        }
        Err(SendError::Refused(fault)) => {
            refuse(send, &fault, &ends.gone).await;
            format!("{}: {fault}", fault.code.reason())
        }
        Err(SendError::Fault(fault)) => {
            drop(send.reset(code(fault.code)));
            if ends.stop.is_cancelled() {
                drop(time::timeout(FAREWELL, send.stopped()).await);
            }
            format!("{}: {fault}", fault.code.reason())
        }
    };
    log(&ticket, &running, &outcome);
}

fn log(ticket: &Ticket, running: &Running, outcome: &str) {
    let title: &Title = &ticket.title;
    let (bytes, seconds) = (running.bytes(), running.elapsed().as_secs_f64());
    info!(%title, session = %ticket.session, bytes, seconds = format!("{seconds:.3}"), outcome, "session ended");
}

/// Sends everything, or a part when the session goes on at another node, and waits until it has arrived.
async fn deliver(
    house: &House,
    settings: Settings,
    mut opened: Box<Opened>,
    (send, flight): (&mut SendStream, &Flight),
    mut asks: Option<Asks>,
    running: &mut Running,
    enrolled: &mut Enrolled,
) -> Result<(), SendError> {
    let Opened { media, session, setup, .. } = &mut *opened;
    let sending = flight.join(if running.paced() { Pace::Viewer } else { Pace::Greedy });
    let mut sender = Sender::new((send, &sending), running, &house.buffers, settings.stall_timeout);
    sender.send(framed(Kind::Setup, wire::message(Kind::Setup, setup))?).await?;
    loop {
        heed(session, &mut asks)?;
        let Some(step) = session.next_step(sender.step()) else { break };
        let media = media.clone();
        let changed = |error: anyhow::Error| Fault::new(Code::ContentChanged, format!("read hashes: {error:#}"));
        match step {
            Step::Pages => {
                let values = house::blocking(move || media.page_values()).await?.map_err(changed)?;
                sender.send(wire::values(Kind::Pages, &values)).await?;
            }
            Step::Hashes(page) => {
                // A page's hashes come before its groups, also into a copy that is still coming in.
                media.ready(page * PAGE_GROUPS + 1).await?;
                let values = house::blocking(move || media.group_values(page)).await?.map_err(changed)?;
                sender.send(wire::values(Kind::Hashes, &values)).await?;
            }
            Step::Groups(groups) => {
                let ready = async {
                    if media.groups() < groups.end {
                        // A copy that is still coming in makes no slow node.
                        sender.comes_in();
                        media.ready(groups.end).await?;
                    }
                    sender.turn_of(&media, &groups).await;
                    Ok::<_, Fault>(())
                };
                tokio::select! {
                    biased;
                    // What was sent before is whole groups, so the client goes on at the edge of one.
                    order = enrolled.ordered() => {
                        session.again(&groups);
                        send_on(order, (&mut *session, media.groups()), &mut sender, enrolled).await?;
                        continue;
                    }
                    ready = ready => ready?,
                }
                sender.groups(&media, groups).await?;
            }
            Step::AwaitRange => {
                sender.comes_in();
                tokio::select! {
                    ask = time::timeout(settings.stall_timeout, asks::next(&mut asks)) => {
                        let late = |_| Fault::new(Code::Timeout, "no other range was asked for");
                        take(session, ask.map_err(late)?)?;
                    }
                    order = enrolled.ordered() => {
                        send_on(order, (&mut *session, media.groups()), &mut sender, enrolled).await?;
                    }
                }
            }
            Step::AwaitHashes => {
                enrolled.close();
                let content = media.hashed().await.ok_or_else(|| {
                    Fault::new(Code::ContentChanged, "the file changed before it was hashed; resolve again")
                })?;
                session.hashed(content)?;
            }
            Step::Finish(content) => {
                enrolled.close();
                let finish = Finish { content_id: content.0.to_vec(), end_group: 0 };
                sender.send(framed(Kind::Finish, wire::message(Kind::Finish, &finish))?).await?;
            }
        }
    }
    running.offers();
    finish(send, settings, enrolled.is_leaving()).await
}

/// Takes in what the client asked for meanwhile.
fn heed(session: &mut Session, asks: &mut Option<Asks>) -> Result<(), SendError> {
    let Some(asks) = asks else { return Ok(()) };
    loop {
        match asks.try_recv() {
            Ok(ask) => take(session, Some(ask))?,
            Err(TryRecvError::Empty) => return Ok(()),
            Err(TryRecvError::Disconnected) => return take(session, None),
        }
    }
}

/// Takes in another range, or that there is none.
fn take(session: &mut Session, ask: Option<Result<ByteRange, Fault>>) -> Result<(), SendError> {
    match ask {
        None => session.enough(),
        Some(ask) => ask.and_then(|range| session.further(range)).map_err(SendError::Refused)?,
    }
    Ok(())
}

/// Tells the client where the session goes on, and until where here; of the title so many groups are `here`. An order
/// to a session that has all but what it would still send is dropped, which refuses it.
async fn send_on(
    order: Order,
    (session, here): (&mut Session, u64),
    sender: &mut Sender<'_>,
    enrolled: &mut Enrolled,
) -> Result<(), SendError> {
    let lead = sender.lead(Bitrate(session.ticket().rate));
    if let Some(until) = session.leave(lead, here) {
        sender.tell(order.order.frame(until)).await?;
        enrolled.leaves(order);
    }
    Ok(())
}

/// Ends the stream, and waits until all of it has arrived. A client that goes elsewhere may be gone before it has
/// acknowledged the last byte.
async fn finish(send: &mut SendStream, settings: Settings, leaving: bool) -> Result<(), SendError> {
    let finished = send.finish().is_ok() || leaving;
    if finished && acknowledged(send, settings).await? { Ok(()) } else { Err(SendError::Stopped) }
}

/// The session runs until its last byte is acknowledged: a node that drains must not cut it. `false` when the client
/// left before.
async fn acknowledged(send: &SendStream, settings: Settings) -> Result<bool, SendError> {
    match time::timeout(settings.stall_timeout, send.stopped()).await {
        Ok(Ok(stopped)) => Ok(stopped.is_none()),
        Ok(Err(StoppedError::ConnectionLost(_) | StoppedError::ZeroRttRejected)) => {
            Err(SendError::Gone("connection lost"))
        }
        Err(_) => Err(Fault::new(Code::Timeout, "the end of the title was not acknowledged").into()),
    }
}

fn framed(kind: Kind, frame: Option<Bytes>) -> Result<Bytes, Fault> {
    frame.ok_or_else(|| Fault::new(Code::Internal, format!("{kind:?} is too long for its frame")))
}

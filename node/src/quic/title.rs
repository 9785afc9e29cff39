//! The session of a title on its stream, from admission to the last acknowledgement. Carries out the steps that
//! `core::session` decides.

use std::{future::Future, sync::Arc};

use quinn::StoppedError;
use tokio::{sync::mpsc::error::TryRecvError, time};
use usher_proto::{
    Bitrate, Code, Fault,
    pb::{
        v1::ByteRange,
        wire::{Finish, Open},
    },
    ticket::Ticket,
    tree::PAGE_GROUPS,
    wire::{self, Kind},
};
use usher_transport::SendStream;

use super::{
    ending::{SessionError, attribute, conclude, encoded, expired, log},
    ranges::{self, RangeRequests},
    scope::ConnectionScope,
    settings::QuicSettings,
    uses::InUse,
    writer::FrameWriter,
};
use crate::{
    context::{self, ActiveSession, NodeContext, OpenedTitle, SessionStream},
    core::session::{SendStep, SessionPlan},
    moves::{Movable, MoveOrder},
    send_window::{Pace, SendWindow},
    services::Services,
};

/// An admitted session of a title.
pub(super) struct TitleSession {
    opened: Box<OpenedTitle>,
    active: ActiveSession,
    /// Priority of its stream.
    priority: i32,
    _in_use: InUse,
}

impl TitleSession {
    /// Redeems the ticket, opens the title and starts the session.
    ///
    /// # Errors
    /// As [`NodeContext::redeem`], [`NodeContext::open`] and [`NodeContext::begin`].
    pub(super) async fn admit(
        context: &Arc<NodeContext>,
        ticket: Ticket,
        open: Open,
        stream: SessionStream,
        in_use: InUse,
    ) -> Result<Self, Fault> {
        context.redeem(&ticket)?;
        let opened = Box::new(context.open(ticket, open.range, open.more, stream.holder).await?);
        let active = context.begin(&opened, stream)?;
        Ok(Self { opened, active, priority: open.priority, _in_use: in_use })
    }
}

/// Runs a session until it is complete, its client leaves, or something from outside ends it.
pub(super) async fn serve(
    services: &Services,
    settings: QuicSettings,
    session: Box<TitleSession>,
    send: &mut SendStream,
    (requests, reading): (Option<RangeRequests>, impl Future<Output = ()>),
    scope: &ConnectionScope,
) {
    let TitleSession { opened, mut active, priority, _in_use } = *session;
    let ticket = opened.session.ticket().clone();
    let mut movable = services.moves.register(ticket.session);
    let (lease, media) = (services.leases.enter(&ticket), opened.media.clone());
    drop(send.set_priority(priority));
    let stopped = send.stopped();
    let (context, window) = (&services.context, &scope.window);
    let result = tokio::select! {
        // The end of a complete session wakes both of the first two.
        biased;
        result = deliver(context, settings, opened, (send, window), requests, &mut active, &mut movable) => result,
        // Also while the session waits for the disk, the scheduler or the hashes.
        left = stopped => Err(if left.is_ok() { SessionError::Stopped } else { SessionError::Gone("connection lost") }),
        () = scope.gone.cancelled() => Err(SessionError::Gone("connection lost")),
        () = reading => Err(SessionError::Gone("cancelled by the client")),
        () = media.damaged() => {
            Err(Fault::new(Code::ContentChanged, "the copy is damaged; resolve again").into())
        }
        fault = expired(&lease, settings.ticket_grace) => Err(fault.into()),
    };
    let result = attribute(result, scope);
    // A client that has the new seat may leave this one early.
    let may_have_moved = matches!(result, Ok(()) | Err(SessionError::Stopped));
    let moved_to = if may_have_moved { movable.complete_move() } else { None };
    let outcome = conclude(send, result, moved_to, scope).await;
    log(&ticket, active.bytes(), active.elapsed(), &outcome);
}

/// Sends the whole title, or the part before the session moves to another node, and waits until it is acknowledged.
async fn deliver(
    context: &NodeContext,
    settings: QuicSettings,
    mut opened: Box<OpenedTitle>,
    (send, window): (&mut SendStream, &SendWindow),
    mut requests: Option<RangeRequests>,
    active: &mut ActiveSession,
    movable: &mut Movable,
) -> Result<(), SessionError> {
    let OpenedTitle { media, session, setup, .. } = &mut *opened;
    let share = window.join(if active.paced() { Pace::Viewer } else { Pace::Greedy });
    let mut writer = FrameWriter::new((send, &share), active, &context.buffers, settings.stall_timeout);
    writer.send(encoded(Kind::Setup, wire::message(Kind::Setup, setup))?).await?;
    loop {
        add_waiting(session, &mut requests)?;
        let Some(step) = session.poll_step(writer.groups_per_turn()) else { break };
        let media = media.clone();
        let changed = |error: anyhow::Error| Fault::new(Code::ContentChanged, format!("read hashes: {error:#}"));
        match step {
            SendStep::Pages => {
                let values = context::blocking(move || media.page_values()).await?.map_err(changed)?;
                writer.send(wire::values(Kind::Pages, &values)).await?;
            }
            SendStep::Hashes(page) => {
                // The hashes of a page come before its groups, also in a copy that still grows.
                media.ready(page * PAGE_GROUPS + 1).await?;
                let values = context::blocking(move || media.group_values(page)).await?.map_err(changed)?;
                writer.send(wire::values(Kind::Hashes, &values)).await?;
            }
            SendStep::Groups(groups) => {
                let ready = async {
                    if media.groups() < groups.end {
                        // Waiting for a copy that still grows does not count as slow delivery.
                        writer.await_source();
                        media.ready(groups.end).await?;
                    }
                    writer.turn_of(&media, &groups).await;
                    Ok::<_, Fault>(())
                };
                tokio::select! {
                    biased;
                    // Whole groups were sent so far, so the client continues at the edge of a group.
                    order = movable.ordered() => {
                        session.handle_unsent(&groups);
                        send_move(order, (&mut *session, media.groups()), &mut writer, movable).await?;
                        continue;
                    }
                    ready = ready => ready?,
                }
                writer.groups(&media, groups).await?;
            }
            SendStep::AwaitRange => {
                writer.await_reader();
                tokio::select! {
                    request = time::timeout(settings.stall_timeout, ranges::next(&mut requests)) => {
                        let late = |_| Fault::new(Code::Timeout, "no other range was asked for");
                        add(session, request.map_err(late)?)?;
                        // Time until its bytes are read and sent is the node's.
                        writer.await_source();
                    }
                    order = movable.ordered() => {
                        send_move(order, (&mut *session, media.groups()), &mut writer, movable).await?;
                    }
                }
            }
            SendStep::AwaitHashes => {
                movable.withdraw();
                let content = media.hashed().await.ok_or_else(|| {
                    Fault::new(Code::ContentChanged, "the file changed before it was hashed; resolve again")
                })?;
                session.handle_hashed(content)?;
            }
            SendStep::Finish(content) => {
                movable.withdraw();
                let finish = Finish { content_id: content.0.to_vec(), end_group: 0 };
                writer.send(encoded(Kind::Finish, wire::message(Kind::Finish, &finish))?).await?;
            }
        }
    }
    active.await_reader();
    finish(send, settings, movable.is_moving()).await
}

/// Adds the ranges that the client has requested meanwhile.
fn add_waiting(session: &mut SessionPlan, requests: &mut Option<RangeRequests>) -> Result<(), SessionError> {
    let Some(requests) = requests else { return Ok(()) };
    loop {
        match requests.try_recv() {
            Ok(request) => add(session, Some(request))?,
            Err(TryRecvError::Empty) => return Ok(()),
            Err(TryRecvError::Disconnected) => return add(session, None),
        }
    }
}

/// Adds a range; `None` for the end of the requests.
fn add(session: &mut SessionPlan, request: Option<Result<ByteRange, Fault>>) -> Result<(), SessionError> {
    match request {
        None => session.handle_last_range(),
        Some(request) => request.and_then(|range| session.handle_range(range)).map_err(SessionError::Refused)?,
    }
    Ok(())
}

/// Sends the client its new seat, and the group at which this node stops; the first `available` groups of the title are
/// here. Drops the order, which refuses it, when the session has too little left to move.
async fn send_move(
    order: MoveOrder,
    (session, available): (&mut SessionPlan, u64),
    writer: &mut FrameWriter<'_>,
    movable: &mut Movable,
) -> Result<(), SessionError> {
    let lead = writer.lead(Bitrate(session.ticket().rate));
    if let Some(until) = session.handle_move(lead, available) {
        writer.send_now(order.order.frame(until)).await?;
        movable.start_move(order);
    }
    Ok(())
}

/// Ends the stream, and waits until all of it is acknowledged. A client that moves may be gone before that.
async fn finish(send: &mut SendStream, settings: QuicSettings, leaving: bool) -> Result<(), SessionError> {
    let finished = send.finish().is_ok() || leaving;
    if finished && acknowledged(send, settings).await? { Ok(()) } else { Err(SessionError::Stopped) }
}

/// Waits until the last byte is acknowledged: the session is active until then, so that a drain does not cut it short.
/// Returns `false` when the client left before.
async fn acknowledged(send: &SendStream, settings: QuicSettings) -> Result<bool, SessionError> {
    match time::timeout(settings.stall_timeout, send.stopped()).await {
        Ok(Ok(stopped)) => Ok(stopped.is_none()),
        Ok(Err(StoppedError::ConnectionLost(_) | StoppedError::ZeroRttRejected)) => {
            Err(SessionError::Gone("connection lost"))
        }
        Err(_) => Err(Fault::new(Code::Timeout, "the end of the title was not acknowledged").into()),
    }
}

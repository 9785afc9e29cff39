//! The end of a session, the same for titles and feeds: the last frame, the reset code, and the log line.

use std::time::Duration;

use bytes::Bytes;
use quinn::{VarInt, WriteError};
use tokio::time;
use tokio_util::sync::CancellationToken;
use tracing::{debug, field, info};
use usher_proto::{
    Code, Fault, NodeName,
    ticket::Ticket,
    wire::{self, Kind},
};
use usher_transport::SendStream;

use super::scope::ConnectionScope;
use crate::{leases::RunningLease, live::watch::WatchError};

/// Time that a client has to read a refusal or an answer before the stream is dropped.
pub(super) const LAST_FRAME: Duration = Duration::from_secs(10);

/// Time that a client has to acknowledge that its session was ended.
pub(super) const CLOSE_ACK_TIMEOUT: Duration = Duration::from_millis(500);

/// The reason why a session ended early.
#[derive(Debug)]
pub(super) enum SessionError {
    /// The client is gone.
    Gone(&'static str),
    /// The client stopped the stream.
    Stopped,
    /// The node cannot continue; the stream is reset with the code.
    Fault(Fault),
    /// The client receives the reason in a last frame.
    Refused(Fault),
}

impl From<WriteError> for SessionError {
    fn from(error: WriteError) -> Self {
        match error {
            WriteError::Stopped(_) => Self::Stopped,
            WriteError::ConnectionLost(_) | WriteError::ClosedStream | WriteError::ZeroRttRejected => {
                Self::Gone("connection lost")
            }
        }
    }
}

impl From<Fault> for SessionError {
    fn from(fault: Fault) -> Self {
        Self::Fault(fault)
    }
}

impl From<WatchError> for SessionError {
    fn from(error: WatchError) -> Self {
        match error {
            WatchError::Gone => Self::Gone("the client left"),
            WatchError::Fault(fault) => Self::Refused(fault),
        }
    }
}

/// Waits until the session's ticket has expired, or the master ends the session. Returns the fault that ends it.
pub(super) async fn expired(lease: &RunningLease, grace: Duration) -> Fault {
    let late = || Fault::new(Code::TicketExpired, "the session's ticket ran out and was not renewed; resolve again");
    lease.expired(grace).await.unwrap_or_else(late)
}

/// Replaces the loss of a connection that this node closes by `DRAINING`.
pub(super) fn attribute(result: Result<(), SessionError>, scope: &ConnectionScope) -> Result<(), SessionError> {
    match result {
        Err(SessionError::Gone(_) | SessionError::Stopped) if scope.stop.is_cancelled() => {
            Err(Fault::new(Code::Draining, "the node is shutting down").into())
        }
        result => result,
    }
}

/// Sends the client the reason for the end of its session. Returns the outcome for the log.
pub(super) async fn conclude(
    send: &mut SendStream,
    result: Result<(), SessionError>,
    moved_to: Option<NodeName>,
    scope: &ConnectionScope,
) -> String {
    let fault = match (result, moved_to) {
        (Ok(()), Some(node)) => return format!("moved to {node}"),
        (Ok(()), None) => return "complete".to_owned(),
        (Err(SessionError::Stopped), moved_to) => {
            drop(send.reset(code(Code::Cancelled)));
            let moved = |node| format!("moved to {node}; the client left early");
            return moved_to.map_or_else(|| "stopped by the client".to_owned(), moved);
        }
        (Err(SessionError::Gone(how)), _) => {
            drop(send.reset(code(Code::Cancelled)));
            return how.to_owned();
        }
        (Err(SessionError::Refused(fault)), _) if !scope.stop.is_cancelled() => {
            refuse(send, &fault, &scope.gone).await;
            fault
        }
        (Err(SessionError::Refused(fault) | SessionError::Fault(fault)), _) => {
            drop(send.reset(code(fault.code)));
            if scope.stop.is_cancelled() {
                drop(time::timeout(CLOSE_ACK_TIMEOUT, send.stopped()).await);
            }
            fault
        }
    };
    format!("{}: {fault}", fault.code.reason())
}

/// Logs the end of a session.
pub(super) fn log(ticket: &Ticket, bytes: u64, elapsed: Duration, outcome: &str) {
    let right = ticket.feed.as_ref().map(|feed| field::debug(feed.right));
    let seconds = format!("{:.3}", elapsed.as_secs_f64());
    info!(title = %ticket.title, session = %ticket.session, right, bytes, seconds, outcome, "session ended");
}

/// Refuses a session: sends the fault as the last frame of the stream.
pub(super) async fn refuse(send: &mut SendStream, fault: &Fault, gone: &CancellationToken) {
    debug!(reason = fault.code.reason(), error = %fault, "session refused");
    send_last(send, &wire::refused(fault), gone).await;
}

/// Sends the last frame of a stream, and waits until the client has received it.
pub(super) async fn send_last(send: &mut SendStream, frame: &[u8], gone: &CancellationToken) {
    let sent = async {
        if send.write_all(frame).await.is_ok() && send.finish().is_ok() {
            drop(send.stopped().await);
        }
    };
    tokio::select! {
        _ = time::timeout(LAST_FRAME, sent) => {}
        () = gone.cancelled() => {}
    }
}

/// An application error code as QUIC carries it.
pub(super) fn code(code: Code) -> VarInt {
    VarInt::from_u32(code.quic())
}

/// The encoded `frame`.
///
/// # Errors
/// `INTERNAL` when it was too long to encode.
pub(super) fn encoded(kind: Kind, frame: Option<Bytes>) -> Result<Bytes, Fault> {
    frame.ok_or_else(|| Fault::new(Code::Internal, format!("{kind:?} is too long for its frame")))
}

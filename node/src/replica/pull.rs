//! One copy: room, source and disk brought together. The source is read here; a thread of its own writes, so that a slow
//! disk holds up the source by flow control and nobody else.

use std::{sync::Arc, time::Duration};

use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use usher_proto::{Code, Fault};

use super::{PullOrder, source::Source};
use crate::{
    context::blocking,
    core::pull::{Pull, VerifiedFrame},
    media::{IncomingReplica, ReplicaStore},
};

/// Pieces between source and disk: 4 MiB of groups.
const QUEUE_LEN: usize = 64;

/// Gets a copy. Returns the bytes that came.
///
/// # Errors
/// As [`super::Puller::order`].
pub(super) async fn run(
    replicas: &Arc<ReplicaStore>,
    order: &PullOrder,
    stall: Duration,
    cancel: &CancellationToken,
) -> Result<u64, Fault> {
    let (store, wanted) = (replicas.clone(), order.wanted.clone());
    let Some(mut incoming) = blocking(move || IncomingReplica::begin(&store, &wanted)).await?? else { return Ok(0) };
    if incoming.has_all_groups() {
        blocking(move || incoming.finish()).await??;
        return Ok(0);
    }
    let pull = Pull::new(order.wanted.clone(), incoming.groups());
    let (pieces, queue) = mpsc::channel(QUEUE_LEN);
    let writer = tokio::task::spawn_blocking(move || write(incoming, queue));
    let read = tokio::select! {
        read = fetch(order, pull, stall, pieces) => read,
        () = cancel.cancelled() => Err(Fault::new(Code::Interrupted, "the copy was called off")),
    };
    // The queue is closed in either case: the writer ends.
    let written = writer.await.map_err(|error| Fault::new(Code::Internal, format!("write a copy: {error}")))?;
    let Some((incoming, failed)) = written else { return read };
    let untrusted =
        matches!(&read, Err(fault) if matches!(fault.code, Code::VerificationFailed | Code::ContentChanged));
    blocking(move || incoming.abandon(untrusted)).await?;
    match failed {
        Some(fault) => Err(fault),
        None => read.and_then(|_| Err(Fault::new(Code::Internal, "the copy ended before it was whole"))),
    }
}

/// Reads the source to its end. Returns the bytes that came.
async fn fetch(
    order: &PullOrder,
    mut pull: Pull,
    stall: Duration,
    pieces: mpsc::Sender<VerifiedFrame>,
) -> Result<u64, Fault> {
    let node = &order.seat.node;
    let blame = |fault: Fault| Fault { message: format!("node {node}: {}", fault.message), ..fault };
    let mut source = Source::open(order, pull.range(), stall).await.map_err(blame)?;
    loop {
        let frame = source.next().await.map_err(blame)?.ok_or_else(|| {
            blame(Fault::new(Code::Network, format!("the stream ended where {} should be", pull.expected())))
        })?;
        let Some(piece) = pull.handle_frame(frame).map_err(blame)? else { continue };
        let whole = piece == VerifiedFrame::Finish;
        if pieces.send(piece).await.is_err() || whole {
            // The writer says what was wrong with the disk.
            return Ok(source.bytes());
        }
    }
}

/// Writes what comes until it is whole; else gives back what there is, with what was wrong with the disk.
fn write(
    mut incoming: IncomingReplica,
    mut queue: mpsc::Receiver<VerifiedFrame>,
) -> Option<(IncomingReplica, Option<Fault>)> {
    let mut batch = Vec::with_capacity(QUEUE_LEN);
    while queue.blocking_recv_many(&mut batch, QUEUE_LEN) > 0 {
        match incoming.write(batch.drain(..)) {
            Ok(true) => return None,
            Ok(false) => {}
            Err(fault) => return Some((incoming, Some(fault))),
        }
    }
    Some((incoming, None))
}

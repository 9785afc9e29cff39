//! One pull: reads the source and verifies its frames; a blocking thread writes them, so that a slow disk delays only
//! the source, by flow control.

use std::{sync::Arc, time::Duration};

use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use usher_proto::{Code, Fault};

use super::{order::PullOrder, source::Source};
use crate::{
    context::blocking,
    core::pull::{Pull, VerifiedFrame},
    media::{IncomingReplica, ReplicaStore},
};

/// Frames between source and disk: 4 MiB of groups.
const QUEUE_LEN: usize = 64;

/// Receives a copy. Returns the bytes received.
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
    let (frames, queue) = mpsc::channel(QUEUE_LEN);
    let writer = tokio::task::spawn_blocking(move || write(incoming, queue));
    let read = tokio::select! {
        read = fetch(order, pull, stall, frames) => read,
        () = cancel.cancelled() => Err(Fault::new(Code::Interrupted, "the copy was cancelled")),
    };
    // The queue is closed in either case, so the writer ends.
    let written = writer.await.map_err(|error| Fault::new(Code::Internal, format!("write a copy: {error}")))?;
    let Some((incoming, failed)) = written else { return read };
    let untrusted =
        matches!(&read, Err(fault) if matches!(fault.code, Code::VerificationFailed | Code::ContentChanged));
    blocking(move || incoming.abandon(untrusted)).await?;
    match failed {
        Some(fault) => Err(fault),
        None => read.and_then(|_| Err(Fault::new(Code::Internal, "the copy ended before it was complete"))),
    }
}

/// Reads the source to its end. Returns the bytes received.
async fn fetch(
    order: &PullOrder,
    mut pull: Pull,
    stall: Duration,
    frames: mpsc::Sender<VerifiedFrame>,
) -> Result<u64, Fault> {
    let node = &order.seat.node;
    let with_node = |fault: Fault| Fault { message: format!("node {node}: {}", fault.message), ..fault };
    let mut source = Source::open(order, pull.range(), stall).await?;
    loop {
        let frame = source.next().await?.ok_or_else(|| {
            with_node(Fault::new(Code::Network, format!("the stream ended instead of {}", pull.expected())))
        })?;
        let Some(verified) = pull.handle_frame(frame).map_err(with_node)? else { continue };
        let complete = verified == VerifiedFrame::Finish;
        if frames.send(verified).await.is_err() || complete {
            // The writer reports the disk's error.
            return Ok(source.bytes());
        }
    }
}

/// Writes frames until the copy is complete; otherwise returns the partial copy, with the disk's error if any.
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

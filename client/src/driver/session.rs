//! One session at one seat, in the order in which its bytes are wanted. Refuses to know what is done after a loss.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use rand::rngs::SmallRng;
use tokio::sync::mpsc;
use usher_proto::{
    Code, ContentId, Fault, NodeName,
    tree::{self, GROUP},
};

use super::{
    End, Progress, Run, Sink,
    check::{Last, check},
    join::{Ask, Joined, join},
    report,
    words::{blame, failure, sent_on},
};
use crate::{
    core::resume::Event,
    master::Answer,
    quic::{Patience, WAITING},
};

/// How long a node may take to hash a title that it has sent: 600 GB at 1 GB/s, or 60 GB on a slow disk.
pub(super) const HASHING: Duration = Duration::from_secs(600);

impl Run<'_> {
    /// One session at one seat, to its end.
    pub(super) async fn session<S: Sink>(
        &mut self,
        seat: usize,
        sink: &mut S,
        rng: &mut SmallRng,
    ) -> Result<ContentId, End> {
        if self.spreads() {
            return Box::pin(self.spread(seat, sink, rng)).await;
        }
        let lost = || End::There(Fault::new(Code::Internal, "no such seat"));
        let sent_by = self.sent_by.take();
        let answer = self.answer.as_ref().ok_or_else(lost)?;
        let Some(at) = answer.seats.get(seat) else { return Err(lost()) };
        let ongoing = self.ongoing.as_mut().ok_or_else(lost)?;
        let Some(range) = ongoing.assembler.ask() else { return ongoing.about.content.ok_or_else(lost) };
        let (means, timeout) = (self.means, self.order.timeout);
        let (wide, request_id) = (ongoing.assembler.widened(), answer.request_id.clone());
        let ask = Ask { range, wide, request_id, more: false };
        let joined = join(means, at, ask, &ongoing.about, timeout).await;
        let Joined { incoming, setup, verifier, .. } = joined.map_err(End::There)?;
        self.node = Some(at.node.clone());
        let reason = reason(sent_by, seat, answer);
        self.reason.clone_from(&reason);
        (means.observer)(&Progress::Seated { node: at.node.clone(), reason, about: ongoing.about.clone() });
        report(means, ongoing);
        let due = tree::groups(setup.range.end) - setup.range.start / GROUP;
        // All media came, and the node hashes what it sent; the connection's keep-alive tells whether it lives.
        let done = if setup.content.is_none() { timeout.max(HASHING) } else { timeout };
        let patience = Patience { due: timeout, done, groups: Arc::new(due.into()) };
        let (send, mut batches) = mpsc::channel(WAITING);
        let _reader = means.pool.gather(incoming, 0, patience, send).map_err(End::Here)?;
        let mut verifier = Some(verifier);
        loop {
            let died = || End::There(Fault::new(Code::Internal, "the task that reads died"));
            let batch = batches.recv().await.ok_or_else(died)?;
            let mut held = verifier.take().ok_or_else(died)?;
            let mut assembler = std::mem::take(&mut ongoing.assembler);
            let before = (assembler.progress(), ongoing.received);
            // Hashed by the thread that writes, while they are in its cache.
            let make = move || {
                let (groups, last) = check(&mut held, batch);
                let (pieces, wrong) = assembler.take_all(groups);
                let bytes: u64 = pieces.iter().map(|piece| piece.data.len() as u64).sum();
                (pieces, (held, assembler, bytes, wrong, last))
            };
            let (held, assembler, bytes, wrong, last) = sink.write(make).await.map_err(End::Here)?;
            (verifier, ongoing.assembler) = (Some(held), assembler);
            ongoing.received += bytes;
            if before != (ongoing.assembler.progress(), ongoing.received) {
                self.resume.handle(Instant::now(), Event::Progress, rng);
                report(means, ongoing);
            }
            if let Some(error) = wrong {
                return Err(End::There(blame(at, error.into())));
            }
            return match last {
                None => continue,
                Some(Last::Done(content)) => {
                    let before = ongoing.assembler.progress();
                    ongoing.assembler.confirm();
                    if ongoing.assembler.progress() > before {
                        report(means, ongoing);
                    }
                    Ok(content)
                }
                Some(Last::Moved(moved)) => {
                    // What came is verified against what the set-up named; then there is nothing to go on with.
                    let whole = setup.content.filter(|_| ongoing.assembler.is_complete());
                    whole.map_or_else(|| Err(sent_on(at, moved)), Ok)
                }
                Some(last) => Err(failure(at, last)),
            };
        }
    }
}

/// Why this seat: the master's reason, after which node's failure, or which node sent the session there.
pub(super) fn reason(sent_by: Option<NodeName>, seat: usize, answer: &Answer) -> String {
    let before = seat.checked_sub(1).and_then(|before| answer.seats.get(before));
    match (sent_by, before) {
        (Some(from), _) => format!("moved there by {from}"),
        (None, Some(failed)) => format!("alternate after {} failed", failed.node),
        (None, None) => answer.reason.clone(),
    }
}

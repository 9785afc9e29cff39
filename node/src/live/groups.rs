//! The groups of a feed as they come in, each on a stream of its own: proven piece by piece, kept, and told of at once.
//! Refuses to know whether a publisher sends them or another node.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex},
    time::Instant,
};

use bytes::Bytes;
use quinn::ReadError;
use tokio::sync::mpsc;
use tracing::debug;
use usher_proto::{
    Code, Fault,
    feed::{Chain, GroupHead, Link, Piece},
    wire::{self, Decoder, Frame},
};
use usher_transport::RecvStream;

use super::{feed::LiveFeed, feeds::Feeds};
use crate::{core::feed::GroupStatus, sync::lock};

/// A group's stream and its head, and what of it was read beyond.
pub(crate) struct Arrived {
    pub(crate) stream: RecvStream,
    pub(crate) head: GroupHead,
    pub(crate) decoder: Decoder,
}

/// The publishers of one connection, by their subscriptions.
#[derive(Clone, Default)]
pub(crate) struct GroupRouter(Arc<Mutex<HashMap<u64, mpsc::Sender<Arrived>>>>);

/// A publisher's target on its connection's board, until it drops.
pub(crate) struct Place {
    board: GroupRouter,
    subscription: u64,
}

impl Drop for Place {
    fn drop(&mut self) {
        lock(&self.board.0).remove(&self.subscription);
    }
}

impl GroupRouter {
    /// From here on the groups of this subscription come to the receiver.
    pub(crate) fn sit(&self, subscription: u64, streams: usize) -> (Place, mpsc::Receiver<Arrived>) {
        let (sender, groups) = mpsc::channel(streams);
        lock(&self.0).insert(subscription, sender);
        (Place { board: self.clone(), subscription }, groups)
    }

    /// Reads what group a stream brings, and brings it to its publisher's session. One that nobody wants is stopped.
    pub(crate) async fn bring(self, stream: RecvStream) {
        let Some((subscription, arrived)) = head(stream).await else { return };
        let session = lock(&self.0).get(&subscription).cloned();
        // As many are let in on a connection as a session has feed for.
        if session.is_none_or(|session| session.try_send(arrived).is_err()) {
            debug!(subscription, "a group of no session was refused");
        }
    }
}

/// Reads what group a stream brings; `None` when it is none.
pub(crate) async fn head(mut stream: RecvStream) -> Option<(u64, Arrived)> {
    let mut decoder = Decoder::default();
    loop {
        if let Some((subscription, head)) = GroupHead::read(&mut decoder).ok()? {
            return Some((subscription, Arrived { stream, head, decoder }));
        }
        decoder.push_chunk(stream.read_chunk(usize::MAX, true).await.ok()??.bytes);
    }
}

/// A proven piece as it is kept.
struct Kept {
    frame: Bytes,
    media: u64,
    /// After it.
    link: Link,
    last: bool,
}

/// Takes a group in, until it is whole or its stream ends.
///
/// # Errors
/// `VERIFICATION_FAILED` for what the feed's publisher has not signed, `BAD_REQUEST` for what is no group, or another one
/// than is here already.
pub(crate) async fn take(live: &Feeds, feed: &LiveFeed, arrived: Arrived) -> Result<(), Fault> {
    let _ends = Ends { feed, sequence: arrived.head.sequence };
    until_its_end(live, feed, arrived).await
}

/// Tells that a group's stream has ended, however it did.
struct Ends<'a> {
    feed: &'a LiveFeed,
    sequence: u64,
}

impl Drop for Ends<'_> {
    fn drop(&mut self) {
        self.feed.lock().cache.handle_stream_end(self.sequence);
        self.feed.changed.send_replace(());
    }
}

async fn until_its_end(live: &Feeds, feed: &LiveFeed, arrived: Arrived) -> Result<(), Fault> {
    let Arrived { mut stream, head, mut decoder } = arrived;
    let sequence = head.sequence;
    let mut chain = Chain::begin(&feed.title, &head);
    let mut number = 0;
    let mut begins = Some((head, chain.link()));
    loop {
        let pieces = pieces(&mut decoder, sequence)?;
        if let Some(last) = pieces.last() {
            let (signature, count) = (last.signature, pieces.len());
            let mut proven = Vec::with_capacity(count);
            for piece in pieces {
                chain.take(piece.flags, &piece.media)?;
                let (frame, media) = (wire::piece(&piece), piece.media.len() as u64);
                proven.push(Kept { frame, media, link: chain.link(), last: piece.flags.last });
            }
            if !chain.is_signed(&feed.key, &signature) {
                let text = format!("group {sequence} of `{}` is not signed by its publisher", feed.title);
                return Err(Fault::new(Code::VerificationFailed, text));
            }
            if !keep(live, feed, sequence, &mut begins, number, proven)? || chain.is_ended() {
                return Ok(());
            }
            number += count;
        }
        match stream.read_chunk(usize::MAX, true).await {
            Ok(Some(chunk)) => decoder.push_chunk(chunk.bytes),
            // Given up, or lost; what came of it is good.
            Ok(None) | Err(ReadError::Reset(_) | ReadError::ConnectionLost(_)) => return Ok(()),
            Err(error) => return Err(bad(sequence, &error.to_string())),
        }
    }
}

/// The pieces that are here.
fn pieces(decoder: &mut Decoder, sequence: u64) -> Result<Vec<Piece>, Fault> {
    let mut pieces = Vec::new();
    loop {
        match decoder.next_frame() {
            Ok(Some(Frame::Piece(piece))) => pieces.push(piece),
            Ok(None) => return Ok(pieces),
            Ok(Some(_)) => return Err(bad(sequence, "something else than its pieces follows")),
            Err(error) => return Err(bad(sequence, &error.to_string())),
        }
    }
}

/// Keeps proven pieces, the first of which has this number, and tells who watches. False when the group is not wanted.
fn keep(
    live: &Feeds,
    feed: &LiveFeed,
    sequence: u64,
    begins: &mut Option<(GroupHead, Link)>,
    first: usize,
    pieces: Vec<Kept>,
) -> Result<bool, Fault> {
    let mut news = false;
    {
        let mut inner = feed.lock();
        let before = inner.cache.bytes();
        // Only what is proven makes a group.
        if let Some((head, link)) = begins.take()
            && inner.cache.handle_group(Instant::now(), head, link)? == GroupStatus::Known
        {
            return Ok(false);
        }
        for (number, Kept { frame, media, link, last }) in (first..).zip(pieces) {
            news |= inner.cache.handle_piece(sequence, number, frame, media, link, last)?;
        }
        inner.cache.trim();
        live.update_bytes(&inner, before);
    }
    if news {
        feed.changed.send_replace(());
        // Where the feeds cannot be shortened, they stay.
        drop(live.evict_to_fit());
    }
    Ok(true)
}

fn bad(sequence: u64, what: &str) -> Fault {
    Fault::new(Code::BadRequest, format!("group {sequence} of the feed: {what}"))
}

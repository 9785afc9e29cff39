//! The groups of a feed as they arrive, each on a stream of its own: verified piece by piece, kept, and announced at once.
//! Does not know whether a publisher sends them or another node.

use std::time::Instant;

use bytes::Bytes;
use usher_proto::{
    Code, Fault,
    feed::{Chain, GroupHead, Link},
    wire,
};
use usher_session::{GroupEnd, GroupStream};

use super::{feed::LiveFeed, feeds::Feeds};
use crate::core::feed::GroupStatus;

/// A verified piece as it is kept.
struct Kept {
    frame: Bytes,
    media: u64,
    /// After it.
    link: Link,
    last: bool,
}

/// Receives a group until it is complete or its stream ends.
///
/// # Errors
/// `VERIFICATION_FAILED` for pieces that the feed's publisher has not signed, `BAD_REQUEST` for a malformed group, or
/// another one under the number of a group that is here already.
pub(crate) async fn receive(live: &Feeds, feed: &LiveFeed, group: GroupStream) -> Result<(), Fault> {
    let _ends = StreamEnd { feed, sequence: group.head.sequence };
    receive_pieces(live, feed, group).await
}

/// Reports the end of a group's stream when it is dropped.
struct StreamEnd<'a> {
    feed: &'a LiveFeed,
    sequence: u64,
}

impl Drop for StreamEnd<'_> {
    fn drop(&mut self) {
        self.feed.lock().cache.handle_stream_end(self.sequence);
        self.feed.changed.send_replace(());
    }
}

async fn receive_pieces(live: &Feeds, feed: &LiveFeed, mut group: GroupStream) -> Result<(), Fault> {
    let sequence = group.head.sequence;
    let mut chain = Chain::begin(&feed.title, &group.head);
    let mut number = 0;
    let mut begins = Some((group.head.clone(), chain.link()));
    loop {
        let pieces = match group.next_pieces().await {
            Ok(pieces) => pieces,
            Err(GroupEnd::Malformed(what)) => {
                return Err(Fault::new(Code::BadRequest, format!("group {sequence} of the feed: {what}")));
            }
            // The pieces before the end are good.
            Err(GroupEnd::Finished | GroupEnd::Reset | GroupEnd::Lost) => return Ok(()),
        };
        let (count, mut verified) = (pieces.len(), Vec::with_capacity(pieces.len()));
        let mut signature = None;
        for piece in pieces {
            chain.take(piece.flags, &piece.media)?;
            let (frame, media) = (wire::piece(&piece), piece.media.len() as u64);
            verified.push(Kept { frame, media, link: chain.link(), last: piece.flags.last });
            signature = Some(piece.signature);
        }
        // The last signature covers the pieces before it.
        if !signature.is_some_and(|signature| chain.is_signed(&feed.key, &signature)) {
            let text = format!("group {sequence} of `{}` is not signed by its publisher", feed.title);
            return Err(Fault::new(Code::VerificationFailed, text));
        }
        if !keep(live, feed, sequence, &mut begins, number, verified)? || chain.is_ended() {
            return Ok(());
        }
        number += count;
    }
}

/// Keeps verified pieces, the first of which has the number `first`, and wakes the viewers. Returns `false` when the group
/// is not wanted.
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
        // Only verified pieces begin a group.
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

//! The groups of a published feed that no node has acknowledged, signed.
//!
//! Groups are made whether or not a node receives them; within bounds they wait, then the oldest is given up. Leaves sending
//! to the driver.

use std::{
    collections::VecDeque,
    time::{Duration, Instant},
};

use bytes::Bytes;
use usher_proto::{
    Code, Fault, Title,
    feed::{Chain, FeedSigner, Flags, GroupHead, Link, Piece},
    wire,
};

/// Bytes of media that may wait.
pub const MAX_BYTES: u64 = 64 << 20;

/// Time that a finished group may wait: after it no viewer wants the group.
pub const MAX_AGE: Duration = Duration::from_secs(30);

/// A group that no node has acknowledged.
#[derive(Debug)]
pub struct OutgoingGroup {
    /// Its number and the first signed bytes; the number is 0 until it is signed.
    head: GroupHead,
    /// Media that is not signed yet, since the key is not known.
    unsigned: Vec<(Flags, Bytes)>,
    /// Frames of its pieces.
    frames: Vec<Bytes>,
    chain: Option<Chain>,
    bytes: u64,
    whole: bool,
    ended: Option<Instant>,
}

impl OutgoingGroup {
    /// Its head.
    pub fn head(&self) -> &GroupHead {
        &self.head
    }

    /// Frames of its pieces so far.
    pub fn frames(&self) -> &[Bytes] {
        &self.frames
    }

    /// Whether the last piece is among them.
    pub fn is_ended(&self) -> bool {
        self.chain.as_ref().is_some_and(Chain::is_ended)
    }

    /// Numbers the group, and signs its media so far.
    fn sign(&mut self, title: &Title, signer: &FeedSigner, number: u64, previous: Link) -> Result<(), Fault> {
        (self.head.sequence, self.head.previous) = (number, previous);
        self.chain = Some(Chain::begin(title, &self.head));
        for (flags, media) in std::mem::take(&mut self.unsigned) {
            self.add(Some(signer), flags, media)?;
        }
        Ok(())
    }

    fn add(&mut self, signer: Option<&FeedSigner>, flags: Flags, media: Bytes) -> Result<(), Fault> {
        match (&mut self.chain, signer) {
            (Some(chain), Some(signer)) => {
                chain.take(flags, &media)?;
                self.frames.push(wire::piece(&Piece { flags, signature: chain.sign(signer), media }));
            }
            _ => self.unsigned.push((flags, media)),
        }
        Ok(())
    }
}

/// Signed groups that wait for acknowledgement.
#[derive(Debug)]
pub struct Outbox {
    title: Title,
    signer: Option<FeedSigner>,
    /// Oldest first; only the last may be unfinished.
    groups: VecDeque<OutgoingGroup>,
    /// Number of the next group.
    number: u64,
    /// The last link of the last signed and finished group.
    previous: Link,
    bytes: u64,
    made: u64,
    given_up: u64,
}

impl Outbox {
    /// For a feed that begins.
    pub fn new(title: Title) -> Self {
        let groups = VecDeque::new();
        Self { title, signer: None, groups, number: 0, previous: [0; 32], bytes: 0, made: 0, given_up: 0 }
    }

    /// Signs waiting groups, and all that follow, from number `first` on. Later calls only check the key.
    ///
    /// # Errors
    /// [`Code::ContentChanged`]: the key is not that of the groups that were sent.
    pub fn handle_signer(&mut self, signer: FeedSigner, first: u64) -> Result<(), Fault> {
        if let Some(known) = &self.signer {
            let same = known.key() == signer.key();
            let text = "the feed's key is another one than before; publish it anew";
            return if same { Ok(()) } else { Err(Fault::new(Code::ContentChanged, text)) };
        }
        self.number = first.max(1);
        for group in &mut self.groups {
            group.sign(&self.title, &signer, self.number, self.previous)?;
            self.number += 1;
            self.previous = group.chain.as_ref().map_or(self.previous, Chain::link);
        }
        self.signer = Some(signer);
        Ok(())
    }

    /// Whether groups have numbers.
    pub fn is_signed(&self) -> bool {
        self.signer.is_some()
    }

    /// A group begins, and the one before ends. `at_ms` is in milliseconds of the publisher's clock.
    ///
    /// # Errors
    /// As [`Outbox::handle_piece`].
    pub fn handle_group(&mut self, now: Instant, at_ms: u64, head: Bytes) -> Result<(), Fault> {
        self.handle_end(now)?;
        let head = GroupHead { sequence: 0, at_ms, previous: [0; 32], head };
        let (unsigned, frames) = Default::default();
        let mut group = OutgoingGroup { head, unsigned, frames, chain: None, bytes: 0, whole: true, ended: None };
        if let Some(signer) = &self.signer {
            group.sign(&self.title, signer, self.number, self.previous)?;
            self.number += 1;
        }
        self.made += 1;
        self.groups.push_back(group);
        Ok(())
    }

    /// Media of the last group.
    ///
    /// # Errors
    /// [`Code::Internal`]: there is no unfinished group.
    pub fn handle_piece(&mut self, media: Bytes, whole: bool) -> Result<(), Fault> {
        let lost = || Fault::new(Code::Internal, "media came before its group");
        let group = self.groups.back_mut().filter(|group| group.ended.is_none()).ok_or_else(lost)?;
        (group.bytes, group.whole) = (group.bytes + media.len() as u64, whole);
        self.bytes += media.len() as u64;
        group.add(self.signer.as_ref(), Flags { whole, last: false }, media)
    }

    /// The last group ends.
    ///
    /// # Errors
    /// As [`Outbox::handle_piece`].
    pub fn handle_end(&mut self, now: Instant) -> Result<(), Fault> {
        let Some(group) = self.groups.back_mut().filter(|group| group.ended.is_none()) else { return Ok(()) };
        group.ended = Some(now);
        // Whether a piece is the last one is not known when it is made, so the end is a piece of its own.
        group.add(self.signer.as_ref(), Flags { whole: group.whole, last: true }, Bytes::new())?;
        self.previous = group.chain.as_ref().map_or(self.previous, Chain::link);
        Ok(())
    }

    /// Signed groups, the oldest first.
    pub fn groups(&self) -> impl DoubleEndedIterator<Item = &OutgoingGroup> {
        self.groups.iter().filter(|group| group.chain.is_some())
    }

    /// A node acknowledged this group, or does not want it.
    pub fn handle_done(&mut self, number: u64) {
        // An unfinished group stays: its end is still to be sent.
        self.remove(|group| group.head.sequence == number && group.ended.is_some());
    }

    /// Gives up groups that exceed [`MAX_AGE`] or [`MAX_BYTES`]; returns their number.
    pub fn handle_timeout(&mut self, now: Instant) -> u64 {
        let before = self.given_up;
        while let Some(oldest) = self.groups.front() {
            let Some(ended) = oldest.ended else { break };
            if self.bytes <= MAX_BYTES && now.saturating_duration_since(ended) < MAX_AGE {
                break;
            }
            self.bytes -= oldest.bytes;
            self.given_up += 1;
            self.groups.pop_front();
        }
        self.given_up - before
    }

    fn remove(&mut self, which: impl Fn(&OutgoingGroup) -> bool) {
        if let Some(at) = self.groups.iter().position(which)
            && let Some(group) = self.groups.remove(at)
        {
            self.bytes -= group.bytes;
        }
    }

    /// Whether every group was acknowledged.
    pub fn is_empty(&self) -> bool {
        self.groups.is_empty()
    }

    /// Bytes of waiting media.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Number of groups that were begun.
    pub fn made(&self) -> u64 {
        self.made
    }

    /// Number of groups that were given up.
    pub fn given_up(&self) -> u64 {
        self.given_up
    }
}

#[cfg(test)]
mod tests {
    use usher_proto::{
        feed::FeedKey,
        wire::{Decoder, Frame},
    };

    use super::*;

    fn outbox() -> Outbox {
        Outbox::new(Title::parse("live/a").expect("a title"))
    }

    fn signer() -> FeedSigner {
        FeedSigner::from_seed(&[1; 32])
    }

    /// A group with these pieces, the last of which is whole.
    fn make(outbox: &mut Outbox, now: Instant, pieces: &[&[u8]]) {
        outbox.handle_group(now, outbox.made(), Bytes::from_static(b"head")).expect("begins");
        for (at, piece) in pieces.iter().enumerate() {
            outbox.handle_piece(Bytes::copy_from_slice(piece), at + 1 == pieces.len()).expect("fits");
        }
    }

    /// Numbers and media of the signed groups, verified as a receiver does.
    fn checked(outbox: &Outbox, key: &FeedKey) -> Vec<(u64, Vec<u8>, bool)> {
        let title = Title::parse("live/a").expect("a title");
        let one = |group: &OutgoingGroup| {
            let (mut decoder, mut chain) = (Decoder::default(), Chain::begin(&title, group.head()));
            let (mut media, mut whole) = (Vec::new(), false);
            group.frames().iter().for_each(|frame| decoder.push(frame));
            while let Some(Frame::Piece(piece)) = decoder.next_frame().expect("good frames") {
                chain.take(piece.flags, &piece.media).expect("a good piece");
                assert!(chain.is_signed(key, &piece.signature));
                media.extend_from_slice(&piece.media);
                whole = piece.flags.whole;
            }
            assert_eq!(chain.is_ended(), group.is_ended());
            (group.head().sequence, media, whole)
        };
        outbox.groups().map(one).collect()
    }

    #[test]
    fn groups_are_signed_in_order_also_those_made_before_the_key() {
        let now = Instant::now();
        let (mut early, mut late) = (outbox(), outbox());
        late.handle_signer(signer(), 7).expect("signs");
        for outbox in [&mut early, &mut late] {
            make(outbox, now, &[b"a", b"b"]);
            make(outbox, now, &[]);
            make(outbox, now, &[b"c"]);
        }
        assert_eq!((early.groups().count(), early.is_signed()), (0, false));
        early.handle_signer(signer(), 7).expect("signs");
        for outbox in [&mut early, &mut late] {
            make(outbox, now, &[b"d", b"e"]);
            outbox.handle_piece(Bytes::from_static(b"f"), false).expect("fits");
            outbox.handle_end(now).expect("ends");
        }
        let sent = checked(&early, &signer().key());
        let expected = [(7, &b"ab"[..], true), (8, b"", true), (9, b"c", true), (10, b"def", false)];
        assert!(sent.iter().map(|(number, media, whole)| (*number, media.as_slice(), *whole)).eq(expected));
        assert_eq!(sent, checked(&late, &signer().key()));
        // Each group names the last link of the one before.
        let title = Title::parse("live/a").expect("a title");
        let groups: Vec<&OutgoingGroup> = early.groups().collect();
        assert_eq!(groups[0].head().previous, [0; 32]);
        let mut chain = Chain::begin(&title, groups[0].head());
        for (media, last) in [(&b"a"[..], false), (b"b", false), (b"", true)] {
            chain.take(Flags { whole: media != b"a", last }, media).expect("a good piece");
        }
        assert_eq!(groups[1].head().previous, chain.link());
        assert!(early.handle_signer(signer(), 99).is_ok() && early.groups().count() == 4, "known already");
        assert!(early.handle_signer(FeedSigner::from_seed(&[2; 32]), 1).is_err(), "another key");
    }

    #[test]
    fn acknowledged_groups_are_removed() {
        let now = Instant::now();
        let mut outbox = outbox();
        outbox.handle_signer(signer(), 1).expect("signs");
        for media in [&b"one"[..], b"two", b"three"] {
            make(&mut outbox, now, &[media]);
        }
        let numbers = |outbox: &Outbox| outbox.groups().map(|group| group.head().sequence).collect::<Vec<_>>();
        outbox.handle_done(2);
        outbox.handle_done(2);
        outbox.handle_done(3);
        assert_eq!((numbers(&outbox), outbox.bytes()), (vec![1, 3], 8), "the last is unfinished");
        outbox.handle_end(now).expect("ends");
        assert!(outbox.handle_piece(Bytes::from_static(b"x"), true).is_err(), "after the end");
        outbox.handle_done(3);
        outbox.handle_done(1);
        assert!(outbox.is_empty() && outbox.bytes() == 0 && outbox.made() == 3);
    }

    #[test]
    fn the_oldest_is_given_up_within_bounds() {
        let begun = Instant::now();
        let at = |secs| begun + Duration::from_secs(secs);
        let mut outbox = outbox();
        outbox.handle_signer(signer(), 1).expect("signs");
        make(&mut outbox, at(0), &[b"a"]);
        assert_eq!(outbox.handle_timeout(at(100)), 0, "it is unfinished");
        make(&mut outbox, at(100), &[b"b"]);
        make(&mut outbox, at(101), &[b"c"]);
        assert_eq!(
            (outbox.handle_timeout(at(129)), outbox.handle_timeout(at(130)), outbox.handle_timeout(at(130))),
            (0, 1, 0)
        );
        let piece = Bytes::from(vec![0; 65536]);
        for _ in 1..MAX_BYTES / 65536 {
            outbox.handle_piece(piece.clone(), true).expect("fits");
        }
        assert_eq!(outbox.handle_timeout(at(130)), 0);
        outbox.handle_piece(piece.slice(1..), true).expect("fits");
        assert_eq!(outbox.handle_timeout(at(130)), 1, "`b`, not the unfinished one");
        assert_eq!((outbox.groups().count(), outbox.bytes(), outbox.given_up()), (1, MAX_BYTES, 2));
    }
}

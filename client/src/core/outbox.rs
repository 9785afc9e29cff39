//! What of a feed is still to arrive: its groups, signed, until a node has each of them whole.
//!
//! Groups are made whether or not anybody takes them; within bounds they wait, and then the oldest is given up. Refuses to
//! know how they are sent.

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

/// The most media that waits.
pub const MOST: u64 = 64 << 20;

/// How long a group that has ended may wait: no viewer wants it any more.
pub const LONGEST: Duration = Duration::from_secs(30);

/// A group that no node has whole, as far as is known.
#[derive(Debug)]
pub struct Group {
    /// Its number and what is signed first; the number is 0 until it is signed.
    head: GroupHead,
    /// Media that is not signed yet: nobody has told with what.
    unsigned: Vec<(Flags, Bytes)>,
    /// Frames of its pieces.
    frames: Vec<Bytes>,
    chain: Option<Chain>,
    bytes: u64,
    whole: bool,
    ended: Option<Instant>,
}

impl Group {
    /// What it begins with.
    pub fn head(&self) -> &GroupHead {
        &self.head
    }

    /// Its pieces so far, as they are sent.
    pub fn frames(&self) -> &[Bytes] {
        &self.frames
    }

    /// Whether the last of them is there.
    pub fn is_ended(&self) -> bool {
        self.chain.as_ref().is_some_and(Chain::is_ended)
    }

    /// Numbers it, and signs what it has.
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

/// See the module.
#[derive(Debug)]
pub struct Outbox {
    title: Title,
    signer: Option<FeedSigner>,
    /// Oldest first; only the last may still be made.
    groups: VecDeque<Group>,
    /// Of the next group.
    number: u64,
    /// The last link of the last group that is signed and has ended.
    previous: Link,
    bytes: u64,
    made: u64,
    given_up: u64,
}

impl Outbox {
    /// Of a feed that begins.
    pub fn new(title: Title) -> Self {
        let groups = VecDeque::new();
        Self { title, signer: None, groups, number: 0, previous: [0; 32], bytes: 0, made: 0, given_up: 0 }
    }

    /// Signs all that is there, and what follows, as this signer, from group `first` on. Only the first call counts.
    ///
    /// # Errors
    /// The key is not that of the groups that were sent.
    pub fn sign_as(&mut self, signer: FeedSigner, first: u64) -> Result<(), Fault> {
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

    /// A group begins, and the one before has ended. `at_ms` in milliseconds of the publisher's clock.
    ///
    /// # Errors
    /// Only where media was no group's.
    pub fn begin(&mut self, now: Instant, at_ms: u64, head: Bytes) -> Result<(), Fault> {
        self.end(now)?;
        let head = GroupHead { sequence: 0, at_ms, previous: [0; 32], head };
        let (unsigned, frames) = Default::default();
        let mut group = Group { head, unsigned, frames, chain: None, bytes: 0, whole: true, ended: None };
        if let Some(signer) = &self.signer {
            group.sign(&self.title, signer, self.number, self.previous)?;
            self.number += 1;
        }
        self.made += 1;
        self.groups.push_back(group);
        Ok(())
    }

    /// Media of the group that was begun last.
    ///
    /// # Errors
    /// Media that is no group's.
    pub fn piece(&mut self, media: Bytes, whole: bool) -> Result<(), Fault> {
        let lost = || Fault::new(Code::Internal, "media came before its group");
        let group = self.groups.back_mut().filter(|group| group.ended.is_none()).ok_or_else(lost)?;
        (group.bytes, group.whole) = (group.bytes + media.len() as u64, whole);
        self.bytes += media.len() as u64;
        group.add(self.signer.as_ref(), Flags { whole, last: false }, media)
    }

    /// The last group has ended.
    ///
    /// # Errors
    /// As [`Outbox::piece`].
    pub fn end(&mut self, now: Instant) -> Result<(), Fault> {
        let Some(group) = self.groups.back_mut().filter(|group| group.ended.is_none()) else { return Ok(()) };
        group.ended = Some(now);
        // Nothing is known of what follows while a group is made, so its end is a piece of its own.
        group.add(self.signer.as_ref(), Flags { whole: group.whole, last: true }, Bytes::new())?;
        self.previous = group.chain.as_ref().map_or(self.previous, Chain::link);
        Ok(())
    }

    /// What is to be sent, the oldest first; nothing before it is signed.
    pub fn groups(&self) -> impl DoubleEndedIterator<Item = &Group> {
        self.groups.iter().filter(|group| group.chain.is_some())
    }

    /// A node has this group whole, or does not want it.
    pub fn done(&mut self, number: u64) {
        // The one that is being made stays: it has an end to come.
        self.remove(|group| group.head.sequence == number && group.ended.is_some());
    }

    /// Gives up what has waited too long, or is too much: how many groups.
    pub fn give_up(&mut self, now: Instant) -> u64 {
        let before = self.given_up;
        while let Some(oldest) = self.groups.front() {
            let Some(ended) = oldest.ended else { break };
            if self.bytes <= MOST && now.saturating_duration_since(ended) < LONGEST {
                break;
            }
            self.bytes -= oldest.bytes;
            self.given_up += 1;
            self.groups.pop_front();
        }
        self.given_up - before
    }

    fn remove(&mut self, which: impl Fn(&Group) -> bool) {
        if let Some(at) = self.groups.iter().position(which)
            && let Some(group) = self.groups.remove(at)
        {
            self.bytes -= group.bytes;
        }
    }

    /// Whether all has arrived.
    pub fn is_empty(&self) -> bool {
        self.groups.is_empty()
    }

    /// Media that waits, in bytes.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Groups that were begun.
    pub fn made(&self) -> u64 {
        self.made
    }

    /// Groups that were given up.
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

    /// A group with these pieces, of which the last is whole.
    fn make(outbox: &mut Outbox, now: Instant, pieces: &[&[u8]]) {
        outbox.begin(now, outbox.made(), Bytes::from_static(b"head")).expect("begins");
        for (at, piece) in pieces.iter().enumerate() {
            outbox.piece(Bytes::copy_from_slice(piece), at + 1 == pieces.len()).expect("fits");
        }
    }

    /// Numbers and media of what is to be sent, checked as who receives it does.
    fn checked(outbox: &Outbox, key: &FeedKey) -> Vec<(u64, Vec<u8>, bool)> {
        let title = Title::parse("live/a").expect("a title");
        let one = |group: &Group| {
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
    fn groups_are_signed_one_after_the_other_also_those_made_before() {
        let now = Instant::now();
        let (mut early, mut late) = (outbox(), outbox());
        late.sign_as(signer(), 7).expect("signs");
        for outbox in [&mut early, &mut late] {
            make(outbox, now, &[b"a", b"b"]);
            make(outbox, now, &[]);
            make(outbox, now, &[b"c"]);
        }
        assert_eq!((early.groups().count(), early.is_signed()), (0, false));
        early.sign_as(signer(), 7).expect("signs");
        for outbox in [&mut early, &mut late] {
            make(outbox, now, &[b"d", b"e"]);
            outbox.piece(Bytes::from_static(b"f"), false).expect("fits");
            outbox.end(now).expect("ends");
        }
        let sent = checked(&early, &signer().key());
        let expected = [(7, &b"ab"[..], true), (8, b"", true), (9, b"c", true), (10, b"def", false)];
        assert!(sent.iter().map(|(number, media, whole)| (*number, media.as_slice(), *whole)).eq(expected));
        assert_eq!(sent, checked(&late, &signer().key()));
        // Each group names the last link of the one before.
        let title = Title::parse("live/a").expect("a title");
        let groups: Vec<&Group> = early.groups().collect();
        assert_eq!(groups[0].head().previous, [0; 32]);
        let mut chain = Chain::begin(&title, groups[0].head());
        for (media, last) in [(&b"a"[..], false), (b"b", false), (b"", true)] {
            chain.take(Flags { whole: media != b"a", last }, media).expect("a good piece");
        }
        assert_eq!(groups[1].head().previous, chain.link());
        assert!(early.sign_as(signer(), 99).is_ok() && early.groups().count() == 4, "known already");
        assert!(early.sign_as(FeedSigner::from_seed(&[2; 32]), 1).is_err(), "another key");
    }

    #[test]
    fn what_arrived_is_forgotten_and_the_rest_is_kept() {
        let now = Instant::now();
        let mut outbox = outbox();
        outbox.sign_as(signer(), 1).expect("signs");
        for media in [&b"one"[..], b"two", b"three"] {
            make(&mut outbox, now, &[media]);
        }
        let numbers = |outbox: &Outbox| outbox.groups().map(|group| group.head().sequence).collect::<Vec<_>>();
        outbox.done(2);
        outbox.done(2);
        outbox.done(3);
        assert_eq!((numbers(&outbox), outbox.bytes()), (vec![1, 3], 8), "the last is still being made");
        outbox.end(now).expect("ends");
        assert!(outbox.piece(Bytes::from_static(b"x"), true).is_err(), "after the end");
        outbox.done(3);
        outbox.done(1);
        assert!(outbox.is_empty() && outbox.bytes() == 0 && outbox.made() == 3);
    }

    #[test]
    fn the_oldest_is_given_up_within_bounds() {
        let begun = Instant::now();
        let at = |secs| begun + Duration::from_secs(secs);
        let mut outbox = outbox();
        outbox.sign_as(signer(), 1).expect("signs");
        make(&mut outbox, at(0), &[b"a"]);
        assert_eq!(outbox.give_up(at(100)), 0, "it is being made");
        make(&mut outbox, at(100), &[b"b"]);
        make(&mut outbox, at(101), &[b"c"]);
        assert_eq!((outbox.give_up(at(129)), outbox.give_up(at(130)), outbox.give_up(at(130))), (0, 1, 0));
        let piece = Bytes::from(vec![0; 65536]);
        for _ in 1..MOST / 65536 {
            outbox.piece(piece.clone(), true).expect("fits");
        }
        assert_eq!(outbox.give_up(at(130)), 0);
        outbox.piece(piece.slice(1..), true).expect("fits");
        assert_eq!(outbox.give_up(at(130)), 1, "`b`, and not the one that is being made");
        assert_eq!((outbox.groups().count(), outbox.bytes(), outbox.given_up()), (1, MOST, 2));
    }
}

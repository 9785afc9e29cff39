//! From the groups of a feed, as they come from one or several nodes at once, to media that plays on: proven, in order,
//! nothing twice. A group that is late is waited for until the viewer is farther behind than it wants to be; then it is
//! dropped, counted, and the next one begins. Refuses to know who sends, and where the media goes.

use std::{
    collections::{BTreeMap, HashMap},
    time::{Duration, Instant},
};

use bytes::Bytes;
use usher_proto::{
    Code, Fault, Title,
    feed::{Chain, FeedKey, Flags, GroupHead, Link, Piece},
};

/// How long a group whose number leaves a gap waits for what may belong into it: streams overtake one another.
const GAP: Duration = Duration::from_millis(300);

/// By how much less than was asked for a recording may be, for the sake of a whole group.
const SLACK: Duration = Duration::from_millis(250);

/// How long what is left of a feed that is over may take to move on.
const LAST: Duration = Duration::from_secs(3);

/// Media that waits for its turn. Beyond it the viewer is too far behind, whatever it says.
const HELD: u64 = 128 << 20;

/// Groups on their way at once.
const STRANDS: usize = 64;

/// What is to be written.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Out {
    /// In order.
    pub media: Vec<Bytes>,
}

/// One stream that brings a group.
struct Strand {
    head: GroupHead,
    chain: Chain,
    /// Pieces that came on it.
    pieces: usize,
}

/// A group as far as it is proven.
struct Group {
    head: GroupHead,
    known: Instant,
    /// Proven and not written.
    held: Vec<(Flags, Bytes)>,
    /// Proven pieces, and the link after them.
    pieces: usize,
    link: Link,
    whole: bool,
    /// A node gave it up.
    given_up: bool,
}

/// See the module.
pub struct Playout {
    title: Title,
    key: FeedKey,
    latency: Duration,
    strands: HashMap<u64, Strand>,
    groups: BTreeMap<u64, Group>,
    /// Numbers before this are done with, written or not.
    from: u64,
    /// The last link of the group that was written last, if it was written whole.
    link: Option<Link>,
    /// Something of the group `from` is written.
    begun: bool,
    /// What was written last of what decoders need first.
    head: Option<Bytes>,
    first_at: Option<u64>,
    newest_at: u64,
    duration: Option<Duration>,
    /// One past the last group of a feed that is over, and when something moved last since.
    finished: Option<(u64, Instant)>,
    ended: bool,
    dropped: u64,
    played: u64,
    /// Bytes given out, and those until the end of the last whole group.
    given: u64,
    whole: u64,
}

impl Playout {
    /// Nothing has come. `latency` is how far it may fall behind, `duration` how much of the feed is wanted.
    pub fn new(title: Title, key: FeedKey, latency: Duration, duration: Option<Duration>) -> Self {
        Self {
            title,
            key,
            latency,
            strands: HashMap::new(),
            groups: BTreeMap::new(),
            from: 0,
            link: None,
            begun: false,
            head: None,
            first_at: None,
            newest_at: 0,
            duration,
            finished: None,
            ended: false,
            dropped: 0,
            played: 0,
            given: 0,
            whole: 0,
        }
    }

    /// With which group it begins, where nothing has come yet.
    pub fn expect(&mut self, first: u64) {
        if self.from == 0 {
            self.from = first;
        }
    }

    /// What groups are checked with.
    pub fn key(&self) -> &FeedKey {
        &self.key
    }

    /// Whether the feed is over, though something of it may still come.
    pub fn is_finished(&self) -> bool {
        self.finished.is_some()
    }

    /// The group to ask another node for first; `None` while nothing has come.
    pub fn resume_from(&self) -> Option<u64> {
        self.first_at.map(|_| self.from)
    }

    /// A stream brings a group. Whether that is wanted.
    ///
    /// # Errors
    /// `INTERNAL`: no node may send so many at once.
    pub fn begin(&mut self, stream: u64, head: GroupHead) -> Result<bool, Fault> {
        if head.sequence < self.from || self.ended {
            return Ok(false);
        }
        if self.strands.len() >= STRANDS {
            return Err(Fault::new(Code::Internal, format!("more than {STRANDS} groups of a feed at once")));
        }
        let chain = Chain::begin(&self.title, &head);
        self.strands.insert(stream, Strand { head, chain, pieces: 0 });
        Ok(true)
    }

    /// A stream brings the next pieces of its group, of which the last one's signature proves all. The group's number;
    /// `None` for a stream that is not listened to.
    ///
    /// # Errors
    /// `VERIFICATION_FAILED`: they are not what the publisher sent.
    pub fn pieces(&mut self, now: Instant, stream: u64, pieces: Vec<Piece>) -> Result<Option<u64>, Fault> {
        let Some(strand) = self.strands.get_mut(&stream) else { return Ok(None) };
        let Some(signature) = pieces.last().map(|piece| piece.signature) else { return Ok(None) };
        let before = strand.pieces;
        let sequence = strand.head.sequence;
        let known = self.groups.get(&sequence);
        // What another stream has brought so far must be the same: there is one truth for each number.
        let mut same = known.is_none_or(|group| group.pieces != before || group.link == strand.chain.link());
        for (at, piece) in pieces.iter().enumerate() {
            let wrong = |fault: Fault| Fault { code: Code::VerificationFailed, ..fault };
            strand.chain.take(piece.flags, &piece.media).map_err(wrong)?;
            let count = before + at + 1;
            same &= known.is_none_or(|group| group.pieces != count || group.link == strand.chain.link());
        }
        strand.pieces += pieces.len();
        if !same || !strand.chain.is_signed(&self.key, &signature) {
            self.strands.remove(&stream);
            let text = format!("group {sequence} of `{}` is not what its publisher sent", self.title);
            return Err(Fault::new(Code::VerificationFailed, text));
        }
        let (count, link, whole) = (strand.pieces, strand.chain.link(), strand.chain.is_ended());
        if sequence < self.from {
            return Ok(Some(sequence));
        }
        // Only what is proven says when it was.
        self.newest_at = self.newest_at.max(strand.head.at_ms);
        let head = &strand.head;
        let group = self.groups.entry(sequence).or_insert_with(|| Group {
            head: head.clone(),
            known: now,
            held: Vec::new(),
            pieces: 0,
            link: Chain::begin(&self.title, head).link(),
            whole: false,
            given_up: false,
        });
        let have = group.pieces;
        if count > have {
            let new = pieces.into_iter().skip(have.saturating_sub(before));
            group.held.extend(new.map(|piece| (piece.flags, piece.media)));
            (group.pieces, group.link, group.whole) = (count, link, whole);
        }
        Ok(Some(sequence))
    }

    /// A stream is over. Unless its group is whole, its node gave it up, or is lost.
    pub fn end(&mut self, stream: u64, given_up: bool) {
        let Some(strand) = self.strands.remove(&stream) else { return };
        let others = self.strands.values().any(|other| other.head.sequence == strand.head.sequence);
        if let Some(group) = self.groups.get_mut(&strand.head.sequence)
            && given_up
            && !others
        {
            group.given_up = !group.whole;
        }
    }

    /// A node gave these groups up for this viewer.
    pub fn skipped(&mut self, first: u64, end: u64) {
        if first <= self.from && self.from < end && !self.begun && !self.groups.contains_key(&self.from) {
            self.from = end;
        }
    }

    /// The feed is over, after the groups before this one.
    pub fn finish(&mut self, now: Instant, end: u64) {
        self.finished = Some((end, now));
    }

    /// What can be written now; `None` when it is to be waited.
    pub fn next(&mut self, now: Instant) -> Option<Out> {
        let (mut out, given) = (Out::default(), self.given);
        while !self.ended && self.advance(now, &mut out, given) {}
        if let Some((_, moved)) = self.finished.as_mut().filter(|_| !out.media.is_empty()) {
            *moved = now;
        }
        (!out.media.is_empty()).then_some(out)
    }

    /// Whether all that is wanted was given out.
    pub fn is_over(&self, now: Instant) -> bool {
        let finished = self.finished.is_some_and(|(end, _)| self.from >= end || self.waited(now));
        self.ended || finished && (self.groups.is_empty() || self.waited(now))
    }

    /// When to look again though nothing comes.
    pub fn deadline(&self) -> Option<Instant> {
        let gap = self.groups.first_key_value().filter(|(number, _)| **number != self.from);
        let gap = gap.map(|(_, group)| group.known + GAP);
        gap.into_iter().chain(self.finished.map(|(_, moved)| moved + LAST)).min()
    }

    /// Whether what is left of a feed that is over does not come any more.
    fn waited(&self, now: Instant) -> bool {
        self.finished.is_some_and(|(_, moved)| now.saturating_duration_since(moved) >= LAST)
    }

    /// Groups that were dropped.
    pub fn dropped(&self) -> u64 {
        self.dropped
    }

    /// Groups that were written whole.
    pub fn played(&self) -> u64 {
        self.played
    }

    /// Bytes that were given out until the end of the last whole group.
    pub fn whole(&self) -> u64 {
        self.whole
    }

    /// Media that waits for its turn.
    fn held(&self) -> u64 {
        let held = self.groups.values().flat_map(|group| &group.held);
        held.map(|(_, media)| media.len() as u64).sum()
    }

    /// Writes of the group that is next, or goes on to the one after it. False when there is nothing to do. So many bytes
    /// were `given` out before `out`.
    fn advance(&mut self, now: Instant, out: &mut Out, given: u64) -> bool {
        let Some((number, group)) = self.groups.first_key_value() else { return false };
        let number = *number;
        if number != self.from {
            // Is what lies between still to come?
            let follows = self.link.is_some_and(|link| group.head.previous == link);
            let waited = now.saturating_duration_since(group.known) >= GAP;
            if !(follows || waited || self.from == 0) {
                return false;
            }
            // A publisher that was started again leaves a gap in the numbers, and nothing in it.
            self.dropped += u64::from(!follows && self.link.is_some() && group.head.previous != [0; 32]);
            self.from = number;
            return true;
        }
        if !self.begun
            && let Some(last) = self.skip()
        {
            let gone: Vec<u64> = self.groups.range(..last).map(|(number, _)| *number).collect();
            gone.iter().for_each(|number| drop(self.groups.remove(number)));
            self.dropped += gone.len() as u64;
            (self.from, self.link, self.head) = (last, None, None);
            return true;
        }
        if self.link.is_none_or(|link| link != group.head.previous) && self.played > 0 && !self.begun {
            // What is missing is missing for the decoder too.
            self.head = None;
        }
        let start = *self.first_at.get_or_insert(group.head.at_ms);
        // Groups begin a little before or after the second.
        let came = Duration::from_millis(group.head.at_ms.saturating_sub(start));
        let past = |duration: Duration| came + SLACK.min(duration / 10) >= duration;
        if !self.begun && self.duration.is_some_and(past) {
            self.ended = true;
            return false;
        }
        let Some(group) = self.groups.get_mut(&number) else { return false };
        let until = group.held.iter().rposition(|(flags, _)| flags.whole).map_or(0, |at| at + 1);
        if until > 0 {
            let media: Vec<Bytes> = group.held.drain(..until).map(|(_, media)| media).collect();
            self.begun = true;
            // What decoders need first is needed again when it changes: the tables of a transport stream count on, and so
            // they come with each group.
            let head = group.head.head.clone();
            if self.head.as_ref() != Some(&head) {
                out.media.extend((!head.is_empty()).then(|| head.clone()));
                self.head = Some(head);
            }
            out.media.extend(media.into_iter().filter(|media| !media.is_empty()));
            self.given = given + out.media.iter().map(|media| media.len() as u64).sum::<u64>();
            return true;
        }
        if group.whole {
            // What is left of it is a beginning without an end.
            self.whole = self.given;
            self.link = Some(group.link);
            self.groups.remove(&number);
            (self.from, self.begun) = (number + 1, false);
            self.played += 1;
            return true;
        }
        let over = self.finished.is_some() && self.groups.get(&number).is_some_and(|group| group.given_up);
        let lost = over || self.waited(now) && !self.strands.values().any(|strand| strand.head.sequence == number);
        let newer = self.groups.len() > 1;
        if lost || newer && (self.groups.get(&number).is_some_and(|group| group.given_up) || self.is_behind()) {
            self.drop_begun();
            return true;
        }
        false
    }

    /// The last whole group, if the viewer is to go on with it since it reads too slowly.
    fn skip(&self) -> Option<u64> {
        let last = self.groups.iter().rev().find(|(_, group)| group.whole).map(|(number, _)| *number)?;
        (last > self.from && self.is_behind()).then_some(last)
    }

    /// Whether the viewer is farther behind than it wants to be, and can do something about it.
    fn is_behind(&self) -> bool {
        let Some(at) = self.groups.get(&self.from) else { return false };
        let behind = Duration::from_millis(self.newest_at.saturating_sub(at.head.at_ms));
        let newer = self.groups.range(self.from + 1..).any(|(_, group)| group.whole);
        newer && behind > self.latency || self.held() > HELD
    }

    /// Gives the group that is next up.
    fn drop_begun(&mut self) {
        self.groups.remove(&self.from);
        (self.from, self.begun, self.link, self.head) = (self.from + 1, false, None, None);
        self.dropped += 1;
    }
}

#[cfg(test)]
mod tests;

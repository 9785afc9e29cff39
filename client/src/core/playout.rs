//! From the groups of a feed, as one or several nodes send them, to media that plays on: verified, in order, nothing twice.
//! A late group is waited for until the viewer exceeds its latency budget; then it is dropped, counted, and the next one
//! begins. Leaves the sessions and the destination of the media to the driver.

use std::{
    collections::{BTreeMap, HashMap},
    time::{Duration, Instant},
};

use bytes::Bytes;
use usher_proto::{
    Code, Fault, Title,
    feed::{Chain, FeedKey, Flags, GroupHead, Link, Piece},
};

/// Time that a group behind a gap in the numbers waits for the groups in the gap: streams overtake one another.
const GAP: Duration = Duration::from_millis(300);

/// Time by which a recording may be shorter than asked for, so that it ends with a complete group.
const SLACK: Duration = Duration::from_millis(250);

/// Time without media after which the remaining groups of a finished feed are given up.
const END_WAIT: Duration = Duration::from_secs(3);

/// Bytes of media that may wait for their turn. Beyond them the viewer is too far behind, whatever its budget.
const MAX_HELD: u64 = 128 << 20;

/// Groups that may be received at once.
const MAX_STREAMS: usize = 64;

/// One stream that brings a group.
struct GroupReceiver {
    head: GroupHead,
    chain: Chain,
    /// Pieces received on it.
    pieces: usize,
}

/// The verified part of a group.
struct VerifiedGroup {
    head: GroupHead,
    known: Instant,
    /// Verified and not written.
    held: Vec<(Flags, Bytes)>,
    /// Number of verified pieces, and the link after them.
    pieces: usize,
    link: Link,
    whole: bool,
    /// A node gave it up.
    given_up: bool,
}

/// Orders and verifies the groups of a feed.
pub struct Playout {
    title: Title,
    key: FeedKey,
    latency: Duration,
    streams: HashMap<u64, GroupReceiver>,
    groups: BTreeMap<u64, VerifiedGroup>,
    /// The next group to write: those before it were written or dropped.
    from: u64,
    /// The last link of the group that was written last, if it was written completely.
    link: Option<Link>,
    /// A part of group `from` was written.
    begun: bool,
    /// The decoder configuration that was written last.
    head: Option<Bytes>,
    first_at: Option<u64>,
    newest_at: u64,
    duration: Option<Duration>,
    /// One past the last group of a finished feed, and when media was last written since.
    finished: Option<(u64, Instant)>,
    ended: bool,
    dropped: u64,
    played: u64,
    /// Bytes written, and those up to the end of the last complete group.
    written: u64,
    whole: u64,
}

impl Playout {
    /// A feed of which nothing was received. `latency` is the viewer's budget, `duration` the wanted length of media.
    pub fn new(title: Title, key: FeedKey, latency: Duration, duration: Option<Duration>) -> Self {
        Self {
            title,
            key,
            latency,
            streams: HashMap::new(),
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
            written: 0,
            whole: 0,
        }
    }

    /// A session begins with this group; the feed does too if no group was written yet.
    pub fn handle_setup(&mut self, first: u64) {
        if self.from == 0 {
            self.from = first;
        }
    }

    /// The key that verifies groups.
    pub fn key(&self) -> &FeedKey {
        &self.key
    }

    /// Whether the publisher ended the feed; its last groups may still be received.
    pub fn is_finished(&self) -> bool {
        self.finished.is_some()
    }

    /// The first group to ask another node for; `None` while nothing was written.
    pub fn resume_from(&self) -> Option<u64> {
        self.first_at.map(|_| self.from)
    }

    /// A stream begins to bring a group; returns whether the group is wanted.
    ///
    /// # Errors
    /// [`Code::Internal`]: the node sends too many groups at once.
    pub fn handle_group(&mut self, stream: u64, head: GroupHead) -> Result<bool, Fault> {
        if head.sequence < self.from || self.ended {
            return Ok(false);
        }
        if self.streams.len() >= MAX_STREAMS {
            return Err(Fault::new(Code::Internal, format!("more than {MAX_STREAMS} groups of a feed at once")));
        }
        let chain = Chain::begin(&self.title, &head);
        self.streams.insert(stream, GroupReceiver { head, chain, pieces: 0 });
        Ok(true)
    }

    /// A stream brought the next pieces of its group; the signature of the last one covers all of them. Returns the group's
    /// number, or `None` for a stream that is ignored.
    ///
    /// # Errors
    /// [`Code::VerificationFailed`]: they are not what the publisher sent.
    pub fn handle_pieces(&mut self, now: Instant, stream: u64, pieces: Vec<Piece>) -> Result<Option<u64>, Fault> {
        let Some(receiver) = self.streams.get_mut(&stream) else { return Ok(None) };
        let Some(signature) = pieces.last().map(|piece| piece.signature) else { return Ok(None) };
        let before = receiver.pieces;
        let sequence = receiver.head.sequence;
        let known = self.groups.get(&sequence);
        // Streams that bring one group must agree: a number stands for one content.
        let mut same = known.is_none_or(|group| group.pieces != before || group.link == receiver.chain.link());
        for (at, piece) in pieces.iter().enumerate() {
            let wrong = |fault: Fault| Fault { code: Code::VerificationFailed, ..fault };
            receiver.chain.take(piece.flags, &piece.media).map_err(wrong)?;
            let count = before + at + 1;
            same &= known.is_none_or(|group| group.pieces != count || group.link == receiver.chain.link());
        }
        receiver.pieces += pieces.len();
        if !same || !receiver.chain.is_signed(&self.key, &signature) {
            self.streams.remove(&stream);
            let text = format!("group {sequence} of `{}` is not what its publisher sent", self.title);
            return Err(Fault::new(Code::VerificationFailed, text));
        }
        let (count, link, whole) = (receiver.pieces, receiver.chain.link(), receiver.chain.is_ended());
        if sequence < self.from {
            return Ok(Some(sequence));
        }
        // The time of a group counts once it is verified.
        self.newest_at = self.newest_at.max(receiver.head.at_ms);
        let head = &receiver.head;
        let group = self.groups.entry(sequence).or_insert_with(|| VerifiedGroup {
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

    /// A stream ended. Unless its group is complete, the node gave it up, or failed.
    pub fn handle_stream_end(&mut self, stream: u64, given_up: bool) {
        let Some(receiver) = self.streams.remove(&stream) else { return };
        let others = self.streams.values().any(|other| other.head.sequence == receiver.head.sequence);
        if let Some(group) = self.groups.get_mut(&receiver.head.sequence)
            && given_up
            && !others
        {
            group.given_up = !group.whole;
        }
    }

    /// A node gave up these groups for this viewer.
    pub fn handle_skipped(&mut self, first: u64, end: u64) {
        if first <= self.from && self.from < end && !self.begun && !self.groups.contains_key(&self.from) {
            self.from = end;
        }
    }

    /// The publisher ended the feed before this group.
    pub fn handle_finish(&mut self, now: Instant, end: u64) {
        self.finished = Some((end, now));
    }

    /// Media to write now, in order; `None` when more must be received first.
    pub fn poll_media(&mut self, now: Instant) -> Option<Vec<Bytes>> {
        let (mut media, written) = (Vec::new(), self.written);
        while !self.ended && self.advance(now, &mut media, written) {}
        if let Some((_, last)) = self.finished.as_mut().filter(|_| !media.is_empty()) {
            *last = now;
        }
        (!media.is_empty()).then_some(media)
    }

    /// Whether all wanted media was written.
    pub fn is_over(&self, now: Instant) -> bool {
        let finished = self.finished.is_some_and(|(end, _)| self.from >= end || self.waited(now));
        self.ended || finished && (self.groups.is_empty() || self.waited(now))
    }

    /// When to call [`Playout::poll_media`] though nothing is received.
    pub fn next_timeout(&self) -> Option<Instant> {
        let gap = self.groups.first_key_value().filter(|(number, _)| **number != self.from);
        let gap = gap.map(|(_, group)| group.known + GAP);
        gap.into_iter().chain(self.finished.map(|(_, last)| last + END_WAIT)).min()
    }

    /// Whether the remaining groups of a finished feed are given up.
    fn waited(&self, now: Instant) -> bool {
        self.finished.is_some_and(|(_, last)| now.saturating_duration_since(last) >= END_WAIT)
    }

    /// Number of dropped groups.
    pub fn dropped(&self) -> u64 {
        self.dropped
    }

    /// Number of groups that were written completely.
    pub fn played(&self) -> u64 {
        self.played
    }

    /// Bytes written up to the end of the last complete group.
    pub fn complete_bytes(&self) -> u64 {
        self.whole
    }

    /// Bytes of media that wait for their turn.
    fn held(&self) -> u64 {
        let held = self.groups.values().flat_map(|group| &group.held);
        held.map(|(_, media)| media.len() as u64).sum()
    }

    /// Writes a part of the next group, or goes on to the one after it; returns false when neither is possible. `written` is
    /// the number of bytes written before `out`.
    fn advance(&mut self, now: Instant, out: &mut Vec<Bytes>, written: u64) -> bool {
        let Some((number, group)) = self.groups.first_key_value() else { return false };
        let number = *number;
        if number != self.from {
            // Groups in between may still be received.
            let follows = self.link.is_some_and(|link| group.head.previous == link);
            let waited = now.saturating_duration_since(group.known) >= GAP;
            if !(follows || waited || self.from == 0) {
                return false;
            }
            // A restarted publisher leaves a gap in the numbers without any groups in it.
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
            // After missing groups the decoder needs its configuration again.
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
            // A changed decoder configuration is written again. The tables of a transport stream have counters, so they
            // change with each group.
            let head = group.head.head.clone();
            if self.head.as_ref() != Some(&head) {
                out.extend((!head.is_empty()).then(|| head.clone()));
                self.head = Some(head);
            }
            out.extend(media.into_iter().filter(|media| !media.is_empty()));
            self.written = written + out.iter().map(|media| media.len() as u64).sum::<u64>();
            return true;
        }
        if group.whole {
            // Its remaining pieces are an incomplete frame.
            self.whole = self.written;
            self.link = Some(group.link);
            self.groups.remove(&number);
            (self.from, self.begun) = (number.saturating_add(1), false);
            self.played += 1;
            return true;
        }
        let over = self.finished.is_some() && self.groups.get(&number).is_some_and(|group| group.given_up);
        let lost = over || self.waited(now) && !self.streams.values().any(|receiver| receiver.head.sequence == number);
        let newer = self.groups.len() > 1;
        if lost || newer && (self.groups.get(&number).is_some_and(|group| group.given_up) || self.is_behind()) {
            self.drop_begun();
            return true;
        }
        false
    }

    /// The last complete group, if the viewer reads too slowly and skips to it.
    fn skip(&self) -> Option<u64> {
        let last = self.groups.iter().rev().find(|(_, group)| group.whole).map(|(number, _)| *number)?;
        (last > self.from && self.is_behind()).then_some(last)
    }

    /// Whether the viewer exceeds its latency budget, and can skip to a newer complete group.
    fn is_behind(&self) -> bool {
        let Some(at) = self.groups.get(&self.from) else { return false };
        let behind = Duration::from_millis(self.newest_at.saturating_sub(at.head.at_ms));
        let newer = self.groups.range(self.from.saturating_add(1)..).any(|(_, group)| group.whole);
        newer && behind > self.latency || self.held() > MAX_HELD
    }

    /// Drops the next group.
    fn drop_begun(&mut self) {
        self.groups.remove(&self.from);
        (self.from, self.begun, self.link, self.head) = (self.from.saturating_add(1), false, None, None);
        self.dropped += 1;
    }
}

#[cfg(test)]
mod tests;

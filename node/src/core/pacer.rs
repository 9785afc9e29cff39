//! The node's capacity as a token bucket: viewers are never held up and only debit it, fetches wait for what viewers
//! leave, in the order in which they ask. A fetch with a reserved rate gets at least that, whatever the viewers take.
//! Tokens are lent at once and waited for after, so that nobody needs to be woken to take a turn.

use std::time::{Duration, Instant};

use usher_proto::{Bitrate, tree::GROUP};

/// The least burst, in bytes.
const MIN_BURST: u64 = 256 * 1024;

/// How much time at capacity a burst may be.
const BURST_TIME: Duration = Duration::from_millis(20);

/// How far viewers can indebt the bucket, in time at capacity: a fetch waits no longer than that for a past burst.
const DEBT_TIME: Duration = Duration::from_millis(100);

/// The bucket.
#[derive(Debug)]
pub struct Pacer {
    capacity: Bitrate,
    burst: i64,
    debt: i64,
    /// Bytes that may go at once; below 0, bytes lent.
    level: i64,
    at: Instant,
}

/// A fetch's reserved part.
#[derive(Debug)]
pub struct Share {
    rate: Bitrate,
    /// When its rate alone allows the next grant; `None` without a rate.
    due: Option<Instant>,
}

impl Share {
    /// The part of a session that begins now with this rate; rate 0 reserves nothing.
    pub fn new(now: Instant, rate: Bitrate) -> Self {
        Self { rate, due: (rate.0 > 0).then_some(now) }
    }
}

/// When a fetch may send.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Grant {
    /// At once.
    Now,
    /// Then, without asking again: the bytes are taken.
    At(Instant),
}

impl Pacer {
    /// A full bucket.
    pub fn new(now: Instant, capacity: Bitrate) -> Self {
        let bytes = |time| i64::try_from(capacity.bytes_in(time)).unwrap_or(i64::MAX);
        let burst = bytes(BURST_TIME).max(MIN_BURST as i64);
        Self { capacity, burst, debt: bytes(DEBT_TIME).max(burst), level: burst, at: now }
    }

    /// Bytes that a fetch should ask for at a time: 10 ms at capacity, in whole groups, 64 to 256 KiB.
    pub fn grant(&self) -> u64 {
        (self.capacity.bytes_in(Duration::from_millis(10)) / GROUP * GROUP).clamp(GROUP, MIN_BURST)
    }

    fn refill(&mut self, now: Instant) {
        let bytes = self.capacity.bytes_in(now.saturating_duration_since(self.at));
        // Time too short for a byte is kept for the next call.
        if bytes > 0 {
            self.level = self.level.saturating_add_unsigned(bytes).min(self.burst);
            self.at = now;
        }
    }

    /// A viewer sends so many bytes.
    pub fn debit(&mut self, now: Instant, bytes: u64) {
        self.refill(now);
        // Debt that fetches have already is theirs to wait for, not to be cut.
        let floor = self.level.min(-self.debt);
        self.level = self.level.saturating_sub_unsigned(bytes).max(floor);
    }

    /// A fetch wants to send so many bytes, at most [`Pacer::grant`].
    pub fn ask(&mut self, now: Instant, share: &mut Share, bytes: u64) -> Grant {
        self.refill(now);
        self.level = self.level.saturating_sub_unsigned(bytes);
        let lent = self.level.min(0).unsigned_abs();
        let common = self.capacity.time_for(lent).map_or(now, |wait| now + wait);
        let at = share.due.map_or(common, |due| common.min(due.max(now)));
        if let Some(due) = &mut share.due {
            let time = self.rate_time(share.rate, bytes);
            *due = at.max(*due) + time;
        }
        if at <= now { Grant::Now } else { Grant::At(at) }
    }

    fn rate_time(&self, rate: Bitrate, bytes: u64) -> Duration {
        // No faster than the whole node.
        rate.min(self.capacity).time_for(bytes).unwrap_or(DEBT_TIME)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn at(grant: Grant, now: Instant) -> Instant {
        match grant {
            Grant::Now => now,
            Grant::At(at) => at,
        }
    }

    const CAPACITY: Bitrate = Bitrate(80_000_000); // 10 MB/s

    #[test]
    fn viewers_never_wait_and_fetches_take_what_they_leave() {
        let now = Instant::now();
        let mut pacer = Pacer::new(now, CAPACITY);
        let mut share = Share::new(now, Bitrate(0));
        assert_eq!(pacer.grant(), GROUP);
        for _ in 0..4 {
            assert_eq!(pacer.ask(now, &mut share, GROUP), Grant::Now, "the burst");
        }
        let Grant::At(then) = pacer.ask(now, &mut share, GROUP) else { panic!("the burst is over") };
        assert_eq!(then - now, Duration::from_nanos(6_553_600));
        // Viewers take a second's worth at once; a fetch does not wait a second for that.
        pacer.debit(now, 10_000_000);
        let waited = at(pacer.ask(now, &mut share, GROUP), now) - now;
        assert!(waited > Duration::from_millis(100) && waited < Duration::from_millis(110), "{waited:?}");
    }

    #[test]
    fn a_reserved_rate_is_held_against_viewers() {
        let start = Instant::now();
        let mut pacer = Pacer::new(start, CAPACITY);
        let (mut reserved, mut rest) = (Share::new(start, Bitrate(40_000_000)), Share::new(start, Bitrate(0)));
        let sent = |pacer: &mut Pacer, share: &mut Share, from: Instant| {
            let (mut now, mut bytes) = (from, 0_u64);
            while now < from + Duration::from_secs(1) {
                pacer.debit(now, 1_000_000);
                now = at(pacer.ask(now, share, GROUP), now);
                bytes += GROUP;
            }
            bytes
        };
        let bytes = sent(&mut pacer, &mut reserved, start);
        assert!((5_000_000..5_200_000).contains(&bytes), "{bytes}");
        let bytes = sent(&mut pacer, &mut rest, start + Duration::from_secs(2));
        assert!((GROUP..1_000_000).contains(&bytes), "{bytes}");
    }

    proptest! {
        /// Fetches alone, however they come, never send more in any second than capacity and burst.
        #[test]
        fn fetches_stay_within_capacity(
            capacity in 1_000_000_u64..10_000_000_000,
            starts in prop::collection::vec(0_u64..3_000_000, 1..12),
            pauses in prop::collection::vec(0_u64..400_000, 1..20),
        ) {
            let start = Instant::now();
            let mut pacer = Pacer::new(start, Bitrate(capacity));
            let (grant, burst) = (pacer.grant(), pacer.burst as u64);
            let mut sessions: Vec<(Instant, Share, usize)> = starts
                .iter()
                .map(|micros| (start + Duration::from_micros(*micros), Share::new(start, Bitrate(0)), 0))
                .collect();
            let mut sent = Vec::new();
            for _ in 0..600 {
                let (now, share, turns) = sessions.iter_mut().min_by_key(|(at, ..)| *at).expect("at least one");
                let departure = at(pacer.ask(*now, share, grant), *now);
                sent.push(departure);
                *turns += 1;
                let pause = if *turns % 8 == 0 { pauses[*turns / 8 % pauses.len()] } else { 0 };
                *now = departure + Duration::from_micros(pause);
            }
            sent.sort_unstable();
            let most = capacity / 8 + burst + grant;
            for (i, from) in sent.iter().enumerate() {
                let within = sent[i..].iter().take_while(|at| **at < *from + Duration::from_secs(1)).count() as u64;
                prop_assert!(within * grant <= most, "{within} grants of {grant} in a second, {most} allowed");
            }
        }

        /// Sessions that always want more get the same.
        #[test]
        fn fetches_share_evenly(count in 2_usize..9) {
            let start = Instant::now();
            let mut pacer = Pacer::new(start, CAPACITY);
            let mut sessions: Vec<(Instant, u64)> = vec![(start, 0); count];
            for _ in 0..count * 50 {
                let (now, turns) = sessions.iter_mut().min_by_key(|(at, _)| *at).expect("at least two");
                *now = at(pacer.ask(*now, &mut Share::new(*now, Bitrate(0)), GROUP), *now);
                *turns += 1;
            }
            let turns = sessions.iter().map(|(_, turns)| *turns);
            let (least, most) = (turns.clone().min().unwrap_or(0), turns.max().unwrap_or(0));
            prop_assert!(most - least <= 5, "{least} to {most}");
        }
    }
}

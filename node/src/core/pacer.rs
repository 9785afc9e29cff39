//! The node's capacity as a token bucket for all of its sessions. Who finds it empty waits in one of two queues, each in
//! the order of asking: viewers first, fetches take what viewers leave. A fetch with a reserved rate gets at least that,
//! whatever the viewers take. Nobody is woken: a waiter is told when to ask again, and whoever asks serves all whose
//! turn it is.

use std::{
    collections::{BTreeMap, HashMap},
    time::{Duration, Instant},
};

use usher_proto::{Bitrate, tree::GROUP};

/// The least burst, in bytes.
const MIN_BURST: u64 = 256 * 1024;

/// How much time at capacity a burst may be.
const BURST_TIME: Duration = Duration::from_millis(20);

/// The wait for a rate that never comes to a byte.
const NEVER: Duration = Duration::from_secs(1);

/// The bucket.
#[derive(Debug)]
pub struct Pacer {
    capacity: Bitrate,
    burst: i64,
    /// Bytes that may go at once. Below 0, at most by the burst: bytes that reserved rates took ahead of time.
    level: i64,
    at: Instant,
    viewers: Queue,
    fetches: Queue,
    /// Whose turn came while they waited, and their bytes.
    granted: HashMap<u64, i64>,
    next: u64,
}

/// Those who wait, by the order of asking.
#[derive(Debug, Default)]
struct Queue {
    /// Bytes wanted, and all bytes that were wanted before and with them.
    waiting: BTreeMap<u64, (i64, i64)>,
    entered: i64,
    left: i64,
}

impl Queue {
    fn enter(&mut self, id: u64, bytes: i64) {
        self.entered = self.entered.saturating_add(bytes);
        self.waiting.insert(id, (bytes, self.entered));
    }

    fn leave(&mut self, id: u64) {
        if let Some((bytes, _)) = self.waiting.remove(&id) {
            self.left = self.left.saturating_add(bytes);
        }
    }

    fn first(&self) -> Option<(u64, i64)> {
        self.waiting.first_key_value().map(|(id, (bytes, _))| (*id, *bytes))
    }

    /// Bytes that go before and with this one's, about: who left from the middle is not made out.
    fn until(&self, id: u64) -> i64 {
        self.waiting.get(&id).map_or(0, |(bytes, mark)| mark.saturating_sub(self.left).max(*bytes))
    }
}

/// A session's part.
#[derive(Debug)]
pub struct Share {
    fetch: bool,
    rate: Bitrate,
    /// When a fetch's rate alone allows the next grant; `None` without a rate, and for viewers.
    due: Option<Instant>,
    /// Its place in the queue, while it waits.
    waiting: Option<u64>,
}

impl Share {
    /// The part of a viewer.
    pub fn play() -> Self {
        Self { fetch: false, rate: Bitrate(0), due: None, waiting: None }
    }

    /// The part of a fetch that begins now with this rate; rate 0 reserves nothing.
    pub fn fetch(now: Instant, rate: Bitrate) -> Self {
        Self { fetch: true, rate, due: (rate.0 > 0).then_some(now), waiting: None }
    }
}

/// When a session may send.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Grant {
    /// At once: the bytes are taken.
    Now,
    /// Not before then: to be asked again, for the same bytes.
    At(Instant),
}

impl Pacer {
    /// A full bucket.
    pub fn new(now: Instant, capacity: Bitrate) -> Self {
        let burst = capacity.bytes_in(BURST_TIME).max(MIN_BURST);
        let burst = i64::try_from(burst).unwrap_or(i64::MAX);
        let (viewers, fetches) = (Queue::default(), Queue::default());
        Self { capacity, burst, level: burst, at: now, viewers, fetches, granted: HashMap::new(), next: 0 }
    }

    /// Bytes that a session should ask for at a time: 10 ms at capacity, in whole groups, 64 to 256 KiB.
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

    /// A session wants to send so many bytes, about [`Pacer::grant`].
    pub fn ask(&mut self, now: Instant, share: &mut Share, bytes: u64) -> Grant {
        self.refill(now);
        // A full bucket is enough for whatever is asked.
        let bytes = i64::try_from(bytes).unwrap_or(i64::MAX).min(self.burst);
        let id = *share.waiting.get_or_insert_with(|| {
            let queue = if share.fetch { &mut self.fetches } else { &mut self.viewers };
            queue.enter(self.next, bytes);
            self.next += 1;
            self.next - 1
        });
        self.serve();
        let reserved = share.due.is_some_and(|due| due <= now) && self.level.saturating_sub(bytes) >= -self.burst;
        if self.granted.remove(&id).is_none() {
            if !reserved {
                return Grant::At(self.turn(now, share, id, bytes));
            }
            self.fetches.leave(id);
            self.level -= bytes;
        }
        share.waiting = None;
        if let Some(due) = &mut share.due {
            // No faster than the whole node.
            let time = share.rate.min(self.capacity).time_for(bytes.unsigned_abs()).unwrap_or(NEVER);
            *due = now.max(*due) + time;
        }
        Grant::Now
    }

    /// A session is over: what it waits for goes to others.
    pub fn leave(&mut self, share: &mut Share) {
        if let Some(id) = share.waiting.take() {
            self.viewers.leave(id);
            self.fetches.leave(id);
            self.level = self.level.saturating_add(self.granted.remove(&id).unwrap_or(0)).min(self.burst);
        }
    }

    /// Gives to those who wait what there is.
    fn serve(&mut self) {
        loop {
            let queue = if self.viewers.waiting.is_empty() { &mut self.fetches } else { &mut self.viewers };
            let Some((id, bytes)) = queue.first().filter(|(_, bytes)| *bytes <= self.level) else { return };
            queue.leave(id);
            self.level -= bytes;
            self.granted.insert(id, bytes);
        }
    }

    /// When a waiting session's turn may come.
    fn turn(&self, now: Instant, share: &Share, id: u64, bytes: i64) -> Instant {
        let time = |bytes: u64| self.capacity.time_for(bytes).unwrap_or(NEVER);
        // Above 8 Gbit/s a byte takes less than the clock's nanosecond.
        let after = |lack: i64| now + time(lack.max(1).unsigned_abs()).clamp(Duration::from_nanos(1), NEVER);
        let viewers = self.viewers.entered.saturating_sub(self.viewers.left);
        let ahead = if share.fetch { viewers.saturating_add(self.fetches.until(id)) } else { self.viewers.until(id) };
        let common = after(ahead.saturating_sub(self.level));
        let Some(due) = share.due else { return common };
        common.min(due.max(after(bytes.saturating_sub(self.burst).saturating_sub(self.level))))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const CAPACITY: Bitrate = Bitrate(80_000_000); // 10 MB/s

    /// Asks until it is granted, and says when that was.
    fn wait(pacer: &mut Pacer, share: &mut Share, mut now: Instant, bytes: u64) -> Instant {
        while let Grant::At(at) = pacer.ask(now, share, bytes) {
            assert!(at > now);
            now = at;
        }
        now
    }

    #[test]
    fn viewers_are_served_first_and_fetches_take_what_they_leave() {
        let now = Instant::now();
        let mut pacer = Pacer::new(now, CAPACITY);
        let (mut first, mut second) = (Share::fetch(now, Bitrate(0)), Share::fetch(now, Bitrate(0)));
        let mut viewer = Share::play();
        assert_eq!(pacer.grant(), GROUP);
        for _ in 0..4 {
            assert_eq!(pacer.ask(now, &mut first, GROUP), Grant::Now, "the burst");
        }
        let group = Duration::from_nanos(6_553_600);
        assert_eq!(pacer.ask(now, &mut first, GROUP), Grant::At(now + group));
        assert_eq!(pacer.ask(now, &mut second, GROUP), Grant::At(now + group * 2));
        assert_eq!(pacer.ask(now, &mut viewer, GROUP), Grant::At(now + group), "the last to ask");
        assert_eq!(pacer.ask(now + group, &mut first, GROUP), Grant::At(now + group * 2));
        assert_eq!(pacer.ask(now + group, &mut viewer, GROUP), Grant::Now);
        // Who leaves makes room.
        pacer.leave(&mut first);
        assert_eq!(pacer.ask(now + group * 2, &mut second, GROUP), Grant::Now);
        assert!(pacer.granted.is_empty() && pacer.fetches.waiting.is_empty() && pacer.viewers.waiting.is_empty());
    }

    #[test]
    fn what_was_granted_to_one_who_left_is_given_back() {
        let now = Instant::now();
        let mut pacer = Pacer::new(now, CAPACITY);
        let (mut asleep, mut awake) = (Share::play(), Share::play());
        assert_eq!(pacer.ask(now, &mut awake, MIN_BURST), Grant::Now);
        assert!(matches!(pacer.ask(now, &mut asleep, GROUP), Grant::At(_)));
        let later = now + Duration::from_millis(10);
        assert!(matches!(pacer.ask(later, &mut awake, GROUP), Grant::At(_)), "the other was first");
        pacer.leave(&mut asleep);
        assert_eq!(pacer.ask(later, &mut awake, GROUP), Grant::Now);
    }

    #[test]
    fn a_reserved_rate_is_held_against_viewers() {
        for (rate, least, most) in [(40_000_000, 5_000_000, 5_200_000), (0, 0, 1_000_000)] {
            let start = Instant::now();
            let mut pacer = Pacer::new(start, CAPACITY);
            let mut sessions = [Share::fetch(start, Bitrate(rate)), Share::play(), Share::play()];
            let (mut at, mut fetched) = ([start; 3], 0);
            while let Some(turn) = (0..3).min_by_key(|i| at[*i]).filter(|i| at[*i] < start + Duration::from_secs(1)) {
                match pacer.ask(at[turn], &mut sessions[turn], GROUP) {
                    Grant::Now if turn == 0 => fetched += GROUP,
                    Grant::Now => {}
                    Grant::At(then) => at[turn] = then,
                }
            }
            assert!((least..most).contains(&fetched), "{fetched} at {rate}");
        }
    }

    proptest! {
        /// However sessions come, all together never send more in any second than capacity and burst; where rates are
        /// reserved, these may run ahead by another burst. No viewer is passed by a fetch that has no rate.
        #[test]
        fn all_together_stay_within_capacity(
            capacity in 1_000_000_u64..10_000_000_000,
            starts in prop::collection::vec((0_u64..3_000_000, any::<bool>()), 1..12),
            pauses in prop::collection::vec(0_u64..400_000, 1..20),
            reserved in prop::option::of(1_u64..20_000_000_000),
        ) {
            let start = Instant::now();
            let mut pacer = Pacer::new(start, Bitrate(capacity));
            let (grant, burst) = (pacer.grant(), pacer.burst as u64);
            let rate = Bitrate(reserved.unwrap_or(0));
            let mut sessions: Vec<(Instant, Share, usize)> = starts
                .iter()
                .map(|(micros, fetch)| {
                    let at = start + Duration::from_micros(*micros);
                    (at, if *fetch { Share::fetch(at, rate) } else { Share::play() }, 0)
                })
                .collect();
            let mut sent = Vec::new();
            for _ in 0..2000 {
                let (at, share, turns) = sessions.iter_mut().min_by_key(|(at, ..)| *at).expect("at least one");
                let fetch = share.fetch;
                match pacer.ask(*at, share, grant) {
                    Grant::Now => {
                        sent.push(*at);
                        *turns += 1;
                        let pause = if *turns % 8 == 0 { pauses[*turns / 8 % pauses.len()] } else { 0 };
                        *at += Duration::from_micros(pause);
                        prop_assert!(!fetch || rate.0 > 0 || pacer.viewers.waiting.is_empty(), "a viewer waits");
                    }
                    Grant::At(then) => {
                        prop_assert!(then > *at);
                        *at = then;
                    }
                }
            }
            let most = capacity / 8 + burst * if rate.0 > 0 { 2 } else { 1 };
            for (i, from) in sent.iter().enumerate() {
                let within = sent[i..].iter().take_while(|at| **at < *from + Duration::from_secs(1)).count() as u64;
                prop_assert!(within * grant <= most, "{within} grants of {grant} in a second, {most} allowed");
            }
        }

        /// Sessions that always want more get the same.
        #[test]
        fn sessions_share_evenly(count in 2_usize..9, fetch: bool) {
            let start = Instant::now();
            let mut pacer = Pacer::new(start, CAPACITY);
            let share = || if fetch { Share::fetch(start, Bitrate(0)) } else { Share::play() };
            let mut sessions: Vec<(Instant, Share, u64)> = (0..count).map(|_| (start, share(), 0)).collect();
            for _ in 0..count * 100 {
                let (now, share, turns) = sessions.iter_mut().min_by_key(|(at, ..)| *at).expect("at least two");
                match pacer.ask(*now, share, GROUP) {
                    Grant::Now => *turns += 1,
                    Grant::At(at) => *now = at,
                }
            }
            let turns = sessions.iter().map(|(.., turns)| *turns);
            let (least, most) = (turns.clone().min().unwrap_or(0), turns.max().unwrap_or(0));
            prop_assert!(least > 10 && most - least <= 5, "{least} to {most}");
        }
    }

    #[test]
    fn a_slow_node_is_slow_for_viewers_too() {
        let start = Instant::now();
        let mut pacer = Pacer::new(start, Bitrate(1_000_000));
        let (mut viewer, mut now, mut sent) = (Share::play(), start, 0);
        while now < start + Duration::from_secs(10) {
            now = wait(&mut pacer, &mut viewer, now, GROUP);
            sent += GROUP;
        }
        assert!((1_250_000..1_250_000 + MIN_BURST + GROUP).contains(&sent), "{sent}");
    }
}

//! Simulates sessions against the schedule: how many bytes each gets, when, and beside which others. Property tests check
//! the capacity, the deadlines and the shares.

use proptest::prelude::*;

use super::*;

const MBIT: u64 = 1_000_000;

fn play(rate: u64) -> Terms {
    Terms { purpose: Purpose::Play, rate: Bitrate(rate), connection: 0, priority: 0, live: false }
}

fn fetch(rate: u64) -> Terms {
    Terms { purpose: Purpose::Fetch, ..play(rate) }
}

/// A session that requests a turn after each turn, from `from` to `to`; with a pause after every tenth turn.
#[derive(Clone, Copy, Debug)]
struct Greedy {
    terms: Terms,
    from: Duration,
    to: Duration,
    pause: Duration,
}

fn greedy(terms: Terms) -> Greedy {
    Greedy { terms, from: Duration::ZERO, to: Duration::MAX, pause: Duration::ZERO }
}

/// A turn that was given: when, to which session, and for how many bytes.
type Turn = (Duration, usize, u64);

/// Simulates this time, and returns all turns in order.
fn run(capacity: u64, sessions: &[Greedy], time: Duration) -> Vec<Turn> {
    let start = Instant::now();
    let mut schedule = Schedule::new(start, Bitrate(capacity));
    let mut keys: Vec<Option<SessionKey>> = vec![None; sessions.len()];
    let mut asks: BTreeSet<(Duration, usize)> = sessions.iter().zip(0..).map(|(one, i)| (one.from, i)).collect();
    let (mut turns, mut now, mut counts) = (Vec::new(), Duration::ZERO, vec![0_u64; sessions.len()]);
    loop {
        while let Some((at, i)) = asks.first().copied().filter(|(at, _)| *at <= now) {
            asks.remove(&(at, i));
            let Greedy { terms, to, .. } = sessions[i];
            if now >= to {
                keys[i].take().into_iter().for_each(|key| schedule.handle_leave(key));
                continue;
            }
            let key = *keys[i].get_or_insert_with(|| schedule.handle_join(start + now, terms));
            match schedule.handle_request(start + now, key, schedule.quantum(&terms)) {
                TurnRequest::Queued => {}
                TurnRequest::NotBefore(at) => {
                    assert!(at > start + now, "the end of a wait is in the future");
                    asks.insert((at - start, i));
                }
            }
        }
        while let Some((key, bytes)) = schedule.poll_turn(start + now) {
            let i = keys.iter().position(|one| *one == Some(key)).expect("a session that is here");
            turns.push((now, i, bytes));
            counts[i] += 1;
            let pause = if counts[i].is_multiple_of(10) { sessions[i].pause } else { Duration::ZERO };
            asks.insert((now + pause, i));
        }
        let deadline = schedule.next_timeout().map(|at| at - start);
        assert!(deadline.is_none_or(|at| at > now), "a waiting session cannot have a turn now");
        let ask = asks.first().map(|(at, _)| *at);
        let Some(then) = [deadline, ask].into_iter().flatten().min().filter(|at| *at <= time) else { return turns };
        now = then.max(now);
    }
}

fn sum(turns: &[Turn], who: usize) -> u64 {
    turns.iter().filter(|(_, i, _)| *i == who).map(|(.., bytes)| bytes).sum()
}

#[test]
fn a_viewer_gets_its_lead_at_once_and_is_paced_from_then_on() {
    // 8 Mbit/s: 5 s are 5 MB, of 125 MB/s.
    let turns = run(1000 * MBIT, &[greedy(play(8 * MBIT))], Duration::from_secs(60));
    let by = |at: f64| turns.iter().filter(|(when, ..)| when.as_secs_f64() <= at).map(|(.., bytes)| bytes).sum::<u64>();
    assert!((4_900_000..5_200_000).contains(&by(0.05)), "{}", by(0.05));
    for at in [1.0, 10.0, 60.0] {
        let paced = 5_000_000.0 + at * 1_250_000.0;
        assert!((by(at) as f64 - paced).abs() < 300_000.0, "{} by {at} s, not {paced}", by(at));
    }
    // A slow title still has its index at once.
    let turns = run(1000 * MBIT, &[greedy(play(MBIT / 4))], Duration::from_millis(100));
    assert!((2_000_000..2_200_000).contains(&sum(&turns, 0)), "{}", sum(&turns, 0));
}

#[test]
fn a_viewer_after_a_pause_has_its_lead_again_and_no_more() {
    let paused = Greedy { pause: Duration::from_secs(100), ..greedy(play(8 * MBIT)) };
    let turns = run(1000 * MBIT, &[paused], Duration::from_secs(450));
    for (i, (from, ..)) in turns.iter().enumerate() {
        let second: u64 = turns[i..]
            .iter()
            .take_while(|(at, ..)| *at < *from + Duration::from_secs(1))
            .map(|(.., bytes)| bytes)
            .sum();
        assert!(second <= 5_000_000 + 1_250_000 + 300_000, "{second}");
    }
}

#[test]
fn fetches_take_what_viewers_leave_in_equal_parts() {
    let sessions = [greedy(play(40 * MBIT)), greedy(fetch(0)), greedy(fetch(0)), greedy(fetch(0))];
    let turns = run(100 * MBIT, &sessions, Duration::from_secs(60));
    // The viewer has 5 s of its 40 Mbit/s at once, and then a share of spare capacity, as long as it is not paced.
    let viewer = sum(&turns, 0);
    assert!(viewer >= 60 * 5_000_000, "{viewer}");
    let fetched = [1, 2, 3].map(|i| sum(&turns, i));
    let (least, most) = (fetched.iter().min().expect("three"), fetched.iter().max().expect("three"));
    assert!(most - least <= 300_000, "{fetched:?}");
    let all: u64 = turns.iter().map(|(.., bytes)| bytes).sum();
    assert!(all >= 60 * 12_500_000 * 995 / 1000, "capacity lies idle: {all}");
}

#[test]
fn a_reserved_rate_holds_beside_viewers_and_fetches() {
    let mut sessions = vec![greedy(fetch(20 * MBIT)), greedy(play(40 * MBIT)), greedy(play(30 * MBIT))];
    sessions.extend([greedy(fetch(0)); 20]);
    let turns = run(100 * MBIT, &sessions, Duration::from_secs(60));
    let (reserved, viewers) = (sum(&turns, 0), [sum(&turns, 1), sum(&turns, 2)]);
    assert!(reserved >= 59 * 2_500_000, "{reserved}");
    assert!(viewers[0] >= 60 * 5_000_000 && viewers[1] >= 60 * 3_750_000, "{viewers:?}");
}

#[test]
fn within_a_connection_the_higher_priority_takes_the_turns_of_the_others() {
    let of = |connection, priority| greedy(Terms { connection, priority, ..fetch(0) });
    let sessions = [of(1, 0), of(1, 5), of(2, 0), of(2, 0)];
    let turns = run(100 * MBIT, &sessions, Duration::from_secs(10));
    let had = [0, 1, 2, 3].map(|i| sum(&turns, i));
    let share = 10 * 12_500_000 / 4;
    // The first session gets a turn only while the second is between two requests.
    assert!(had[0] <= share / 10 && had[1] >= share * 19 / 10, "{had:?}");
    assert!(had[2].abs_diff(share) <= 300_000 && had[3].abs_diff(share) <= 300_000, "{had:?}");
}

#[test]
fn a_leaving_session_makes_room_and_a_second_request_waits_once() {
    let now = Instant::now();
    let mut schedule = Schedule::new(now, Bitrate(8 * MBIT));
    let (first, second) = (schedule.handle_join(now, fetch(0)), schedule.handle_join(now, fetch(0)));
    assert_eq!(schedule.next_timeout(), None);
    for key in [first, first, second] {
        assert_eq!(schedule.handle_request(now, key, 1 << 30), TurnRequest::Queued);
    }
    assert_eq!(schedule.poll_turn(now), Some((first, 10_000)), "cut to the bucket");
    assert_eq!(schedule.poll_turn(now), None);
    assert_eq!(schedule.next_timeout(), Some(now + BURST));
    schedule.handle_leave(second);
    schedule.handle_leave(second);
    assert_eq!((schedule.poll_turn(now + BURST), schedule.next_timeout()), (None, None));
    assert_eq!(schedule.handle_request(now, second, 1), TurnRequest::Queued, "one that is gone is never called");
    assert_eq!(schedule.poll_turn(now + BURST), None);
    assert!(schedule.owed.is_empty() && schedule.left.is_empty() && schedule.mates.is_empty());
}

#[test]
fn quanta_are_whole_groups_where_they_can_be() {
    let frame = GROUP + HEADER as u64;
    for (capacity, terms, quantum) in [
        (10_000 * MBIT, fetch(0), 4 * frame),
        (10_000 * MBIT, play(2 * MBIT), frame),
        (10_000 * MBIT, play(8 * MBIT), 3 * frame),
        (10_000 * MBIT, play(100 * MBIT), 4 * frame),
        (250 * MBIT, fetch(0), 2 * frame),
        (100 * MBIT, fetch(0), 62_500),
        (MBIT, play(MBIT), 750),
    ] {
        assert_eq!(Schedule::new(Instant::now(), Bitrate(capacity)).quantum(&terms), quantum, "{capacity} {terms:?}");
    }
}

fn terms() -> impl Strategy<Value = Terms> {
    (any::<bool>(), prop_oneof![Just(0), 1_u64..50_000_000], 0_u64..3, -1..2_i32).prop_map(
        |(viewer, rate, connection, priority)| Terms {
            purpose: if viewer { Purpose::Play } else { Purpose::Fetch },
            rate: Bitrate(rate),
            connection,
            priority,
            live: false,
        },
    )
}

fn sessions(most: usize) -> impl Strategy<Value = Vec<Greedy>> {
    let one = (terms(), 0_u64..4000, 100_u64..8000, prop_oneof![Just(0_u64), 0_u64..500]);
    prop::collection::vec(one, 1..most).prop_map(|all| {
        let greedy = |(terms, from, lasts, pause)| Greedy {
            terms,
            from: Duration::from_millis(from),
            to: Duration::from_millis(from + lasts),
            pause: Duration::from_millis(pause),
        };
        all.into_iter().map(greedy).collect()
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// However sessions come and go, together they never exceed the capacity by more than 1 % in any second.
    #[test]
    fn never_above_capacity(capacity in 200_000_u64..2_000_000_000, sessions in sessions(12)) {
        let turns = run(capacity, &sessions, Duration::from_secs(4));
        let most = (capacity / 8 * 101 / 100).max(capacity / 8 + LEAST_BURST) + 1;
        let (mut first, mut within) = (0, 0);
        for (at, _, bytes) in &turns {
            within += bytes;
            while turns[first].0 + Duration::from_secs(1) < *at {
                within -= turns[first].2;
                first += 1;
            }
            prop_assert!(within <= most, "{within} bytes within a second, of {most}");
        }
    }

    /// As long as a session waits, no capacity is idle: sessions together get all of it.
    #[test]
    fn work_is_conserved(capacity in 1_000_000_u64..500_000_000, count in 1_usize..9) {
        let turns = run(capacity, &vec![greedy(fetch(0)); count], Duration::from_secs(2));
        let all: u64 = turns.iter().map(|(.., bytes)| bytes).sum();
        prop_assert!(all >= capacity / 4 * 99 / 100, "{all} of {}", capacity / 4);
    }

    /// No waiting session starves: as long as the owed rates leave capacity, every session advances.
    #[test]
    fn no_session_starves(rates in prop::collection::vec(1_u64..8, 1..8), fetches in 1_usize..8) {
        let mut sessions: Vec<Greedy> = rates.iter().map(|rate| greedy(play(rate * MBIT))).collect();
        sessions.extend(vec![greedy(fetch(0)); fetches]);
        // At least a twentieth is left.
        let capacity = rates.iter().sum::<u64>() * MBIT * 20 / 19;
        let seconds = 120;
        let turns = run(capacity, &sessions, Duration::from_secs(seconds));
        let leads: u64 = rates.iter().map(|rate| (rate * MBIT / 8 * 5).max(LEAST_LEAD)).sum();
        let left = (capacity - rates.iter().sum::<u64>() * MBIT) / 8 * seconds;
        // Viewers share spare capacity until they are a quarter of the time ahead.
        let share = left.saturating_sub(leads) / sessions.len() as u64;
        for i in rates.len()..sessions.len() {
            let had = sum(&turns, i);
            prop_assert!(had >= share * 9 / 10, "fetch {i} had {had} of {share}");
        }
    }

    /// Viewers whose rates are within the capacity are never late, whatever others request: a viewer that starts
    /// playback a second after its first bytes never waits.
    #[test]
    fn deadlines_are_met_when_they_can_be(
        viewers in prop::collection::vec((1_u64..26, 0_u64..20_000), 1..40),
        fetches in 0_usize..50,
        reserved in 0_u64..20,
    ) {
        let mut sessions: Vec<Greedy> = viewers
            .iter()
            .map(|(rate, from)| Greedy { from: Duration::from_millis(*from), ..greedy(play(rate * MBIT)) })
            .collect();
        sessions.push(greedy(fetch(reserved * MBIT)));
        sessions.extend(vec![greedy(fetch(0)); fetches]);
        // Full to the last bit.
        let capacity = (viewers.iter().map(|(rate, _)| rate).sum::<u64>() + reserved) * MBIT;
        let turns = run(capacity, &sessions, Duration::from_secs(30));
        for (i, (rate, _)) in viewers.iter().enumerate() {
            let (mut plays_from, mut had) = (None, 0);
            for (at, _, bytes) in turns.iter().filter(|(_, who, _)| *who == i) {
                let from = *plays_from.get_or_insert(*at + Duration::from_secs(1));
                let played = Bitrate(rate * MBIT).bytes_in(at.saturating_sub(from));
                prop_assert!(had >= played, "viewer {i} had {had} of {played} at {at:?}");
                had += bytes;
            }
            let played = Bitrate(rate * MBIT).bytes_in(Duration::from_secs(30).saturating_sub(plays_from.unwrap_or_default()));
            prop_assert!(plays_from.is_some() && had >= played, "viewer {i} had {had} of {played} at the end");
        }
    }
}

#[test]
fn a_session_without_its_rate_gets_spare_capacity_at_its_pace() {
    lowered_to(Bitrate(0));
    lowered_to(Bitrate(1000));
}

fn lowered_to(rate: Bitrate) {
    let (start, capacity) = (Instant::now(), 80 * MBIT);
    let mut schedule = Schedule::new(start, Bitrate(capacity));
    let [demoted, viewer, other] = [play(8 * MBIT), play(40 * MBIT), fetch(0)]
        .map(|terms| (schedule.handle_join(start, terms), schedule.quantum(&terms)));
    // Bytes of each from one millisecond to another, while all want as much as they get.
    let run = |schedule: &mut Schedule, millis: std::ops::Range<u64>, among: &[(SessionKey, u64)]| {
        let mut counts = HashMap::new();
        for now in millis.map(|millis| start + Duration::from_millis(millis)) {
            for (key, quantum) in among {
                schedule.handle_request(now, *key, *quantum);
            }
            while let Some((key, bytes)) = schedule.poll_turn(now) {
                *counts.entry(key).or_insert(0) += bytes;
                let (_, quantum) = among.iter().find(|one| one.0 == key).expect("one of them");
                schedule.handle_request(now, key, *quantum);
            }
        }
        move |key: (SessionKey, u64)| counts.get(&key.0).copied().unwrap_or(0)
    };
    // While it waits, its rate goes, and comes back.
    schedule.handle_request(start, demoted.0, demoted.1);
    schedule.handle_reserved(start, demoted.0, rate);
    // All of the capacity is owed to the viewer for the first second.
    let had = run(&mut schedule, 0..1000, &[demoted, viewer]);
    assert!(had(viewer) >= 9_500_000 && had(demoted) <= 300_000, "{} {}", had(viewer), had(demoted));
    let had = run(&mut schedule, 1000..20_000, &[demoted, viewer, other]);
    // Of the half that is spare it could have a third, and needs less after its lead.
    assert!(had(demoted) >= 19 * 1_000_000, "{}", had(demoted));
    assert!(had(demoted) <= 19 * 1_250_000 + 5_300_000, "it is paced: {}", had(demoted));
    schedule.handle_reserved(start + Duration::from_secs(20), demoted.0, Bitrate(8 * MBIT));
    let many: Vec<_> = (0..50).map(|_| (schedule.handle_join(start, fetch(0)), other.1)).collect();
    let had = run(&mut schedule, 20_000..30_000, &[&[demoted, viewer, other][..], &many].concat());
    assert!(had(demoted) >= 9_900_000, "it is owed its rate again: {}", had(demoted));
}

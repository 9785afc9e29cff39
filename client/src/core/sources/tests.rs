//! Every group is kept once, whatever the sources do, and few are received twice.

use proptest::prelude::*;

use super::*;

/// A source of the tests: sends a group every `pace`, from `from` to `until`.
#[derive(Clone, Copy, Debug)]
struct Peer {
    pace: Duration,
    from: Duration,
    until: Duration,
    /// It announces that it leaves, and sends one more group; otherwise it falls silent.
    polite: bool,
}

const FOREVER: Duration = Duration::from_secs(1_000_000);

fn peer(micros: u64) -> Peer {
    Peer { pace: Duration::from_micros(micros), from: Duration::ZERO, until: FOREVER, polite: false }
}

/// Result of a transfer.
#[derive(Debug, Default)]
struct Trace {
    took: Duration,
    duplicates: u64,
    /// Bytes of hashes sent with the groups.
    hashes: u64,
    /// Most groups that waited for one before them.
    waiting: u64,
    by: Vec<u64>,
}

/// Runs a transfer of these groups. A source that falls silent is lost after ten seconds.
fn run(groups: Range<u64>, peers: &[Peer]) -> Trace {
    let (start, mut now) = (Instant::now(), Duration::ZERO);
    let mut sources = Assignments::new(groups.clone());
    let mut trace = Trace { by: vec![0; peers.len()], ..Trace::default() };
    let mut kept = vec![false; groups.end as usize];
    let mut first = groups.start;
    // Of each source: the groups that it owes, and when it sends the next.
    let mut queues: Vec<VecDeque<u64>> = vec![VecDeque::new(); peers.len()];
    let mut sends: Vec<Option<Duration>> = vec![None; peers.len()];
    let (mut here, mut gone, mut left) = (vec![false; peers.len()], vec![false; peers.len()], vec![false; peers.len()]);
    let tick = Duration::from_millis(100);
    let mut next_tick = Duration::ZERO;
    while !sources.is_done() {
        assert!(now < FOREVER, "it ends: {sources:?}");
        for (at, peer) in peers.iter().enumerate() {
            let id = at as Id;
            if !here[at] && now >= peer.from {
                here[at] = true;
                sources.handle_added(id);
            }
            if here[at] && !gone[at] && !left[at] && peer.polite && now >= peer.until {
                left[at] = true;
                let last = queues[at].front().copied();
                sources.handle_leaving(id, last.map_or(0, |last| last + 1));
                queues[at].truncate(1);
            }
            let silent = now >= peer.until + Duration::from_secs(10);
            if here[at] && !gone[at] && (silent || left[at] && queues[at].is_empty()) {
                gone[at] = true;
                sources.handle_lost(id);
                queues[at].clear();
                sends[at] = None;
            }
            while let Some(range) = sources.poll_run(start + now, id) {
                assert!(range.start < range.end && range.end <= groups.end && range.end - range.start <= RUN);
                assert!(range.end <= first + WINDOW, "{range:?} is too far ahead of {first}");
                trace.hashes += (range.end - 1) / 256 - range.start / 256 + 1;
                queues[at].extend(range);
                assert!(!gone[at] && queues[at].len() as u64 <= 2 * RUN);
                sends[at] = sends[at].or(Some(now + peer.pace));
            }
        }
        let due = sends.iter().enumerate().filter_map(|(at, send)| send.map(|send| (send, at)));
        let due = due.filter(|(send, at)| *send < peers[*at].until || peers[*at].polite).min();
        match due.filter(|(send, _)| *send <= next_tick) {
            None => {
                now = next_tick;
                next_tick += tick;
            }
            Some((send, at)) => {
                now = send;
                let index = queues[at].pop_front().expect("it has something to send");
                sends[at] = (!queues[at].is_empty()).then(|| now + peers[at].pace);
                let new = sources.handle_group(start + now, at as Id, index);
                assert_eq!(new, !kept[index as usize], "group {index}");
                kept[index as usize] = true;
                trace.by[at] += u64::from(new);
                trace.duplicates += u64::from(!new);
                while kept.get(first as usize) == Some(&true) {
                    first += 1;
                }
                trace.waiting = trace.waiting.max(sources.kept() - (first - groups.start));
            }
        }
        let came: u64 = trace.by.iter().sum();
        assert_eq!(sources.missing(), groups.end - groups.start - came);
        assert_eq!((sources.kept(), sources.duplicates()), (came, trace.duplicates));
    }
    trace.took = now;
    trace.hashes *= 256 * 32;
    trace
}

/// Bytes beyond the media, in thousandths of it.
fn overhead(groups: u64, trace: &Trace) -> u64 {
    (trace.hashes + trace.duplicates * 65536) * 1000 / (groups * 65536)
}

#[test]
fn two_equal_sources_take_half_the_time() {
    let (one, two) = (run(0..4096, &[peer(1000)]), run(0..4096, &[peer(1000), peer(1000)]));
    assert_eq!((one.duplicates, overhead(4096, &one)), (0, 1));
    assert!(two.took < one.took * 52 / 100, "{two:?}");
    assert!(overhead(4096, &two) < 5 && two.by.iter().all(|groups| *groups > 2000), "{two:?}");
}

#[test]
fn unequal_sources_send_in_proportion() {
    for paces in [&[1000, 3000][..], &[1000, 10_000], &[1000, 40_000], &[500, 1000, 2000], &[1000, 1000, 30_000]] {
        let peers: Vec<Peer> = paces.iter().map(|micros| peer(*micros)).collect();
        let trace = run(0..16384, &peers);
        let together: f64 = paces.iter().map(|micros| 1.0 / *micros as f64).sum();
        let best = Duration::from_micros((16384.0 / together) as u64);
        assert!(trace.took < best * 105 / 100, "{paces:?}: {:?} of {best:?}", trace.took);
        assert!(overhead(16384, &trace) < 5, "{paces:?}: {} {trace:?}", overhead(16384, &trace));
    }
}

#[test]
fn a_lost_source_costs_its_runs_alone() {
    let fails = Peer { until: Duration::from_secs(3), ..peer(1000) };
    let trace = run(0..16384, &[peer(1000), fails]);
    // Three seconds at the double rate, and the rest alone: nothing waits for the ten seconds in which it is missed.
    let best = Duration::from_millis(3000 + 16384 - 6000);
    assert!(trace.took < best + Duration::from_secs(1), "{:?} of {best:?}", trace.took);
    assert!(overhead(16384, &trace) < 5, "{trace:?}");
    // The first one, too.
    let trace = run(0..16384, &[fails, peer(1000)]);
    assert!(trace.took < best + Duration::from_secs(1), "{:?} of {best:?}", trace.took);
}

#[test]
fn a_source_that_leaves_costs_nothing() {
    let polite = Peer { until: Duration::from_secs(3), polite: true, ..peer(1000) };
    for peers in [[polite, peer(1000)], [peer(1000), polite]] {
        let trace = run(0..16384, &peers);
        // Three seconds at the double rate, and the rest alone.
        let best = Duration::from_millis(3000 + 16384 - 6000);
        assert!(trace.took < best + Duration::from_millis(200), "{:?} of {best:?}", trace.took);
        assert!(overhead(16384, &trace) < 5, "{trace:?}");
    }
}

#[test]
fn groups_of_a_silent_source_are_assigned_again_in_order() {
    let now = Instant::now();
    let mut sources = Assignments::new(0..1024);
    sources.handle_added(0);
    let owed: Vec<_> = std::iter::from_fn(|| sources.poll_run(now, 0)).collect();
    assert!(owed.len() == 2 && sources.handle_group(now, 0, 0));
    sources.handle_silent(0);
    assert!(sources.is_silent(0) && sources.poll_run(now, 0).is_none());
    sources.handle_added(1);
    // Fresh groups first, since the silent source may send again.
    while let Some(range) = sources.poll_run(now, 1).filter(|range| range.start >= owed[1].end) {
        range.for_each(|group| assert!(sources.handle_group(now, 1, group)));
    }
    assert!(sources.is_silent(0));
    assert!(!sources.handle_group(now, 0, 1) || !sources.is_silent(0), "a group ends its silence");
}

#[test]
fn a_late_source_takes_its_share() {
    let late = Peer { from: Duration::from_secs(5), ..peer(1000) };
    let trace = run(100..10100, &[peer(1000), late]);
    assert!(trace.took < Duration::from_millis(7700), "{trace:?}");
    assert!(trace.duplicates <= 10000 / 512 + MIN_RUN, "{trace:?}");
}

#[test]
fn waiting_groups_are_bounded() {
    let trace = run(0..16384, &[peer(300), peer(20_000)]);
    assert!(trace.waiting < WINDOW, "{trace:?}");
}

#[test]
fn short_ranges() {
    for groups in [0..1, 5..6, 255..257, 0..65, 3..700] {
        let count = groups.end - groups.start;
        let trace = run(groups, &[peer(1000), peer(1100), peer(5000)]);
        assert!(trace.duplicates <= count / 512 + MIN_RUN, "{trace:?}");
    }
    assert!(Assignments::new(7..7).is_done());
}

fn peers() -> impl Strategy<Value = Vec<Peer>> {
    let lives = prop_oneof![Just(None), (0_u64..20_000).prop_map(Some)];
    let one = (100_u64..50_000, 0_u64..20_000, lives, any::<bool>());
    let peers = proptest::collection::vec(one, 0..4);
    // One source stays to the end.
    (100_u64..5000, peers).prop_map(|(stays, others)| {
        let millis = Duration::from_millis;
        let others = others.into_iter().map(|(pace, from, lives, polite)| Peer {
            pace: Duration::from_micros(pace),
            from: millis(from),
            until: lives.map_or(FOREVER, |lives| millis(from + lives)),
            polite,
        });
        others.chain([peer(stays)]).collect()
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn every_group_is_received_and_few_twice(start in 0_u64..300, count in 1_u64..6000, peers in peers()) {
        let trace = run(start..start + count, &peers);
        // A silent source may send again: then groups that were assigned twice are received twice.
        let budget = count / 512 + MIN_RUN;
        prop_assert!(trace.duplicates <= budget, "{trace:?}");
        prop_assert!(trace.waiting <= WINDOW);
    }
}

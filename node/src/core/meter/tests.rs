//! Reports, session updates, and the limits of admission control.

use proptest::prelude::*;
use usher_proto::{Title, ticket::Purpose};

use super::*;

const ID: [SessionId; 4] = [SessionId(0), SessionId(1), SessionId(2), SessionId(3)];

/// Far from any limit.
const WIDE: Bitrate = Bitrate(1_000_000_000);

fn begun(id: SessionId, rate: u64) -> Begun {
    let title = Title::parse("a.mp4").expect("a title");
    Begun { session: id, title, content: None, rate: Bitrate(rate), purpose: Purpose::Play }
}

fn meter(now: Instant, capacity: Bitrate) -> Meter {
    Meter::new(now, capacity.into())
}

fn seconds(n: u64) -> Duration {
    Duration::from_secs(n)
}

#[test]
fn a_report_has_sent_bytes_and_reserved_rates() {
    let start = Instant::now();
    let mut meter = meter(start, WIDE);
    meter.handle_link_bytes(start, 7);
    for id in [ID[0], ID[1]] {
        meter.handle_begin(start, begun(id, 8_000), 0, false, None).expect("room");
    }
    meter.handle_sent(start, ID[0], 5_000, 5_000);
    meter.handle_sent(start, ID[1], 4_000, 4_000);
    meter.handle_link_bytes(start + seconds(1), 10_007);
    let report = meter.poll_report(start + seconds(1));
    let expected = Report {
        sequence: 1,
        uptime_ms: 1000,
        sent_bytes: 9_000,
        egress: Bitrate(72_000),
        // 4000 and 5000 bytes where 1000 each were reserved.
        elastic: Bitrate(56_000),
        committed: Bitrate(16_000),
        sessions: 2,
        background: Bitrate(8_000),
        demand: Bitrate(16_000),
        delivered: Bitrate(16_000),
        ..Report::default()
    };
    assert_eq!(report, expected);

    // A fetch that ended after half a second still counts; totals never decrease.
    let then = start + Duration::from_millis(1500);
    meter.handle_begin(then, begun(ID[3], 8_000), 0, false, None).expect("room");
    meter.handle_sent(then, ID[3], 2_000, 2_000);
    meter.handle_end(start + seconds(2), ID[3]);
    meter.handle_end(start + seconds(2), ID[0]);
    let report = meter.poll_report(start + seconds(2));
    assert_eq!((report.sent_bytes, report.egress.0, report.elastic.0), (11_000, 16_000, 12_000));
    assert_eq!((report.sequence, report.sessions, report.committed.0), (2, 1, 8_000));
    assert_eq!(meter.poll_report(start + seconds(3)).egress, Bitrate(0));
}

#[test]
fn only_bytes_that_the_node_held_back_are_lacking() {
    let rate = 80_000_000; // 10 MB/s
    let began = Instant::now();
    let start = began + OPENING;
    let at = |millis| start + Duration::from_millis(millis);
    // Bytes sent in the first second, when it was the reader's turn, and demand and delivery in Mbit/s.
    for (bytes, reader, demand, delivered) in [
        // The node kept it waiting all the time.
        (4_000_000, 1000..1000, 80, 32),
        // The reader took no more.
        (4_000_000, 0..1000, 32, 32),
        // Of the 6 MB the node may be blamed for a fifth of a second.
        (4_000_000, 200..1000, 48, 32),
        // Nothing was lacking.
        (10_000_000, 1000..1000, 80, 80),
        (50_000_000, 0..500, 80, 80),
        (0, 1000..1000, 80, 0),
    ] {
        let mut meter = meter(began, WIDE);
        meter.handle_begin(began, begun(ID[0], rate), 0, false, None).expect("room");
        meter.poll_report(start);
        meter.handle_waiting_for_reader(at(reader.start), ID[0]);
        meter.handle_sent(at(reader.end), ID[0], bytes, bytes);
        let report = meter.poll_report(at(1000));
        let expected = (Bitrate(demand * 1_000_000), Bitrate(delivered * 1_000_000));
        assert_eq!((report.demand, report.delivered), expected, "{bytes} {reader:?}");
    }
    // A session without a reserved rate lacks nothing.
    let mut meter = meter(start, WIDE);
    meter.handle_begin(start, begun(ID[0], 0), 0, false, None).expect("room");
    assert_eq!(meter.poll_report(at(1000)).demand, Bitrate(0));
}

#[test]
fn an_opening_session_lacks_nothing_yet() {
    let start = Instant::now();
    let mut meter = meter(start, WIDE);
    // It began just before a report, and the disk takes its time.
    let began = start + Duration::from_millis(900);
    meter.handle_begin(began, begun(ID[0], 80_000_000), 0, false, None).expect("room");
    assert_eq!(meter.poll_report(start + seconds(1)).demand, Bitrate(0));
    assert_eq!(meter.poll_report(began + OPENING).demand, Bitrate(0));
    // From here on it should have opened.
    let late = meter.poll_report(began + OPENING + seconds(1));
    assert_eq!((late.demand, late.delivered), (Bitrate(80_000_000), Bitrate(0)));
}

#[test]
fn a_slow_session_with_large_quanta_lacks_nothing() {
    let start = Instant::now();
    let mut meter = meter(start, WIDE);
    // 125 kB a second, in pieces of 512 KiB every 4.2 s.
    meter.handle_begin(start, begun(ID[0], 1_000_000), 0, false, None).expect("room");
    for second in 0..60_u64 {
        let now = start + seconds(second);
        if second % 4 == 0 {
            meter.handle_sent(now, ID[0], 512 << 10, 512 << 10);
        }
        let report = meter.poll_report(now + seconds(1));
        assert_eq!((report.demand, report.delivered), (Bitrate(1_000_000), Bitrate(1_000_000)), "second {second}");
    }
    // Then no bytes come any more, and the bytes that it is ahead last for a few seconds only.
    let late = (60..75).map(|second| meter.poll_report(start + seconds(second + 1))).last().expect("reports");
    assert_eq!((late.demand, late.delivered), (Bitrate(1_000_000), Bitrate(0)));
}

#[test]
fn demand_never_exceeds_the_reserved_rate() {
    let began = Instant::now();
    let start = began + OPENING;
    let mut meter = meter(began, WIDE);
    for id in [ID[0], ID[1]] {
        meter.handle_begin(began, begun(id, 8_000), 0, false, None).expect("room");
    }
    meter.poll_report(start);
    for id in [ID[0], ID[1]] {
        meter.handle_sent(start, id, 500, 500);
    }
    meter.handle_end(start + seconds(1), ID[0]);
    let report = meter.poll_report(start + seconds(1));
    assert_eq!((report.committed.0, report.demand.0, report.delivered.0), (8_000, 8_000, 4_000));
    meter.handle_end(start + seconds(1), ID[1]);
    let report = meter.poll_report(start + seconds(2));
    assert_eq!((report.committed.0, report.demand.0, report.delivered.0), (0, 0, 0));
}

#[test]
fn a_new_master_receives_all_sessions_and_then_each_change() {
    let start = Instant::now();
    let mut meter = meter(start, Bitrate(10_000));
    meter.handle_begin(start, begun(ID[0], 8_000), 3, false, None).expect("room");
    assert_eq!((meter.next_timeout(start), meter.volumes().of(3)), (None, 8_000));
    meter.handle_attached();
    let list = meter.poll_sessions(start + seconds(1)).expect("the list");
    assert_eq!((list.restart, list.complete, list.uptime_ms, list.committed.0), (true, true, 1000, 8_000));
    assert_eq!(list.begun, [begun(ID[0], 8_000)]);

    let refused = meter.handle_begin(start, begun(ID[1], 2_001), 3, false, None).expect_err("full");
    assert_eq!(refused, AdmissionError::Capacity { limit: Bitrate(10_000), taken: Bitrate(8_000) });
    meter.handle_refusal(ID[1], Code::NoCapacity, false);
    meter.handle_refusal(ID[2], Code::Draining, false);
    meter.handle_begin(start, begun(ID[3], 3_000), 0, true, None).expect("a tenth more for a burst");
    assert_eq!(meter.handle_begin(start, begun(ID[3], 0), 0, false, None), Err(AdmissionError::Duplicate));
    meter.handle_end(start, ID[0]);
    meter.handle_end(start, ID[0]);
    let told = meter.poll_sessions(start + seconds(2)).expect("changes");
    assert_eq!(
        (told.restart, told.committed.0, told.begun, told.ended),
        (false, 3_000, vec![begun(ID[3], 3_000)], vec![ID[0]])
    );
    let turned = |session, code, limit: Option<u64>| Turned { session, code, limit: limit.map(Bitrate) };
    let expected = [turned(ID[1], Code::NoCapacity, Some(10_000)), turned(ID[2], Code::Draining, None)];
    assert_eq!(told.turned, expected);
    assert_eq!((meter.volumes().of(3), meter.volumes().of(0)), (0, 3_000));
    meter.handle_detached();
    meter.handle_refusal(ID[2], Code::Draining, false);
    assert_eq!(meter.next_timeout(start + seconds(3)), None);
}

proptest! {
    /// However sessions come and go and background traffic grows: no session is admitted beyond the capacity or the
    /// maximum number, and the committed rate is the sum of the active sessions.
    #[test]
    fn admission_control_holds(
        capacity in 1_u64..5_000,
        most in 1_usize..8,
        steps in prop::collection::vec((0_u8..4, 0_u64..3_000, any::<bool>()), 1..200),
    ) {
        let now = Instant::now();
        let admission = AdmissionControl { capacity: Bitrate(capacity), sessions: most, session_rate: None };
        let mut meter = Meter::new(now, admission);
        let (mut runs, mut link, mut clock) = (Vec::new(), 0, now);
        meter.handle_link_bytes(now, 0);
        for (next, (step, value, burst)) in steps.into_iter().enumerate() {
            match step {
                0 => if let Some((id, _)) = (!runs.is_empty()).then(|| runs.swap_remove(value as usize % runs.len())) {
                    meter.handle_end(now, id);
                },
                1 => {
                    clock += seconds(1);
                    link += value / 8;
                    meter.handle_link_bytes(clock, link);
                }
                _ => {
                    let id = SessionId(next as u128);
                    let before = meter.load();
                    let taken = before.committed + before.background;
                    let limit = capacity + if burst { capacity / 10 } else { 0 };
                    let fits = runs.len() < most && (value == 0 || taken + value <= limit);
                    prop_assert_eq!(meter.handle_begin(now, begun(id, value), 0, burst, None).is_ok(), fits);
                    prop_assert_eq!(fits, meter.load() != before);
                    if fits {
                        runs.push((id, value));
                    }
                }
            }
            let sum: u64 = runs.iter().map(|(_, rate)| rate).sum();
            prop_assert!(sum <= capacity + capacity / 10 && runs.len() <= most);
            prop_assert_eq!((meter.committed, meter.volumes().of(0)), (sum, sum));
            prop_assert_eq!(meter.poll_report(clock).committed, Bitrate(sum));
        }
    }
}

#[test]
fn a_moving_session_releases_its_rate_at_once() {
    let start = Instant::now();
    let mut meter = meter(start, Bitrate(16_000));
    for id in [ID[0], ID[1]] {
        meter.handle_begin(start, begun(id, 8_000), 0, false, None).expect("room");
    }
    assert!(meter.handle_begin(start, begun(ID[2], 8_000), 0, false, None).is_err(), "full");
    meter.handle_move(ID[0]);
    meter.handle_move(ID[3]);
    meter.handle_begin(start, begun(ID[2], 8_000), 0, false, None).expect("room at once");
    meter.handle_sent(start, ID[0], 1_000, 1_000);
    let report = meter.poll_report(start + seconds(1));
    assert_eq!((report.committed.0, report.sessions, report.elastic.0), (16_000, 3, 8_000));
    meter.handle_end(start + seconds(1), ID[0]);
    assert_eq!(meter.poll_report(start + seconds(2)).committed.0, 16_000, "given back once");
}

#[test]
fn readers_that_stand_still_make_room_and_get_their_rates_back_when_there_is_some() {
    let start = Instant::now();
    let at = |tenth: u64| start + Duration::from_millis(100 * tenth);
    let mut meter = meter(start, Bitrate(16_000_000));
    meter.handle_attached();
    for id in [ID[0], ID[1]] {
        meter.handle_begin(start, begun(id, 8_000_000), 0, false, None).expect("room");
    }
    meter.poll_sessions(start).expect("the list");
    let change = |id, rate| RateChange { session: id, rate: Bitrate(rate) };
    // The reader of one takes nothing from the start, that of the other plays.
    let play = |meter: &mut Meter, id, tenth| {
        meter.handle_waiting_for_reader(at(tenth), id);
        meter.handle_sent(at(tenth), id, 100_000, 100_000);
    };
    meter.handle_waiting_for_reader(start, ID[0]);
    for tenth in 0..30 {
        play(&mut meter, ID[1], tenth);
        assert_eq!(meter.poll_rates(at(tenth)), []);
    }
    assert!(meter.handle_begin(at(30), begun(ID[2], 8_000_000), 0, false, None).is_err(), "full");
    assert_eq!(meter.poll_rates(at(30)), [change(ID[0], 0)]);
    let told = meter.poll_sessions(at(30)).expect("the change");
    assert_eq!((told.rates, told.committed), (vec![change(ID[0], 0)], Bitrate(8_000_000)));
    meter.handle_begin(at(30), begun(ID[2], 8_000_000), 0, false, None).expect("room");
    // The first session now gets spare capacity, and its rate has to wait for room.
    meter.poll_report(at(30));
    for tenth in 31..60 {
        for id in [ID[0], ID[1], ID[2]] {
            play(&mut meter, id, tenth);
        }
        assert_eq!(meter.poll_rates(at(tenth)), []);
    }
    let report = meter.poll_report(at(60));
    assert_eq!((report.committed, report.sessions), (Bitrate(16_000_000), 3));
    assert!((7_000_000..9_000_000).contains(&report.elastic.0), "{}", report.elastic);
    meter.handle_end(at(60), ID[2]);
    let mut changes = Vec::new();
    for tenth in 60..80 {
        for id in [ID[0], ID[1]] {
            play(&mut meter, id, tenth);
        }
        changes.extend(meter.poll_rates(at(tenth)));
    }
    assert_eq!(changes, [change(ID[0], 8_000_000)]);
    // A master that attaches now or later has the same view.
    meter.handle_waiting_for_reader(at(80), ID[1]);
    assert_eq!(meter.poll_rates(at(150)), [change(ID[1], 0)]);
    meter.handle_attached();
    let list = meter.poll_sessions(at(150)).expect("the list");
    assert_eq!((list.begun.len(), list.rates, list.committed.0), (2, vec![change(ID[1], 0)], 8_000_000));
    assert_eq!(meter.volumes().of(0), 8_000_000);
    // Each rate is given back once.
    meter.handle_move(ID[1]);
    for id in [ID[0], ID[1]] {
        meter.handle_end(at(150), id);
    }
    assert_eq!((meter.load().committed, meter.volumes().of(0)), (0, 0));
}

#[test]
fn a_session_that_moves_asks_for_nothing_again() {
    let start = Instant::now();
    let mut meter = meter(start, Bitrate(16_000_000));
    meter.handle_begin(start, begun(ID[0], 8_000_000), 0, false, None).expect("room");
    meter.handle_move(ID[0]);
    meter.handle_waiting_for_reader(start, ID[0]);
    for second in 1..10 {
        assert_eq!(meter.poll_rates(start + seconds(second)), []);
    }
    assert_eq!(meter.load().committed, 0);
}

#[test]
fn a_network_has_its_share_of_the_sessions_and_others_find_places() {
    let now = Instant::now();
    let admission = AdmissionControl { sessions: 100, ..WIDE.into() };
    let mut meter = Meter::new(now, admission);
    let prefix = |last| usher_budget::PrefixLengths::default().prefix(std::net::Ipv4Addr::new(192, 0, 2, last).into());
    let mut next = 0;
    let mut fill = |meter: &mut Meter, holder| {
        let mut count = 0;
        loop {
            next += 1;
            match meter.handle_begin(now, begun(SessionId(next), 1), 0, false, holder) {
                Ok(()) => count += 1,
                Err(error) => return (count, error),
            }
        }
    };
    assert_eq!(fill(&mut meter, Some(prefix(1))), (75, AdmissionError::Share));
    assert_eq!(fill(&mut meter, Some(prefix(2))), (18, AdmissionError::Share));
    assert_eq!(fill(&mut meter, Some(prefix(3))), (2, AdmissionError::Sessions(95)));
    assert_eq!(fill(&mut meter, None), (5, AdmissionError::Sessions(100)), "a node");
    // Sessions that end make room for anyone.
    for id in 1..=10 {
        meter.handle_end(now, SessionId(id));
    }
    assert_eq!(fill(&mut meter, Some(prefix(3))), (5, AdmissionError::Sessions(95)));
    assert_eq!(meter.check(Bitrate(1), false, Some(prefix(1))), Err(AdmissionError::Sessions(95)));
}

//! A node admits, refuses and ends sessions, and its updates arrive in order but late: when all have arrived, the
//! estimated level is exact.

use std::collections::VecDeque;

use rand::{RngExt as _, SeedableRng as _, rngs::SmallRng};
use usher_proto::{
    Bitrate, Code,
    model::{Sessions, Turned},
};

use super::*;
use crate::core::test_cluster::{RATE, TestCluster, begun};

const CAPACITY: u64 = 100 * MBIT;

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn the_level_is_exact_when_all_updates_have_arrived(seed in any::<u64>(), others in 0_u64..30) {
        let mut rng = SmallRng::seed_from_u64(seed);
        let mut test = TestCluster::new(&[CAPACITY]);
        test.titles(0, &["A"]);
        let background = Bitrate(others * MBIT);
        let (mut running, mut tickets): (Vec<SessionId>, Vec<SessionId>) = (Vec::new(), Vec::new());
        let mut in_flight: VecDeque<(Instant, Sessions)> = VecDeque::new();
        for _ in 0..400 {
            test.now = test.now.after(Duration::from_millis(rng.random_range(0..40)));
            let mut update = Sessions { complete: true, uptime_ms: test.uptime().as_millis() as u64, ..Sessions::default() };
            match rng.random_range(0..10) {
                0..4 => tickets.extend(test.resolve("A", |_| {}).map(|decision| decision.session)),
                4..7 if !tickets.is_empty() => {
                    let session = tickets.swap_remove(rng.random_range(0..tickets.len()));
                    if (running.len() as u64 + 1) * RATE <= CAPACITY && rng.random_range(0..5) > 0 {
                        running.push(session);
                        update.begun.push(begun(session, "A", RATE));
                    } else {
                        update.turned.push(Turned { session, code: Code::Unavailable, limit: None });
                    }
                }
                7..9 if !running.is_empty() => {
                    update.ended.push(running.swap_remove(rng.random_range(0..running.len())));
                }
                // The client gave up.
                9 if !tickets.is_empty() => drop(tickets.pop()),
                _ => {}
            }
            update.committed = Bitrate(running.len() as u64 * RATE);
            let late = test.now.instant + Duration::from_millis(rng.random_range(0..600));
            let late = in_flight.back().map_or(late, |(last, _)| late.max(*last));
            in_flight.push_back((late, update));
            while let Some((_, update)) = in_flight.pop_front_if(|(at, _)| *at <= test.now.instant) {
                test.cluster.handle_sessions(test.now, test.attachments[0], update).expect("taken");
            }
            test.cluster.handle_timeout(test.now, &mut rng);
            prop_assert!(running.len() as u64 * RATE <= CAPACITY);
        }
        test.now = test.now.after(Duration::from_secs(1));
        for (_, update) in in_flight {
            test.cluster.handle_sessions(test.now, test.attachments[0], update).expect("taken");
        }
        test.now = test.now.after(RESERVATION);
        // Its last update is now accurate.
        let committed = Bitrate(running.len() as u64 * RATE);
        test.send_sessions(0, |update| update.committed = committed);
        test.report(0, |report| report.background = background);
        test.cluster.handle_timeout(test.now, &mut rng);
        prop_assert_eq!(test.cluster.ledger().len(), running.len());
        prop_assert_eq!(test.level(0), committed.0 + background.0);
        // Sessions that end later leave no trace.
        for session in running {
            test.end(0, session, RATE);
        }
        prop_assert_eq!(test.level(0), background.0);
        prop_assert!(test.cluster.ledger().is_empty());
    }
}

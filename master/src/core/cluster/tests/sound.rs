//! Decisions under random events.

use proptest::prelude::*;

use super::*;

proptest! {
    /// Every decision chooses an allowed node, decisions alone overbook no node, and at rest the ledger holds exactly
    /// the running sessions.
    #[test]
    fn decisions_are_sound(steps in proptest::collection::vec((0_u8..9, 0_usize..3, 1_u64..300), 1..150)) {
        let mut test = TestCluster::figure_4();
        // Reserved or running sessions: node, id, rate, running.
        let mut open: Vec<(usize, SessionId, u64, bool)> = Vec::new();
        let mut draining = [false; 3];
        for (what, node, size) in steps {
            match what {
                0..=4 => {
                    let title = ["A", "B", "E", "J", "H"][usize::from(what)];
                    if let Ok(decision) = test.resolve(title, |ask| ask.rate = Some(Bitrate(size * MBIT))) {
                        let rate = decision.rate.0;
                        let chosen = decision.first.0 as usize;
                        let holders: &[usize] = [&[0][..], &[0, 1, 2], &[1, 2], &[2], &[1, 2]][usize::from(what)];
                        prop_assert!(holders.contains(&chosen));
                        prop_assert!(!draining[chosen]);
                        if !matches!(decision.how, Selection::Moved(_)) {
                            prop_assert!(test.level(chosen) <= 1000 * MBIT);
                        }
                        // The node refuses each move; moves are tested elsewhere.
                        for order in test.cluster.poll_orders() {
                            if let Order::Move(step) = order {
                                test.cluster.handle_move_answer(step.session, false);
                                test.cluster.release(decision.session);
                            }
                        }
                        if test.cluster.ledger().session(decision.session).is_some() {
                            open.push((chosen, decision.session, rate, false));
                        }
                    }
                }
                5 => {
                    // All sessions reserved there start.
                    for (_, session, rate, begun) in open.iter_mut().filter(|one| one.0 == node && !one.3) {
                        test.begin(node, *session, "B", *rate);
                        *begun = true;
                    }
                    let committed: u64 = open.iter().filter(|one| one.0 == node).map(|one| one.2).sum();
                    prop_assert_eq!(test.level(node), committed);
                }
                6 => {
                    // Every session there ends, or is refused by the node.
                    for (_, session, rate, begun) in open.iter().filter(|one| one.0 == node) {
                        if *begun {
                            test.end(node, *session, *rate);
                        } else {
                            let turned = Turned { session: *session, code: Code::Unavailable, limit: None };
                            test.send_sessions(node, |sessions| sessions.turned.push(turned));
                        }
                    }
                    open.retain(|one| one.0 != node);
                    prop_assert_eq!(test.level(node), 0);
                }
                7 => {
                    draining[node] = !draining[node];
                    test.cluster.handle_presence(test.now, test.attachments[node], presence(draining[node]));
                    // Draining would move sessions in the next round; here none moves.
                    draining[node] = false;
                    test.cluster.handle_presence(test.now, test.attachments[node], presence(false));
                }
                _ => {
                    let wait = Duration::from_millis(size * 10);
                    test.now = test.now.after(wait);
                    test.report_all();
                    test.cluster.handle_timeout(test.now, &mut test.rng);
                    open.retain(|one| test.cluster.ledger().session(one.1).is_some());
                }
            }
        }
        test.now = test.now.after(RESERVATION);
        test.report_all();
        test.cluster.handle_timeout(test.now, &mut test.rng);
        open.retain(|one| one.3);
        for node in 0..3 {
            test.report_all();
            let committed: u64 = open.iter().filter(|one| one.0 == node).map(|one| one.2).sum();
            prop_assert_eq!(test.level(node), committed);
            prop_assert_eq!(test.cluster.ledger().pending_load(test.id(node)), Default::default());
        }
        prop_assert_eq!(test.cluster.ledger().len(), open.len());
    }
}

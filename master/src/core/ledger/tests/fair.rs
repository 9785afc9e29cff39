//! Which unredeemed reservations make room for whom.

use super::*;

const A: Source = Source(1);
const B: Source = Source(2);
const NODE: NodeId = NodeId(0);
const RATE: u64 = 8 * MBIT;

/// Reserves `count` sessions of one client from number `first` on.
fn reserve(ledger: &mut Ledger, now: Now, source: Source, first: u128, count: u128) {
    (first..first + count).for_each(|session| ledger.reserve(now, booking(session, 0, None, RATE), Some(source)));
}

/// The reservations to release for a client until at most `limit` bit/s are pending.
fn find(ledger: &Ledger, now: Now, winner: Option<Source>, rate: u64, limit: u64) -> Option<Vec<u128>> {
    let mut found = Vec::new();
    let fits = |pending: PendingLoad| pending.rate <= limit;
    let fit = ledger.find_releasable(now.instant, NODE, (winner, rate), fits, &mut found);
    fit.then(|| found.into_iter().map(|session| session.0).collect())
}

#[test]
fn the_heaviest_client_makes_room_with_its_oldest_reservations() {
    let (now, mut ledger) = (start(), Ledger::default());
    reserve(&mut ledger, now, A, 10, 2);
    let later = now.after(Duration::from_millis(1));
    reserve(&mut ledger, later, A, 1, 4);
    reserve(&mut ledger, later, B, 20, 3);
    for (what, winner, rate, limit, expected) in [
        ("the oldest of the heaviest", Some(Source(3)), RATE, 8 * RATE, Some(vec![10])),
        ("as many as are needed", Some(Source(3)), RATE, 6 * RATE, Some(vec![10, 11, 1])),
        ("a wide one takes several", Some(Source(3)), 3 * RATE, 6 * RATE, Some(vec![10, 11, 1])),
        (
            "until both hold the same, and then of the next client",
            Some(Source(3)),
            RATE,
            3 * RATE,
            Some(vec![10, 11, 1, 2, 3, 20]),
        ),
        ("no client loses its last one", Some(Source(3)), RATE, RATE, None),
        ("nobody gives up for one that holds more", Some(A), RATE, 8 * RATE, None),
        ("one that holds less gets it", Some(B), RATE, 8 * RATE, Some(vec![10])),
        ("up to its own share", Some(B), RATE, 7 * RATE, Some(vec![10, 11])),
        ("and no further", Some(B), RATE, 6 * RATE, None),
        ("for the cluster", None, RATE, 8 * RATE, Some(vec![10])),
    ] {
        assert_eq!(find(&ledger, now, winner, rate, limit), expected, "{what}");
    }
}

#[test]
fn two_clients_do_not_take_turns() {
    let (now, mut ledger) = (start(), Ledger::default());
    reserve(&mut ledger, now, A, 1, 10);
    let mut next = 100;
    // Every place is taken: each client in turn asks for another one.
    for (source, other) in [(B, A), (A, B)].into_iter().cycle().take(100) {
        let Some(found) = find(&ledger, now, Some(source), RATE, 9 * RATE) else { continue };
        assert_eq!(found.len(), 1);
        assert!(ledger.holding(other).tickets > ledger.holding(source).tickets);
        ledger.displace(now.instant, SessionId(found[0]));
        reserve(&mut ledger, now, source, next, 1);
        next += 1;
    }
    assert_eq!((ledger.holding(A).tickets, ledger.holding(B).tickets), (5, 5));
    assert_eq!(next, 105, "five changes of hands in all");
}

#[test]
fn only_tickets_that_nobody_redeems_count_against_a_client() {
    let (now, mut ledger) = (start(), Ledger::default());
    reserve(&mut ledger, now, A, 1, 6);
    // One starts, one is refused by its node, one is given up, and two are released: one of these starts as well.
    assert!(ledger.handle_begun(now.instant, booking(1, 0, None, RATE), false));
    assert!(ledger.handle_refused(now.instant, NODE, SessionId(2)));
    assert!(ledger.release(SessionId(3)));
    [4, 5].into_iter().for_each(|session| ledger.displace(now.instant, SessionId(session)));
    assert_eq!(ledger.pending_load(NODE), PendingLoad { rate: RATE, tickets: 1, leaving: 0 });
    assert!(ledger.handle_begun(now.instant, booking(4, 0, None, RATE), false), "the ticket is valid");
    assert!(ledger.is_hoarding(now.instant, A, 100 * RATE), "one of them may still be used");
    let all = Holding { unredeemed: RATE, tickets: 1, running: 2 * RATE, sessions: 2 };
    assert_eq!((ledger.holding(A), ledger.unused(now.instant, A)), (all, RATE));

    let over = now.instant + RESERVATION;
    assert_eq!(ledger.handle_timeout(over), 1);
    assert_eq!((ledger.unused(over, A), ledger.pending_load(NODE)), (2 * RATE, PendingLoad::default()));
    // Late is better than never: both sessions are the client's.
    assert!(ledger.handle_begun(over, booking(5, 0, None, RATE), false));
    assert!(ledger.handle_begun(over, booking(6, 1, None, RATE), false));
    assert_eq!((ledger.unused(over, A), ledger.holding(A).sessions), (0, 4));
    // A ticket that has run out is nobody's.
    ledger.handle_ended(NODE, SessionId(1));
    reserve(&mut ledger, now, A, 7, 1);
    ledger.handle_timeout(over);
    assert!(!ledger.handle_begun(over + Duration::from_secs(70), booking(7, 0, None, RATE), false));
    assert_eq!(ledger.holding(A).sessions, 3);
}

#[test]
fn a_client_that_wastes_reservations_holds_them_for_less_time_and_behind_everyone() {
    let (mut now, mut ledger) = (start(), Ledger::default());
    reserve(&mut ledger, now, A, 1, 9);
    now = now.after(RESERVATION);
    assert_eq!(ledger.handle_timeout(now.instant), 9);
    assert!(ledger.is_hoarding(now.instant, A, RATE) && !ledger.is_hoarding(now.instant, B, RATE));
    reserve(&mut ledger, now, A, 20, 1);
    assert_eq!(ledger.next_timeout(), Some(now.instant + SHORT_RESERVATION));
    // Its last one makes room too, even for a client that holds several.
    reserve(&mut ledger, now, B, 30, 3);
    assert_eq!(find(&ledger, now, Some(B), RATE, 3 * RATE), Some(vec![20]));
    assert_eq!(ledger.handle_timeout(now.instant + SHORT_RESERVATION), 1);
    assert_eq!(ledger.pending_load(NODE).tickets, 3);
}

#[test]
fn a_search_is_bounded() {
    let (now, mut ledger) = (start(), Ledger::default());
    reserve(&mut ledger, now, A, 0, 2000);
    assert_eq!(find(&ledger, now, Some(B), RATE, 975 * RATE), None);
    assert_eq!(find(&ledger, now, Some(B), RATE, 976 * RATE).map(|found| found.len()), Some(1024));
}

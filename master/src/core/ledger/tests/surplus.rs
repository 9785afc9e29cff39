//! Sessions that run at two nodes.

use super::*;

#[test]
fn the_older_seat_ends_unless_it_ended_by_itself() {
    let (now, mut ledger) = (start().instant, Ledger::default());
    let begin = |ledger: &mut Ledger, at, node| ledger.handle_begun(at, booking(1, node, None, 8), false);
    begin(&mut ledger, now, 0);
    begin(&mut ledger, now, 1);
    assert_eq!(ledger.next_timeout(), Some(now + OVERLAP));
    assert_eq!(ledger.poll_surplus(now + OVERLAP - Duration::from_nanos(1)), None);
    assert_eq!(ledger.poll_surplus(now + OVERLAP), Some((SessionId(1), NodeId(0))));
    assert_eq!((ledger.poll_surplus(now + OVERLAP), ledger.next_timeout()), (None, None), "once");
    assert_eq!(ledger.handle_ended(NodeId(0), SessionId(1)), None);
    assert_eq!(ledger.session(SessionId(1)).map(|session| session.node), Some(NodeId(1)));

    // A client that failed over and left.
    begin(&mut ledger, now, 2);
    assert_eq!(ledger.handle_ended(NodeId(1), SessionId(1)), Some(8));
    // The seats change again and again: each time anew.
    begin(&mut ledger, now + OVERLAP / 2, 1);
    assert_eq!(ledger.poll_surplus(now + OVERLAP), None);
    assert_eq!(ledger.poll_surplus(now + OVERLAP * 3 / 2), Some((SessionId(1), NodeId(2))));
}

#[test]
fn a_session_goes_on_where_it_is_left() {
    let (now, mut ledger) = (start().instant, Ledger::default());
    ledger.reserve(start(), booking(1, 0, None, 8), Some(Source(1)));
    for node in [0, 1] {
        ledger.handle_begun(now, booking(1, node, None, 8), false);
    }
    // The messages of two nodes pass each other: the session left the seat that seemed newer.
    assert_eq!(ledger.handle_ended(NodeId(1), SessionId(1)), Some(8));
    assert_eq!(ledger.session(SessionId(1)).map(|session| session.node), Some(NodeId(0)));
    assert_eq!(ledger.poll_surplus(now + OVERLAP), None);
    assert_eq!(ledger.holding(Source(1)).sessions, 1);
    // A new process of the node took its seat along.
    ledger.handle_begun(now, booking(1, 1, None, 8), false);
    ledger.release_all(NodeId(1));
    assert_eq!(ledger.session(SessionId(1)).map(|session| session.node), Some(NodeId(0)));
}

#[test]
fn a_list_of_old_sessions_takes_none_from_their_new_seats() {
    let (now, mut ledger) = (start().instant, Ledger::default());
    ledger.handle_begun(now, booking(1, 1, None, 8), false);
    assert!(!ledger.handle_begun(now, booking(1, 0, None, 8), true));
    assert_eq!(ledger.session(SessionId(1)).map(|session| session.node), Some(NodeId(1)));
    assert_eq!(ledger.poll_surplus(now + OVERLAP), Some((SessionId(1), NodeId(0))));
    // One that is not in the list any more has ended.
    ledger.handle_begun(now, booking(1, 0, None, 8), true);
    ledger.retain(NodeId(0), |_| false);
    assert_eq!(ledger.poll_surplus(now + OVERLAP), None);
}

#[test]
fn a_move_is_no_surplus() {
    let (now, mut ledger) = (start(), Ledger::default());
    ledger.handle_begun(now.instant, booking(1, 0, None, 8), false);
    assert!(ledger.start_move(now, SessionId(1), NodeId(1)));
    ledger.handle_begun(now.instant, booking(1, 1, None, 8), false);
    assert_eq!(ledger.poll_surplus(now.instant + OVERLAP), None);
    ledger.handle_ended(NodeId(0), SessionId(1));
    assert_eq!(ledger.session(SessionId(1)).map(|session| session.node), Some(NodeId(1)));
}

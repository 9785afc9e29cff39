//! Sessions that their node moves to another seat: every byte arrives once, and no failure is reported.

use super::*;
use crate::driver::Order;

/// A node that moves sessions to another after some groups; the master knows only the first.
struct MovePair {
    running: RunningMaster,
    from: TestNode,
    to: TestNode,
    data: Vec<u8>,
}

async fn pair(behaviour: Behaviour, then: Behaviour, hashed: bool) -> MovePair {
    let (titles, data) = one();
    let (from, to) = (TestNode::start("from", &titles, behaviour), TestNode::start("to", &titles, then));
    from.sends_to(TestSeat::from(&to).to_pb(""));
    let running = TestMaster::start(&titles, vec![TestSeat::from(&from)], hashed).await;
    MovePair { running, from, to, data }
}

impl MovePair {
    fn asked(&self) -> Vec<v1::ResolveRequest> {
        self.running.asked.lock().expect("not poisoned").iter().map(|(request, _)| request.clone()).collect()
    }
}

const PATIENCE: Duration = Duration::from_secs(20);

#[tokio::test]
async fn a_moved_session_continues_at_the_next_byte() {
    for after in 0..6 {
        let pair = pair(Behaviour::Move(after), Behaviour::Honest, true).await;
        let (result, bytes, lost) = fetch(&client(&pair.running, PATIENCE)).await;
        let outcome = result.expect("fetched");
        assert!(bytes == pair.data, "after {after}");
        assert_eq!(lost, [], "no failure");
        assert_eq!((pair.from.starts(), pair.to.starts()), (vec![0], vec![after * GROUP]));
        assert_eq!(outcome.node.map(|node| node.to_string()).as_deref(), Some("to"));
        assert_eq!(outcome.reason, "moved there by from");
        assert_eq!(pair.asked().len(), 1, "the master is not asked");
    }
}

#[tokio::test]
async fn a_file_is_exact_after_a_move() {
    let pair = pair(Behaviour::Move(3), Behaviour::Honest, true).await;
    let folder = tempfile::tempdir().expect("temp");
    let target = folder.path().join("b.mp4");
    let mut sink = FileSink::new(target.clone(), false);
    let title = Title::parse(TITLE).expect("valid");
    client(&pair.running, PATIENCE).fetch_to(&title, &mut sink, &|_| ()).await.expect("fetched");
    assert!(std::fs::read(&target).is_ok_and(|bytes| bytes == pair.data));
    assert_eq!(pair.to.starts(), [3 * GROUP]);
}

#[tokio::test]
async fn ranges_are_exact_after_a_move() {
    for (after, start, end, resumes_at) in [
        (0, 5, None, 5),
        (1, 5, None, GROUP),
        (2, GROUP + 7, Some(4 * GROUP + 1), 3 * GROUP),
        (0, 3 * GROUP - 1, Some(3 * GROUP + 1), 3 * GROUP - 1),
        (1, 3 * GROUP - 1, Some(3 * GROUP + 1), 3 * GROUP),
    ] {
        let pair = pair(Behaviour::Move(after), Behaviour::Honest, true).await;
        let client = client(&pair.running, PATIENCE);
        let what = What::Title(Title::parse(TITLE).expect("valid"));
        let order: Order = client.order(what, Purpose::Fetch, Range { start, end });
        let mut bytes = Vec::new();
        client.fetch_order(&order, &mut PipeSink::new(&mut bytes), &|_| (), None).await.expect("fetched");
        let wanted = &pair.data[start as usize..end.map_or(pair.data.len(), |end| end as usize)];
        assert!(bytes == wanted, "{start} to {end:?} moved after {after}");
        assert_eq!(pair.to.starts(), [resumes_at], "{start} to {end:?}");
    }
}

#[tokio::test]
async fn a_title_that_is_not_hashed_moves_too() {
    // Nothing is verified before the end, so everything is received again, compared, and written once.
    for then in [Behaviour::Honest, Behaviour::Unhashed] {
        let pair = pair(Behaviour::MoveUnhashed(3), then, false).await;
        let (result, bytes, lost) = fetch(&client(&pair.running, PATIENCE)).await;
        assert!(result.is_ok() && bytes == pair.data && lost.is_empty(), "{then:?}: {result:?}");
        assert_eq!(pair.to.starts(), [0]);
    }
}

#[tokio::test]
async fn a_move_to_a_bad_seat_is_recovered_from() {
    let (titles, data) = one();
    let stranger = TestNode::start("to", &titles, Behaviour::Honest);
    let full = TestNode::start("to", &titles, Behaviour::Refuse(Code::NoCapacity));
    let liar = TestNode::start("to", &titles, Behaviour::Corrupt(4));
    for (what, seat, code, told) in [
        ("no seat", v1::Seat::default(), Code::Internal, "from"),
        ("no address", v1::Seat { addresses: Vec::new(), ..TestSeat::from(&full).to_pb("") }, Code::Internal, "from"),
        (
            "another certificate",
            TestSeat { pin: [9; 32], ..TestSeat::from(&stranger) }.to_pb(""),
            Code::TicketInvalid,
            "to",
        ),
        ("full", TestSeat::from(&full).to_pb(""), Code::NoCapacity, "to"),
        ("wrong bytes", TestSeat::from(&liar).to_pb(""), Code::VerificationFailed, "to"),
    ] {
        let (from, good) =
            (TestNode::start("from", &titles, Behaviour::Move(2)), TestNode::start("good", &titles, Behaviour::Honest));
        from.sends_to(seat);
        // With an alternate, the alternate is next.
        let running = TestMaster::start(&titles, vec![TestSeat::from(&from), TestSeat::from(&good)], true).await;
        let (result, bytes, lost) = fetch(&client(&running, PATIENCE)).await;
        assert!(result.is_ok() && bytes == data, "{what}: {result:?}");
        assert_eq!(lost.iter().map(|fault| fault.code).collect::<Vec<_>>(), [code], "{what}: {lost:?}");
        let resumes_at = if what == "wrong bytes" { 4 } else { 2 };
        assert_eq!(good.starts(), [resumes_at * GROUP], "{what}");
        // Without one, the master is asked and learns of the failure; the first node serves two groups each time.
        let running = TestMaster::start(&titles, vec![TestSeat::from(&from)], true).await;
        let (result, bytes, _) = fetch(&client(&running, PATIENCE)).await;
        assert!(result.is_ok() && bytes == data, "{what}: {result:?}");
        let asked = running.asked.lock().expect("not poisoned");
        let failed: Vec<_> = asked.get(1).into_iter().flat_map(|(request, _)| request.failed.clone()).collect();
        let failed: Vec<_> = failed.iter().map(|failed| (failed.node.as_str(), failed.reason.as_str())).collect();
        assert_eq!(failed, [(told, code.reason())], "{what}");
    }
}

#[tokio::test]
async fn endless_moves_between_two_nodes_end() {
    let (titles, data) = one();
    let pair_of_nodes =
        || (TestNode::start("a", &titles, Behaviour::Move(0)), TestNode::start("b", &titles, Behaviour::Move(0)));
    let ((a, b), good) = (pair_of_nodes(), TestNode::start("good", &titles, Behaviour::Honest));
    a.sends_to(TestSeat::from(&b).to_pb(""));
    b.sends_to(TestSeat::from(&a).to_pb(""));
    let running = TestMaster::start(&titles, vec![TestSeat::from(&a), TestSeat::from(&good)], true).await;
    let (result, bytes, lost) = fetch(&client(&running, PATIENCE)).await;
    assert!(result.is_ok() && bytes == data, "{result:?}");
    assert_eq!(lost.iter().map(|fault| fault.code).collect::<Vec<_>>(), [Code::Unavailable], "one failure");
    assert_eq!((a.starts().len(), b.starts().len()), (5, 4), "nine sessions, eight moves");

    // Where each serves a group first, the moves may continue.
    let (a, b) = (TestNode::start("a", &titles, Behaviour::Move(1)), TestNode::start("b", &titles, Behaviour::Move(1)));
    a.sends_to(TestSeat::from(&b).to_pb(""));
    b.sends_to(TestSeat::from(&a).to_pb(""));
    let running = TestMaster::start(&titles, vec![TestSeat::from(&a)], true).await;
    let (result, bytes, lost) = fetch(&client(&running, PATIENCE)).await;
    assert!(result.is_ok() && bytes == data && lost.is_empty(), "{result:?}");
    assert_eq!((a.starts(), b.starts()), (vec![0, 2 * GROUP, 4 * GROUP], vec![GROUP, 3 * GROUP, 5 * GROUP]));
}

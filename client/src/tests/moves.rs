//! Sessions that their node sends to another seat: every byte arrives once, and nobody is to blame.

use super::*;
use crate::driver::Order;

/// A node that sends sessions on to one that serves them, after so many groups; the master knows the first alone.
struct Pair {
    running: Running,
    from: Node,
    to: Node,
    data: Vec<u8>,
}

async fn pair(manner: Manner, then: Manner, hashed: bool) -> Pair {
    let (titles, data) = one();
    let (from, to) = (Node::start("from", &titles, manner), Node::start("to", &titles, then));
    from.sends_to(Seat::from(&to).to_pb(""));
    let running = Master::start(&titles, vec![Seat::from(&from)], hashed).await;
    Pair { running, from, to, data }
}

impl Pair {
    fn asked(&self) -> Vec<v1::ResolveRequest> {
        self.running.asked.lock().expect("not poisoned").iter().map(|(request, _)| request.clone()).collect()
    }
}

const PATIENCE: Duration = Duration::from_secs(20);

#[tokio::test]
async fn a_session_goes_on_elsewhere_at_the_next_byte() {
    for after in 0..6 {
        let pair = pair(Manner::Move(after), Manner::Honest, true).await;
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
    let pair = pair(Manner::Move(3), Manner::Honest, true).await;
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
        let pair = pair(Manner::Move(after), Manner::Honest, true).await;
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
    // Nothing is verified before the end, so all comes again, is compared, and is handed out once.
    for then in [Manner::Honest, Manner::Unhashed] {
        let pair = pair(Manner::MoveUnhashed(3), then, false).await;
        let (result, bytes, lost) = fetch(&client(&pair.running, PATIENCE)).await;
        assert!(result.is_ok() && bytes == pair.data && lost.is_empty(), "{then:?}: {result:?}");
        assert_eq!(pair.to.starts(), [0]);
    }
}

#[tokio::test]
async fn a_move_to_a_bad_seat_is_made_good() {
    let (titles, data) = one();
    let stranger = Node::start("to", &titles, Manner::Honest);
    let full = Node::start("to", &titles, Manner::Refuse(Code::NoCapacity));
    let liar = Node::start("to", &titles, Manner::Corrupt(4));
    for (what, seat, code, told) in [
        ("no seat", v1::Seat::default(), Code::Internal, "from"),
        ("no address", v1::Seat { addresses: Vec::new(), ..Seat::from(&full).to_pb("") }, Code::Internal, "from"),
        ("another certificate", Seat { pin: [9; 32], ..Seat::from(&stranger) }.to_pb(""), Code::TicketInvalid, "to"),
        ("full", Seat::from(&full).to_pb(""), Code::NoCapacity, "to"),
        ("wrong bytes", Seat::from(&liar).to_pb(""), Code::VerificationFailed, "to"),
    ] {
        let (from, good) =
            (Node::start("from", &titles, Manner::Move(2)), Node::start("good", &titles, Manner::Honest));
        from.sends_to(seat);
        // With an alternate, that is next.
        let running = Master::start(&titles, vec![Seat::from(&from), Seat::from(&good)], true).await;
        let (result, bytes, lost) = fetch(&client(&running, PATIENCE)).await;
        assert!(result.is_ok() && bytes == data, "{what}: {result:?}");
        assert_eq!(lost.iter().map(|fault| fault.code).collect::<Vec<_>>(), [code], "{what}: {lost:?}");
        let resumes_at = if what == "wrong bytes" { 4 } else { 2 };
        assert_eq!(good.starts(), [resumes_at * GROUP], "{what}");
        // Without one, the master is asked, and told; the first node serves two groups each time.
        let running = Master::start(&titles, vec![Seat::from(&from)], true).await;
        let (result, bytes, _) = fetch(&client(&running, PATIENCE)).await;
        assert!(result.is_ok() && bytes == data, "{what}: {result:?}");
        let asked = running.asked.lock().expect("not poisoned");
        let failed: Vec<_> = asked.get(1).into_iter().flat_map(|(request, _)| request.failed.clone()).collect();
        assert_eq!(failed, [v1::SeatFailure { node: told.into(), reason: code.reason().into() }], "{what}");
    }
}

#[tokio::test]
async fn nodes_that_play_ball_are_left() {
    let (titles, data) = one();
    let ball = || (Node::start("a", &titles, Manner::Move(0)), Node::start("b", &titles, Manner::Move(0)));
    let ((a, b), good) = (ball(), Node::start("good", &titles, Manner::Honest));
    a.sends_to(Seat::from(&b).to_pb(""));
    b.sends_to(Seat::from(&a).to_pb(""));
    let running = Master::start(&titles, vec![Seat::from(&a), Seat::from(&good)], true).await;
    let (result, bytes, lost) = fetch(&client(&running, PATIENCE)).await;
    assert!(result.is_ok() && bytes == data, "{result:?}");
    assert_eq!(lost.iter().map(|fault| fault.code).collect::<Vec<_>>(), [Code::Unavailable], "one failure");
    assert_eq!((a.starts().len(), b.starts().len()), (5, 4), "nine sessions, eight moves");

    // Where each serves a group first, they may play on.
    let (a, b) = (Node::start("a", &titles, Manner::Move(1)), Node::start("b", &titles, Manner::Move(1)));
    a.sends_to(Seat::from(&b).to_pb(""));
    b.sends_to(Seat::from(&a).to_pb(""));
    let running = Master::start(&titles, vec![Seat::from(&a)], true).await;
    let (result, bytes, lost) = fetch(&client(&running, PATIENCE)).await;
    assert!(result.is_ok() && bytes == data && lost.is_empty(), "{result:?}");
    assert_eq!((a.starts(), b.starts()), (vec![0, 2 * GROUP, 4 * GROUP], vec![GROUP, 3 * GROUP, 5 * GROUP]));
}
